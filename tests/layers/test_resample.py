"""Cross-scale connections: hand-worked values, and the cheap order against the literal one."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.layers.resample import Resample, SeparableResample, make_connection, upsample
from spinenet_tf.layers.style import ConvStyle


def test_upsample_repeats_pixels():
  image = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [1, 2, 2, 1])
  expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
  np.testing.assert_array_equal(upsample(image, 2)[0, :, :, 0], expected)


def test_upsample_to_a_size_that_does_not_divide_takes_floor_of_the_ratio():
  column = tf.reshape(tf.range(4.0), [1, 4, 1, 1])
  result = upsample(column, 2, (7, 1))
  np.testing.assert_array_equal(result[0, :, 0, 0], [0, 0, 1, 1, 2, 2, 3])  # floor(i * 4 / 7)


def test_upsample_with_unknown_sizes():
  traced = tf.function(lambda x: upsample(x, 4), input_signature=[tf.TensorSpec([None, None, None, 3])])
  assert traced(tf.ones([2, 3, 5, 3])).shape == (2, 12, 20, 3)


def test_upsample_gradient_sums_what_a_pixel_was_copied_to():
  image = tf.Variable(tf.ones([1, 2, 2, 1]))
  with tf.GradientTape() as tape:
    total = tf.reduce_sum(upsample(image, 2) * tf.reshape(tf.range(16.0), [1, 4, 4, 1]))
  np.testing.assert_array_equal(tape.gradient(total, image)[0, :, :, 0], [[10, 18], [42, 50]])


def _pair(levels_down, squeeze_filters=6):
  layers = [
    make_connection(squeeze_filters, filters=24, levels_down=levels_down, literal_order=literal)
    for literal in (False, True)
  ]
  features = tf.random.stateless_normal([3, 4, 5, 10], [1, 2])
  for layer in layers:
    layer(features)
  rng = np.random.default_rng(0)
  for a, b in zip(layers[0].weights, layers[1].weights):
    value = rng.uniform(0.5, 1.5, a.shape).astype("f") * (rng.choice([-1, 1], a.shape) if "kernel" in a.name else 1)
    a.assign(value), b.assign(value)
  return layers, features


@pytest.mark.parametrize("squeeze_filters", [6, None])
@pytest.mark.parametrize("levels_up", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_expanding_before_upsampling_equals_the_papers_order(levels_up, training, squeeze_filters):
  (cheap, literal), features = _pair(-levels_up, squeeze_filters)
  gradients = []
  for layer in (cheap, literal):
    with tf.GradientTape() as tape:
      tape.watch(features)
      output = layer(features, training=training)
      value = tf.reduce_sum(output * tf.random.stateless_normal(output.shape, [5, 6]))
    gradients.append([output, *tape.gradient(value, [features, *layer.trainable_weights])])
  for a, b in zip(*gradients):
    assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


def test_moving_statistics_agree_up_to_the_sample_count():
  """The moving variance is of the sample: n / (n - 1) with n pixels here, 16 n in the literal order."""
  (cheap, literal), features = _pair(-2)
  starts = [layer.expand.norm.moving_variance.numpy() for layer in (cheap, literal)]
  for layer in (cheap, literal):
    layer(features, training=True)
  np.testing.assert_allclose(cheap.expand.norm.moving_mean, literal.expand.norm.moving_mean, rtol=1e-5, atol=1e-6)
  n = 3 * 4 * 5
  cheap_share, literal_share = (
    layer.expand.norm.moving_variance.numpy() - 0.99 * start
    for layer, start in ((cheap, starts[0]), (literal, starts[1]))
  )
  np.testing.assert_allclose(cheap_share * (n - 1) / n, literal_share * (16 * n - 1) / (16 * n), rtol=1e-3, atol=1e-5)


def test_uneven_sizes_keep_the_papers_order():
  layer = Resample(8, 4, -1, output_size=(7, 9))
  assert layer(tf.ones([2, 4, 5, 6])).shape == (2, 7, 9, 8)


@pytest.mark.parametrize(("levels_down", "size"), [(1, 8), (2, 4), (3, 2), (4, 1)])
def test_down_halves_once_for_each_level(levels_down, size):
  assert Resample(8, 4, levels_down)(tf.ones([1, 16, 16, 6])).shape == (1, size, size, 8)


def test_down_by_strided_convolution_pads_both_sides():
  """A 3x3/2 kernel of ones over an image of ones: the corner sees 2 x 2 ones with symmetric padding."""
  layer = Resample(1, 1, 1)
  image = tf.ones([1, 4, 4, 1])
  layer(image)
  for unit in (layer.squeeze, layer.down, layer.expand):
    unit.conv.kernel.assign(tf.ones_like(unit.conv.kernel))
  result = layer(image, training=False)[0, :, :, 0].numpy()
  unit = 1 / np.sqrt(1 + 1e-3)  # norm with mean 0, variance 1, epsilon 1e-3
  np.testing.assert_allclose(result, np.array([[4, 6], [6, 9]]) * unit**3, rtol=1e-5)


@pytest.mark.parametrize(("levels_down", "size"), [(0, (9, 12)), (1, (5, 6)), (2, (3, 3)), (4, (1, 1)), (-1, (18, 24))])
def test_separable_connections_reach_the_size(levels_down, size):
  layer = SeparableResample(8, levels_down)
  assert layer(tf.ones([2, 9, 12, 5])).shape == (2, *size, 8)
  names = {w.name.split("/")[-3] for w in layer.weights}
  assert names == {"expand", *(f"down_{i}" for i in range(levels_down))}


def test_separable_down_by_hand():
  """Kernels of ones over ones: [[4, 6], [6, 9]] after one halving, their sum after two, times two channels, less 60."""
  layer = SeparableResample(1, 2, style=ConvStyle(norm_epsilon=1e-12))
  image = tf.ones([1, 4, 4, 2])
  layer(image)
  for unit in (*layer.down, layer.expand):
    unit.conv.weights[0].assign(tf.ones_like(unit.conv.weights[0]))
  layer.expand.norm.beta.assign([-60.0])
  assert layer(image).numpy().ravel() == pytest.approx([2 * (4 + 6 + 6 + 9) - 60], rel=1e-5)  # not activated
