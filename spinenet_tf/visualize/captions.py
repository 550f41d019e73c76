"""Pictures with what a classifier says about them below: a line for each class, its bar as long as it is likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spinenet_tf.errors import UserError
from spinenet_tf.visualize.picture import as_picture, shorten

_NARROWEST = 240  # pixels; below it names would not fit
_GROUND, _BAR, _BEST_BAR, _TEXT, _REST = (24, 24, 24), (52, 64, 84), (0, 114, 178), (255, 255, 255), (200, 200, 200)


def caption(
  image: np.ndarray | Image.Image, names: Sequence[str], scores: Sequence[float], *, min_size: int = 0
) -> Image.Image:
  """Puts class names and probabilities below a picture.

  Args:
    image: uint8[H, W, 3] RGB (or [H, W] grey), or a PIL image.
    names: of classes, the likeliest first.
    scores: their probabilities, 0 to 1.
    min_size: the picture is enlarged until its longer side has this many pixels.

  Returns: an RGB picture, higher than `image`, and wider where that is too narrow for names.

  Raises: UserError when the image is no uint8 picture or lengths differ.
  """
  if len(names) != len(scores):
    raise UserError(f"{len(names)} names and {len(scores)} scores cannot be drawn; there must be one for each name")
  picture = as_picture(image)
  if (zoom := min_size / max(picture.size)) > 1:
    picture = picture.resize([max(1, round(zoom * s)) for s in picture.size], Image.Resampling.BICUBIC)
  width = max(picture.width, _NARROWEST)
  font = ImageFont.load_default(size=max(13, round(width / 32)))
  pad = max(4, round(font.size / 3))
  row = round(1.6 * font.size)
  sheet = Image.new("RGB", (width, picture.height + 2 * pad + row * len(names)), _GROUND)
  sheet.paste(picture, ((width - picture.width) // 2, 0))
  pen = ImageDraw.Draw(sheet)
  for i, (name, score) in enumerate(zip(names, scores)):
    top = picture.height + pad + i * row
    end = pad + round((width - 2 * pad) * min(max(float(score), 0.0), 1.0))
    pen.rectangle((pad, top + 1, max(end, pad + 1), top + row - 2), fill=_BAR if i else _BEST_BAR)
    percent = percentage(score)
    room = width - 5 * pad - font.getlength(percent)
    color, middle = _REST if i else _TEXT, top + row / 2
    pen.text((2 * pad, middle), shorten(name, font, room), font=font, fill=color, anchor="lm")
    pen.text((width - 2 * pad, middle), percent, font=font, fill=color, anchor="rm")
  return sheet


def percentage(score: float) -> str:
  """Returns a probability as text: "93%", "0.4%", and "<0.1%" for less."""
  if score < 0.001:
    return "<0.1%"
  return f"{100 * score:.1f}%" if score < 0.1 else f"{100 * score:.0f}%"
