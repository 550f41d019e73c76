"""Textured shapes on textured ground: a data set from a seed, to try everything with nothing to download.

Image n of a split depends on (seed, split, n) only, so a larger set starts with the smaller one. Boxes are
the visible extents of the shapes, exact to a quarter of a pixel, masks what is visible of them, and no shape is covered
by more than 60 %.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from spinenet_tf.data import convert, masks, meta, tfrecord
from spinenet_tf.data.report import Report
from spinenet_tf.errors import UserError

CATEGORIES = tuple(meta.Category(i + 1, n) for i, n in enumerate(("circle", "square", "triangle", "star", "ring")))
_FINE = 4  # drawn at 4 times the size: edges are smooth, boxes exact to 1/4 px
_MOST_COVERED = 0.6
_SIZES = (0.15, 0.5)  # of the image's side
_COUNTS = (0, 1, 2, 3, 4)
_COUNT_WEIGHTS = (0.02, 0.24, 0.28, 0.26, 0.2)
_ANY_HUE = 0.15  # share of shapes that do not have the hue of their class


class Picture(NamedTuple):
  """One image: pixels uint8[S, S, 3]; boxes float64[N, 4], (ymin, xmin, ymax, xmax) in pixels; ids int[N];
  areas in pixels; masks bool[N, S, S], the pixels that a shape covers by more than half.
  """

  pixels: np.ndarray
  boxes: np.ndarray
  ids: np.ndarray
  areas: np.ndarray
  masks: np.ndarray


_PICTURES = 12


def generate(count: int, size: int, seed: int = 0, split: str = "train") -> Iterator[Picture]:
  """Draws `count` pictures of `size` x `size` pixels (at least 32)."""
  if size < 32 or count < 1:
    raise UserError(f"--size={size} with {count} images; sizes start at 32 px, and each split needs an image")
  stream = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4], "little")
  for number in range(count):
    yield _draw(size, np.random.default_rng([seed, stream, number]))


def prepare_synthetic(
  output: str | os.PathLike,
  *,
  train: int = 400,
  val: int = 100,
  size: int = 128,
  seed: int = 0,
  overwrite: bool = False,
) -> dict[str, list[str]]:
  """Writes a train and a val split with meta.json, and the first pictures of val as PNG files, to look at and predict.

  Returns: {split: report, line by line}.
  Raises: UserError for sizes that make no sense and for an `output` with other data.
  """
  output, lines = os.fspath(output), {}
  if seed < 0:
    raise UserError(f"--seed={seed}; give 0 or more")
  wanted = [("train", train), ("val", val)]
  prints = {s: f"synthetic-1 count={count} size={size} seed={seed}" for s, count in wanted}
  for split, _ in wanted:
    convert.check_output(output, split, CATEGORIES, prints[split], overwrite)
  for split, count in wanted:
    report = Report(images=count, with_masks=True)
    names = convert.shard_names(split, max(count, 1))
    records = (_record(n, split, p, report) for n, p in enumerate(generate(count, size, seed, split)))
    written = convert.write(records, count, output, names, report)
    convert.commit(output, split, written, CATEGORIES, report, prints[split], overwrite)
    lines[split] = report.lines([c.name for c in CATEGORIES])
  folder = os.path.join(output, "pictures")
  os.makedirs(folder, exist_ok=True)
  for number, picture in enumerate(generate(min(val, _PICTURES), size, seed, "val")):
    Image.fromarray(picture.pixels).save(os.path.join(folder, f"val_{number:06d}.png"))
  return lines


def _record(number: int, split: str, picture: Picture, report: Report) -> convert.Record:
  stream = io.BytesIO()
  Image.fromarray(picture.pixels).save(stream, "JPEG", quality=92)
  height, width = picture.pixels.shape[:2]
  names = {c.id: c.name for c in CATEGORIES}
  objects: list[dict[str, Any]] = [
    {
      "box": tuple(map(float, box)),
      "id": int(i),
      "name": names[int(i)],
      "is_crowd": 0,
      "area": float(area),
      "mask": masks.from_pixels(mask),
    }
    for box, i, area, mask in zip(picture.boxes, picture.ids, picture.areas, picture.masks)
  ]
  report.add_image(height, width, objects)
  serialized = tfrecord.detection_record(
    encoded=stream.getvalue(),
    image_format="jpeg",
    height=height,
    width=width,
    file_name=f"{split}_{number:06d}.jpg",
    source_id=str(number + 1),
    objects=objects,
  )
  return convert.Record(serialized, masks=sum(one["mask"] is not None for one in objects))


def _draw(size: int, random: np.random.Generator) -> Picture:
  owners = Image.new("L", (size * _FINE, size * _FINE), 0)  # which shape a fine pixel belongs to, 0 the ground
  drawn, classes = np.zeros(1, np.int64), []  # fine pixels of each shape as it was drawn
  seen = drawn.copy()  # the same, what is left of them
  for _ in range(random.choice(_COUNTS, p=_COUNT_WEIGHTS)):
    for _ in range(8):  # attempts to find a place
      kind = int(random.integers(len(CATEGORIES)))
      side = size * _FINE * np.exp(random.uniform(*np.log(_SIZES)))
      mask, corner = _place(CATEGORIES[kind].name, side, size * _FINE, random)
      tried = owners.copy()
      tried.paste(len(drawn), corner, mask)
      region = (*(max(c, 0) for c in corner), *(min(c + mask.width, owners.width) for c in corner))
      visible = np.append(seen, 0) + _count(tried.crop(region), drawn) - _count(owners.crop(region), drawn)
      covered = 1 - visible[1:-1] / drawn[1:]
      if visible[-1] > 0.6 * np.count_nonzero(np.asarray(mask)) and (covered <= _MOST_COVERED).all():
        owners, seen, drawn = tried, visible, np.append(drawn, visible[-1])
        classes.append(kind)
        break
  return _render(np.asarray(owners), classes, size, random)


def _count(owners: Image.Image, drawn: np.ndarray) -> np.ndarray:
  """Pixels of the ground, of each shape and of one more."""
  return np.array(owners.histogram()[: len(drawn) + 1])


def _place(name: str, side: float, canvas: int, random: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
  """A shape's mask, and where its top left corner goes; up to a fifth of the shape may lie outside."""
  half = side / 2
  around = np.exp(1j * np.linspace(0, 2 * np.pi, 10, endpoint=False))
  edge = int(np.ceil(side * 1.5))
  mask = Image.new("L", (edge, edge), 0)
  pen, middle = ImageDraw.Draw(mask), edge / 2
  if name in ("circle", "ring"):
    pen.ellipse([middle - half, middle - half, middle + half, middle + half], fill=255)
    if name == "ring":
      hole = half * random.uniform(0.45, 0.65)
      pen.ellipse([middle - hole, middle - hole, middle + hole, middle + hole], fill=0)
  else:
    tilt = random.uniform(-0.3, 0.3)
    if name == "square":
      corners = half * np.sqrt(2) * np.exp(1j * (np.arange(4) * np.pi / 2 + np.pi / 4))
    elif name == "triangle":
      corners = half * 1.15 * np.exp(1j * (np.arange(3) * 2 * np.pi / 3 - np.pi / 2))
    else:
      corners = half * 1.1 * around * np.where(np.arange(10) % 2, 0.45, 1) * np.exp(-0.5j * np.pi)
    corners = corners * np.exp(1j * tilt)
    pen.polygon([(middle + c.real, middle + c.imag) for c in corners], fill=255)
  low, high = 0.3 * side, canvas - 0.3 * side
  centre = random.uniform(low, high, 2) - middle
  return mask, (int(centre[0]), int(centre[1]))


def _render(owners: np.ndarray, classes: Sequence[int], size: int, random: np.random.Generator) -> Picture:
  """Paints ground and shapes, and measures what is visible."""
  pixels = _ground(size, random)
  y, x = np.mgrid[0:size, 0:size] / size
  boxes, ids, areas, covered = [], [], [], []
  for number, kind in enumerate(classes, start=1):
    fine = owners == number
    rows, columns = np.flatnonzero(fine.any(axis=1)), np.flatnonzero(fine.any(axis=0))
    boxes.append(np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / _FINE)
    areas.append(fine.sum() / _FINE**2)
    ids.append(CATEGORIES[kind].id)
    alpha = fine.reshape(size, _FINE, size, _FINE).mean(axis=(1, 3))[..., np.newaxis]
    covered.append(alpha[..., 0] > 0.5)
    hue = random.uniform() if random.uniform() < _ANY_HUE else kind / len(CATEGORIES) + random.normal(0, 0.03)
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, random.uniform(0.65, 1), random.uniform(0.65, 1)))
    angle, frequency = random.uniform(0, np.pi), random.uniform(4, 16)
    stripes = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + random.uniform(0, 6))
    shade = 1 + random.uniform(0, 0.25) * stripes[..., np.newaxis]
    pixels = pixels * (1 - alpha) + colour * shade * alpha
  pixels += random.normal(0, random.uniform(2, 8), pixels.shape)
  pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
  boxes, covered = np.array(boxes, np.float64).reshape(-1, 4), np.array(covered, bool).reshape(-1, size, size)
  return Picture(pixels, boxes, np.array(ids, np.int64), np.array(areas), covered)


def _ground(size: int, random: np.random.Generator) -> np.ndarray:
  """A gradient between two dull colours with soft blotches, float64[S, S, 3]."""
  y, x = np.mgrid[0:size, 0:size] / size
  angle = random.uniform(0, 2 * np.pi)
  slope = ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.7)[..., np.newaxis] / 1.4
  first, second = (random.uniform(40, 215) + random.uniform(-25, 25, 3) for _ in range(2))
  cells = int(random.integers(3, 12))
  blotches = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
  blotches = np.asarray(blotches.resize((size, size), Image.Resampling.BICUBIC))[..., np.newaxis]
  return first * slope + second * (1 - slope) + random.uniform(5, 30) * blotches
