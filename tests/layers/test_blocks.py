"""Blocks, stochastic depth, DropBlock: values worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import Block
from spinenet_tf.layers.dropblock import DropBlock, dropblock_strength
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.layers.stochastic_depth import StochasticDepth, drop_rate
from spinenet_tf.layers.style import ConvStyle

SEED = tf.constant([3, 7])


def _ones(layer):
  for weight in layer.weights:
    if "kernel" in weight.name:
      weight.assign(tf.ones_like(weight))


def test_residual_block_by_hand():
  """1 channel, kernels of ones, image of ones, no normalisation but epsilon: centre is 9 * 9 + 1."""
  block = Block("residual", 1, style=ConvStyle(norm_epsilon=1e-12))
  image = tf.ones([1, 5, 5, 1])
  block(image)
  _ones(block)
  assert float(block(image)[0, 2, 2, 0]) == pytest.approx(9 * 9 + 1)
  # corner: the first map is 4 at the corner, 6 beside it and 9 at (1, 1): 4 + 6 + 6 + 9, and the shortcut
  assert float(block(image)[0, 0, 0, 0]) == pytest.approx(25 + 1)


def test_bottleneck_block_by_hand():
  """2 filters, 8 channels of ones: 1x1 gives 8, 3x3 gives 2 * 9 * 8, 1x1 gives twice that, and the shortcut."""
  block = Block("bottleneck", 2, style=ConvStyle(norm_epsilon=1e-12))
  image = tf.ones([1, 5, 5, 8])
  block(image)
  _ones(block)
  np.testing.assert_allclose(block(image)[0, 2, 2], [2 * 2 * 9 * 8 + 1] * 8, rtol=1e-5)


def test_relu_comes_after_the_shortcut():
  block = Block("residual", 1)
  image = -5 * tf.ones([1, 3, 3, 1])
  block(image)
  for weight in block.weights:
    if "kernel" in weight.name:
      weight.assign(tf.zeros_like(weight))
  assert np.all(block(image).numpy() == 0)


@pytest.mark.parametrize(("block", "channels"), [("residual", 6), ("bottleneck", 24)])
def test_projection_changes_channels_and_size(block, channels):
  layer = Block(block, 6, strides=2, project=True)
  assert layer(tf.ones([2, 9, 8, 5])).shape == (2, 5, 4, channels)
  assert any("shortcut" in w.name for w in layer.weights)


def test_block_kind_is_checked():
  with pytest.raises(UserError, match="'mystery'.*bottleneck"):
    Block("mystery", 4)


def test_drop_rates_rise_along_a_line():
  assert [drop_rate(0.3, i, 3) for i in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
  layer = StochasticDepth(0.25, salt=5)
  with step_seed(SEED):
    result = layer(tf.ones([4000, 2, 2, 3]), training=True).numpy()
  per_image = result.reshape(4000, -1)
  assert np.all(per_image == per_image[:, :1])
  np.testing.assert_allclose(np.unique(per_image), [0, 4 / 3], rtol=1e-6)
  assert result.mean() == pytest.approx(1, abs=0.03)


def test_stochastic_depth_is_repeatable_and_salts_differ():
  ones = tf.ones([64, 1, 1, 1])

  def draw(salt, seed):
    with step_seed(seed):
      return StochasticDepth(0.5, salt=salt)(ones, training=True).numpy().ravel().tolist()

  assert draw(1, SEED) == draw(1, SEED)
  assert draw(1, SEED) != draw(2, SEED)
  assert draw(1, SEED) != draw(1, SEED + 1)


def test_random_layers_are_the_identity_outside_training():
  features = tf.random.normal([2, 8, 8, 3])
  for layer in (StochasticDepth(0.5), DropBlock(0.5)):
    np.testing.assert_array_equal(layer(features, training=False), features)


def test_dropblock_drops_squares():
  layer = DropBlock(0.9, block_size=3, salt=1)
  with step_seed(SEED):
    result = layer(tf.ones([16, 20, 20, 4]), training=True).numpy()
  zero = result == 0
  assert zero.mean() == pytest.approx(0.1, abs=0.03)
  # every zero belongs to a full 3x3 square of zeros
  for image in np.moveaxis(zero, 3, 1).reshape(-1, 20, 20):
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).all((2, 3))
    covered = np.zeros_like(image)
    for y, x in np.argwhere(windows):
      covered[y : y + 3, x : x + 3] = True
    np.testing.assert_array_equal(covered, image)
  assert result.mean() == pytest.approx(1, rel=1e-5)


def test_dropblock_strength_scales_the_rate():
  layer = DropBlock(0.8, block_size=1, salt=1)
  features = tf.ones([64, 16, 16, 8])
  with step_seed(SEED), dropblock_strength(0.5):
    assert (layer(features, training=True).numpy() == 0).mean() == pytest.approx(0.1, abs=0.01)
  with step_seed(SEED), dropblock_strength(0.0):
    np.testing.assert_array_equal(layer(features, training=True), features)


def test_dropblock_shrinks_its_square_on_small_maps():
  with step_seed(SEED):
    assert DropBlock(0.5, block_size=7)(tf.ones([2, 3, 5, 2]), training=True).shape == (2, 3, 5, 2)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: StochasticDepth(1.0), r"rate is 1.0; it must lie in \[0, 1\)"),
    (lambda: DropBlock(0.0), "dropblock_keep is 0.0"),
    (lambda: DropBlock(0.5, 0), "dropblock_size is 0"),
    (lambda: ConvStyle(activation="gelu"), "'gelu'.*relu.*swish"),
    (lambda: ConvStyle(padding="valid"), "'valid'"),
    (lambda: ConvStyle(norm_momentum=1.0), "norm_momentum is 1.0"),
    (lambda: ConvStyle(norm_epsilon=0.0), "norm_epsilon is 0.0"),
  ],
)
def test_values_out_of_range(make, text):
  with pytest.raises(UserError, match=text):
    make()
