"""Convolutions with fewer multiplications equal the direct sum, gradients too."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.ops import winograd


def _draw(*shape, seed=0):
  return tf.random.stateless_normal(shape, [seed, 1])


def _close(actual, expected):
  assert np.abs(actual - expected).max() <= 5e-5 * np.abs(expected).max()


def test_one_pixel_spreads_the_kernel():
  features = tf.one_hot([[2 * 7 + 3]], 35)  # a one at row 2, column 3 of 5 x 7
  kernel = tf.reshape(tf.range(1.0, 10.0), [3, 3, 1, 1])
  result = winograd.conv2d(tf.reshape(features, [1, 5, 7, 1]), kernel)[0, :, :, 0].numpy()
  expected = np.zeros((5, 7))
  expected[1:4, 2:5] = [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
  np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (5, 9), (1, 3), (11, 6)])
def test_equals_the_direct_sum_with_gradients(size):
  features, kernel, upstream = _draw(2, *size, 7), _draw(3, 3, 7, 5, seed=1), _draw(2, *size, 5, seed=2)
  found = []
  for convolve in (winograd.conv2d, lambda x, k: tf.nn.conv2d(x, k, 1, "SAME")):
    with tf.GradientTape() as tape:
      tape.watch([features, kernel])
      result = convolve(features, kernel)
    found.append([result, *tape.gradient(result, [features, kernel], upstream)])
  for actual, expected in zip(*found):
    _close(actual.numpy(), expected.numpy())


def test_many_filters_are_computed_in_parts(monkeypatch):
  monkeypatch.setattr(winograd, "WIDEST", 3)
  features, kernel, upstream = _draw(1, 5, 6, 4), _draw(3, 3, 4, 7, seed=1), _draw(1, 5, 6, 7, seed=2)
  found = []
  for convolve in (winograd.conv2d, lambda x, k: tf.nn.conv2d(x, k, 1, "SAME")):
    with tf.GradientTape() as tape:
      tape.watch([features, kernel])
      result = convolve(features, kernel)
    found.append([result, *tape.gradient(result, [features, kernel], upstream)])
  for actual, expected in zip(*found):
    _close(actual.numpy(), expected.numpy())


def test_batch_that_is_not_known():
  kernel = _draw(3, 3, 4, 4, seed=1)
  traced = tf.function(lambda x: winograd.conv2d(x, kernel), input_signature=[tf.TensorSpec([None, 6, 6, 4])])
  for batch in (1, 3):
    features = _draw(batch, 6, 6, 4)
    _close(traced(features).numpy(), tf.nn.conv2d(features, kernel, 1, "SAME").numpy())
  assert traced.get_concrete_function().output_shapes.as_list() == [None, 6, 6, 4]


@pytest.mark.parametrize(
  ("shape", "kernel", "expected"),
  [
    ((1, 32, 32, 128), (3, 3, 128, 128), True),
    ((1, 32, 31, 128), (3, 3, 128, 128), False),
    ((1, 32, 32, 128), (3, 3, 128, 36), False),
    ((1, 32, 32, 128), (1, 1, 128, 128), False),
    ((1, None, 32, 128), (3, 3, 128, 128), False),
  ],
)
def test_where_it_pays(shape, kernel, expected):
  features, kernel = tf.TensorSpec(shape, tf.float32), tf.TensorSpec(kernel, tf.float32)
  assert not winograd.pays(features, kernel)
  with winograd.enabled():
    assert winograd.pays(features, kernel) is expected
    assert not winograd.pays(tf.TensorSpec(shape, tf.bfloat16), kernel)
  assert not winograd.pays(features, kernel)


@pytest.mark.parametrize(("strides", "uses"), [(1, True), (2, False)])
def test_the_layer_takes_it_when_enabled(strides, uses):
  features, layer = _draw(1, 32, 32, 128), Convolution(128, 3, strides, padding="same")
  expected = layer(features).numpy()
  with winograd.enabled():
    graph = tf.function(layer).get_concrete_function(features).graph
    _close(layer(features).numpy(), expected)
  assert any(op.type.startswith("BatchMatMul") for op in graph.get_operations()) is uses
