"""Pictures as people give them: arrays or files, one or several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Union

import numpy as np

from spinenet_tf.data.image_io import read_image
from spinenet_tf.errors import UserError

Picture = Union[np.ndarray, str, os.PathLike]


def is_single(images: Picture | Sequence[Picture]) -> bool:
  """Tells whether this is one picture: a path, or an array that is no batch."""
  return isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", None) in (2, 3)


def as_array(picture: Picture) -> np.ndarray:
  """Returns uint8[H, W, 3], RGB.

  Raises: UserError for a file that is no image, or an array of another form.
  """
  if isinstance(picture, (str, os.PathLike)):
    return read_image(picture)
  array = np.asarray(picture)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
    raise UserError(
      f"a picture of {array.dtype}{list(array.shape)} cannot be used; give uint8[H, W, 3], RGB from 0 to 255, not "
      "normalised, or the path of an image file, which may be of any kind"
    )
  return array
