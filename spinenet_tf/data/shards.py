"""Finding, checking and counting TFRecord shards."""

from __future__ import annotations

import glob
import os
import re
import struct
from collections.abc import Sequence

from spinenet_tf.data import meta as meta_lib
from spinenet_tf.errors import UserError

MARKER = ".incomplete"  # suffix of what a running `prepare` writes: DIR/train.incomplete and its shards
_SHARD = re.compile(r"^(?P<split>.+)-\d{5}-of-\d{5}\.tfrecord$")


def find(pattern: meta_lib.Pattern) -> list[str]:
  """The files of a pattern, sorted.

  Args:
    pattern: a path or glob pattern, several separated by commas, or a list of these.
  Raises: UserError where nothing matches, a file is empty or changed, or `prepare` was interrupted.
  """
  single = isinstance(pattern, (str, os.PathLike))
  parts = os.fspath(pattern).split(",") if single else [os.fspath(p) for p in pattern]
  parts = [part.strip() for part in parts if part and part.strip()]
  if not parts:
    raise UserError(f"the TFRecord pattern is {pattern!r}; give one such as 'data/train-*.tfrecord'")
  files = []
  for part in parts:
    found = _glob(part)
    if not found:
      raise UserError(f"no file matches {part!r}; give a TFRecord pattern such as 'data/train-*.tfrecord'{_hint(part)}")
    files += found
  files = sorted(set(files))
  folders = [file for file in files if os.path.isdir(file)]
  if folders:
    raise UserError(f"{folders[0]!r} is a folder; give a pattern of files such as '{folders[0]}/train-*.tfrecord'")
  _check_complete(files)
  return files


def known_counts(files: Sequence[str]) -> dict[str, int]:
  """Records per file as meta.json tells them; files it does not tell of are left out."""
  counts = {}
  for folder in {os.path.dirname(file) for file in files}:
    meta = meta_lib.load(os.path.join(folder, "*"))
    for split in (meta.splits if meta else {}).values():
      for name, shard in split.get("shards", {}).items():
        counts[os.path.join(folder, name)] = int(shard["examples"])
  return {file: counts[file] for file in files if file in counts}


def count(files: Sequence[str]) -> list[int]:
  """Records in each file, from meta.json where it lists the file, else from a walk over the record headers.

  Raises: UserError for a file that ends inside a record.
  """
  known = known_counts(files)
  return [known[file] if file in known else _count_records(file) for file in files]


def split_of(file: str) -> str | None:
  """'train' for 'DIR/train-00000-of-00004.tfrecord'; None for other names."""
  match = _SHARD.match(os.path.basename(file))
  return match["split"] if match else None


def _check_complete(files: Sequence[str]) -> None:
  """Raises UserError for shards of an interrupted `prepare`, missing shards and changed shards."""
  for folder in sorted({os.path.dirname(file) for file in files}):
    splits = {split_of(f) for f in files if os.path.dirname(f) == folder} - {None}
    for split in sorted(splits):
      if os.path.exists(os.path.join(folder, split + MARKER)):
        raise UserError(f"{folder}: preparation of {split!r} runs or was interrupted; run `prepare` again")
    meta = meta_lib.load(os.path.join(folder, "*"))
    for name, split in (meta.splits if meta else {}).items():
      if name not in splits:
        continue
      for shard, facts in split.get("shards", {}).items():
        path = os.path.join(folder, shard)
        size = _size(path)
        if size != facts["bytes"]:
          seen = "is missing" if size is None else f"has {size} bytes, not {facts['bytes']}"
          raise UserError(f"{path} {seen}, against meta.json beside it; copy the folder or run `prepare` again")
  if not any(_size(file) for file in files):
    raise UserError(f"no records: {files[0]}{' and the others are' if len(files) > 1 else ' is'} empty")


def _count_records(file: str) -> int:
  if "://" in file:  # a seek would be a request each
    import tensorflow as tf

    return int(tf.data.TFRecordDataset(file).reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))
  end, position, records = os.path.getsize(file), 0, 0
  with open(file, "rb", buffering=0) as stream:
    while position < end:
      header = stream.read(12)  # uint64 length, uint32 checksum; then the data and its uint32 checksum
      position += 16 + (struct.unpack("<Q", header[:8])[0] if len(header) == 12 else end)
      if position > end:
        raise UserError(f"{file}: ends inside record {records}; not a TFRecord or cut short: copy or prepare it again")
      stream.seek(position)
      records += 1
  return records


def _glob(pattern: str) -> list[str]:
  if "://" in pattern:
    import tensorflow as tf

    found = tf.io.gfile.glob(pattern)
  else:
    found = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
  return [file for file in found if not file.endswith(MARKER)]


def _size(file: str) -> int | None:
  if "://" in file:
    import tensorflow as tf

    return tf.io.gfile.stat(file).length if tf.io.gfile.exists(file) else None
  return os.path.getsize(file) if os.path.exists(file) else None


def _hint(pattern: str) -> str:
  """What lies where the pattern points, if anything."""
  folder = os.path.dirname(pattern) or "."
  if "://" in pattern:
    return ""
  if not os.path.isdir(folder):
    return f" ({folder!r} is not a folder)"
  names = sorted(name for name in os.listdir(folder) if name.endswith(".tfrecord"))
  return f" ({folder!r} has {len(names)} .tfrecord files" + (f", {names[0]} the first)" if names else ")")
