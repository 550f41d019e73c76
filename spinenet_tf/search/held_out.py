"""Images held out of the training files, whose average precision rewards a child.  [SpineNet section 5.1]

The validation images of an experiment stay untouched, so that the final network can be measured on them. Whole files are
held out where some of them hold about as many images as wanted: of COCO's 256 files 16 are the paper's 7,392 images. Of a
data set in few files the records themselves are divided, into copies in the machine's temporary folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from spinenet_tf.data import shards
from spinenet_tf.errors import UserError

TOLERANCE = 0.1  # by which the images of whole files may differ from what was asked for
MOST_BYTES = 1 << 30  # of files that are copied


@dataclasses.dataclass(frozen=True)
class Split:
  """Training files without what is held out, and what is held out.

  Attributes:
    train, held_out: files.
    num_train, num_held_out: images in them.
  """

  train: tuple[str, ...]
  held_out: tuple[str, ...]
  num_train: int
  num_held_out: int


def wanted_images(held_out: float, total: int) -> int:
  """Returns how many of `total` images are held out.

  Args:
    held_out: a number of images from 1 on, or a share below 1.
    total: images there are.

  Raises: UserError when none would be held out, or none left to train on.
  """
  is_number = isinstance(held_out, (int, float)) and not isinstance(held_out, bool)
  count = round(held_out * total if held_out < 1 else held_out) if is_number and held_out >= 0 else 0
  if count < 1:
    raise UserError(
      f"proxy.held_out is {held_out!r}: no held-out images among the {total} to train on, so nothing would reward a child; "
      "give a number of images such as 7392, or a share such as 0.1"
    )
  if count >= total:
    raise UserError(
      f"proxy.held_out is {held_out!r}, and there are {total} images to train on: none would be left; give fewer, or a share "
      "such as 0.1"
    )
  return count


def hold_out(pattern: Any, held_out: float) -> Split:
  """Divides training files. The same files and number give the same division, in every process.

  Args:
    pattern: of the training files.
    held_out: a number of images, or a share below 1.

  Raises: UserError when nothing is held out or left, or large files would have to be copied.
  """
  files = shards.find(pattern)
  counts = shards.count(files)
  total = sum(counts)
  wanted = wanted_images(held_out, total)
  first = _first_held_out(counts, wanted)
  kept = sum(counts[:first])
  if kept and abs(total - kept - wanted) <= TOLERANCE * wanted:
    return Split(tuple(files[:first]), tuple(files[first:]), kept, total - kept)
  train, rest = _divide_records(files, total, wanted)
  return Split((train,), (rest,), total - wanted, wanted)


def _first_held_out(counts: Sequence[int], wanted: int) -> int:
  """Index of the first of the last files that together come closest to `wanted` images."""
  best, first, held = wanted, len(counts), 0
  for i in reversed(range(len(counts))):
    held += counts[i]
    if abs(held - wanted) < best:
      best, first = abs(held - wanted), i
  return first


def _divide_records(files: Sequence[str], total: int, wanted: int) -> tuple[str, str]:
  """Copies every record to one of two files, the held-out ones spread evenly. Returns: their names."""
  sizes = [tf.io.gfile.stat(file).length for file in files]
  if sum(sizes) > MOST_BYTES:
    raise UserError(
      f"{len(files)} training file(s) of {sum(sizes) / 2**30:.1f} GiB cannot be divided into {total - wanted} and {wanted} "
      "images by whole files; run `prepare` again with more --shards (as many as there are in 1 / the share, or more)"
    )
  stamp = [[os.path.abspath(file) if "://" not in file else file for file in files], sizes, total, wanted]
  stamp.append([tf.io.gfile.stat(file).mtime_nsec for file in files])
  name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]
  user = os.getuid() if hasattr(os, "getuid") else 0
  folder = pathlib.Path(tempfile.gettempdir()) / f"spinenet_tf_{user}_held_out_{name}"
  names = tuple(str(folder / f"{part}.tfrecord") for part in ("train", "held_out"))
  if folder.is_dir():
    return names
  scratch = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}_", dir=folder.parent))
  try:
    writers = [tf.io.TFRecordWriter(str(scratch / os.path.basename(name))) for name in names]
    for number, record in enumerate(tf.data.TFRecordDataset(list(files)).as_numpy_iterator()):
      writers[(number + 1) * wanted // total - number * wanted // total].write(record)
    for writer in writers:
      writer.close()
    os.replace(scratch, folder)
  except OSError as error:
    shutil.rmtree(scratch, ignore_errors=True)
    if not folder.is_dir():  # otherwise another process was first
      raise UserError(
        f"cannot write the held-out images to {folder} ({error.strerror}); free some space there, or set TMPDIR"
      ) from error
  return names
