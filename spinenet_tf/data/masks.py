"""Instance masks: COCO's segmentation to the crop that a record holds, and a crop to COCO's run lengths.

A crop is the smallest rectangle of pixels that holds a mask, so it costs what the object does, not what the image does.
Run lengths go down the columns, as COCO's. pycocotools rasterises polygons, so masks are those of `COCO.annToMask`
pixel for pixel. Imports no TensorFlow: worker processes of `prepare` use this.

H, W: the image; h, w: the crop.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from spinenet_tf.data.report import MASK_WORDS
from spinenet_tf.errors import UserError

_OVERHANG = 2.0  # pixels that a mask may leave its box by; COCO's own do by 1, from rounding


class Mask(NamedTuple):
  """A mask of one object: its crop as a PNG file (one bit a pixel), and the crop's corner in image pixels."""

  png: bytes
  ymin: int
  xmin: int


class Note(NamedTuple):
  """What is particular about a mask: a key of `report.MASK_WORDS`, and the value seen."""

  reason: str
  text: str


class _Unusable(Exception):
  """Carries the note of a mask that cannot be used."""


def add(
  objects: Sequence[Mapping[str, Any]], height: int, width: int, called: str, strict: bool = False
) -> tuple[list[dict[str, Any]], list[tuple[str, Any]]]:
  """Reads the masks of one image.

  Args:
    objects: of `coco.Item`, with segmentation; height, width: of the image in pixels.
    called: the image, for errors.
    strict: a mask that is missing or cannot be used as it is, is an error.
  Returns: (the objects with "mask", a `Mask` or None; (reason, annotation id) of what is to be reported).
  Raises: UserError if `strict`.
  """
  out, notes = [], []
  for one in objects:
    mask, found = read(one["segmentation"], height, width, one["box"])
    out.append({**one, "mask": mask})
    notes += [(note.reason, one["annotation"]) for note in found]
    faults = [note for note in found if note.reason in MASK_WORDS]
    if strict and faults:
      raise UserError(
        f"{called}: annotation {one['annotation']} {faults[0].text}; correct it, or run without --strict to use its box "
        "only, or with --nomasks"
      )
  return out, notes


def read(
  segmentation: Any, height: int, width: int, box: tuple[float, float, float, float]
) -> tuple[Mask | None, list[Note]]:
  """One object's mask from a COCO annotation.

  Args:
    segmentation: polygons, or run lengths, compressed or not; None, [] or {} where there is none.
    height, width: of the image in pixels.
    box: (ymin, xmin, ymax, xmax) of the object in pixels.
  Returns: (the mask, None where there is none that can be used; what is to be reported).
  """
  notes: list[Note] = []
  try:
    if segmentation is None or segmentation in ([], {}):
      raise _unusable("mask_missing", "has no segmentation")
    if isinstance(segmentation, list):
      counts = _polygons(segmentation, height, width, notes)
    elif isinstance(segmentation, dict):
      counts = _run_lengths(segmentation, height, width)
    else:
      raise _unusable("mask_malformed", f"has a segmentation of type {type(segmentation).__name__}")
    found = _crop(counts, height)
    if found is None:
      raise _unusable("mask_empty", "has a mask without a pixel")
    crop, ymin, xmin = found
    _compare(crop, ymin, xmin, box, notes)
  except _Unusable as fault:
    return None, _first_of_each([*notes, fault.args[0]])
  return Mask(encode(crop), ymin, xmin), _first_of_each(notes)


def encode(crop: np.ndarray) -> bytes:
  """bool[h, w] as a PNG file of one bit a pixel."""
  stream = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(crop, bool)).save(stream, "PNG", compress_level=4)
  return stream.getvalue()


def from_pixels(pixels: np.ndarray) -> Mask | None:
  """The mask of bool[H, W], None where no pixel is set."""
  rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
  if not len(rows):
    return None
  crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  return Mask(encode(crop), int(rows[0]), int(columns[0]))


def to_rle(mask: Mask, height: int, width: int) -> dict[str, Any]:
  """A mask as COCO's compressed run lengths, exact.

  Args:
    mask: its PNG may also be of 8 bits, of any kind; pixels above 0 belong to the object.
    height, width: of the image in pixels.
  Returns: {"size": [H, W], "counts": bytes}, as `pycocotools.mask.encode` of the whole mask gives.
  Raises: ValueError where the crop leaves the image.
  """
  crop = np.asarray(Image.open(io.BytesIO(mask.png)).convert("L")) > 0
  if min(mask.ymin, mask.xmin) < 0 or mask.ymin + crop.shape[0] > height or mask.xmin + crop.shape[1] > width:
    raise ValueError(
      f"a mask of {crop.shape[1]}x{crop.shape[0]} pixels at x={mask.xmin}, y={mask.ymin} "
      f"is not inside its image of {width}x{height}"
    )
  columns, rows = np.nonzero(crop.T)
  at = (columns + mask.xmin) * height + rows + mask.ymin
  breaks = np.flatnonzero(np.diff(at) != 1)
  bounds = np.stack([at[np.append(0, breaks + 1)], at[np.append(breaks, -1)] + 1], axis=1).ravel() if len(at) else at
  counts = np.diff(np.concatenate([[0], bounds, [height * width]])).tolist()
  if counts[-1] == 0:
    counts.pop()  # as pycocotools has it
  return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def decode_counts(counts: str | bytes) -> np.ndarray:
  """Run lengths int64[R] of COCO's compressed text: 5 bits a character, lowest first, bit 6 says that more follow;
  from the fourth on the difference to the one before the last.

  Raises: ValueError for characters that are none of these.
  """
  data = np.frombuffer(counts.encode("latin-1") if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
  if not len(data) or data.min() < 0 or data.max() > 63 or data[-1] & 32:
    raise ValueError("not COCO's compressed run lengths")
  first = np.concatenate([[0], np.flatnonzero((data & 32) == 0)[:-1] + 1])
  lengths = np.diff(np.append(first, len(data)))
  if lengths.max() > 9:
    raise ValueError("a run length of more than 45 bits")
  place = 5 * (np.arange(len(data)) - np.repeat(first, lengths))
  values = np.add.reduceat((data & 31) << place, first)
  values -= ((data[first + lengths - 1] & 16) > 0) * (1 << (5 * lengths))
  values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
  return values


def _polygons(parts: Sequence[Any], height: int, width: int, notes: list[Note]) -> np.ndarray:
  """Run lengths of the union of polygons; parts that are none are left out and noted."""
  good, low, high = [], [], []
  for number, part in enumerate(parts):
    called = f"polygon {number}"
    values = (
      np.asarray(part) if isinstance(part, (list, tuple)) and len(set(map(type, part)) - {int, float}) == 0 else None
    )
    if values is None or values.dtype.kind not in "if":
      notes.append(Note("mask_malformed", f"has {called} that is no list of numbers [x, y, x, y, ...]"))
    elif len(values) % 2:
      notes.append(Note("mask_odd", f"has {called} of {len(values)} numbers, not an even number"))
    elif len(values) < 6:
      notes.append(Note("mask_few_points", f"has {called} of {len(values) // 2} points; give 3 or more"))
    else:
      points = values.reshape(-1, 2).astype(np.float64)
      least, most = points.min(axis=0), points.max(axis=0)
      # Beyond the image by its own size is no rounding, and its outline may be too long to follow.
      if not (np.abs(points - [width / 2, height / 2]) <= [1.5 * width, 1.5 * height]).all():  # NaN neither
        notes.append(
          Note("mask_numbers", f"has {called} from {least.tolist()} to {most.tolist()}, far outside {width}x{height}")
        )
        continue
      good.append(part)
      low.append(least)
      high.append(most)
  if not good:
    raise _Unusable(notes.pop())
  least, most = np.min(low, axis=0), np.max(high, axis=0)
  seen = f"has a mask from {least.tolist()} to {most.tolist()} (x, y) in an image of {width}x{height}"
  if most[0] <= 0 or most[1] <= 0 or least[0] >= width or least[1] >= height:
    raise _unusable("mask_outside_image", seen)
  if max(-least[0], -least[1], most[0] - width, most[1] - height) > 1:
    notes.append(Note("mask_clipped", seen))
  return decode_counts(coco_mask.merge(coco_mask.frPyObjects(good, height, width))["counts"])


def _run_lengths(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
  """Run lengths int64[R] of a COCO RLE, checked: they fill the image."""
  size, counts = rle.get("size"), rle.get("counts")
  if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
    raise _unusable("mask_size", f"has run lengths of size {size!r}, the image's is [{height}, {width}]")
  try:
    if isinstance(counts, list):
      values = np.asarray(counts)
      if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError("not a list of whole numbers")
      values = values.astype(np.int64)
    elif isinstance(counts, (str, bytes)):
      values = decode_counts(counts)
    else:
      raise ValueError("neither a list nor a text")
  except ValueError as error:
    raise _unusable("mask_runs", f"has run lengths that cannot be read: {error}") from error
  if values.min(initial=0) < 0 or values.sum() != height * width:
    raise _unusable("mask_runs", f"has run lengths of {values.sum()} pixels, {width}x{height} are {height * width}")
  return values


def _crop(counts: np.ndarray, height: int) -> tuple[np.ndarray, int, int] | None:
  """Run lengths int64[R] to (bool[h, w], ymin, xmin); None where they are empty. Holds the mask's columns only."""
  ends = np.cumsum(counts)
  starts, ends = (ends - counts)[1::2], ends[1::2]
  starts, ends = starts[ends > starts], ends[ends > starts]
  if not len(starts):
    return None
  xmin, xmax = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
  steps = np.zeros((xmax - xmin) * height + 1, np.int8)
  steps[starts - xmin * height] += 1
  steps[ends - xmin * height] -= 1
  strip = np.cumsum(steps[:-1], dtype=np.int8).reshape(xmax - xmin, height).T.astype(bool)
  rows = np.flatnonzero(strip.any(axis=1))
  return strip[rows[0] : rows[-1] + 1], int(rows[0]), xmin


def _compare(crop: np.ndarray, ymin: int, xmin: int, box: Sequence[float], notes: list[Note]) -> None:
  """Notes a mask that leaves its box; refuses one that has no pixel in it."""
  h, w = crop.shape
  seen = (
    f"has a mask at {[ymin, xmin, ymin + h, xmin + w]} and a box at {[round(side, 2) for side in box]} (y, x, y, x)"
  )
  top, left = (max(int(np.floor(side)) - corner, 0) for side, corner in zip(box[:2], (ymin, xmin)))
  bottom, right = (max(int(np.ceil(side)) - corner, 0) for side, corner in zip(box[2:], (ymin, xmin)))
  if not crop[top:bottom, left:right].any():
    raise _unusable("mask_outside_box", seen)
  if max(box[0] - ymin, box[1] - xmin, ymin + h - box[2], xmin + w - box[3]) > _OVERHANG:
    notes.append(Note("mask_beyond_box", seen))


def _first_of_each(notes: Sequence[Note]) -> list[Note]:
  first: dict[str, Note] = {}
  for note in notes:
    first.setdefault(note.reason, note)
  return list(first.values())


def _unusable(reason: str, text: str) -> _Unusable:
  return _Unusable(Note(reason, text))
