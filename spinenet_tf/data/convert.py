"""Items to TFRecord shards and meta.json, with several processes, so that a killed run leaves nothing taken
for whole.

Shards are written under names that no pattern matches. When all are complete, a marker file is made, the
shards get their names, meta.json is written, and the marker goes; while it lies there the pipeline refuses
the split.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, NamedTuple, Protocol

from spinenet_tf.data import coco, image_io, meta, shards, tfrecord
from spinenet_tf.data import masks as mask_files
from spinenet_tf.errors import UserError

_CHUNK = 8  # images per task
_SMALL = 128  # fewer images than this are not worth starting processes for
_SHARD_IMAGES, _MOST_SHARDS = 500, 256  # by default


class Record(NamedTuple):
  """One converted image: the serialised example, what was particular about it, or what is wrong with it; its
  class where it has one.

  Attributes:
    masks: objects with a mask; mask_notes: (a key of `report.MASK_WORDS` or `MASK_KEPT`, annotation id).
  """

  serialized: bytes
  notes: tuple[str, ...] = ()
  error: str = ""
  category: str = ""
  masks: int = 0
  mask_notes: tuple[tuple[str, Any], ...] = ()


OnBad = Callable[[str, str], None]  # (what is wrong, class)


class Facts(Protocol):
  """What is counted about a split: `report.Report`, `label_report.LabelReport`."""

  def add_notes(self, notes: Iterable[str]) -> None:
    """Counts what was particular about an image file."""

  def add_masks(self, count: int, notes: Iterable[tuple[str, Any]]) -> None:
    """Counts objects with a mask, and what was particular about masks."""

  def to_dict(self) -> dict[str, Any]:
    """JSON-ready."""

  def totals(self) -> dict[str, int]:
    """What meta.json says of a split beside the number of examples."""


def prepare_coco(
  annotations: str | os.PathLike,
  images: str | os.PathLike,
  output: str | os.PathLike,
  *,
  split: str = "train",
  num_shards: int | None = None,
  workers: int = 1,
  strict: bool = False,
  masks: bool = True,
  overwrite: bool = False,
  runner: str = "local",
  beam_options: Sequence[str] = (),
) -> list[str]:
  """Converts a COCO data set.

  Args:
    annotations: COCO instances JSON; images: the folder its file names are relative to.
    output: folder for {split}-NNNNN-of-NNNNN.tfrecord and meta.json.
    split: name of this part; all splits of a folder must have the same categories.
    num_shards: files to write, by default one per 500 images and at most 256.
    workers: processes (spawned: call from under `if __name__ == "__main__"` with more than one).
    strict: boxes without area or outside the image are errors, and so is an object without a usable mask.
    masks: write the masks of the objects, where the JSON has any.
    overwrite: replace another data set in `output`.
    runner: "local", or "beam" (extra [beam]) with `beam_options`, flags of a Beam pipeline.
  Returns: the report, line by line.
  Raises: UserError for bad annotations, images or options; nothing usable is left then.
  """
  data = coco.read(annotations, images, strict, masks)
  convert(
    data.items,
    functools.partial(make_record, with_masks=data.report.with_masks, strict=strict),
    os.fspath(output),
    split=split,
    categories=data.categories,
    report=data.report,
    fingerprint=data.fingerprint,
    num_shards=num_shards,
    workers=workers,
    overwrite=overwrite,
    runner=runner,
    beam_options=beam_options,
  )
  return data.report.lines([c.name for c in data.categories])


def convert(
  items: Sequence[Any],
  make: Callable[[Any], Record],
  output: str,
  *,
  split: str,
  categories: Sequence[meta.Category],
  report: Facts,
  fingerprint: str,
  task: str = "detection",
  on_bad: OnBad | None = None,
  num_shards: int | None = None,
  workers: int = 1,
  overwrite: bool = False,
  runner: str = "local",
  beam_options: Sequence[str] = (),
) -> None:
  """Converts checked items: `make` in processes or on Beam, shards, meta.json.

  Args:
    items: each with a `source_id`; what `make`, a function of a module, takes.
    output, split, num_shards, workers, overwrite, runner, beam_options: as in `prepare_coco`.
    categories, report, fingerprint, task: what meta.json will say.
    on_bad: is told of each image that cannot be used, which is left out; without it they are one error.
  Raises: UserError; nothing usable is left then.
  """
  if runner not in ("local", "beam"):
    raise UserError(f"--runner={runner!r}; choose local or beam")
  check_output(output, split, categories, fingerprint, overwrite, task)
  # A fixed order unlike that of the annotations, which are often sorted by scene or class.
  items = sorted(items, key=lambda item: hashlib.sha256(item.source_id.encode()).digest())
  names = shard_names(split, len(items), num_shards)
  if runner == "beam":
    from spinenet_tf.data import beam

    written = beam.write(items, output, names, report, beam_options, make, on_bad)
  else:
    written = write(make_records(items, workers, make), len(items), output, names, report, on_bad)
  commit(output, split, written, categories, report, fingerprint, overwrite, task)


def make_record(item: coco.Item, with_masks: bool = False, strict: bool = False) -> Record:
  """Reads, checks and encodes one image; the function that every runner maps over the items.

  Args:
    item: the image; with_masks: write the masks of its objects; strict: one that cannot be used is an error.
  """
  try:
    image = image_io.store(image_io.read_bytes(item.path), item.path, item.height, item.width)
    objects, notes = item.objects, []
    if with_masks:
      objects, notes = mask_files.add(objects, item.height, item.width, item.file_name, strict)
  except UserError as error:
    return Record(b"", (), str(error))
  return Record(
    serialized=tfrecord.detection_record(
      encoded=image.encoded,
      image_format=image.image_format,
      height=image.height,
      width=image.width,
      file_name=item.file_name,
      source_id=item.source_id,
      objects=objects,
    ),
    notes=image.notes,
    masks=sum(one.get("mask") is not None for one in objects),
    mask_notes=tuple(notes),
  )


def make_records(
  items: Sequence[Any], workers: int = 1, make: Callable[[Any], Record] = make_record
) -> Iterator[Record]:
  """`make` over items, in order, in `workers` processes with a bounded number of records in flight."""
  if workers < 1:
    raise UserError(f"--workers={workers}; give at least 1")
  if workers == 1 or len(items) < _SMALL:
    yield from map(make, items)
    return
  chunks = (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))
  waiting: collections.deque = collections.deque()
  with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
    try:
      for chunk in chunks:
        waiting.append(pool.submit(_make_chunk, make, chunk))
        if len(waiting) >= 4 * workers:
          yield from waiting.popleft().result()
      while waiting:
        yield from waiting.popleft().result()
    except BrokenProcessPool as error:
      raise UserError("a worker process was killed (out of memory?); run with fewer --workers") from error
    finally:
      for future in waiting:
        future.cancel()


def shard_names(split: str, examples: int, num_shards: int | None = None) -> list[str]:
  """File names of a split's shards."""
  if not split.replace("_", "").isalnum():
    raise UserError(f"--split={split!r}; use letters, digits and underscores")
  if num_shards is None:
    num_shards = max(1, min(_MOST_SHARDS, examples // _SHARD_IMAGES))
  if not 1 <= num_shards <= min(examples, 99999):
    raise UserError(f"--shards={num_shards} for {examples} images; give 1 to the number of images")
  return [f"{split}-{k:05d}-of-{num_shards:05d}.tfrecord" for k in range(num_shards)]


def check_output(
  output: str,
  split: str,
  categories: Sequence[meta.Category],
  fingerprint: str,
  overwrite: bool,
  task: str = "detection",
) -> None:
  """Raises UserError where `output` holds something that this run must not replace or does not fit to."""
  known = meta.load(output)
  others = sorted(set(known.splits) - {split}) if known else []
  if others and known.task != task:
    raise UserError(f"{output} holds {', '.join(others)} for {known.task}; choose another --output for {task}")
  if others and known.categories != tuple(categories):
    old, new = set(known.categories), set(categories)
    differ = ", ".join(f"{c.id} {c.name!r}" for c in sorted(old ^ new, key=lambda c: (c.id, c.name))[:6])
    raise UserError(
      f"{output}: the categories of {split!r} differ from those of {', '.join(others)} ({differ}); "
      "all splits of a data set must list the same categories with the same ids"
    )
  if overwrite:
    return
  if known and split in known.splits:
    if known.splits[split].get("fingerprint") != fingerprint:
      raise UserError(f"{output} has a {split!r} of other data; choose another --output or say --overwrite")
  elif _shards_of(output, split) and not os.path.exists(os.path.join(output, split + shards.MARKER)):
    raise UserError(f"{output} has {split!r} files that meta.json does not tell of; say --overwrite to replace them")


def write(
  records: Iterable[Record],
  examples: int,
  output: str,
  names: Sequence[str],
  report: Facts,
  on_bad: OnBad | None = None,
) -> dict[str, int]:
  """Writes records to shards under temporary names.

  Bad images are left out and told to `on_bad`, or all records are looked at even after a bad one, so that all are named
  at once.

  Returns: {shard name: records in it}.
  Raises: UserError for bad images, or where none is good; the temporary files are removed then.
  """
  import tensorflow as tf
  from tqdm import tqdm

  tf.io.gfile.makedirs(output)
  counts, errors, writer = dict.fromkeys(names, 0), [], None
  try:
    shard = -1
    for number, record in enumerate(tqdm(records, total=examples, unit="image", disable=None)):
      if record.error:
        errors.append(record.error)
      if errors and not on_bad:
        continue
      if number * len(names) // examples != shard:
        shard = number * len(names) // examples
        if writer:
          writer.close()
        writer = tf.io.TFRecordWriter(os.path.join(output, names[shard] + shards.MARKER))
      if record.error:
        on_bad(record.error, record.category)
        continue
      writer.write(record.serialized)
      counts[names[shard]] += 1
      report.add_notes(record.notes)
      report.add_masks(record.masks, record.mask_notes)
    if not on_bad or len(errors) == examples:
      raise_image_errors(errors, examples)
  except BaseException:
    if writer:
      writer.close()
    for name in names:
      _remove(os.path.join(output, name + shards.MARKER))
    raise
  writer.close()
  return counts


def raise_image_errors(errors: Sequence[str], examples: int) -> None:
  """One UserError for all bad images."""
  if len(errors) == 1:
    raise UserError(errors[0])
  if errors:
    more = f"; ... and {len(errors) - 5} more" if len(errors) > 5 else ""
    raise UserError(f"{len(errors)} of {examples} images cannot be used: {'; '.join(errors[:5])}{more}")


def commit(
  output: str,
  split: str,
  counts: dict[str, int],
  categories: Sequence[meta.Category],
  report: Facts,
  fingerprint: str,
  overwrite: bool = False,
  task: str = "detection",
) -> None:
  """Gives complete shards their names and writes meta.json, last."""
  import tensorflow as tf

  check_output(output, split, categories, fingerprint, overwrite, task)  # again: minutes may have passed
  known = meta.load(output)
  splits = {name: facts for name, facts in (known.splits if known else {}).items() if name != split}
  marker = os.path.join(output, split + shards.MARKER)
  with tf.io.gfile.GFile(marker, "w") as file:
    file.write("prepare is replacing these files\n")
  for old in _shards_of(output, split):
    tf.io.gfile.remove(old)
  sizes = {}
  for name, count in counts.items():
    path = os.path.join(output, name)
    tf.io.gfile.rename(path + shards.MARKER, path, overwrite=True)
    sizes[name] = {"examples": count, "bytes": tf.io.gfile.stat(path).length}
  splits[split] = {
    "pattern": f"{split}-*.tfrecord",
    "num_examples": sum(counts.values()),
    **report.totals(),
    "fingerprint": fingerprint,
    "shards": sizes,
    "report": report.to_dict(),
  }
  meta.save(meta.Meta(tuple(categories), splits, task), output)
  tf.io.gfile.remove(marker)
  for left in _glob(output, f"{split}-*-of-*.tfrecord{shards.MARKER}"):  # of killed runs
    tf.io.gfile.remove(left)


def _make_chunk(make: Callable[[Any], Record], items: Sequence[Any]) -> list[Record]:
  return [make(item) for item in items]


def _shards_of(output: str, split: str) -> list[str]:
  return [path for path in _glob(output, f"{split}-*.tfrecord") if shards.split_of(path) == split]


def _glob(output: str, pattern: str) -> list[str]:
  import tensorflow as tf

  return tf.io.gfile.glob(os.path.join(output, pattern))


def _remove(path: str) -> None:
  import tensorflow as tf

  if tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)
