"""Ground truth of one data set split, held as arrays, from TFRecords or from a COCO annotation file.

Pictures are known by their source id. Where all of them are whole numbers they count as numbers ("000139" is
139), as COCO's are; otherwise they stay text. Pictures are kept in ascending order of id, because pycocotools
breaks ties between equal scores by that order.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf import json_text
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib

_INTEGER = re.compile(r"-?[0-9]+")


@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """N pictures with M objects.

  Attributes:
    image_ids: original ids of the pictures, ascending; all int or all str.
    sizes: int64[N, 2], (height, width) in pixels.
    image: int64[M], position of an object's picture in `image_ids`.
    boxes: float64[M, 4], COCO's (x, y, width, height) in original pixels.
    category: int64[M], original category ids.
    is_crowd: bool[M]; a crowd is a region where detections count neither way.
    area: float64[M], square pixels: of the mask where there is one, else of the box.
    masks: object[M], the counts (bytes) of an object's mask, an RLE of its picture's size, or None where it has no mask;
      None as a whole when masks were not asked for.
  """

  image_ids: tuple[int, ...] | tuple[str, ...]
  sizes: np.ndarray
  image: np.ndarray
  boxes: np.ndarray
  category: np.ndarray
  is_crowd: np.ndarray
  area: np.ndarray
  masks: np.ndarray | None = None

  def __post_init__(self):
    object.__setattr__(self, "_positions", {key: i for i, key in enumerate(self.image_ids)})

  def position(self, source_id: Any) -> int:
    """Returns where a picture stands in `image_ids`.

    Raises: UserError when it is not there; the text shows ids of both sides.
    """
    key = _text(source_id)
    if isinstance(self.image_ids[0], int):
      key = int(key) if _INTEGER.fullmatch(key) else key
    position = self._positions.get(key)
    if position is None:
      raise UserError(
        f"picture {key!r} was evaluated but is not in the ground truth ({len(self.image_ids)} pictures, "
        f"such as {list(self.image_ids[:3])}); evaluation data and ground truth must be the same set with "
        "the same source ids"
      )
    return position


def from_records(records: Iterable[Mapping[str, Any]], *, masks: bool = False) -> GroundTruth:
  """Collects what `data.pipeline.groundtruth` yields.

  Args:
    records: one mapping for each picture: `source_id` text (or bytes, int), `height`, `width` in pixels,
      `boxes` float[n, 4] (ymin, xmin, ymax, xmax) in original pixels, `class_ids` int[n] original category ids,
      and optionally `is_crowd` bool[n] and `area` float[n] (0 or NaN: that of the box).
    masks: take `masks` too, n RLEs or None; a record without them has objects without masks.

  Raises: UserError when there is no picture, one comes twice, lengths differ, or a mask is not of its picture's size.
  """
  keys, sizes, columns, counts = [], [], [], []
  for record in records:
    key = _text(record["source_id"])
    boxes = np.asarray(record["boxes"], np.float64).reshape(-1, 4)
    n = len(boxes)
    xywh = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    area = np.asarray(record.get("area", np.zeros(n)), np.float64).reshape(-1)
    classes = np.asarray(record["class_ids"], np.int64).reshape(-1)
    crowd = np.asarray(record.get("is_crowd", np.zeros(n)), bool).reshape(-1)
    if not n == len(area) == len(classes) == len(crowd):
      raise UserError(
        f"picture {key!r} has {n} boxes, {len(classes)} classes, {len(area)} areas, {len(crowd)} crowd "
        "flags; they must be as many"
      )
    keys.append(key)
    sizes.append((int(record["height"]), int(record["width"])))
    if masks:
      counts += _mask_counts(record.get("masks"), n, sizes[-1], key)
    columns.append((xywh, classes, crowd, np.where(area > 0, area, xywh[:, 2] * xywh[:, 3])))
  lengths = [len(c[0]) for c in columns]
  joined = [np.concatenate([c[i] for c in columns]) for i in range(4)] if columns else [np.zeros(0)] * 4
  return _sorted(keys, sizes, np.repeat(np.arange(len(keys)), lengths), *joined, counts if masks else None)


def _mask_counts(masks: Iterable[mask_lib.RLE | None] | None, n: int, size: tuple[int, int], key: str) -> list:
  masks = [None] * n if masks is None else list(masks)
  if len(masks) != n:
    raise UserError(f"picture {key!r} has {n} boxes and {len(masks)} masks; give None for an object without a mask")
  if wrong := [mask for mask in masks if mask is not None and tuple(mask["size"]) != size]:
    raise UserError(
      f"picture {key!r} is {size} (height, width), a mask of it {tuple(wrong[0]['size'])}; prepare it again"
    )
  return [None if mask is None else mask_lib.packed(mask) for mask in masks]


def from_annotation_file(path: str | os.PathLike, *, masks: bool = False) -> tuple[GroundTruth, list[dict]]:
  """Reads COCO's annotation JSON.

  Args:
    path: of the file.
    masks: take the objects' `segmentation` too; one that does not fit its picture is none.

  Returns: the ground truth, and the categories of the file, each with `id` and `name`.

  Raises: UserError when the file is missing, is not JSON, or is not of that form.
  """
  path = os.fspath(path)
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise UserError(f"no annotation file {path!r}")
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      data = json_text.parse(file.read())
  except ValueError as error:
    raise UserError(f"annotation file {path!r} is not JSON: {error}") from error
  lists = [data.get(key) if isinstance(data, dict) else None for key in ("images", "annotations", "categories")]
  if not all(isinstance(x, list) for x in lists):
    raise UserError(f"annotation file {path!r} needs the lists images, annotations and categories, as COCO's have them")
  images, annotations, categories = lists
  rows = {image["id"]: i for i, image in enumerate(images)}
  try:
    boxes = np.asarray([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    image = np.asarray([rows[a["image_id"]] for a in annotations], np.int64)
    category = np.asarray([a["category_id"] for a in annotations], np.int64)
    area = np.asarray([a["area"] if a.get("area") is not None else np.nan for a in annotations], np.float64)
  except (KeyError, ValueError, TypeError) as error:
    raise UserError(
      f"annotation file {path!r}: an annotation lacks bbox [x, y, width, height], category_id or an "
      f"image_id of the images ({type(error).__name__}: {error})"
    ) from error
  area = np.where(np.isfinite(area), area, boxes[:, 2] * boxes[:, 3])
  crowd = np.asarray([bool(a.get("iscrowd", 0)) for a in annotations], bool)
  sizes = [(int(x.get("height", 0)), int(x.get("width", 0))) for x in images]
  counts = None
  if masks:
    if unknown := [x["id"] for x, size in zip(images, sizes) if min(size) < 1]:
      raise UserError(f"annotation file {path!r}: image {unknown[0]} needs height and width in pixels for its masks")
    rles = [mask_lib.from_segmentation(a.get("segmentation"), sizes[i]) for a, i in zip(annotations, image)]
    counts = [None if rle is None else mask_lib.packed(rle) for rle in rles]
  return _sorted([_text(x["id"]) for x in images], sizes, image, boxes, category, crowd, area, counts), categories


def _sorted(keys, sizes, image, boxes, category, crowd, area, counts) -> GroundTruth:
  if not keys:
    raise UserError("the ground truth holds no picture; check the path or pattern of the evaluation data")
  ids: list = [int(k) for k in keys] if all(_INTEGER.fullmatch(k) for k in keys) else keys
  if len(set(ids)) < len(ids):
    ids = keys
  if len(set(ids)) < len(ids):
    twice = sorted({k for k in ids if ids.count(k) > 1})[:5] if len(ids) < 10000 else "some"
    raise UserError(f"the ground truth holds picture(s) {twice} twice; every picture needs a source id of its own")
  masks = None
  if counts is not None:
    masks = np.empty(len(counts), object)
    masks[:] = counts
  order = sorted(range(len(ids)), key=ids.__getitem__)
  rank = np.empty(len(ids), np.int64)
  rank[order] = np.arange(len(ids))
  return GroundTruth(
    image_ids=tuple(ids[i] for i in order),
    sizes=np.asarray(sizes, np.int64).reshape(-1, 2)[order],
    image=rank[np.asarray(image, np.int64)],
    boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
    category=np.asarray(category, np.int64),
    is_crowd=np.asarray(crowd, bool),
    area=np.asarray(area, np.float64),
    masks=masks,
  )


def _text(source_id: Any) -> str:
  """A source id as text, whichever way it came."""
  value = source_id.item() if hasattr(source_id, "item") else source_id
  value = value.numpy() if hasattr(value, "numpy") else value
  return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
