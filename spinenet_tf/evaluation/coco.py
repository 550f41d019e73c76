"""The COCO metrics of boxes and masks, computed by pycocotools: the official numbers and no others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import groundtruth as truth_lib
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.evaluation import report
from spinenet_tf.evaluation.categories import category_names, output_ids
from spinenet_tf.evaluation.coordinates import rescale, to_original
from spinenet_tf.evaluation.official import Found, score


class CocoEvaluator:
  """Gathers detections and scores them against one set of ground truth, as often as wanted.

  Args:
    categories: `data.meta.Meta`, or things with `id` and `name`, in the order of the model's outputs.
    groundtruth: what `data.pipeline.groundtruth` yields (see `groundtruth.from_records`), or the path of a
      COCO annotation file.
    annotation_file: the same path under its own name.
    class_ids: original id of each model output, where they are not simply the categories in their order.
      Detections of outputs whose id is no category do not count, as pycocotools has it.
    masks: score masks as well. Objects without a mask are named in the log, and count for boxes only.

  Raises: UserError when ground truth is given twice, not at all, is empty, has a category not among
    `categories`, or has objects and no masks where those are to be scored.
  """

  def __init__(
    self,
    categories: Iterable[Any],
    groundtruth: Iterable[Mapping[str, Any]] | str | os.PathLike | None = None,
    annotation_file: str | os.PathLike | None = None,
    *,
    class_ids: Sequence[int] | None = None,
    masks: bool = False,
  ):
    if (groundtruth is None) == (annotation_file is None):
      raise UserError("give the evaluator either groundtruth or annotation_file")
    self._names, self._masks = category_names(categories), masks
    self._output_ids = np.asarray(output_ids(self._names, class_ids), np.int64)
    path = annotation_file if annotation_file is not None else groundtruth
    if isinstance(path, (str, os.PathLike)):
      self._truth, _ = truth_lib.from_annotation_file(path, masks=masks)
    else:
      self._truth = truth_lib.from_records(groundtruth, masks=masks)
    if unknown := sorted(set(self._truth.category.tolist()) - set(self._names)):
      raise UserError(
        f"the ground truth has objects of category id(s) {unknown[:10]}, which are none of the "
        f"{len(self._names)} categories (ids {list(self._names)[:10]}...); evaluate with the meta.json of "
        "this data set"
      )
    if masks:
      _report_missing_masks(self._truth)
    self.reset()

  def reset(self) -> None:
    """Forgets the detections and keeps the ground truth."""
    self._seen = np.zeros(len(self._truth.image_ids), bool)
    self._parts: list[tuple[np.ndarray, ...]] = []  # columns of `Found`
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
        on, `num_detections` int[B]: rows after that many are padding. For masks also `detection_masks`, float[B, D, h, w]
        probabilities within the boxes (or lists of arrays with sides of their own), or where there are
        `detection_mask_boxes`, float[B, D, 4] in input pixels, within these; or instead of them `detection_rles`, B lists of
        RLEs in the original pixels.
      batch: as `data.pipeline.detection_dataset` yields it: `source_id` string[B], `scale` float[B, 2] input
        pixels per original pixel (y, x), `original_size` int[B, 2] (height, width), `is_real` bool[B] (all,
        when it is missing).

    Raises: UserError for a picture that is not in the ground truth or came before, for a class that is no
      model output, for a box, score or mask that is not finite, and when masks are missing or of another size.
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
    masks = self._counts(detections, batch, real, keep, image)
    self._parts.append((rows, self._output_ids[classes[keep]], xywh, scores[keep], masks))
    self._seen[image] = True
    self._result = None

  def _counts(
    self, detections: Mapping[str, Any], batch: Mapping[str, Any], real: np.ndarray, keep: np.ndarray, image: np.ndarray
  ) -> np.ndarray:
    """Returns the RLE counts (bytes) of the detections to keep, object[n]; None each without masks.

    Args:
      detections, batch: as in `update`.
      real: bool[B], of which R are true.
      keep: bool[R, D].
      image: int64[R], positions of the pictures.
    """
    counts = np.full(keep.sum(), None, object)
    if not self._masks:
      return counts
    key = next((key for key in ("detection_rles", "detection_masks") if key in detections), None)
    if key is None:
      raise UserError(
        "masks are to be scored, but the detections have no detection_masks; evaluate a mask_rcnn or a solo"
      )
    scale = np.asarray(batch["scale"])[real]
    boxes = rescale(np.asarray(detections["detection_boxes"])[real], scale)
    whole = detections.get("detection_mask_boxes")
    whole = None if whole is None else rescale(np.asarray(whole)[real], scale)
    sizes = np.asarray(batch["original_size"])[real]
    rles: list[mask_lib.RLE] = []
    for i, row in enumerate(np.flatnonzero(real)):
      kept = np.flatnonzero(keep[i])
      masks, size = [detections[key][row][k] for k in kept], sizes[i].tolist()
      if size != (expected := self._truth.sizes[image[i]].tolist()):
        raise UserError(
          f"picture {self._truth.image_ids[image[i]]!r} was evaluated with {size} pixels (height, width), the ground truth "
          f"has it with {expected}; evaluation data and ground truth must be the same pictures"
        )
      if key == "detection_masks":
        if not all(np.isfinite(mask).all() for mask in masks):
          raise UserError("a detection's mask is not finite; the model's weights or outputs hold NaN or infinity")
        masks = mask_lib.paste_found(masks, boxes[i][kept], None if whole is None else whole[i][kept], size)
      elif wrong := [mask for mask in masks if list(mask["size"]) != size]:
        raise UserError(
          f"a mask in detection_rles has size {wrong[0]['size']}, its picture {size}; they must be the same"
        )
      rles += masks
    counts[:] = [mask_lib.packed(rle) for rle in rles]
    return counts

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
      "AP75": floats, "objects": int, crowds not counted, "images": int with such objects}}. For masks also "mask_AP" to
      "mask_ARl", the same with the overlap of masks in place of boxes, and "mask_AP" of each class. Pictures that
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
    original pixels: pycocotools reads it with the annotation file and gives the same numbers. With masks it has
    `segmentation` beside `bbox`; before masks are scored from it, take `bbox` out, or pycocotools takes the boxes' areas
    for those of the masks.
    """
    directory = os.fspath(directory)
    result = {**self.result(), "images": self.num_images, "images_evaluated": self.num_seen}
    result["per_class"] = result.pop("per_class")
    tf.io.gfile.makedirs(directory)
    report.write(os.path.join(directory, "detections.json"), self._results_json())
    report.write(os.path.join(directory, "metrics.json"), [report.to_json(result)])
    report.write(os.path.join(directory, "per_class.csv"), [report.per_class_csv(result, self._names)])

  def _found(self) -> Found:
    """All detections, by picture."""
    if not self._parts:
      return Found(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, object))
    found = Found(*(np.concatenate(column) for column in zip(*self._parts)))
    return found.take(np.argsort(found.image, kind="stable"))

  def _results_json(self) -> Iterator[str]:
    separator = "["
    found = self._found()
    for image, category, box, value, counts in zip(found.image, found.category, found.boxes, found.scores, found.masks):
      row = {
        "image_id": self._truth.image_ids[image],
        "category_id": int(category),
        "bbox": box.tolist(),
        "score": float(value),
      }
      if counts is not None:
        row["segmentation"] = {"size": self._truth.sizes[image].tolist(), "counts": counts.decode()}
      yield separator + json.dumps(row)
      separator = ",\n"
    yield "[]\n" if separator == "[" else "]\n"

  def _score(self) -> dict[str, Any]:
    found = self._found()
    metrics, by_class = score(self._truth, found)
    rows = self._per_class(by_class)
    if self._masks:
      by_masks, mask_by_class = score(self._truth, found, masks=True)
      metrics |= {f"mask_{key}": value for key, value in by_masks.items()}
      for category, name in self._names.items():
        rows[name]["mask_AP"] = float(np.mean(mask_by_class.get(category, np.nan)))
    return {**metrics, "per_class": rows}

  def _per_class(self, by_class: Mapping[int, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Args: the precision of each class with objects at ten overlaps, float64[10]."""
    counted = ~self._truth.is_crowd
    rows = {}
    for category, name in self._names.items():
      values = by_class.get(category, np.full(10, np.nan))
      mine = counted & (self._truth.category == category)
      rows[name] = {
        "AP": float(np.mean(values)),
        "AP50": float(values[0]),
        "AP75": float(values[5]),
        "objects": int(mine.sum()),
        "images": len(np.unique(self._truth.image[mine])),
      }
    return rows


def _report_missing_masks(truth: truth_lib.GroundTruth) -> None:
  missing = np.flatnonzero([counts is None for counts in truth.masks])
  if not len(missing):
    return
  if len(missing) == len(truth.masks):
    raise UserError(
      f"masks are to be scored, but none of the {len(missing)} objects of the ground truth has one; run prepare on "
      "annotations that have `segmentation`, with --masks"
    )
  pictures = list(dict.fromkeys(truth.image_ids[i] for i in truth.image[missing]))
  logging.warning(
    "%d of %d objects of the ground truth have no mask and count for boxes only, in pictures %s%s",
    len(missing),
    len(truth.masks),
    ", ".join(map(str, pictures[:5])),
    ", ..." if len(pictures) > 5 else "",
  )
