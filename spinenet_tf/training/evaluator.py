"""Evaluation of detectors, the same during training and after: detections of a data set against COCO's metric."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import orbit
import tensorflow as tf

from spinenet_tf.data.preprocess import denormalize
from spinenet_tf.evaluation.coco import CocoEvaluator
from spinenet_tf.evaluation.masks import paste_found
from spinenet_tf.models.mask_rcnn import MaskRCNN
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.models.solo import Solo
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import DetectionSettings
from spinenet_tf.training.solo_settings import SoloDetectionSettings
from spinenet_tf.training.strategy import gather
from spinenet_tf.visualize.boxes import draw


class DetectionEvaluator(orbit.AbstractEvaluator):
  """Runs the model over the evaluation examples; `evaluate(-1)` over all, `evaluate(n)` over n batches.

  Args:
    strategy: that the model was built under.
    model: built.
    inputs: with an evaluation pattern.
    data: returns the distributed evaluation examples; called once, at the first evaluation.
    detection: thresholds of the post-processing.
    pictures: how many of the first images are drawn into the TensorBoard summary.
    masks: whether masks are scored too; then the model must find them.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    model: RetinaNet | MaskRCNN | Solo,
    inputs: Inputs,
    data: Callable[[], tf.distribute.DistributedDataset],
    detection: DetectionSettings | SoloDetectionSettings,
    pictures: int = 0,
    masks: bool = False,
  ):
    self._strategy, self._model, self._inputs, self._data = strategy, model, inputs, data
    self._pictures, self._masks = pictures, masks
    self._detection = detection.arguments()
    self._dataset: tf.distribute.DistributedDataset | None = None
    self._coco: CocoEvaluator | None = None
    self._detect = tf.function(self._detect_batch, autograph=False)

  @property
  def scores(self) -> CocoEvaluator:
    """The evaluator with the detections of the last evaluation, for its table and files."""
    if self._coco is None:
      self._coco = self._inputs.evaluator(self._masks)
    return self._coco

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates.

    Args:
      num_steps: int32[], batches; -1 for all.

    Returns: COCO's twelve numbers, with masks their twelve too, and "class_AP/NAME" for each class; floats in [0, 1], NaN
      without such objects.
    """
    if self._dataset is None:
      self._dataset = self._data()
    self.scores.reset()
    drawn: list[np.ndarray] = []
    for number, batch in enumerate(self._dataset):
      if number == int(num_steps):
        break
      detections = {key: gather(self._strategy, value) for key, value in self._detect(batch["image"]).items()}
      facts = {key: gather(self._strategy, batch[key]) for key in ("source_id", "original_size", "scale", "is_real")}
      self.scores.update(detections, facts)
      if len(drawn) < self._pictures:
        drawn += self._draw(batch, detections, facts, self._pictures - len(drawn))
    for i, picture in enumerate(drawn):
      tf.summary.image(f"validation/{i}", picture[None])
    result = dict(self.scores.result())
    per_class = result.pop("per_class")
    return {**result, **{f"class_AP/{name}": row["AP"] for name, row in per_class.items()}}

  def _detect_batch(self, images: Any) -> dict[str, Any]:
    return self._strategy.run(self._detect_replica, args=(images,))

  def _detect_replica(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    return self._model.find(images, **self._detection)

  def _draw(
    self, batch: dict[str, Any], detections: dict[str, np.ndarray], facts: dict[str, np.ndarray], count: int
  ) -> list[np.ndarray]:
    """Returns up to `count` pictures, ground truth at the left and detections at the right."""
    images = denormalize(gather(self._strategy, batch["image"])[:count]).numpy()
    boxes, classes = gather(self._strategy, batch["boxes"]), gather(self._strategy, batch["classes"])
    names = self._inputs.class_names
    pictures = []
    for i in np.flatnonzero(facts["is_real"][:count]):
      found = _marks(detections["detection_boxes"][i], detections["detection_classes"][i], names)
      found["scores"] = detections["detection_scores"][i][: len(found["boxes"])]
      if self._masks:
        last = len(found["boxes"])
        whole = detections["detection_mask_boxes"][i][:last] if "detection_mask_boxes" in detections else None
        masks = detections["detection_masks"][i][:last]
        found["masks"] = paste_found(masks, found["boxes"], whole, images[i].shape[:2])
      truth = _marks(boxes[i], classes[i], names)
      picture = draw(images[i], found, truth=truth, side_by_side=True, score_threshold=0.3)
      pictures.append(np.asarray(picture))
    return pictures


def _marks(boxes: np.ndarray, classes: np.ndarray, names: list[str]) -> dict[str, Any]:
  """What `visualize.boxes.draw` takes, without the padding (class -1) that comes last."""
  count = int((classes >= 0).sum())
  return {"boxes": boxes[:count], "classes": classes[:count], "names": [names[c] for c in classes[:count]]}
