"""The COCO box metrics, computed by pycocotools: the official numbers and no others."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import groundtruth as truth_lib
from spinenet_tf.evaluation import report
from spinenet_tf.evaluation.categories import category_names, output_ids
from spinenet_tf.evaluation.coordinates import to_original

_CLASSES_AT_ONCE = 8  # 5,000 pictures with 100 detections of 80 classes take 2.4 GB when scored all at once


class CocoEvaluator:
  """Gathers detections and scores them against one set of ground truth, as often as wanted.

  Args:
    categories: `data.meta.Meta`, or things with `id` and `name`, in the order of the model's outputs.
    groundtruth: what `data.pipeline.groundtruth` yields (see `groundtruth.from_records`), or the path of a
      COCO annotation file.
    annotation_file: the same path under its own name.
    class_ids: original id of each model output, where they are not simply the categories in their order.
      Detections of outputs whose id is no category do not count, as pycocotools has it.

  Raises: UserError when ground truth is given twice, not at all, is empty, or has a category not among
    `categories`.
  """

  def __init__(
    self,
    categories: Iterable[Any],
    groundtruth: Iterable[Mapping[str, Any]] | str | os.PathLike | None = None,
    annotation_file: str | os.PathLike | None = None,
    *,
    class_ids: Sequence[int] | None = None,
  ):
    if (groundtruth is None) == (annotation_file is None):
      raise UserError("give the evaluator either groundtruth or annotation_file")
    self._names = category_names(categories)
    self._output_ids = np.asarray(output_ids(self._names, class_ids), np.int64)
    path = annotation_file if annotation_file is not None else groundtruth
    if isinstance(path, (str, os.PathLike)):
      self._truth, _ = truth_lib.from_annotation_file(path)
    else:
      self._truth = truth_lib.from_records(groundtruth)
    if unknown := sorted(set(self._truth.category.tolist()) - set(self._names)):
      raise UserError(
        f"the ground truth has objects of category id(s) {unknown[:10]}, which are none of the "
        f"{len(self._names)} categories (ids {list(self._names)[:10]}...); evaluate with the meta.json of "
        "this data set"
      )
    self.reset()

  def reset(self) -> None:
    """Forgets the detections and keeps the ground truth."""
    self._seen = np.zeros(len(self._truth.image_ids), bool)
    self._parts: list[tuple[np.ndarray, ...]] = []
    self._result: dict[str, Any] | None = None

  @property
  def num_images(self) -> int:
    """Pictures in the ground truth."""
    return len(self._seen)

  @property
  def num_seen(self) -> int:
    """Pictures that `update` has received since the last `reset`."""
    return int(self._seen.sum())

  def update(self, detections: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
    """Adds the detections of one batch.

    Args:
      detections: as `ops.nms.detect` returns them: `detection_boxes` float[B, D, 4] (ymin, xmin, ymax, xmax)
        in input pixels, `detection_scores` float[B, D], `detection_classes` int[B, D] model outputs from 0
        on, `num_detections` int[B]: rows after that many are padding.
      batch: as `data.pipeline.detection_dataset` yields it: `source_id` string[B], `scale` float[B, 2] input
        pixels per original pixel (y, x), `original_size` int[B, 2] (height, width), `is_real` bool[B] (all,
        when it is missing).

    Raises: UserError for a picture that is not in the ground truth or came before, for a class that is no
      model output, and for a box or score that is not finite.
    """
    real = np.asarray(batch.get("is_real", np.ones(len(batch["source_id"]), bool)), bool)
    boxes = np.asarray(detections["detection_boxes"], np.float64)[real]
    scores = np.asarray(detections["detection_scores"], np.float64)[real]
    classes = np.asarray(detections["detection_classes"]).astype(np.int64)[real]
    counts = np.asarray(detections["num_detections"])[real]
    keep = np.arange(scores.shape[1]) < counts[:, None]
    self._check(boxes[keep], scores[keep], classes[keep])
    image = self._positions(np.asarray(batch["source_id"], object)[real])

    pixels, inside = to_original(boxes, np.asarray(batch["scale"])[real], np.asarray(batch["original_size"])[real])
    keep &= inside
    keep[keep] = np.isin(self._output_ids[classes[keep]], list(self._names))
    ymin, xmin, ymax, xmax = np.moveaxis(pixels[keep], -1, 0)
    xywh = np.round(np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1), 4)
    rows = np.broadcast_to(image[:, None], keep.shape)[keep]
    self._parts.append((rows, self._output_ids[classes[keep]], xywh, scores[keep]))
    self._seen[image] = True
    self._result = None

  def _positions(self, source_ids: np.ndarray) -> np.ndarray:
    """Where the pictures of a batch stand in the ground truth, int64[B]; none may have come before."""
    image = np.asarray([self._truth.position(source_id) for source_id in source_ids], np.int64)
    places, counts = np.unique(image, return_counts=True)
    if len(again := places[(counts > 1) | self._seen[places]]):
      raise UserError(
        f"picture {self._truth.image_ids[again[0]]!r} came twice; an evaluation pass goes over its data "
        "once, without repeat, and every replica takes its own share; call reset() between passes"
      )
    return image

  def _check(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> None:
    outputs = len(self._output_ids)
    if len(classes) and not 0 <= classes.min() <= classes.max() < outputs:
      wrong = int(classes.max() if classes.max() >= outputs else classes.min())
      raise UserError(
        f"a detection has class index {wrong}, so the model has at least {wrong + 1} classes, but there are "
        f"{outputs} categories (indices from 0); num_classes must be the number of categories in meta.json"
      )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
      raise UserError("a detection's box or score is not finite; the model's weights or outputs hold NaN or infinity")

  def result(self) -> dict[str, Any]:
    """Scores all detections against all ground truth.

    Returns: the keys of `report.METRICS` (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl),
      floats in [0, 1], NaN where the ground truth has no such object; and `per_class`, {name: {"AP", "AP50",
      "AP75": floats, "objects": int, crowds not counted, "images": int with such objects}}. Pictures that
      never came to `update` count as pictures without detections; a warning says how many there are.
    """
    if self._result is None:
      if self.num_seen < self.num_images:
        logging.warning(
          "%d of %d pictures of the ground truth were not evaluated; their objects count as missed",
          self.num_images - self.num_seen,
          self.num_images,
        )
      self._result = self._score()
    return self._result

  def table(self) -> str:
    """Returns the result as text to read."""
    return report.table(self.result())

  def save(self, directory: str | os.PathLike) -> None:
    """Writes `detections.json`, `metrics.json` and `per_class.csv`, each whole or not at all.

    `detections.json` is in COCO's results format, with the original picture and category ids, boxes in
    original pixels: pycocotools reads it with the annotation file and gives the same numbers.
    """
    directory = os.fspath(directory)
    result = {**self.result(), "images": self.num_images, "images_evaluated": self.num_seen}
    result["per_class"] = result.pop("per_class")
    tf.io.gfile.makedirs(directory)
    report.write(os.path.join(directory, "detections.json"), self._results_json())
    report.write(os.path.join(directory, "metrics.json"), [report.to_json(result)])
    report.write(os.path.join(directory, "per_class.csv"), [report.per_class_csv(result, self._names)])

  def _detections(self) -> tuple[np.ndarray, ...]:
    """Picture position int64[n], category int64[n], (x, y, w, h) float64[n, 4], score float64[n]; by
    picture.
    """
    if not self._parts:
      return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
    joined = [np.concatenate(column) for column in zip(*self._parts)]
    order = np.argsort(joined[0], kind="stable")
    return tuple(column[order] for column in joined)

  def _results_json(self) -> Iterator[str]:
    separator = "["
    for image, category, box, score in zip(*self._detections()):
      row = {
        "image_id": self._truth.image_ids[image],
        "category_id": int(category),
        "bbox": box.tolist(),
        "score": float(score),
      }
      yield separator + json.dumps(row)
      separator = ",\n"
    yield "[]\n" if separator == "[" else "]\n"

  def _score(self) -> dict[str, Any]:
    """Runs pycocotools over a few classes at a time, which are independent of each other, to bound its memory.

    Classes without an object in the ground truth are left out: pycocotools leaves them out of every mean.
    """
    present = np.unique(self._truth.category)
    detections = self._detections()
    parts = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints each phase
      for first in range(0, len(present), _CLASSES_AT_ONCE):
        evaluation = self._evaluate(present[first : first + _CLASSES_AT_ONCE], detections)
        parts.append(evaluation.eval)
      if not parts:
        metrics, precision = dict.fromkeys(report.METRICS, float("nan")), None
      else:
        # precision: [IoU 0.50:0.05:0.95, recall, class, area, detections], recall: [IoU, class, area, detections]
        precision = np.concatenate([part["precision"] for part in parts], axis=2)
        evaluation.eval = {
          "precision": precision,
          "recall": np.concatenate([part["recall"] for part in parts], axis=1),
        }
        evaluation.summarize()
        metrics = {key: _or_nan(x) for key, x in zip(report.METRICS, evaluation.stats)}
    return {**metrics, "per_class": self._per_class(present, precision)}

  def _evaluate(self, classes: np.ndarray, detections: tuple[np.ndarray, ...]) -> COCOeval:
    """Returns pycocotools' evaluation of some classes, accumulated."""
    truth = self._truth
    mine = np.isin(truth.category, classes)
    objects = zip(
      truth.image[mine].tolist(),
      truth.category[mine].tolist(),
      truth.boxes[mine].tolist(),
      truth.area[mine].tolist(),
      truth.is_crowd[mine].tolist(),
    )
    # Ids from 1: pycocotools takes an object with id 0 for one that was not found.
    objects = [
      {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
      for i, (image, category, box, area, crowd) in enumerate(objects, 1)
    ]
    image, category, boxes, scores = (column[np.isin(detections[1], classes)] for column in detections)
    area = boxes[:, 2] * boxes[:, 3]
    found = zip(image.tolist(), category.tolist(), boxes.tolist(), area.tolist(), scores.tolist())
    found = [
      {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "score": score, "iscrowd": 0}
      for i, (image, category, box, area, score) in enumerate(found, 1)
    ]
    images = np.union1d(truth.image[mine], image).tolist()
    evaluation = COCOeval(_coco(images, classes, objects), _coco(images, classes, found), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation

  def _per_class(self, present: np.ndarray, precision: np.ndarray | None) -> dict[str, dict[str, Any]]:
    """Args: the classes with objects, int64[K], and their precision, float64[10, 101, K, 4, 3]."""
    columns = {category: k for k, category in enumerate(present.tolist())}
    counted = ~self._truth.is_crowd
    rows = {}
    for category, name in self._names.items():
      values = [-1.0] * 10
      if category in columns:
        values = precision[:, :, columns[category], 0, -1].mean(axis=1).tolist()  # all areas, 100 detections
      mine = counted & (self._truth.category == category)
      rows[name] = {
        "AP": _or_nan(float(np.mean(values))),
        "AP50": _or_nan(values[0]),
        "AP75": _or_nan(values[5]),
        "objects": int(mine.sum()),
        "images": len(np.unique(self._truth.image[mine])),
      }
    return rows


def _coco(images: Iterable[int], classes: Iterable[int], annotations: list[dict]) -> COCO:
  coco = COCO()
  coco.dataset = {
    "images": [{"id": i} for i in images],
    "categories": [{"id": int(i)} for i in classes],
    "annotations": annotations,
  }
  coco.createIndex()
  return coco


def _or_nan(value: float) -> float:
  """Pycocotools marks a number that does not exist by -1."""
  return float("nan") if value < 0 else float(value)
