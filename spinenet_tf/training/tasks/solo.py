"""Instance segmentation with SOLO: masks by location, without boxes and in one stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.layers.random_seed import layer_seed
from spinenet_tf.losses.solo import SoloLoss
from spinenet_tf.models.solo import Solo, build_solo
from spinenet_tf.ops import solo_targets
from spinenet_tf.training.solo_settings import SoloDetectionSettings, SoloSettings
from spinenet_tf.training.tasks.detection import MASKS, DetectionTask, DetectorNetwork

CELL_SALT = 103  # of the random choice of cells in a step
ANCHORED = ("anchor_size", "num_scales")  # of `ModelSettings`, without a meaning here


@dataclasses.dataclass(frozen=True)
class SoloNetwork(DetectorNetwork):
  """The model of an experiment, `heads` are `solo.*`."""

  heads: SoloSettings

  def arguments(self, num_classes: int, replicas: int = 1) -> dict[str, Any]:
    """Returns the keyword arguments of `build_solo` but for the architecture, as plain values."""
    shared = self.model.shared_arguments(num_classes, replicas)
    del shared["min_level"], shared["max_level"]  # the levels say what is read
    return {
      **shared,
      "solo_levels": dataclasses.asdict(self.heads.levels()),
      "decoupled": self.heads.decoupled,
      "aligned": self.heads.aligned,
      "endpoint_width": self.heads.endpoint_width,
      "prior": self.model.prior,
    }

  def build(self, num_classes: int, replicas: int = 1) -> Solo:
    """Builds the model."""
    arguments = self.arguments(num_classes, replicas)
    arguments.update(input_size=self.size, solo_levels=self.heads.levels())
    return build_solo(self.find_architecture(), **arguments)


@dataclasses.dataclass(frozen=True)
class SoloObjective:
  """Assigns cells to objects, predicts the masks of these cells, takes the losses.

  Attributes:
    loss: of one replica.
    settings: how cells are assigned and chosen.
  """

  loss: SoloLoss
  settings: SoloSettings
  parts = ("cls", "mask")
  counts = ("cells_lost", "objects_without_cell")

  def __call__(self, model: Solo, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the parts, "total" and the counts of this batch: cells that went to a smaller object, and objects without any.

    Args:
      model: built.
      batch: "image" float[B, H, W, 3], "boxes" float32[B, M, 4], "classes" int32[B, M], "masks" uint8[B, M, h, w] of
        the objects within their boxes, "has_mask" bool[B, M].
    """
    settings, levels, size = self.settings, model.solo_levels, model.input_size
    truth = (batch["boxes"], batch["masks"], batch["has_mask"])
    targets = solo_targets.assign(
      levels,
      size,
      batch["boxes"],
      batch["classes"],
      batch["masks"],
      batch["has_mask"],
      centre=settings.centre,
      sigma=settings.sigma,
      multi_level=settings.multi_level,
    )
    cells = solo_targets.choose(targets, settings.cells, layer_seed(CELL_SALT), settings.negatives)
    outputs = model(batch["image"], training=True)
    masks = model.mask_outputs(outputs["mask_features"], cells.index, training=True)
    losses = self.loss(outputs["cls_logits"], masks, targets, solo_targets.masks_of(levels, size, cells, *truth))
    counted = zip(self.counts, (targets.lost, targets.without_cell))
    return {**losses, **{name: tf.cast(tf.reduce_sum(count), tf.float32) for name, count in counted}}


class SoloTask(DetectionTask):
  """`train.task = 'solo'`: `model.*`, `solo.*`, `solo_loss.*` and `solo_detection.*` apply."""

  name = "solo"
  uses = ("model", "solo", "data", "schedule", "solo_loss", "solo_detection")
  key_metric = "mask_AP"
  headline = ("mask_AP", "mask_AP50", "mask_AP75", "AP")
  trained_on = MASKS

  @property
  def network(self) -> SoloNetwork:
    """`model.*` with `solo.*`."""
    return SoloNetwork(self.experiment.model, self.experiment.solo)

  @property
  def thresholds(self) -> SoloDetectionSettings:
    """`solo_detection.*`."""
    return self.experiment.solo_detection

  def objective(self, num_classes: int) -> SoloObjective:
    """Returns focal and dice loss."""
    loss = SoloLoss(num_classes, **dataclasses.asdict(self.experiment.solo_loss))
    return SoloObjective(loss, self.experiment.solo)

  def check(self) -> None:
    """Raises UserError for an image size that the coarsest level does not divide, and for settings of anchors."""
    model = self.experiment.model
    if given := [name for name in ANCHORED if getattr(model, name) is not None]:
      raise UserError(f"model.{given[0]} is {getattr(model, given[0])!r}, and SOLO has no anchors; leave it out")
    if (model.min_level, model.max_level) != (3, 7):
      raise UserError(
        f"model.min_level and max_level are {model.min_level} and {model.max_level}; SOLO reads the levels of solo.sources: "
        "change these"
      )
    stride = 2 ** self.experiment.solo.levels().pyramid[-1]
    if any(side % stride for side in model.size):
      below, above = (tuple(max(stride, s // stride * stride + extra) for s in model.size) for extra in (0, stride))
      raise UserError(
        f"model.image_size is {model.size}; height and width must be multiples of {stride}, the stride of the coarsest level "
        f"in solo.sources: set it to {below} or {above}"
      )
