"""What all drawings on pictures share."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFont

from spinenet_tf.errors import UserError


def as_picture(image: np.ndarray | Image.Image) -> Image.Image:
  """Returns a copy in RGB.

  Raises: UserError when it is no uint8 picture.
  """
  if isinstance(image, Image.Image):
    return image.convert("RGB").copy()
  array = np.asarray(image)
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
    raise UserError(
      f"an image of {array.dtype}{list(array.shape)} cannot be drawn on; give uint8[H, W, 3], RGB from 0 to 255 "
      "(data.preprocess.denormalize turns network input back)"
    )
  return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
  """Returns the picture shrunk or enlarged until it fills `height` or `width` pixels and exceeds neither."""
  zoom = min(width / picture.width, height / picture.height)
  return picture.resize([max(1, round(zoom * s)) for s in picture.size], Image.Resampling.BICUBIC)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
  """Returns the text, or as much of it as fits `width` pixels with an ellipsis."""
  if font.getlength(text) <= width:
    return text
  kept = len(text)
  while kept > 0 and font.getlength(text[:kept] + "…") > width:
    kept -= 1
  return text[:kept] + "…" if kept else ""
