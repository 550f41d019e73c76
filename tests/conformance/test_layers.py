"""Every layer and model against the same list: config round trip, SavedModel, checkpoint, two replicas, precision, size.

Arguments are not the defaults, so that a `get_config` which forgets one is found.
"""

import dataclasses
import json
from typing import Any, Callable

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone, ScalePermutedBlock
from spinenet_tf.backbones.fpn import TopDown
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.compat import keras
from spinenet_tf.heads.retinanet import Tower
from spinenet_tf.layers.blocks import Block
from spinenet_tf.layers.conv_norm import ConvNorm, DepthwiseNorm
from spinenet_tf.layers.dropblock import DropBlock
from spinenet_tf.layers.mbconv import MBConv, SqueezeExcitation
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.layers.resample import Resample, SeparableResample
from spinenet_tf.layers.stochastic_depth import StochasticDepth
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.ops.anchors import AnchorConfig

STYLE = {
  "activation": "swish",
  "norm_momentum": 0.9,
  "norm_epsilon": 0.01,
  "synchronized": True,
  "padding": "same",
  "folded": False,
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
  block_repeats=2,
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


@dataclasses.dataclass(frozen=True)
class Case:
  """A class, arguments that are none of them the default, and the shape of an input."""

  kind: type
  arguments: dict[str, Any]
  shape: Any = (2, 8, 12, 16)
  free_size: bool = True

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
  "SqueezeExcitation": Case(SqueezeExcitation, {"filters": 16, "squeeze_filters": 3}),
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
  "Tower": Case(
    Tower,
    {"convs": 2, "filters": 6, "outputs": 10, "levels": (4, 5), "bias": -2.0, "style": STYLE},
    {"4": (2, 4, 6, 8), "5": (2, 2, 3, 8)},
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
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def _flat(outputs: Any) -> list[np.ndarray]:
  return [t.numpy() for t in tf.nest.flatten(outputs)]


def _same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
  for x, y in zip(_flat(a), _flat(b)):
    assert np.abs(x - y).max() <= tolerance * max(np.abs(x).max(), 1)


def _built(case: Case):
  layer = case.make()
  layer(case.inputs())
  rng = np.random.default_rng(0)
  for weight in layer.weights:
    value = rng.uniform(0.5, 1.5, weight.shape) if "kernel" not in weight.name else rng.normal(size=weight.shape)
    weight.assign(value * (0.2 if "kernel" in weight.name else 1))
  return layer


@every_case
def test_config_round_trip(case):
  layer = _built(case)
  config = json.loads(json.dumps(layer.get_config()))
  for name, value in case.arguments.items():
    assert json.loads(json.dumps(config[name])) == json.loads(json.dumps(value)), f"{name} is lost"
  again = case.kind.from_config(config)
  again(case.inputs())
  again.set_weights(layer.get_weights())
  _same(layer(case.inputs()), again(case.inputs()))


@every_case
def test_names_of_weights_are_unique(case):
  names = [w.name for w in _built(case).weights]
  assert len(set(names)) == len(names)


@every_case
def test_saved_model(case, tmp_path):
  layer = _built(case)
  signature = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), case.inputs())
  module = tf.Module()
  module.layer_variables = list(layer.variables)
  module.serve = tf.function(lambda x: layer(x, training=False), input_signature=[signature])
  tf.saved_model.save(module, str(tmp_path))
  again = tf.saved_model.load(str(tmp_path))
  _same(layer(case.inputs()), again.serve(case.inputs()))


@every_case
def test_checkpoint(case, tmp_path):
  layer, other = _built(case), case.make()
  other(case.inputs())
  path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "ckpt"))
  tf.train.Checkpoint(layer=other).read(path).assert_existing_objects_matched()
  _same(layer(case.inputs()), other(case.inputs()))


@every_case
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(case, policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    layer = case.make()
    with tf.GradientTape() as tape:
      outputs = tf.nest.flatten(layer(case.inputs(), training=True))
      total = tf.add_n([tf.reduce_sum(tf.cast(t, tf.float32) ** 2) for t in outputs])
    gradients = tape.gradient(total, layer.trainable_weights)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert all(w.dtype == tf.float32 for w in layer.weights)
  assert all(np.isfinite(g.numpy()).all() for g in gradients)


@every_case
def test_random_draws_repeat_under_a_seed(case):
  layer = _built(case)
  weights = layer.get_weights()
  results = []
  for _ in range(2):
    layer.set_weights(weights)
    with step_seed(tf.constant([1, 2])):
      results.append(layer(case.inputs(), training=True))
  _same(*results)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.free_size], ids=lambda c: c.kind.__name__)
def test_sizes_that_are_not_known(case):
  layer = _built(case)
  free = tf.nest.map_structure(lambda t: tf.TensorSpec([None, None, None, t.shape[3]], t.dtype), case.inputs())
  traced: Callable = tf.function(lambda x: layer(x, training=False), input_signature=[free])
  _same(traced(case.inputs(2)), layer(case.inputs(2)), 1e-4)
