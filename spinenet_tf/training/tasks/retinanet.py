"""Detection with RetinaNet."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from spinenet_tf.losses.retinanet import RetinaNetLoss
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.ops import matching
from spinenet_tf.training import checks
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import DetectionSettings, ModelSettings
from spinenet_tf.training.tasks.detection import DetectionTask


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


class RetinaNetTask(DetectionTask):
  """`train.task = 'retinanet'`: `model.*`, `loss.*` and `detection.*` apply."""

  name = "retinanet"
  uses = ("model", "data", "schedule", "loss", "detection")
  key_metric = "AP"
  headline = ("AP", "AP50", "AP75")

  @property
  def network(self) -> ModelSettings:
    """`model.*`."""
    return self.experiment.model

  @property
  def thresholds(self) -> DetectionSettings:
    """`detection.*`."""
    return self.experiment.detection

  def objective(self, num_classes: int) -> RetinaNetObjective:
    """Returns focal and box loss."""
    return RetinaNetObjective(RetinaNetLoss(num_classes, **dataclasses.asdict(self.experiment.loss)))

  def check(self) -> None:
    """Raises UserError for an image size that the coarsest level does not divide."""
    checks.check_image_size(self.network)

  def notes(self, inputs: Inputs, model: RetinaNet) -> list[str]:
    """Returns a note where many objects are small beside the anchors."""
    return checks.small_object_notes(inputs.train_pattern, inputs.image_size, model.anchors)
