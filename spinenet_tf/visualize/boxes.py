"""Pictures with labelled boxes, and masks below them.

Colours belong to class ids, whatever the number of classes: the hue advances by the golden ratio, so neighbours differ
and no palette runs out. Sizes of lines and text follow the picture. Text stands on a filled label in black or white,
whichever reads better, within the picture. Labels do not cover each other: where there is no room, the boxes with the
lowest scores go without, and their colour tells the class. In a crowd, whose labels would hide much of the picture (or
most of the objects, where all are of one class), none are drawn, and objects with masks have contours instead of boxes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spinenet_tf.errors import UserError
from spinenet_tf.visualize.masks import draw_masks, luminance, shades
from spinenet_tf.visualize.picture import as_picture, fit, shorten

Box = tuple[float, float, float, float]
_GOLDEN = 0.6180339887498949
_TRUTH = (255, 255, 255)
_CROWDED = 0.3  # of the picture below labels, if there are more than
_FEW = 20


class _Mark(NamedTuple):
  """An object: (left, top, right, bottom), RLE or bool[H, W] or None."""

  box: Box
  label: str
  class_id: int
  mask: Any


def color(class_id: int) -> tuple[int, int, int]:
  """Returns the RGB colour of a class, 0 to 255; any whole number has one, always the same."""
  index = int(class_id)
  hue = (0.02 + index * _GOLDEN) % 1.0
  value = (1.0, 0.8, 0.9)[index % 3]
  saturation = (0.85, 0.95, 0.6)[index // 3 % 3]
  return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))


def draw(
  image: np.ndarray | Image.Image,
  detections: Any = None,
  *,
  score_threshold: float = 0.0,
  truth: Any = None,
  side_by_side: bool = False,
  min_size: int = 0,
  labels: bool | None = None,
) -> Image.Image:
  """Draws boxes with names and scores, and masks where there are any; high scores on top.

  Args:
    image: uint8[H, W, 3] RGB (or [H, W] grey), or a PIL image.
    detections: `serving.detector.Detections`, or anything with these attributes or keys: `boxes` float[N, 4] (ymin,
      xmin, ymax, xmax) in pixels of `image`, `classes` int[N], optionally `names` str[N], `scores` float[N] and `masks`,
      N RLE dicts or bool[N, H, W] of the image's size.
    score_threshold: detections with a lower score are left out.
    truth: ground truth of the same form, without scores; drawn dashed, or in a picture of its own.
    side_by_side: ground truth at the left and detections at the right, instead of one picture with both.
    min_size: the picture is enlarged until its longer side has this many pixels, for text on tiny pictures.
    labels: write names and scores; unless there are too many when None.

  Returns: an RGB picture; of the size of `image`, unless enlarged or side by side.

  Raises: UserError when the image is no uint8 picture, lengths differ, or a mask is of another size than the image.
  """
  picture = as_picture(image)
  size = (picture.height, picture.width)
  zoom = max(1.0, min_size / max(picture.size))
  if zoom > 1:
    picture = picture.resize([round(zoom * s) for s in picture.size], Image.Resampling.BICUBIC)
  found = _marks(detections, size, zoom, score_threshold)
  expected = _marks(truth, size, zoom, 0.0)
  if side_by_side:
    return grid([_draw_marks(picture, marks, dashed=False, labels=labels) for marks in (expected, found)], columns=2)
  picture = _draw_marks(picture, expected, dashed=True, labels=False if found else labels)
  return _draw_marks(picture, found, dashed=False, labels=labels)


def grid(
  images: Sequence[np.ndarray | Image.Image],
  *,
  columns: int | None = None,
  tile: tuple[int, int] | None = None,
  gap: int = 4,
) -> Image.Image:
  """Puts pictures side by side, in rows, each centred in a cell of one size.

  Args:
    images: uint8[H, W, 3] or PIL images, at least one.
    columns: pictures in a row; about as many as rows when None.
    tile: (height, width) that pictures are shrunk or enlarged to fit; the largest picture's when None.
    gap: pixels between cells.

  Returns: an RGB picture.

  Raises: UserError when there is no image.
  """
  pictures = [as_picture(image) for image in images]
  if not pictures:
    raise UserError("a grid needs at least one image")
  if tile is not None:
    pictures = [fit(picture, *tile) for picture in pictures]
  height, width = tile or (max(p.height for p in pictures), max(p.width for p in pictures))
  columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
  rows = math.ceil(len(pictures) / columns)
  sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (32, 32, 32))
  for i, picture in enumerate(pictures):
    row, column = divmod(i, columns)
    left, top = column * (width + gap), row * (height + gap)
    sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
  return sheet


def _marks(source: Any, size: tuple[int, int], zoom: float, threshold: float) -> list[_Mark]:
  """What to draw, by falling score. Boxes that are not finite are left out."""
  if source is None:
    return []
  get = source.get if isinstance(source, Mapping) else lambda key: getattr(source, key, None)
  boxes = np.asarray(get("boxes"), np.float64).reshape(-1, 4) * zoom
  classes = np.asarray(get("classes")).reshape(-1)
  scores, names, masks = get("scores"), get("names"), get("masks")
  names = [str(c) for c in classes] if names is None else list(names)
  order = np.arange(len(boxes))
  masks = [None] * len(boxes) if masks is None else list(masks)
  if not len(boxes) == len(classes) == len(names) == len(masks) == len(boxes if scores is None else scores):
    raise UserError(
      f"{len(boxes)} boxes, {len(classes)} classes, {len(names)} names, {len(masks)} masks and "
      f"{'no' if scores is None else len(scores)} scores cannot be drawn; there must be one for each box"
    )
  sizes = {tuple(mask["size"] if isinstance(mask, dict) else np.shape(mask)) for mask in masks if mask is not None}
  if wrong := sizes - {size}:
    raise UserError(
      f"a mask of {wrong.pop()} pixels cannot be drawn on an image of {size} (height, width); they must agree"
    )
  if scores is not None:
    scores = np.asarray(scores, np.float64)
    names = [f"{name} {100 * score:.0f}%" for name, score in zip(names, scores)]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= threshold]
  marks = [_Mark(tuple(boxes[i, [1, 0, 3, 2]].tolist()), names[i], int(classes[i]), masks[i]) for i in order]
  return [mark for mark in marks if all(map(math.isfinite, mark.box))]


def _draw_marks(picture: Image.Image, marks: list[_Mark], *, dashed: bool, labels: bool | None) -> Image.Image:
  """Returns a new picture."""
  side = math.sqrt(picture.width * picture.height)
  line = max(1, round(side / 200))
  font = ImageFont.load_default(size=max(10, round(side / 38)))
  width, height = picture.size
  clipped: list[_Mark] = []
  for mark in marks:
    left, top, right, bottom = mark.box
    box = (max(0, left), max(0, top), min(width - 1, right), min(height - 1, bottom))
    if box[0] <= box[2] and box[1] <= box[3]:
      clipped.append(mark._replace(box=box))
  colors = [_TRUTH if dashed else color(mark.class_id) for mark in clipped]
  if with_masks := [i for i, mark in enumerate(clipped) if mark.mask is not None]:
    masks = [clipped[i].mask for i in with_masks]
    varied = [colors[i] for i in with_masks]
    if not dashed:
      varied = shades(varied, np.array([clipped[i].box for i in with_masks]))
      for i, shade in zip(with_masks, varied):
        colors[i] = shade
    picture = draw_masks(picture, masks, varied, max(1, round(side / 300)), fill=not dashed)
  else:
    picture = picture.copy()
  pen = ImageDraw.Draw(picture)
  texts = [shorten(mark.label, font, width - 4 * line) for mark in clipped]
  extents = [pen.textbbox((0, 0), text, font=font) for text in texts]
  crowded = _is_crowded(
    clipped, [(right + 2 * line) * (bottom + 2 * line) for *_, right, bottom in extents], width * height
  )
  placed: list[tuple[Box, str, tuple[int, int, int]]] = []
  if labels is None:
    labels = not crowded
  for mark, text, extent, fill in zip(clipped, texts, extents, colors) if labels else ():
    place = _place(extent, mark.box, picture.size, line, [p[0] for p in placed])
    if place is not None:
      placed.append((place, text, fill))
  for mark, fill in reversed(list(zip(clipped, colors))):
    if mark.mask is None or not crowded:
      _outline(pen, mark.box, fill, line, dashed)
  for place, text, fill in placed:
    pen.rectangle(place, fill=fill)
    ink = "black" if luminance(fill) > 140 else "white"
    pen.text((place[0] + line, place[1] + line), text, font=font, fill=ink, anchor="lt")
  return picture


def _is_crowded(marks: list[_Mark], labels: list[float], picture: int) -> bool:
  """Tells from the areas of labels and picture whether there are too many labels."""
  if len(marks) <= _FEW:
    return False
  small = [(x1 - x0) * (y1 - y0) < label for ((x0, y0, x1, y1), *_), label in zip(marks, labels)]
  one_class = len({mark.class_id for mark in marks}) == 1
  return sum(labels) > _CROWDED * picture or (one_class and 2 * sum(small) > len(marks))


def _outline(pen: ImageDraw.ImageDraw, box: Box, fill: tuple[int, int, int], line: int, dashed: bool) -> None:
  """A rectangle with a thin dark rim, which shows on any background."""
  left, top, right, bottom = box
  rim = max(1, line // 2)
  pen.rectangle((left - rim, top - rim, right + rim, bottom + rim), outline="black", width=line + 2 * rim)
  if not dashed:
    pen.rectangle(box, outline=fill, width=line)
    return
  step = 4 * line
  for x in np.arange(left, right, 2 * step):
    for y in (top, max(top, bottom - line + 1)):
      pen.rectangle((x, y, min(x + step, right), y + line - 1), fill=fill)
  for y in np.arange(top, bottom, 2 * step):
    for x in (left, max(left, right - line + 1)):
      pen.rectangle((x, y, x + line - 1, min(y + step, bottom)), fill=fill)


def _place(extent: Box, box: Box, size: tuple[int, int], line: int, taken: list[Box]) -> Box | None:
  """Where a label goes: on the box, in it or below it, the first place in the picture that is free; None without one."""
  width = extent[2] - extent[0] + 2 * line
  height = extent[3] - extent[1] + 2 * line
  left, top, right, bottom = box
  spots = [(x, y) for y in (top - height, top, bottom - height, bottom) for x in (left, right - width)]
  most = max(0, size[0] - 1 - width), max(0, size[1] - 1 - height)
  spots = [spot for spot in spots if 0 <= spot[1] <= most[1]] or [(left, min(max(0, top), most[1]))]
  for x, y in spots:
    x = min(max(0, x), most[0])
    place = (x, y, x + width, y + height)
    if not any(_overlap(place, other) for other in taken):
      return place
  return None


def _overlap(a: Box, b: Box) -> bool:
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
