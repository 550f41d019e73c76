"""Records of a training stream that cannot be read: passed over, counted, named, and too many of them an error.

TensorFlow can drop an element whose computation fails, but says neither which nor how many. Elements are numbered before they
are loaded, so gaps tell: an example that follows a gap is delivered for the missing ones as well, and a stream keeps its
length and its position. Each element carries the record before it, by which the one that is missing is named. After every
`EVERY` elements comes one that is not loaded, so that gaps are seen also when nothing else can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from spinenet_tf.data import records
from spinenet_tf.errors import UserError

EVERY = 64
NAMED = 20  # warnings in full; later ones are counted only
Example = Mapping[str, tf.Tensor]
Load = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Example]


class Unreadable:
  """Counts unreadable records.

  Args:
    share: of an epoch's records that may be unreadable; one more ends the run.

  Attributes:
    total: records passed over by this process.
  """

  def __init__(self, share: float):
    self.share, self.total = share, 0
    self._epoch, self._in_epoch = -1, 0

  def note(self, load: Load, number: int, missing: int, file: bytes, record: bytes, examples: int) -> None:
    """Counts and names.

    Args:
      load: that failed, to learn why.
      number: of the first element after the gap.
      missing: elements in the gap.
      file, record: of the last of them; record is empty where the file could not be read.
      examples: elements in an epoch.
    Raises: UserError, marked for `diagnose.explanation`, when there were too many, or the record is readable and wrong.
    """
    epoch = (number - 1) // examples
    if epoch != self._epoch:
      self._epoch, self._in_epoch = epoch, 0
    self.total += missing
    self._in_epoch += missing
    what = f"{file.decode()}: {_reason(load, number - 1, file, record)}"
    most = math.floor(self.share * examples)
    if self._in_epoch > most:
      raise UserError(
        f"{records.USER_ERROR}{what}; {self._in_epoch} of {examples} records of this epoch cannot be read, and "
        f"data.max_unreadable={self.share:g} allows {most}: copy the files again or run `prepare` again, or raise it."
      )
    if self.total <= NAMED:
      others = f" and {missing - 1} before it" if missing > 1 else ""
      logging.warning("passed over %s%s; %d of at most %d in an epoch", what, others, self._in_epoch, most)


def _reason(load: Load, number: int, file: bytes, record: bytes) -> str:
  """Why a record could not be loaded, with its key."""
  if not record:
    return "a record cannot be read: the file is damaged, was cut short, or is gone"
  try:
    load(tf.constant(number, tf.int64), tf.constant(file), tf.constant(record))
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    message = str(error)
    if records.USER_ERROR in message:  # not damaged: somebody wrote it so
      raise UserError(
        records.USER_ERROR + message.split(records.USER_ERROR, 1)[1].split("\n")[0].rstrip("']\" ")
      ) from error
    text = message.split("\n")[0].split("}} ", 1)[-1].split(" [Op:")[0][:200]
    return f"record {_key(record)!r} cannot be decoded: {text}"
  return f"a record before {_key(record)!r} cannot be read"


def _key(record: bytes) -> str:
  try:
    features = tf.train.Example.FromString(record).features.feature
  except Exception:  # protobuf's DecodeError; its module differs between versions
    return "unknown"
  values = [features[name].bytes_list.value for name in ("image/source_id", "image/filename")]
  return next((value[0].decode(errors="replace") for value in values if value and value[0]), "unknown")


def load_readable(
  stream: tf.data.Dataset, load: Load, filler: Example, start: int, examples: int, unreadable: Unreadable
) -> tf.data.Dataset:
  """Loads what can be loaded; the others are replaced by the next ones.

  Args:
    stream: endless (number int64[], file string[], record string[]), numbers from `start` on without gaps.
    load: such an element -> example.
    filler: an example, for its shapes.
    start: the first number.
    examples: elements in an epoch.
    unreadable: told of each gap.
  Returns: as many examples as the stream has elements.
  """
  false, true = tf.constant(False), tf.constant(True)
  marks = tf.data.Dataset.range(start + EVERY, tf.int64.max, EVERY).map(lambda n: (n, "", "", true))
  elements = stream.map(lambda number, file, record: (number, file, record, false))
  choice = tf.data.Dataset.range(EVERY + 1).map(lambda i: tf.cast(i == EVERY, tf.int64)).repeat()
  elements = tf.data.Dataset.choose_from_datasets([elements, marks], choice, stop_on_empty_dataset=True)

  def carry(before, element):
    number, file, record, mark = element
    after = tuple(tf.where(mark, old, new) for old, new in zip(before, (file, record)))
    return after, (number, file, record, mark, *before)

  def load_one(number, file, record, mark, *before):
    example = tf.cond(mark, lambda: dict(filler), lambda: dict(load(number, file, record)))
    for name, value in filler.items():
      example[name].set_shape(value.shape)
    return number, mark, before, example

  def report(number, missing, file, record):
    unreadable.note(load, int(number), int(missing), file, record, examples)
    return np.int64(0)

  def fill(state, element):
    expected, owed = state
    number, mark, before, example = element
    missing = number - expected
    told = tf.cond(
      missing > 0,
      lambda: tf.ensure_shape(tf.numpy_function(report, (number, missing, *before), tf.int64), []),
      lambda: tf.constant(0, tf.int64),
    )
    owed += missing + told
    one = tf.cast(tf.logical_not(mark), tf.int64)
    copies = tf.where(mark, tf.constant(0, tf.int64), owed + 1)
    return (number + one, tf.where(mark, owed, 0)), (copies, example)

  loaded = elements.scan(("", ""), carry).map(load_one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  loaded = loaded.ignore_errors(log_warning=False)
  filled = loaded.scan((tf.constant(start, tf.int64), tf.constant(0, tf.int64)), fill)
  return filled.flat_map(lambda copies, example: tf.data.Dataset.from_tensors(example).repeat(copies))
