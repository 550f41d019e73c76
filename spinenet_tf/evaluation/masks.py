"""Masks as run lengths (COCO's RLE): from what a network predicts within a box, and from what annotations hold.

A mask of h x w values lies in a box of h x w bins, and a value belongs to the middle of its bin, as in the crops that
training makes. Between the middles values are interpolated linearly in both directions, beyond the outer ones they stay as
they are. A pixel belongs to the mask when its own middle (y + 0.5, x + 0.5) lies in the box and the value there reaches
the threshold. So a mask of one value for each pixel of its box comes back exactly.

An RLE is a dict, as pycocotools has it: "size" [H, W] in pixels, "counts" bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

RLE = dict[str, Any]


def paste(mask: np.ndarray, box: Sequence[float], size: Sequence[int], threshold: float = 0.5) -> RLE:
  """Puts one mask into its box in a picture.

  Args:
    mask: float[h, w], usually probabilities; row 0 lies at ymin, column 0 at xmin.
    box: (ymin, xmin, ymax, xmax) in pixels of the picture; it may reach beyond it, or be smaller than a pixel.
    size: (H, W) of the picture in pixels.
    threshold: the least value inside the mask.

  Returns: RLE; without a pixel where the box holds no pixel's middle.
  """
  return paste_all([mask], [box], size, threshold)[0]


def paste_all(
  masks: Iterable[np.ndarray], boxes: Iterable[Sequence[float]], size: Sequence[int], threshold: float = 0.5
) -> list[RLE]:
  """Puts N masks into their boxes in one picture, each for itself; only pixels of the boxes are computed.

  Args:
    masks: float[N, h, w], or N of float[h, w] with sides of their own.
    boxes: float[N, 4], (ymin, xmin, ymax, xmax) in pixels of the picture.
    size: (H, W) of the picture in pixels.
    threshold: the least value inside a mask.

  Returns: N RLEs.
  """
  height, width = (int(side) for side in size)
  rows = []
  for mask, box in zip(masks, boxes):
    ymin, xmin, ymax, xmax = (float(x) for x in box)
    top, values = _stretch(np.asarray(mask, np.float32), ymin, ymax, height)
    left, values = _stretch(values.T, xmin, xmax, width)
    rows.append(_counts(values >= threshold, left, top, height, width))
  return _compress(rows, height, width)


def paste_found(
  masks: Iterable[np.ndarray],
  boxes: Iterable[Sequence[float]],
  mask_boxes: Iterable[Sequence[float]] | None,
  size: Sequence[int],
) -> list[RLE]:
  """Puts the masks of N detections into a picture, wherever they lie.

  Args:
    masks: float[N, h, w], or N of float[h, w] with sides of their own.
    boxes: float[N, 4], of the detections, (ymin, xmin, ymax, xmax) in pixels of the picture.
    mask_boxes: float[N, 4], what the masks lie in, where that is not `boxes`: of SOLO the whole input of the network. Then
      only what lies in a detection's box is computed.
    size: (H, W) of the picture in pixels.

  Returns: N RLEs.
  """
  if mask_boxes is None:
    return paste_all(masks, boxes, size)
  return paste_all(*cropped(masks, boxes, mask_boxes), size)


def cropped(
  masks: np.ndarray, boxes: np.ndarray, mask_boxes: np.ndarray
) -> tuple[list[np.ndarray], list[tuple[float, float, float, float]]]:
  """Cuts masks of whole pictures to what can hold their objects, so that `paste_all` computes no more than that.

  Args:
    masks: float[N, h, w].
    boxes: float[N, 4], (ymin, xmin, ymax, xmax), round the parts of the masks that reach the threshold.
    mask_boxes: float[N, 4], what the masks lie in.

  Returns: parts of the masks, each with one value more round its box, and what these lie in; as arguments of `paste_all`.
  """
  parts, places = [], []
  for mask, box, whole in zip(masks, np.asarray(boxes, np.float64), np.asarray(mask_boxes, np.float64)):
    bins = np.array(mask.shape)
    side = (whole[2:] - whole[:2]) / bins
    first = np.clip(np.floor((box[:2] - whole[:2]) / side).astype(int) - 1, 0, bins - 1)
    end = np.clip(np.ceil((box[2:] - whole[:2]) / side).astype(int) + 1, first + 1, bins)
    parts.append(mask[first[0] : end[0], first[1] : end[1]])
    places.append((*(whole[:2] + first * side), *(whole[:2] + end * side)))
  return parts, places


def _stretch(values: np.ndarray, start: float, stop: float, limit: int) -> tuple[int, np.ndarray]:
  """Interpolates along the first axis. (Matrix products would be shorter, and slow wherever other threads are busy.)

  Args:
    values: float32[bins, M], of bins that divide [start, stop).
    start, stop: in pixels.
    limit: pixels of the picture along this axis.

  Returns: the first pixel whose middle lies within [start, stop) and within the picture; float32[n, M], the values at the
    middles of the n such pixels.
  """
  first, end = (int(min(max(np.ceil(x - 0.5), 0), limit)) for x in (start, stop))
  if end <= first:
    return first, np.zeros((0, values.shape[1]), np.float32)
  bins = len(values)
  places = (np.arange(first, end) + (0.5 - start)) * (bins / (stop - start)) - 0.5
  places = np.minimum(np.maximum(places, 0), bins - 1)
  lower = places.astype(np.intp)
  values = np.ascontiguousarray(values)
  step = np.zeros_like(values)
  np.subtract(values[1:], values[:-1], out=step[:-1])
  found = np.take(step, lower, axis=0)
  found *= (places - lower).astype(np.float32)[:, None]
  found += np.take(values, lower, axis=0)
  return first, found


def _counts(inside: np.ndarray, left: int, top: int, height: int, width: int) -> np.ndarray:
  """Run lengths, column after column and outside first, of bool[columns, rows] that starts at (top, left) in a picture."""
  columns, rows = inside.shape
  padded = np.zeros((columns, rows + 1), bool)  # the last one ends the runs of each column
  padded[:, :rows] = inside
  flat = padded.ravel()
  edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
  if flat.size and flat[0]:
    edges = np.concatenate([[0], edges])
  x, y = np.divmod(edges, rows + 1)
  places = (left + x) * height + top + y  # start, end, start, end ...
  if rows == height:  # a run down to the lowest pixel goes on at the top of the next column
    meets = np.flatnonzero(places[1:-1:2] == places[2::2])
    places = np.delete(places, np.concatenate([2 * meets + 1, 2 * meets + 2]))
  counts = np.diff(places, prepend=0, append=height * width)
  return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def _compress(counts: list[np.ndarray], height: int, width: int) -> list[RLE]:
  if not counts:
    return []
  return mask_util.frPyObjects([{"size": [height, width], "counts": c} for c in counts], height, width)


def encode(masks: np.ndarray) -> list[RLE]:
  """Returns N RLEs of bool[N, H, W]."""
  masks = np.asarray(masks, bool)
  height, width = masks.shape[1:]
  return _compress([_counts(mask.T, 0, 0, height, width) for mask in masks], height, width)


def decode(rle: RLE) -> np.ndarray:
  """Returns bool[H, W]."""
  return mask_util.decode(rle).astype(bool)


def area(rles: Sequence[RLE]) -> np.ndarray:
  """Returns int64[N], the pixels of each mask."""
  rles = list(rles)
  # pycocotools 2.0.11 takes 255 at most under NumPy 2.
  parts = [mask_util.area(rles[first : first + 255]) for first in range(0, len(rles), 255)]
  return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def rectangle(xywh: Sequence[float], size: Sequence[int]) -> RLE:
  """Returns the mask of a whole box (x, y, width, height) in a picture of (H, W) pixels."""
  x, y, width, height = xywh
  return paste(np.ones((1, 1)), (y, x, y + height, x + width), size)


def from_segmentation(segmentation: Any, size: Sequence[int]) -> RLE | None:
  """Reads an annotation's `segmentation` as COCO's files have it.

  Args:
    segmentation: polygons [[x, y, x, y, ...], ...], of which those with fewer than 3 points do not count; or an RLE whose
      counts are a list of numbers, text or bytes.
    size: (H, W) of the picture in pixels.

  Returns: RLE; None where there is no mask, or none that fits the picture.
  """
  height, width = (int(side) for side in size)
  if isinstance(segmentation, (list, tuple)):
    # Anything of four numbers would be taken for a box.
    polygons = [p for p in segmentation if isinstance(p, (list, tuple)) and len(p) >= 6 and len(p) % 2 == 0]
    try:
      polygons = [p for p in np.asarray(polygons, object).tolist() if np.isfinite(np.asarray(p, np.float64)).all()]
    except (TypeError, ValueError):
      return None
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width)) if polygons else None
  if not isinstance(segmentation, dict) or list(segmentation.get("size") or ()) != [height, width]:
    return None
  counts = segmentation.get("counts")
  try:
    if isinstance(counts, (list, tuple)):
      fits = sum(counts) == height * width and min(counts) >= 0
      return mask_util.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width) if fits else None
    rle = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
    mask_util.decode(rle)  # pycocotools checks counts nowhere else
  except (TypeError, ValueError):
    return None
  return rle


def packed(rle: RLE) -> bytes:
  """Returns the counts alone, the smallest form of a mask whose size is known."""
  counts = rle["counts"]
  return counts.encode() if isinstance(counts, str) else bytes(counts)


def to_json(rle: RLE) -> dict[str, Any]:
  """Returns the RLE with counts as text, ready for JSON; pycocotools reads it as it is."""
  return {"size": [int(side) for side in rle["size"]], "counts": packed(rle).decode()}
