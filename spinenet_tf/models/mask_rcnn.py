"""Mask R-CNN on a scale-permuted backbone, forward only.  [He et al. 2017; SpineNet section 4.1]"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.heads.box import BoxHead
from spinenet_tf.heads.mask import MaskHead
from spinenet_tf.heads.regions import in_parts
from spinenet_tf.heads.rpn import RegionProposalHead
from spinenet_tf.heads.sizes import BOX_CROP, MASK_CROP, MaskHeads
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.models.network import Network, anchor_config, check_levels, check_num_classes
from spinenet_tf.ops import nms, winograd
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.ops.proposals import propose
from spinenet_tf.ops.roi_align import roi_align

TRAINING_CANDIDATES, CANDIDATES = 2000, 1000  # anchors of each level before suppression  [authors' configurations]
BOX_PARTS, MASK_PARTS = 4, 2  # of the regions in inference on a CPU, one after the other: 150 MB less for 1000 and 100


@keras.utils.register_keras_serializable("spinenet_tf")
class MaskRCNN(Network):
  """Backbone, region proposal network, box head and mask head. Use `build_mask_rcnn`, which fills in what is implied.

  The call is the first stage; `propose` chooses regions, `box_outputs` and `mask_outputs` are the second stage, and `find`
  is all of it.

  Args:
    backbone: a `Backbone`, or its config.
    num_classes: without background, K.
    anchors: an `AnchorConfig`, or the dictionary of one; its levels are the model's.
    rpn_convs: convolutions of the region proposal network.
    head_convs: convolutions of the box head, and of the mask head.
    head_filters: channels of all of these.
    dense: width of the box head's hidden layer.

  Call: float[B, H, W, 3], normalised pixels -> {"pyramid": {"3": float[B, H3, W3, C], ...},
    "rpn_scores": {"3": float32[B, H3, W3, A], ...}, logits, "rpn_deltas": {"3": float32[B, H3, W3, A * 4], ...}}, anchors
    major.
  """

  def __init__(
    self,
    backbone: Backbone | dict,
    num_classes: int,
    anchors: AnchorConfig | dict,
    rpn_convs: int,
    head_convs: int,
    head_filters: int,
    dense: int,
    name: str | None = None,
    **kwargs,
  ):
    if isinstance(backbone, dict):
      backbone = Backbone.from_config(backbone)
    anchors = anchor_config(anchors)
    check_num_classes(num_classes)
    check_levels(backbone.architecture, anchors.levels)
    style = ConvStyle.of(backbone.get_config()["style"])
    pyramid = {str(level): backbone.output[str(level)] for level in anchors.levels}
    rpn = RegionProposalHead(rpn_convs, head_filters, anchors.per_location, anchors.levels, style, name="rpn")
    scores, deltas = rpn(pyramid)
    config = {
      "num_classes": num_classes,
      "anchors": dataclasses.asdict(anchors),
      "rpn_convs": rpn_convs,
      "head_convs": head_convs,
      "head_filters": head_filters,
      "dense": dense,
    }
    outputs = {"pyramid": pyramid, "rpn_scores": scores, "rpn_deltas": deltas}
    super().__init__(backbone, outputs, config, name or f"mask_rcnn_{backbone.name}", **kwargs)
    self._anchors = anchors
    self.box_head = BoxHead(num_classes, head_convs, head_filters, dense, style, name="box_head")
    self.mask_head = MaskHead(num_classes, head_convs, head_filters, style, name="mask_head")
    channels = backbone.architecture.endpoint_filters
    for head, crop in ((self.box_head, BOX_CROP), (self.mask_head, MASK_CROP)):
      head(keras.Input((crop, crop, channels)))  # makes its variables

  @property
  def anchors(self) -> AnchorConfig:
    """What the first stage's predictions are relative to."""
    return self._anchors

  @property
  def levels(self) -> tuple[int, ...]:
    """Pyramid levels that are read, ascending."""
    return self.anchors.levels

  def propose(
    self,
    outputs: Mapping[str, Mapping[str, tf.Tensor]],
    training: bool = False,
    count: int = 1000,
    legacy_plus_one: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Chooses the regions of the second stage; no gradient flows back.

    Args:
      outputs: of the call.
      training: consider 2000 anchors of each level, not 1000.
      count: N.
      legacy_plus_one: see `ops.boxes.decode`.

    Returns: by falling score, float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels, and float32[B, N] in [0, 1]; both
      0 in padding.

    Raises: UserError when the input size is not known.
    """
    return propose(
      outputs["rpn_scores"],
      outputs["rpn_deltas"],
      self.anchors,
      self.known_size(),
      pre_nms_top_k=TRAINING_CANDIDATES if training else CANDIDATES,
      count=count,
      legacy_plus_one=legacy_plus_one,
    )

  def box_outputs(
    self, pyramid: Mapping[str, tf.Tensor], boxes: tf.Tensor, training: bool = False
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Says what regions are.

    Args:
      pyramid: "pyramid" of the call.
      boxes: float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels, within the image; no gradient flows to them.
      training: normalise with the statistics of these regions.

    Returns: logits float32[B, N, K + 1], index 0 is background; box codes of each class, float32[B, N, K, 4], as of
      `ops.boxes.encode_region`.
    """

    def outputs(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      logits, codes = self.box_head(self._crops(pyramid, boxes, BOX_CROP), training=training)
      shape = _leading(boxes)
      return tf.reshape(logits, [*shape, self.num_classes + 1]), tf.reshape(codes, [*shape, self.num_classes, 4])

    return in_parts(outputs, boxes, parts=_parts(BOX_PARTS, training))

  def mask_outputs(
    self, pyramid: Mapping[str, tf.Tensor], boxes: tf.Tensor, classes: tf.Tensor, training: bool = False
  ) -> tf.Tensor:
    """Says which pixels of regions are the object.

    Args:
      pyramid: "pyramid" of the call.
      boxes: float32[B, N, 4] as for `box_outputs`.
      classes: int32[B, N], whose masks; below 0, in padding, counts as 0.
      training: normalise with the statistics of these regions.

    Returns: logits float32[B, N, 28, 28], bins of the box, the first row at ymin.
    """

    def outputs(boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
      own = tf.reshape(tf.maximum(classes, 0), [-1])
      masks = self.mask_head(self._crops(pyramid, boxes, MASK_CROP), own, training=training)
      return tf.reshape(masks, [*_leading(boxes), 2 * MASK_CROP, 2 * MASK_CROP])

    return in_parts(outputs, boxes, classes, parts=_parts(MASK_PARTS, training))

  def find(self, images: tf.Tensor, *, legacy_plus_one: bool = False, **detection: Any) -> dict[str, tf.Tensor]:
    """Finds objects.

    Args:
      images: float[B, H, W, 3], normalised pixels.
      legacy_plus_one: decode proposals and detections as the authors' TF1 code does, see `ops.boxes.decode`.
      **detection: further arguments of `ops.nms.detect_regions`.

    Returns: as `ops.nms.detect`, and "detection_masks": float32[B, D, 28, 28], probabilities, bins of the detection's box; 0
      in padding.

    Raises: UserError when the input size is not known, or an argument is out of range.
    """
    size = self.known_size()
    outputs = self(images, training=False)
    regions, _ = self.propose(outputs, legacy_plus_one=legacy_plus_one)
    logits, codes = self.box_outputs(outputs["pyramid"], regions)
    found = nms.detect_regions(logits, codes, regions, size, legacy_plus_one=legacy_plus_one, **detection)
    classes = found["detection_classes"]
    masks = tf.sigmoid(self.mask_outputs(outputs["pyramid"], found["detection_boxes"], classes))
    return {**found, "detection_masks": tf.where((classes >= 0)[..., None, None], masks, 0.0)}

  def _crops(self, pyramid: Mapping[str, tf.Tensor], boxes: tf.Tensor, crop: int) -> tf.Tensor:
    """Returns the features of regions, float[B * N, crop, crop, C]."""
    crops = roi_align(pyramid, boxes, crop, min_level=self.levels[0], max_level=self.levels[-1])
    return tf.reshape(crops, [-1, crop, crop, crops.shape[-1]])


def _parts(count: int, training: bool) -> int:
  return count if winograd.is_enabled() and not training else 1


def _leading(boxes: tf.Tensor) -> list:
  """Returns [B, N], as numbers where they are known."""
  dynamic = tf.shape(boxes)
  return [dynamic[i] if size is None else size for i, size in enumerate(boxes.shape[:2])]


def build_mask_rcnn(
  architecture: str | pathlib.Path | dict | Architecture,
  num_classes: int,
  input_size: tuple[int | None, int | None] = (640, 640),
  *,
  rpn_convs: int | None = None,
  head_convs: int | None = None,
  head_width: int | None = None,
  dense_width: int | None = None,
  endpoint_width: int | None = None,
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
  min_level: int = 3,
  max_level: int = 7,
  pooling: str = "chain",
  pool_padding: str = "same",
  endpoint_activation: bool = True,
  squeeze: str = "swish",
) -> MaskRCNN:
  """Builds Mask R-CNN on a backbone.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    num_classes: without background; 90 for the authors' layout of COCO, whose ids are outputs and 0 is background.
    input_size: (height, width) in pixels; any size is built, levels that do not divide have ceil(size / 2^level).
    rpn_convs: convolutions of the region proposal network; the paper's when None (1; 7 for SpineNet-190).
    head_convs: convolutions of the box head, and of the mask head; the paper's when None (4; 7 for 190).
    head_width: channels of all of these; the paper's when None (128 for 49S, 256, 384 for 190).
    dense_width: of the box head's hidden layer; the paper's when None (512 for 49S, 1024).
    endpoint_width: channels of the pyramid; when None 128 for 49S, and the architecture's for others.
    anchors: one scale, three ratios and the paper's size (3; 5 for 190) on levels `min_level` to `max_level` when None.
    activation: "relu" (protocols A and B) or "swish" (C).
    stochastic_depth: drop rate of the backbone's last block; 0.2 in protocol C.
    dropblock_keep: DropBlock's keep probability in the backbone; 1 is off.
    dropblock_size: DropBlock's square, in feature pixels.
    synchronized: batch statistics of all replicas together.
    norm_momentum: share of the old moving averages kept at each step.
    norm_epsilon: added to variances.
    padding: of strided convolutions, see `ConvStyle`.
    folded: for inference, without normalisations; `serving.fold` makes the weights.
    min_level: lowest level that is read; ignored when `anchors` is given.
    max_level: highest level that is read; ignored when `anchors` is given.
    pooling: of connections that go down more than one level, see `ConvStyle`.
    pool_padding: of max-pools, see `ConvStyle`.
    endpoint_activation: whether the activation follows an endpoint's convolution.
    squeeze: activations of mobile blocks' squeeze-and-excitation, see `ConvStyle`.

  Returns: a Keras model; its call is described at `MaskRCNN`.

  Raises: UserError for an unknown architecture or a value outside its range.
  """
  arch = find_architecture(architecture)
  given = {
    "endpoints": endpoint_width,
    "rpn_convs": rpn_convs,
    "convs": head_convs,
    "filters": head_width,
    "dense": dense_width,
  }
  given = {field: value for field, value in given.items() if value is not None}
  sizes = dataclasses.replace(MaskHeads.of(arch.name), **given)
  arch = dataclasses.replace(arch, endpoint_filters=sizes.endpoints or arch.endpoint_filters)
  anchors = anchors or AnchorConfig(min_level, max_level, num_scales=1, anchor_size=sizes.anchor_size)
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
  backbone = Backbone(arch, input_size, style, stochastic_depth, dropblock_keep, dropblock_size)
  return MaskRCNN(backbone, num_classes, anchors, sizes.rpn_convs, sizes.convs, sizes.filters, sizes.dense)
