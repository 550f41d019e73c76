"""TensorFlow checkpoints as arrays, with one clear message for whatever is wrong with the files."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.errors import UserError


class Tensors:
  """A checkpoint.

  Args:
    prefix: of its files.

  Attributes:
    shapes: of the tensors in it.
  """

  def __init__(self, prefix: str):
    self._prefix = prefix
    try:
      self._reader = tf.train.load_checkpoint(prefix)
      self.shapes: Mapping[str, list[int]] = self._reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError, OSError, IndexError) as error:
      raise UserError(
        f"{prefix} cannot be read: {_line(error)}; copy the checkpoint again, all of its files"
      ) from error

  def get(self, name: str) -> Any:
    """Returns a tensor's value.

    Raises: UserError when the data are not there.
    """
    try:
      return self._reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError, IndexError) as error:
      raise UserError(
        f"{self._prefix}: {name} cannot be read ({_line(error)}); the data file is truncated or damaged: copy it again"
      ) from error


def read(prefix: str) -> Tensors:
  """Opens a checkpoint.

  Raises: UserError when it is not there, half of it is missing, or it cannot be read.
  """
  prefix = prefix_of(prefix)
  data = glob.glob(glob.escape(prefix) + ".data-*")
  if not os.path.exists(prefix + ".index"):
    known = f"{prefix} is a file" if os.path.isfile(prefix) else f"there is no {prefix}.index"
    also = f"; {len(data)} data file(s) are there without their index" if data else ""
    raise UserError(f"{known}{also}; give the prefix of a TensorFlow checkpoint, FILE of FILE.index and FILE.data-...")
  if not data:
    raise UserError(
      f"{prefix}.index has no {prefix}.data-... beside it: the checkpoint is copied by half; copy the rest"
    )
  total = int(data[0].rsplit("-of-", 1)[-1])
  if len(data) != total:
    raise UserError(f"{prefix} has {len(data)} of its {total} data files; copy the others, too")
  return Tensors(prefix)


def prefix_of(path: str) -> str:
  """Returns the prefix of a checkpoint that is given by it, its index file, or its folder.

  Raises: UserError for a folder without one.
  """
  if os.path.isdir(path):
    latest = tf.train.latest_checkpoint(path)
    if latest is None:
      raise UserError(f"{path} is a folder without a checkpoint; give the prefix of one, FILE of FILE.index")
    path = latest
  if path.endswith(".index"):
    path = path.removesuffix(".index")
  return path


def files(prefix: str) -> list[str]:
  """Returns the files of a checkpoint, in order."""
  return [*sorted(glob.glob(glob.escape(prefix) + ".data-*")), prefix + ".index"]


def write(prefix: str, tensors: Mapping[str, np.ndarray | bytes]) -> None:
  """Writes a checkpoint with tensors under any names."""
  keys = sorted(tensors)
  tf.raw_ops.SaveV2(
    prefix=prefix + ".part",
    tensor_names=keys,
    shape_and_slices=[""] * len(keys),
    tensors=[tf.constant(tensors[key]) for key in keys],
  )
  tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[prefix + ".part"], destination_prefix=prefix)


def _line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
