"""Whether functions use only what every compiler and converter takes, or what is fastest on CPUs and GPUs.

A converter to a format that has non-maximum suppression as an operation of its own can ask for that, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_forced = False
_one_op = False


@contextlib.contextmanager
def portable(value: bool = True, *, one_op_nms: bool = False) -> Iterator[None]:
  """Lets what is traced inside use plain operations: for models that XLA compiles, or that are converted.

  Args:
    value: whether they are plain.
    one_op_nms: each non-maximum suppression is one CombinedNonMaxSuppression, whose boxes serve all classes; for a converter
      that knows this operation.
  """
  global _forced, _one_op
  previous = _forced, _one_op
  _forced, _one_op = value, one_op_nms
  try:
    yield
  finally:
    _forced, _one_op = previous


def wanted() -> bool:
  """Tells whether plain operations are asked for, or needed as there are TPUs."""
  return _forced or bool(tf.config.list_logical_devices("TPU"))


def one_op_nms_wanted() -> bool:
  """Tells whether each non-maximum suppression shall be one operation."""
  return _one_op
