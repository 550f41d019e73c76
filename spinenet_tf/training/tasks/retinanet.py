"""Detection with RetinaNet."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from spinenet_tf.data.pipeline import detection_dataset
from spinenet_tf.losses.retinanet import RetinaNetLoss
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.ops import matching
from spinenet_tf.training import checks
from spinenet_tf.training.evaluator import DetectionEvaluator
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import ModelSettings
from spinenet_tf.training.tasks.base import Task

TRAINED_ON = ("image", "boxes", "classes")


@dataclasses.dataclass(frozen=True)
class RetinaNetObjective:
  """Assigns targets and takes the loss.

  Attributes:
    loss: of one replica.
  """

  loss: RetinaNetLoss
  parts = ("cls", "box")
  counts = ()

  def __call__(self, model: RetinaNet, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns "cls", "box" and "total".

    Args:
      model: built.
      batch: "image" float[B, H, W, 3], "boxes" float32[B, M, 4], "classes" int32[B, M].
    """
    targets = matching.assign(model.anchors, model.input_size, batch["boxes"], batch["classes"])
    return self.loss(model(batch["image"], training=True), targets)


class RetinaNetTask(Task):
  """`train.task = 'retinanet'`: `model.*`, `loss.*` and `detection.*` apply."""

  name = "retinanet"
  uses = ("model", "data", "schedule", "loss", "detection")
  key_metric = "AP"
  headline = ("AP", "AP50", "AP75")

  @property
  def network(self) -> ModelSettings:
    """`model.*`."""
    return self.experiment.model

  def objective(self, num_classes: int) -> RetinaNetObjective:
    """Returns focal and box loss."""
    return RetinaNetObjective(RetinaNetLoss(num_classes, **dataclasses.asdict(self.experiment.loss)))

  def training_data(self, inputs: Inputs, **arguments: Any) -> tf.data.Dataset:
    """Returns endless batches of images, boxes and classes."""
    settings = inputs.settings
    dataset = detection_dataset(
      inputs.train_pattern,
      image_size=inputs.image_size,
      training=True,
      class_ids=inputs.class_ids,
      scale_jitter=tuple(settings.scale_jitter),
      flip=settings.flip,
      max_boxes=settings.max_boxes,
      **arguments,
    )
    return dataset.map(lambda batch: {key: batch[key] for key in TRAINED_ON})

  def evaluation_data(self, inputs: Inputs, batch_size: int) -> tf.data.Dataset:
    """Returns images with what belongs to them."""
    return detection_dataset(
      inputs.eval_pattern,
      image_size=inputs.image_size,
      batch_size=batch_size,
      training=False,
      class_ids=inputs.class_ids,
      max_boxes=inputs.settings.max_boxes,
    )

  def evaluator(
    self, strategy: tf.distribute.Strategy, model: RetinaNet, inputs: Inputs, pictures: int = 0
  ) -> DetectionEvaluator:
    """Returns the evaluator with COCO's metric."""
    data = functools.partial(self.evaluate_on, strategy, inputs)
    return DetectionEvaluator(strategy, model, inputs, data, self.experiment.detection, pictures)

  def check(self) -> None:
    """Raises UserError for an image size that the coarsest level does not divide."""
    checks.check_image_size(self.network)

  def notes(self, inputs: Inputs, model: RetinaNet) -> list[str]:
    """Returns a note where many objects are small beside the anchors."""
    return checks.small_object_notes(inputs.train_pattern, inputs.image_size, model.anchors)

  def post_processing(self) -> dict[str, Any]:
    """Returns thresholds of the detections."""
    return {"detection": self.experiment.detection.arguments()}
