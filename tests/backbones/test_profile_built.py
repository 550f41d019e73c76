"""Counts from the spec against built models: their variables, and TensorFlow's own profiler."""

import math

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.backbones.catalog import names
from spinenet_tf.backbones.counting.solo import SoloHeads
from spinenet_tf.backbones.edit import damaged
from spinenet_tf.backbones.profile import profile
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.models.solo import build_solo
from spinenet_tf.ops.solo_levels import SoloLevels


def _values(model):
  return sum(math.prod(v.shape) for v in model.trainable_variables)


LARGE = ("spinenet96", "spinenet143", "spinenet190", "r101_fpn", "r152_fpn")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in names()])
def test_parameters_of_every_backbone(name):
  assert profile(name, "backbone", input_size=(80, 80)).parameters == _values(build_backbone(name, (80, 80)))


@pytest.mark.parametrize("name", ["spinenet49s", "r50_fpn", "spinenet49xs_mobile"])
@pytest.mark.parametrize("levels", [(4, 6), (5, 5)])
def test_parameters_of_a_detector_on_some_levels(name, levels):
  levels = dict(zip(("min_level", "max_level"), levels))
  cost = profile(name, "retinanet", 5, (96, 160), **levels)
  assert cost.parameters == _values(build_retinanet(name, 5, (96, 160), **levels))


@pytest.mark.parametrize("name", ["spinenet49s", "r50_fpn", pytest.param("spinenet190", marks=pytest.mark.slow)])
def test_parameters_of_mask_rcnn(name):
  assert profile(name, "mask_rcnn", 5, (80, 80)).parameters == _values(build_mask_rcnn(name, 5, (80, 80)))


@pytest.mark.parametrize(("name", "decoupled"), [("spinenet49s", False), ("r50_fpn", True)])
def test_parameters_of_solo(name, decoupled):
  levels = SoloLevels((3, 4, 6), (8, 16, 32), (20, 16, 12), ((1, 96), (48, 192), (96, 384)))
  cost = profile(name, "solo", 5, (80, 80), solo_heads=SoloHeads(levels=levels, decoupled=decoupled))
  assert cost.parameters == _values(build_solo(name, 5, (80, 80), solo_levels=levels, decoupled=decoupled))


@pytest.mark.parametrize("remove", ["short", "both"])
def test_parameters_of_damaged_networks(remove):
  arch = damaged("r0_sp53", remove)
  assert profile(arch, "backbone", input_size=(80, 80)).parameters == _values(build_backbone(arch, (80, 80)))


def _profiled(model, size):
  """Returns what TensorFlow's profiler counts on the frozen graph: of everything, and of convolutions alone."""
  call = tf.function(lambda images: model(images, training=False))
  graph = convert_variables_to_constants_v2(call.get_concrete_function(tf.TensorSpec((1, *size, 3)))).graph
  builder = tf.compat.v1.profiler.ProfileOptionBuilder
  options = builder(builder.float_operation()).with_empty_output().build()
  total = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
  convolutions = [op for op in graph.get_operations() if op.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul")]
  return total, sum(ops.get_stats_for_node_def(graph, op.node_def, "flops").value for op in convolutions)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "size"),
  [
    ("spinenet49s", (96, 160)),
    ("spinenet49", (80, 80)),
    ("r23_sp30", (80, 80)),
    ("r50_fpn", (80, 80)),
    ("r0_sp53", (80, 80)),
    ("spinenet49xs_mobile", (80, 80)),
  ],
)
def test_multiply_adds_are_those_that_tensorflow_counts(name, size):
  total, convolutions = _profiled(build_retinanet(name, 91, size), size)
  cost = profile(name, "retinanet", 91, size)
  assert 2 * cost.multiply_adds_run == convolutions  # it counts a multiply-add as two operations
  # Its total has sums, biases, pools and means, too; they are a larger share of a mobile network.
  assert 2 * cost.multiply_adds_run == pytest.approx(total, rel=5e-2 if "mobile" in name else 5e-3)
