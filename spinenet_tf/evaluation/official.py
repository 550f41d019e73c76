"""COCO's numbers for boxes or masks: pycocotools run over a few classes at a time, to bound its memory."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.evaluation.groundtruth import GroundTruth
from spinenet_tf.evaluation.report import METRICS

_CLASSES_AT_ONCE = 8  # 5,000 pictures with 100 detections of 80 classes take 2.4 GB when scored all at once


@dataclasses.dataclass(frozen=True)
class Found:
  """n detections, by picture.

  Attributes:
    image: int64[n], positions of pictures in the ground truth.
    category: int64[n], original ids.
    boxes: float64[n, 4], COCO's (x, y, width, height) in original pixels.
    scores: float64[n].
    masks: object[n], counts (bytes) of RLEs of the pictures' sizes; None each where only boxes are scored.
  """

  image: np.ndarray
  category: np.ndarray
  boxes: np.ndarray
  scores: np.ndarray
  masks: np.ndarray

  def __len__(self) -> int:
    return len(self.scores)

  def take(self, rows: np.ndarray) -> Found:
    """Returns the rows of a bool[n] or int[m] index."""
    return Found(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def score(truth: GroundTruth, found: Found, *, masks: bool = False) -> tuple[dict[str, float], dict[int, np.ndarray]]:
  """Scores detections by the overlap of their boxes, or of their masks.

  Classes without an object in the ground truth are left out: pycocotools leaves them out of every mean. By masks, sizes
  of detections are areas of masks, and an object without a mask becomes a crowd of its box: detections there count
  neither way.

  Returns:
    the keys of `report.METRICS`, in [0, 1], NaN where the ground truth has no such object;
    of each class with objects its average precision at IoU 0.50:0.05:0.95, float64[10], NaN where none counts.
  """
  present = np.unique(truth.category)
  if not len(present):
    return dict.fromkeys(METRICS, float("nan")), {}
  parts = []
  with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints each phase
    for first in range(0, len(present), _CLASSES_AT_ONCE):
      evaluation = _evaluate(truth, found, present[first : first + _CLASSES_AT_ONCE], masks)
      parts.append(evaluation.eval)
    # precision: [IoU 0.50:0.05:0.95, recall, class, area, detections], recall: [IoU, class, area, detections]
    precision = np.concatenate([part["precision"] for part in parts], axis=2)
    evaluation.eval = {"precision": precision, "recall": np.concatenate([part["recall"] for part in parts], axis=1)}
    evaluation.summarize()
  average = precision[:, :, :, 0, -1].mean(axis=1)  # all areas, 100 detections
  per_class = {category: _or_nan(average[:, k]) for k, category in enumerate(present.tolist())}
  return dict(zip(METRICS, _or_nan(evaluation.stats).tolist())), per_class


def _evaluate(truth: GroundTruth, found: Found, classes: np.ndarray, masks: bool) -> COCOeval:
  """Returns pycocotools' evaluation of some classes, accumulated."""
  objects = _objects(truth, np.flatnonzero(np.isin(truth.category, classes)), masks)
  found = found.take(np.isin(found.category, classes))
  detections = _detections(truth, found, masks)
  images = np.union1d([x["image_id"] for x in objects], found.image).astype(np.int64)
  pictures = [{"id": i, "height": int(truth.sizes[i][0]), "width": int(truth.sizes[i][1])} for i in images.tolist()]
  coco_truth, coco_found = _coco(pictures, classes, objects), _coco(pictures, classes, detections)
  evaluation = COCOeval(coco_truth, coco_found, iouType="segm" if masks else "bbox")
  evaluation.evaluate()
  evaluation.accumulate()
  return evaluation


def _objects(truth: GroundTruth, rows: np.ndarray, masks: bool) -> list[dict[str, Any]]:
  objects = _rows(truth.image[rows], truth.category[rows], truth.boxes[rows], truth.area[rows])
  for one, row in zip(objects, rows.tolist()):
    one["iscrowd"] = int(truth.is_crowd[row])
    if masks:
      size = truth.sizes[one["image_id"]].tolist()
      if truth.masks[row] is None:
        one.update(iscrowd=1, segmentation=mask_lib.rectangle(one["bbox"], size))
      else:
        one["segmentation"] = {"size": size, "counts": truth.masks[row]}
  return objects


def _detections(truth: GroundTruth, found: Found, masks: bool) -> list[dict[str, Any]]:
  rles = []
  if masks:
    rles = [{"size": truth.sizes[i].tolist(), "counts": counts} for i, counts in zip(found.image, found.masks)]
  area = mask_lib.area(rles) if masks else found.boxes[:, 2] * found.boxes[:, 3]
  detections = _rows(found.image, found.category, found.boxes, area)
  for one, value in zip(detections, found.scores.tolist()):
    one.update(score=value, iscrowd=0)
  for one, rle in zip(detections, rles):
    one["segmentation"] = rle
  return detections


def _rows(image: np.ndarray, category: np.ndarray, boxes: np.ndarray, area: np.ndarray) -> list[dict[str, Any]]:
  columns = zip(image.tolist(), category.tolist(), boxes.tolist(), area.tolist())
  # Ids from 1: pycocotools takes an object with id 0 for one that was not found.
  return [
    {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area}
    for i, (image, category, box, area) in enumerate(columns, 1)
  ]


def _coco(pictures: list[dict], classes: Iterable[int], annotations: list[dict]) -> COCO:
  coco = COCO()
  coco.dataset = {
    "images": pictures,
    "categories": [{"id": int(i)} for i in classes],
    "annotations": annotations,
  }
  coco.createIndex()
  return coco


def _or_nan(values: np.ndarray) -> np.ndarray:
  """Pycocotools marks a number that does not exist by -1."""
  return np.where(values < 0, np.nan, values)
