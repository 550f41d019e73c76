"""RetinaNet on a scale-permuted backbone, forward only.  [SpineNet section 4.1]"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.heads.retinanet import Tower, prior_bias
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.models.network import Network, anchor_config, check_levels, check_num_classes
from spinenet_tf.ops import nms
from spinenet_tf.ops.anchors import AnchorConfig


@keras.utils.register_keras_serializable("spinenet_tf")
class RetinaNet(Network):
  """Backbone, class tower and box tower. Use `build_retinanet`, which fills in what an architecture implies.

  Args:
    backbone: a `Backbone`, or its config.
    num_classes: without background.
    anchors: an `AnchorConfig`, or the dictionary of one; its levels are the model's.
    head_convs: convolutions of each tower.
    head_filters: their channels.
    prior: class probability that the class biases start from.

  Call: float[B, H, W, 3], normalised pixels -> {"cls_logits": {"3": float32[B, H3, W3, A * K], ...},
    "box_deltas": {"3": float32[B, H3, W3, A * 4], ...}}, anchors major.
  """

  def __init__(
    self,
    backbone: Backbone | dict,
    num_classes: int,
    anchors: AnchorConfig | dict,
    head_convs: int,
    head_filters: int,
    prior: float = 0.01,
    name: str | None = None,
    **kwargs,
  ):
    if isinstance(backbone, dict):
      backbone = Backbone.from_config(backbone)
    anchors = anchor_config(anchors)
    levels = anchors.levels
    check_num_classes(num_classes)
    check_levels(backbone.architecture, levels)
    if not 0 < prior < 1:
      raise UserError(f"prior is {prior}; it is a probability, above 0 and below 1, usually 0.01")
    style = ConvStyle.of(backbone.get_config()["style"])
    pyramid = {str(level): backbone.output[str(level)] for level in levels}
    towers = {
      "convs": head_convs,
      "filters": head_filters,
      "levels": levels,
      "separable": backbone.architecture.separable,
      "style": style,
    }
    class_tower = Tower(
      outputs=anchors.per_location * num_classes, bias=prior_bias(prior), name="class_tower", **towers
    )
    box_tower = Tower(outputs=anchors.per_location * 4, name="box_tower", **towers)
    outputs = {"cls_logits": class_tower(pyramid), "box_deltas": box_tower(pyramid)}
    config = {
      "num_classes": num_classes,
      "anchors": dataclasses.asdict(anchors),
      "head_convs": head_convs,
      "head_filters": head_filters,
      "prior": prior,
    }
    super().__init__(backbone, outputs, config, name or f"retinanet_{backbone.name}", **kwargs)
    self._anchors = anchors

  @property
  def anchors(self) -> AnchorConfig:
    """What the predictions are relative to."""
    return self._anchors

  @property
  def levels(self) -> tuple[int, ...]:
    """Pyramid levels that carry anchors, ascending."""
    return self.anchors.levels

  def find(self, images: tf.Tensor, **detection: Any) -> dict[str, tf.Tensor]:
    """Finds objects.

    Args:
      images: float[B, H, W, 3], normalised pixels.
      **detection: arguments of `ops.nms.detect`.

    Returns: as `ops.nms.detect`.

    Raises: UserError when the input size is not known, or an argument is out of range.
    """
    size = self.known_size()
    outputs = self(images, training=False)
    return nms.detect(outputs, self.anchors, size, num_classes=self.num_classes, **detection)


def build_retinanet(
  architecture: str | pathlib.Path | dict | Architecture,
  num_classes: int,
  input_size: tuple[int | None, int | None] = (640, 640),
  *,
  head_convs: int | None = None,
  head_width: int | None = None,
  anchors: AnchorConfig | None = None,
  activation: str = "relu",
  stochastic_depth: float = 0.0,
  dropblock_keep: float = 1.0,
  dropblock_size: int = 7,
  synchronized: bool = False,
  norm_momentum: float = 0.99,
  norm_epsilon: float = 1e-3,
  padding: str = "symmetric",
  folded: bool = False,
  prior: float = 0.01,
  min_level: int = 3,
  max_level: int = 7,
  pooling: str = "chain",
  pool_padding: str = "same",
  endpoint_activation: bool = True,
  squeeze: str = "swish",
) -> RetinaNet:
  """Builds RetinaNet on a backbone.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    num_classes: without background; 91 for the authors' layout of COCO, whose ids are indices.
    input_size: (height, width) in pixels; any size is built, levels that do not divide have ceil(size / 2^level).
    head_convs: convolutions of each tower; the architecture's when None (4; 7 for SpineNet-190).
    head_width: their channels; the architecture's when None (128 for 49S, 256, 512 for 190).
    anchors: the architecture's anchor size on levels `min_level` to `max_level` when None.
    activation: "relu" (protocols A and B) or "swish" (C).
    stochastic_depth: drop rate of the backbone's last block; 0.2 in protocol C.
    dropblock_keep: DropBlock's keep probability in the backbone; 1 is off.
    dropblock_size: DropBlock's square, in feature pixels.
    synchronized: batch statistics of all replicas together.
    norm_momentum: share of the old moving averages kept at each step.
    norm_epsilon: added to variances.
    padding: of strided convolutions, see `ConvStyle`.
    folded: for inference, without normalisations; `serving.fold` makes the weights.
    prior: class probability that the class biases start from.
    min_level: lowest level with anchors; ignored when `anchors` is given.
    max_level: highest level with anchors; ignored when `anchors` is given.
    pooling: of connections that go down more than one level, see `ConvStyle`.
    pool_padding: of max-pools, see `ConvStyle`.
    endpoint_activation: whether the activation follows an endpoint's convolution.
    squeeze: activations of mobile blocks' squeeze-and-excitation, see `ConvStyle`.

  Returns: a Keras model; its call is described at `RetinaNet`.

  Raises: UserError for an unknown architecture or a value outside its range.
  """
  arch = find_architecture(architecture)
  style = ConvStyle(
    activation,
    norm_momentum,
    norm_epsilon,
    synchronized,
    padding,
    folded,
    pooling,
    pool_padding,
    endpoint_activation,
    squeeze,
  )
  anchors = anchors or AnchorConfig(min_level=min_level, max_level=max_level, anchor_size=arch.anchor_size)
  backbone = Backbone(arch, input_size, style, stochastic_depth, dropblock_keep, dropblock_size)
  return RetinaNet(
    backbone, num_classes, anchors, head_convs or arch.head_convs, head_width or arch.head_filters, prior
  )
