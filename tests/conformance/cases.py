"""What the conformance tests run over: classes, arguments that are not the defaults, inputs."""

import dataclasses
from typing import Any, Callable

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone, ScalePermutedBlock, StemPool
from spinenet_tf.backbones.fpn import TopDown
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.compat import keras
from spinenet_tf.heads.box import BoxHead
from spinenet_tf.heads.classification import ClassifierHead
from spinenet_tf.heads.mask import Doubling, MaskHead
from spinenet_tf.heads.retinanet import Tower
from spinenet_tf.heads.rpn import RegionProposalHead
from spinenet_tf.heads.solo import AtStride, CategoryHead, CellMasks, MaskTower
from spinenet_tf.layers.blocks import Block
from spinenet_tf.layers.conv_norm import ConvNorm, DepthwiseNorm
from spinenet_tf.layers.dropblock import DropBlock
from spinenet_tf.layers.group_norm import GroupNorm
from spinenet_tf.layers.mbconv import MBConv, SqueezeExcitation
from spinenet_tf.layers.resample import Resample, SeparableResample
from spinenet_tf.layers.stochastic_depth import StochasticDepth
from spinenet_tf.models.classifier import Classifier
from spinenet_tf.models.mask_rcnn import MaskRCNN
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.models.solo import Solo
from spinenet_tf.ops.anchors import AnchorConfig

STYLE = {
  "activation": "swish",
  "norm_momentum": 0.9,
  "norm_epsilon": 0.01,
  "synchronized": True,
  "padding": "same",
  "folded": False,
  "pooling": "single",
  "pool_padding": "symmetric",
  "endpoint_activation": False,
  "squeeze": "relu",
}
FOLDED = STYLE | {"folded": True}
ARCH = Architecture(
  "toy",
  (BlockSpec(2, "residual"), BlockSpec(3, "bottleneck")),
  (
    BlockSpec(4, "bottleneck", (0, 1)),
    BlockSpec(2, "residual", (0, 2)),
    BlockSpec(3, "bottleneck", (2, 3), True),
    BlockSpec(4, "bottleneck", (3, 4), True),
  ),
  filter_scale=0.125,
  resample_alpha=0.75,
  block_repeats=2,
  endpoint_filters=12,
)
MOBILE_ARCH = Architecture(
  "toy_mobile",
  (BlockSpec(1, "mbconv"), BlockSpec(2, "mbconv"), BlockSpec(2, "residual")),
  (
    BlockSpec(4, "mbconv", (0, 2)),
    BlockSpec(2, "mbconv", (1, 3)),
    BlockSpec(3, "mbconv", (3, 4), True),
    BlockSpec(4, "bottleneck", (4, 5), True),
  ),
  filter_scale=0.5,
  endpoint_filters=12,
  level_filters=(8, 12, 16, 20, 24, 24, 24),
  stem_filters=6,
  stem_kernel=5,
  stem_pool=False,
  separable=True,
)
FPN_ARCH = Architecture(
  "toy_fpn",
  (BlockSpec(2, "bottleneck"), BlockSpec(3, "residual"), BlockSpec(4, "bottleneck"), BlockSpec(5, "bottleneck")),
  filter_scale=0.125,
  endpoint_filters=12,
  stem_filters=6,
  stem_kernel=3,
  pyramid="fpn",
)
BACKBONE = {
  "architecture": ARCH.to_dict(),
  "input_size": (32, 48),
  "style": STYLE,
  "stochastic_depth": 0.3,
  "dropblock_keep": 0.8,
  "dropblock_size": 2,
  "literal_order": True,
}


def _backbone(architecture: Architecture, input_size: tuple[int, int] = (32, 48)) -> dict:
  return BACKBONE | {"architecture": architecture.to_dict(), "input_size": input_size}


def _call(layer: keras.layers.Layer, inputs: Any, training: bool | None = None) -> Any:
  return layer(inputs, training=training)


def both_stages(model: MaskRCNN, images: tf.Tensor, training: bool | None = None) -> Any:
  """Returns what a Mask R-CNN makes of images, and of two regions in each."""
  outputs = model(images, training=training)
  boxes = tf.tile(tf.constant([[[0.0, 2.0, 20.0, 30.0], [5.0, 5.0, 31.0, 9.0]]]), [tf.shape(images)[0], 1, 1])
  classes = tf.cast(boxes[..., 0] > 0, tf.int32)
  second = model.box_outputs(outputs["pyramid"], boxes, training=training)
  return outputs, second, model.mask_outputs(outputs["pyramid"], boxes, classes, training=training)


def with_cells(model: Solo, images: tf.Tensor, training: bool | None = None) -> Any:
  """Returns what a SOLO makes of images, and the masks of two cells of each level."""
  outputs = model(images, training=training)
  cells = tf.tile(tf.constant([[0, 3]]), [tf.shape(images)[0], 1])
  cells = dict.fromkeys(model.solo_levels.names, cells)
  return outputs, model.mask_outputs(outputs["mask_features"], cells, training=training)


@dataclasses.dataclass(frozen=True)
class Case:
  """A class, arguments that are none of them the default, the shape of an input, and how it is used: `use(layer, inputs)`."""

  kind: type
  arguments: dict[str, Any]
  shape: Any = (2, 8, 12, 16)
  free_size: bool = True
  use: Callable = _call

  def make(self):
    return self.kind(**self.arguments)

  def inputs(self, size: int = 1) -> Any:
    def draw(shape):
      return tf.random.stateless_normal((shape[0], shape[1] * size, shape[2] * size, shape[3]), [1, 2])

    if isinstance(self.shape, dict):
      return {key: draw(shape) for key, shape in self.shape.items()}
    return [draw(s) for s in self.shape] if isinstance(self.shape, list) else draw(self.shape)


def _permuted(**kwargs) -> dict:
  connections = [
    {"filters": 16, "squeeze_filters": 6, "levels_down": 1, "literal_order": True},
    {"filters": 16, "squeeze_filters": 3, "levels_down": -1},
  ]
  blocks = [{"block": "bottleneck", "filters": 4, "salt": 8, "drop_rate": 0.2}]
  return {"connections": connections, "blocks": blocks, "style": STYLE, **kwargs}


def _separable_permuted() -> dict:
  connections = [
    {"filters": 16, "squeeze_filters": None, "levels_down": 1},
    {"filters": 16, "squeeze_filters": None, "levels_down": -1, "literal_order": True},
  ]
  blocks = [{"block": "mbconv", "filters": 16, "salt": 8 * i, "drop_rate": 0.2} for i in (1, 2)]
  return {"connections": connections, "blocks": blocks, "style": STYLE}


BLOCK = {"filters": 4, "strides": 2, "project": True, "drop_rate": 0.2, "salt": 3, "style": STYLE}
CONV = {"kernel_size": 3, "strides": 2, "activate": False}
MBCONV = {"filters": 5, "expansion": 3, "squeeze_ratio": 0.4, "drop_rate": 0.2, "salt": 3, "style": STYLE}
TOWER = {"convs": 2, "filters": 6, "outputs": 10, "levels": (4, 5), "bias": -2.0}
RPN = {"convs": 2, "filters": 6, "anchors": 2, "levels": (4, 5)}
BOX_HEAD = {"num_classes": 3, "convs": 2, "filters": 6, "dense": 10}
MASK_HEAD = {"num_classes": 3, "convs": 2, "filters": 6}
MASK_RCNN = {
  "num_classes": 3,
  "anchors": dataclasses.asdict(AnchorConfig(3, 4, 2, (1.0, 3.0), 5.0)),
  "rpn_convs": 2,
  "head_convs": 1,
  "head_filters": 8,
  "dense": 10,
}
SOLO_LEVELS = {"sources": (3, 4), "strides": (8, 8), "grids": (5, 3), "scales": ((1.0, 20.0), (10.0, 64.0))}
SOLO_HEAD = {"convs": 2, "filters": 6, "levels": SOLO_LEVELS}
SOLO_FEATURES = {"3_8": (2, 8, 12, 4), "4_8": (2, 8, 12, 4)}
SOLO = {
  "num_classes": 3,
  "solo_levels": SOLO_LEVELS,
  "head_convs": 1,
  "head_filters": 8,
  "decoupled": True,
  "aligned": False,
  "prior": 0.1,
}
RETINANET = {
  "num_classes": 3,
  "anchors": dataclasses.asdict(AnchorConfig(3, 4, 2, (1.0, 3.0), 5.0)),
  "head_convs": 1,
  "head_filters": 8,
  "prior": 0.1,
}
CASES = {
  "ConvNorm": Case(ConvNorm, {"filters": 5, **CONV, "style": STYLE}),
  "ConvNorm with bias": Case(ConvNorm, {"filters": 5, "normalize": False, **CONV, "style": STYLE}),
  "ConvNorm folded": Case(ConvNorm, {"filters": 5, **CONV, "style": FOLDED}),
  "DepthwiseNorm": Case(DepthwiseNorm, {**CONV, "kernel_size": 5, "style": STYLE}),
  "DepthwiseNorm with bias": Case(DepthwiseNorm, {"normalize": False, **CONV, "style": STYLE}),
  "DepthwiseNorm folded": Case(DepthwiseNorm, {**CONV, "style": FOLDED}),
  "StochasticDepth": Case(StochasticDepth, {"rate": 0.4, "salt": 9}),
  "DropBlock": Case(DropBlock, {"keep": 0.7, "block_size": 3, "salt": 9}, free_size=False),
  "Block residual": Case(Block, {"block": "residual", **BLOCK}),
  "Block bottleneck": Case(
    Block, {"block": "bottleneck", "dropblock_keep": 0.9, "dropblock_size": 2, **BLOCK}, free_size=False
  ),
  "SqueezeExcitation": Case(SqueezeExcitation, {"filters": 16, "squeeze_filters": 3, "squeeze": "relu"}),
  "StemPool": Case(StemPool, {"style": STYLE}),
  "MBConv": Case(
    MBConv,
    {"input_filters": 16, "strides": 2, "dropblock_keep": 0.9, "dropblock_size": 2, **MBCONV},
    free_size=False,
  ),
  "MBConv added": Case(MBConv, MBCONV | {"input_filters": 16, "filters": 16}),
  "MBConv folded": Case(MBConv, MBCONV | {"input_filters": 16, "filters": 16, "style": FOLDED}),
  "Resample up": Case(
    Resample, {"filters": 8, "squeeze_filters": 3, "levels_down": -2, "literal_order": True, "style": STYLE}
  ),
  "Resample down": Case(Resample, {"filters": 8, "squeeze_filters": 3, "levels_down": 2, "style": STYLE}),
  "Resample uneven": Case(
    Resample,
    {"filters": 8, "squeeze_filters": 3, "levels_down": -1, "output_size": (15, 23), "style": STYLE},
    free_size=False,
  ),
  "SeparableResample up": Case(
    SeparableResample, {"filters": 8, "levels_down": -2, "literal_order": True, "style": STYLE}
  ),
  "SeparableResample down": Case(SeparableResample, {"filters": 8, "levels_down": 2, "style": STYLE}),
  "SeparableResample uneven": Case(
    SeparableResample, {"filters": 8, "levels_down": -1, "output_size": (15, 23), "style": STYLE}, free_size=False
  ),
  "TopDown": Case(TopDown, {"output_size": (7, 12)}, [(2, 7, 12, 5), (2, 4, 6, 5)], free_size=False),
  "ScalePermutedBlock": Case(ScalePermutedBlock, _permuted(), [(2, 8, 12, 16), (2, 2, 3, 8), (2, 4, 6, 16)]),
  "ScalePermutedBlock mobile": Case(
    ScalePermutedBlock, _separable_permuted(), [(2, 8, 12, 16), (2, 2, 3, 8), (2, 4, 6, 16)]
  ),
  "Tower separable": Case(Tower, TOWER | {"separable": True, "style": STYLE}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}),
  "Tower separable, folded": Case(
    Tower, TOWER | {"separable": True, "style": FOLDED}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}
  ),
  "Tower": Case(Tower, TOWER | {"style": STYLE}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}),
  "RegionProposalHead": Case(RegionProposalHead, RPN | {"style": STYLE}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}),
  "RegionProposalHead folded": Case(
    RegionProposalHead, RPN | {"style": FOLDED}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}
  ),
  "BoxHead": Case(BoxHead, BOX_HEAD | {"style": STYLE}, (5, 7, 7, 8), free_size=False),
  "BoxHead folded": Case(BoxHead, BOX_HEAD | {"style": FOLDED}, (5, 7, 7, 8), free_size=False),
  "Doubling": Case(Doubling, {"filters": 6, "use_bias": False}),
  "MaskHead": Case(MaskHead, MASK_HEAD | {"style": STYLE}, (5, 14, 14, 8)),
  "MaskHead folded": Case(MaskHead, MASK_HEAD | {"style": FOLDED}, (5, 14, 14, 8)),
  "GroupNorm": Case(GroupNorm, {"groups": 6, "epsilon": 0.01}),
  "AtStride": Case(AtStride, {"levels_down": -1}),
  "AtStride uneven": Case(AtStride, {"levels_down": 1, "output_size": (5, 6)}, free_size=False),
  "CategoryHead": Case(
    CategoryHead, SOLO_HEAD | {"num_classes": 3, "aligned": False, "prior": 0.1, "style": STYLE}, SOLO_FEATURES
  ),
  "CategoryHead folded": Case(CategoryHead, SOLO_HEAD | {"num_classes": 3, "style": FOLDED}, SOLO_FEATURES),
  "MaskTower": Case(MaskTower, SOLO_HEAD | {"style": STYLE}, SOLO_FEATURES),
  "CellMasks": Case(CellMasks, {"grid": 3, "prior": 0.1}),
  "CellMasks decoupled": Case(CellMasks, {"grid": 3, "decoupled": True}),
  "ClassifierHead": Case(ClassifierHead, {"num_classes": 5, "levels": (4, 5)}, {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)}),
  "ClassifierHead uneven": Case(
    ClassifierHead, {"num_classes": 5, "levels": (4, 5)}, {"4": (2, 3, 7, 8), "5": (2, 2, 4, 8)}, free_size=False
  ),
  "Backbone": Case(Backbone, BACKBONE, (2, 32, 48, 3), free_size=False),
  "Backbone mobile": Case(Backbone, _backbone(MOBILE_ARCH), (2, 32, 48, 3), free_size=False),
  "Backbone fpn": Case(Backbone, _backbone(FPN_ARCH, (72, 100)), (2, 72, 100, 3), free_size=False),
  "RetinaNet": Case(RetinaNet, {"backbone": {"name": "toy", **BACKBONE}, **RETINANET}, (2, 32, 48, 3), free_size=False),
  "RetinaNet mobile": Case(
    RetinaNet, {"backbone": {"name": "toy", **_backbone(MOBILE_ARCH)}, **RETINANET}, (2, 32, 48, 3), free_size=False
  ),
  "RetinaNet fpn": Case(
    RetinaNet,
    {"backbone": {"name": "toy", **_backbone(FPN_ARCH, (72, 100))}, **RETINANET},
    (2, 72, 100, 3),
    free_size=False,
  ),
  "MaskRCNN": Case(
    MaskRCNN, {"backbone": {"name": "toy", **BACKBONE}, **MASK_RCNN}, (2, 32, 48, 3), free_size=False, use=both_stages
  ),
  "MaskRCNN fpn": Case(
    MaskRCNN,
    {"backbone": {"name": "toy", **_backbone(FPN_ARCH, (72, 100))}, **MASK_RCNN},
    (2, 72, 100, 3),
    free_size=False,
    use=both_stages,
  ),
  "Solo": Case(
    Solo,
    {"backbone": {"name": "toy", **_backbone(FPN_ARCH, (72, 100))}, **SOLO},
    (2, 72, 100, 3),
    free_size=False,
    use=with_cells,
  ),
  "Classifier": Case(
    Classifier,
    {"backbone": {"name": "toy", **BACKBONE}, "num_classes": 3, "levels": [4]},
    (2, 32, 48, 3),
    free_size=False,
  ),
  "Classifier fpn": Case(
    Classifier,
    {"backbone": {"name": "toy", **_backbone(FPN_ARCH, (72, 100))}, "num_classes": 3},
    (2, 72, 100, 3),
    free_size=False,
  ),
}
MODELS = {name: case for name, case in CASES.items() if issubclass(case.kind, keras.Model)}
