"""Masks on pictures: a translucent fill, a contour in full colour and a dark rim around it, visible on any background.

Objects of one class have its colour. Where such objects lie side by side, each takes another shade of it, so that they can
be told apart.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from spinenet_tf.evaluation import masks as mask_lib

Color = tuple[int, int, int]
_FILL = 0.4  # opacity
_RIM = 0.6
_DIMMEST = 130  # luminance, 0 to 255, that contours show with on black
_SHADES = (
  (0.0, 1.0, 1.0),
  (0.07, 0.55, 1.25),
  (-0.07, 1.1, 0.8),
  (0.13, 0.9, 1.0),
  (-0.13, 0.7, 1.1),
  (0.0, 0.35, 1.3),
)


def shades(colors: Sequence[Color], boxes: np.ndarray, gap: float = 3.0) -> list[Color]:
  """Varies equal colours of neighbours.

  Args:
    colors: RGB of N objects.
    boxes: float[N, 4], (left, top, right, bottom).
    gap: pixels between boxes up to which objects are neighbours.

  Returns: N colours, none of them dark; neighbours of equal colour differ as long as there are six at most.
  """
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  kinds = np.asarray(colors).reshape(-1, 3)
  taken = np.full(len(boxes), -1)
  for i, box in enumerate(boxes):
    near = (boxes[:, :2] <= box[2:] + gap).all(axis=1) & (boxes[:, 2:] >= box[:2] - gap).all(axis=1)
    near &= (kinds == kinds[i]).all(axis=1) & (taken >= 0)
    taken[i] = np.argmin(np.bincount(taken[near], minlength=len(_SHADES)))
  return [_shade(color, *_SHADES[k]) for color, k in zip(colors, taken)]


def _shade(color: Color, turn: float, saturation: float, value: float) -> Color:
  hue, old_saturation, old_value = colorsys.rgb_to_hsv(*(c / 255 for c in color))
  changed = colorsys.hsv_to_rgb((hue + turn) % 1, min(1, old_saturation * saturation), min(1, old_value * value))
  changed = [255 * c for c in changed]
  light = luminance(changed)
  white = max(0.0, (_DIMMEST - light) / (255 - light)) if light < 255 else 0.0
  return tuple(round(c + white * (255 - c)) for c in changed)


def luminance(color: Sequence[float]) -> float:
  """Returns how bright an RGB colour looks, 0 to 255."""
  return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def draw_masks(
  picture: Image.Image, masks: Sequence[Any], colors: Sequence[Color], line: int = 1, fill: bool = True
) -> Image.Image:
  """Draws masks, the first on top.

  Args:
    picture: RGB, as large as the masks or an enlargement of that.
    masks: RLE dicts, or bool[H, W].
    colors: RGB, one for each mask.
    line: width of the contour, which lies within the mask, in pixels; less on small objects.
    fill: False draws contours alone.

  Returns: a new picture.
  """
  pixels = np.array(picture)
  parts = [_part(mask, picture.size, line) for mask in masks]
  for part in parts:  # all rims first, so that no object is darkened by its neighbour's
    if part is not None:
      window, inside = part
      _blend(pixels[window], _grown(inside, max(1, line // 2)) & ~inside, (0, 0, 0), _RIM)
  for part, color in reversed(list(zip(parts, colors))):
    if part is not None:
      window, inside = part
      core = _shrunk(inside, max(1, min(line, min(inside.shape) // 10)))
      if fill:
        _blend(pixels[window], core, color, _FILL)
      _blend(pixels[window], inside & ~core, color, 1.0)
  return Image.fromarray(pixels)


def _part(mask: Any, size: tuple[int, int], margin: int) -> tuple[tuple[slice, slice], np.ndarray] | None:
  """Returns the window (rows, columns) of a picture of (width, height) around a mask, and bool of the window."""
  mask = mask_lib.decode(mask) if isinstance(mask, dict) else np.asarray(mask, bool)
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  if not len(rows):
    return None
  zoom = size[1] / mask.shape[0], size[0] / mask.shape[1]
  window = []
  for places, scale, limit in zip((rows, columns), zoom, size[::-1]):
    start, stop = int(places[0] * scale) - margin - 1, int(np.ceil((places[-1] + 1) * scale)) + margin + 1
    window.append(slice(max(0, start), min(limit, stop)))
  window = tuple(window)
  if size == mask.shape[::-1]:
    return window, mask[window]
  (top, left), (bottom, right) = ([getattr(w, end) / z for w, z in zip(window, zoom)] for end in ("start", "stop"))
  part = Image.fromarray(np.uint8(255) * mask).resize(
    (window[1].stop - window[1].start, window[0].stop - window[0].start),
    Image.Resampling.BILINEAR,
    box=(left, top, min(right, mask.shape[1]), min(bottom, mask.shape[0])),
  )
  return window, np.asarray(part) >= 128


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
  """Returns the mask with all pixels that 4-neighbours reach in so many steps."""
  for _ in range(steps):
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    mask = out
  return mask


def _shrunk(mask: np.ndarray, steps: int) -> np.ndarray:
  """Returns the mask without pixels that 4-neighbours outside reach in so many steps; beyond the border is outside."""
  return ~_grown(np.pad(~mask, steps, constant_values=True), steps)[steps:-steps, steps:-steps]


def _blend(window: np.ndarray, where: np.ndarray, color: Color, opacity: float) -> None:
  window[where] = np.round(window[where] * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)
