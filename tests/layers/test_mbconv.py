"""Mobile blocks and depthwise units: values worked by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import Block, block_channels, make_block
from spinenet_tf.layers.conv_norm import ConvNorm, DepthwiseNorm
from spinenet_tf.layers.mbconv import MBConv, SqueezeExcitation, squeeze_width
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.layers.style import ConvStyle

EXACT = ConvStyle(norm_epsilon=1e-12)
SEED = tf.constant([3, 7])


def _fill(layer, value=1.0):
  for weight in layer.weights:
    if "kernel" in weight.name:
      weight.assign(tf.fill(weight.shape, value))


def _sigmoid(x):
  return 1 / (1 + math.exp(-x))


def test_mbconv_by_hand():
  """One channel, expanded to 2, kernels of ones but 0.1 in the squeeze, image of ones, no normalisation but epsilon."""
  block = MBConv(1, expansion=2, style=EXACT)
  image = tf.ones([1, 5, 5, 1])
  block(image)
  _fill(block)
  _fill(block.excitation.reduce, 0.1)
  block.excitation.expand.conv.bias.assign([-1.0, -1.0])
  mean = (9 * 9 + 12 * 6 + 4 * 4) / 25  # of the depthwise map: inside, sides, corners
  squeezed = 2 * 0.1 * mean
  weight = _sigmoid(squeezed * _sigmoid(squeezed) - 1)  # swish, though the style says relu
  result = block(image).numpy()[0, :, :, 0]
  assert result[2, 2] == pytest.approx(2 * 9 * weight + 1, rel=1e-5)
  assert result[0, 0] == pytest.approx(2 * 4 * weight + 1, rel=1e-5)


def test_nothing_is_activated_at_the_end():
  block = MBConv(3, style=EXACT)
  image = -5 * tf.ones([1, 4, 4, 3])
  block(image)
  _fill(block.project, 0.0)
  np.testing.assert_array_equal(block(image), image)


@pytest.mark.parametrize(("filters", "width"), [(112, 22), (16, 3), (24, 4), (9, 1), (4, 1)])
def test_squeeze_is_a_fifth_of_the_input_and_at_least_one(filters, width):
  assert squeeze_width(filters) == width
  block = MBConv(32, filters, 2)
  block(tf.ones([1, 4, 4, filters]))
  shapes = [tuple(w.shape) for w in block.excitation.weights]
  assert shapes == [(1, 1, 6 * filters, width), (width,), (1, 1, width, 6 * filters), (6 * filters,)]


def test_parameters_by_hand():
  """8 to 16 channels: 1x1 to 48, 3x3 on each, squeeze to 1 and back, 1x1 to 16; a norm has two values a channel."""
  block = MBConv(16, 8)
  block(tf.ones([1, 4, 4, 8]))
  count = sum(int(np.prod(w.shape)) for w in block.trainable_weights)
  assert count == (8 * 48 + 96) + (9 * 48 + 96) + (48 + 1 + 48 + 48) + (48 * 16 + 32)


@pytest.mark.parametrize(
  ("filters", "inputs", "strides", "adds"), [(6, 6, 1, True), (6, None, 1, True), (6, 5, 1, False), (6, 6, 2, False)]
)
def test_the_input_is_added_where_the_shape_is_kept(filters, inputs, strides, adds):
  block = MBConv(filters, inputs, strides)
  image = tf.random.stateless_normal([2, 7, 6, inputs or filters], [1, 2])
  block(image)
  _fill(block.project, 0.0)
  assert block(image).shape == (2, -(-7 // strides), 6 // strides, filters)
  np.testing.assert_array_equal(block(image), image if adds else np.zeros(block(image).shape))


@pytest.mark.parametrize(("inputs", "drops"), [(4, True), (5, False)])
def test_stochastic_depth_acts_where_the_input_is_added(inputs, drops):
  block = MBConv(4, inputs, drop_rate=0.5, salt=2)
  images = tf.random.stateless_normal([64, 3, 3, inputs], [1, 2])
  with step_seed(SEED):
    result = block(images, training=True).numpy()
  dropped = np.abs(result - images.numpy()[..., :4]).max((1, 2, 3)) == 0
  assert dropped.mean() == pytest.approx(0.5, abs=0.2) if drops else not dropped.any()


def test_dropblock_acts_behind_every_convolution_and_on_the_input():
  block = MBConv(4, dropblock_keep=0.8, dropblock_size=1, salt=16)
  assert [layer.salt for layer in block.dropblocks] == [17, 18, 19, 20]
  assert len(MBConv(4, strides=2, dropblock_keep=0.8).dropblocks) == 3
  images = tf.ones([8, 16, 16, 4])
  block(images)
  _fill(block.project, 0.0)
  with step_seed(SEED):
    result = block(images, training=True).numpy()
  assert (result == 0).mean() == pytest.approx(0.2, abs=0.03)  # the shortcut alone is left


@pytest.mark.parametrize(("padding", "expected"), [("symmetric", [[4, 6], [6, 9]]), ("same", [[9, 6], [6, 4]])])
def test_depthwise_padding(padding, expected):
  unit = DepthwiseNorm(3, 2, style=ConvStyle(norm_epsilon=1e-12, padding=padding))
  image = tf.ones([1, 4, 4, 1]) * [1.0, 10.0]
  unit(image)
  _fill(unit)
  np.testing.assert_allclose(unit(image)[0], np.array(expected)[..., None] * [1, 10], rtol=1e-5)


def test_depthwise_kernels_start_glorot_uniform():
  unit = DepthwiseNorm()
  unit(tf.ones([1, 4, 4, 200]))
  kernel, limit = unit.conv.depthwise_kernel.numpy(), math.sqrt(6 / (9 * 200 + 9))
  assert np.abs(kernel).max() <= limit and kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("make", [lambda s: ConvNorm(4, 3, style=s), lambda s: DepthwiseNorm(style=s)])
def test_a_folded_unit_has_a_bias_and_no_norm(make):
  names = {}
  for folded in (False, True):
    unit = make(ConvStyle(folded=folded))
    unit(tf.ones([1, 4, 4, 4]))
    names[folded] = {w.name.split(":")[0].split("/")[-1].removeprefix("depthwise_") for w in unit.weights}
  assert names == {False: {"kernel", "gamma", "beta", "moving_mean", "moving_variance"}, True: {"kernel", "bias"}}


def test_a_unit_without_norm_by_hand():
  unit = ConvNorm(2, normalize=False, activate=False)
  unit(tf.ones([1, 1, 1, 3]))
  unit.conv.kernel.assign(tf.ones([1, 1, 3, 2]))
  unit.conv.bias.assign([-4.0, 1.0])
  np.testing.assert_array_equal(unit(tf.ones([1, 1, 1, 3])).numpy().ravel(), [-1, 4])


def test_squeeze_excitation_weighs_channels_alike_everywhere():
  layer = SqueezeExcitation(3, 2)
  image = tf.random.stateless_uniform([2, 4, 5, 3], [1, 2])
  share = layer(image) / image
  np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1], share.shape), rtol=1e-5)


@pytest.mark.parametrize("kind", ["bottleneck", "residual", "mbconv"])
@pytest.mark.parametrize(("inputs", "strides"), [(None, 1), (5, 1), (5, 2)])
def test_make_block_joins_any_input_to_the_width_of_its_kind(kind, inputs, strides):
  channels = block_channels(kind, 4)
  layer = make_block(kind, 4, strides, inputs, name="repeat_0")
  assert layer(tf.ones([1, 6, 6, inputs or channels])).shape == (1, 6 // strides, 6 // strides, channels)
  assert isinstance(layer, MBConv if kind == "mbconv" else Block)
  if kind != "mbconv":
    assert layer.project == (inputs is not None)


def test_make_block_refuses_an_unknown_kind():
  with pytest.raises(UserError, match="'mystery'.*mbconv"):
    make_block("mystery", 4)
