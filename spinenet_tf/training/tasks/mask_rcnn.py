"""Instance segmentation with Mask R-CNN."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from spinenet_tf.heads.sizes import MaskHeads
from spinenet_tf.layers.random_seed import layer_seed
from spinenet_tf.losses.mask_rcnn import MaskRCNNLoss, MaskTargets, Predictions
from spinenet_tf.models.mask_rcnn import MaskRCNN, build_mask_rcnn
from spinenet_tf.ops import matching
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.ops.regions import mask_targets, sample_regions
from spinenet_tf.ops.sampling import Sample, sample
from spinenet_tf.training import checks
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import DetectionSettings, MaskRCNNSettings
from spinenet_tf.training.tasks.detection import MASKS, DetectionTask, DetectorNetwork

ANCHOR_SALT, REGION_SALT = 101, 102  # of the two random choices in a step


@dataclasses.dataclass(frozen=True)
class MaskRCNNNetwork(DetectorNetwork):
  """The model of an experiment, `heads` are `mask_rcnn.*`."""

  heads: MaskRCNNSettings

  def anchors(self) -> AnchorConfig:
    """Returns the anchors."""
    model = self.model
    size = model.anchor_size or MaskHeads.of(self.find_architecture().name).anchor_size
    return AnchorConfig(model.min_level, model.max_level, model.num_scales or 1, tuple(model.aspect_ratios), size)

  def arguments(self, num_classes: int, replicas: int = 1) -> dict[str, Any]:
    """Returns the keyword arguments of `build_mask_rcnn` but for the architecture, as plain values."""
    return {
      **self.model.shared_arguments(num_classes, replicas),
      "anchors": dataclasses.asdict(self.anchors()),
      "rpn_convs": self.heads.rpn_convs,
      "dense_width": self.heads.dense_width,
      "endpoint_width": self.heads.endpoint_width,
    }

  def build(self, num_classes: int, replicas: int = 1) -> MaskRCNN:
    """Builds the model."""
    arguments = self.arguments(num_classes, replicas)
    arguments.update(input_size=self.size, anchors=self.anchors())
    return build_mask_rcnn(self.find_architecture(), **arguments)


@dataclasses.dataclass(frozen=True)
class MaskRCNNObjective:
  """Samples anchors and regions, runs the second stage on them, takes the losses.

  Attributes:
    loss: of one replica.
    settings: how anchors and regions are sampled.
  """

  loss: MaskRCNNLoss
  settings: MaskRCNNSettings
  parts = ("rpn_cls", "rpn_box", "cls", "box", "mask")
  counts = ()

  def __call__(self, model: MaskRCNN, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the parts and "total".

    Args:
      model: built.
      batch: "image" float[B, H, W, 3], "boxes" float32[B, M, 4], "classes" int32[B, M], "masks" uint8[B, M, h, w] of
        the objects within their boxes, "has_mask" bool[B, M].
    """
    settings = self.settings
    outputs = model(batch["image"], training=True)
    anchors, sampled = self._anchors(model, batch)
    proposals, _ = model.propose(outputs, training=True)
    regions = sample_regions(
      proposals,
      batch["boxes"],
      batch["classes"],
      layer_seed(REGION_SALT),
      count=settings.region_samples,
      positive_share=settings.region_positive_share,
      positive_iou=settings.region_positive_iou,
    )
    logits, codes = model.box_outputs(outputs["pyramid"], regions.boxes, training=True)
    # Positive regions come first, and there are no more of them than their share.
    count = min(settings.mask_samples, max(1, int(settings.region_samples * settings.region_positive_share)))
    boxes, classes, truth = regions.boxes[:, :count], regions.classes[:, :count], regions.truth[:, :count]
    logits, *levels = _in_turn(logits, *outputs["pyramid"].values())
    masks = model.mask_outputs(dict(zip(outputs["pyramid"], levels)), boxes, classes, training=True)
    wanted = mask_targets(
      tf.gather(batch["masks"], truth, batch_dims=1), regions.truth_boxes[:, :count], boxes, int(masks.shape[-1])
    )
    has_mask = (classes >= 0) & tf.gather(batch["has_mask"], truth, batch_dims=1)
    return self.loss(
      Predictions(outputs["rpn_scores"], outputs["rpn_deltas"], logits, codes, masks),
      MaskTargets(anchors, sampled, regions, wanted, has_mask),
    )

  def _anchors(self, model: MaskRCNN, batch: dict[str, tf.Tensor]) -> tuple[matching.Targets, Sample]:
    """What the proposal network has to say, of one class; and the anchors whose scores train."""
    settings = self.settings
    objects = tf.minimum(batch["classes"], 0)
    size = model.input_size
    targets = matching.assign(
      model.anchors, size, batch["boxes"], objects, settings.rpn_positive_iou, settings.rpn_negative_iou
    )
    labels = tf.concat(list(targets.classes.values()), axis=1)
    negative = labels == matching.BACKGROUND
    seed = layer_seed(ANCHOR_SALT)
    return targets, sample(labels >= 0, negative, settings.rpn_samples, settings.rpn_positive_share, seed)


class MaskRCNNTask(DetectionTask):
  """`train.task = 'mask_rcnn'`: `model.*`, `mask_rcnn.*`, `mask_rcnn_loss.*` and `detection.*` apply."""

  name = "mask_rcnn"
  uses = ("model", "mask_rcnn", "data", "schedule", "mask_rcnn_loss", "detection")
  key_metric = "mask_AP"
  headline = ("AP", "AP50", "mask_AP", "mask_AP50")
  trained_on = MASKS

  @property
  def network(self) -> MaskRCNNNetwork:
    """`model.*` with `mask_rcnn.*`."""
    return MaskRCNNNetwork(self.experiment.model, self.experiment.mask_rcnn)

  @property
  def thresholds(self) -> DetectionSettings:
    """`detection.*`."""
    return self.experiment.detection

  def objective(self, num_classes: int) -> MaskRCNNObjective:
    """Returns the losses of both stages."""
    del num_classes
    loss = MaskRCNNLoss(**dataclasses.asdict(self.experiment.mask_rcnn_loss))
    return MaskRCNNObjective(loss, self.experiment.mask_rcnn)

  def check(self) -> None:
    """Raises UserError for an image size that the coarsest level does not divide."""
    checks.check_image_size(self.experiment.model)

  def notes(self, inputs: Inputs, model: MaskRCNN) -> list[str]:
    """Returns a note where many objects are small beside the anchors."""
    return checks.small_object_notes(inputs.train_pattern, inputs.image_size, model.anchors)


@tf.custom_gradient
def _in_turn(first: tf.Tensor, *others: tf.Tensor):
  """Returns the tensors as they are; what follows from the others comes after the first, and before it in the backward pass.

  Two heads at the same time are no faster on a CPU, and take the memory of both.
  """

  def gradient(upstream: tf.Tensor, *upstreams: tf.Tensor):
    with tf.control_dependencies(upstreams):
      return (tf.identity(upstream), *upstreams)

  with tf.control_dependencies([first]):
    return (tf.identity(first), *(tf.identity(other) for other in others)), gradient
