"""SOLO's heads: masks of chosen cells are those of the whole convolution; the branches step by step."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.heads.solo import AtStride, CategoryHead, CellMasks, MaskTower
from spinenet_tf.ops.solo_levels import SoloLevels

LEVELS = SoloLevels(sources=(3, 3, 4), strides=(8, 8, 16), grids=(5, 4, 3), scales=((1, 40), (20, 100), (50, 200)))


def _randomise(layer):
  rng = np.random.default_rng(4)
  for weight in layer.weights:
    weight.assign(rng.normal(0.5, 0.5, weight.shape))


def _features():
  draws = {"3_8": (2, 8, 10, 6), "4_16": (2, 4, 5, 6)}
  return {key: tf.random.stateless_normal(shape, [1, 2]) for key, shape in draws.items()}


def test_chosen_masks_are_those_of_the_whole_convolution():
  features = tf.random.stateless_normal([2, 6, 9, 7], [3, 4])
  layer = CellMasks(5)
  layer.build(features.shape)
  _randomise(layer)
  kernel, bias = layer.kernels[0], layer.biases[0]
  # As the paper has it: features at twice the size, then a 1x1 convolution to all S^2 maps.
  large = tf.image.resize(features, [12, 18])
  maps = tf.sigmoid(tf.nn.conv2d(large, kernel[None, None], 1, "SAME") + bias)
  cells = tf.constant([[0, 24, 7, 7], [3, 11, 0, 20]])
  expected = tf.gather(tf.transpose(maps, [0, 3, 1, 2]), cells, batch_dims=1)
  found = layer(features, cells)
  assert found.shape == (2, 4, 12, 18)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(layer(features), tf.transpose(maps, [0, 3, 1, 2]), atol=1e-5)


def test_gradients_of_chosen_masks_are_those_of_the_whole_convolution():
  features = tf.random.stateless_normal([2, 6, 9, 7], [3, 4])
  layer = CellMasks(4)
  layer.build(features.shape)
  _randomise(layer)
  cells = tf.constant([[0, 15, 7], [3, 11, 11]])
  gradients = []
  for chosen in (True, False):
    with tf.GradientTape() as tape:
      tape.watch(features)
      maps = layer(features, cells) if chosen else tf.gather(layer(features), cells, batch_dims=1)
      loss = tf.reduce_sum(maps**2)
    gradients.append([tf.convert_to_tensor(g) for g in tape.gradient(loss, [features, *layer.trainable_weights])])
  for a, b in zip(*gradients):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_decoupled_masks_are_products_of_rows_and_columns():
  features = tf.random.stateless_normal([1, 4, 4, 7], [3, 4])
  layer = CellMasks(3, decoupled=True)
  layer.build(features.shape)
  assert [w.shape.as_list() for w in layer.weights] == [[7, 3], [3], [7, 3], [3]]
  assert np.abs(layer.kernels[0] - layer.kernels[1]).max() > 0
  _randomise(layer)
  large = tf.image.resize(features, [8, 8])
  rows, columns = (
    tf.sigmoid(tf.nn.conv2d(large, kernel[None, None], 1, "SAME") + bias)
    for kernel, bias in zip(layer.kernels, layer.biases)
  )
  found = layer(features)
  for cell in range(9):
    np.testing.assert_allclose(found[0, cell], rows[0, :, :, cell // 3] * columns[0, :, :, cell % 3], atol=1e-5)


def test_at_the_start_masks_are_one_in_a_hundred():
  features = tf.random.stateless_normal([1, 4, 4, 8], [3, 4]) * 0.01
  np.testing.assert_allclose(CellMasks(3)(features), 0.01, rtol=0.02)
  np.testing.assert_allclose(CellMasks(3, decoupled=True)(features), 0.0001, rtol=0.03)
  logits = CategoryHead(2, 1, 8, LEVELS)(_features())
  np.testing.assert_allclose(tf.sigmoid(logits["0"]), 0.01, rtol=0.5)


def test_the_mask_tower_reads_places():
  head = MaskTower(1, 4, LEVELS)
  zeros = {key: tf.zeros_like(maps) for key, maps in _features().items()}
  head.build({key: maps.shape for key, maps in zeros.items()})
  # One kernel for x, one for y, both at the middle; a norm over 4 channels in as many groups keeps their form.
  kernel = np.zeros(head.tower[0].kernel.shape, "f")
  kernel[1, 1, 6, 0], kernel[1, 1, 7, 1] = 1, 1
  head.tower[0].kernel.assign(kernel)
  head.norms[0].beta.assign([5.0] * 4)  # nothing is cut off by the activation
  found = head(zeros)["4_16"][0].numpy() - 5
  x, y = np.linspace(-1, 1, 5), np.linspace(-1, 1, 4)
  np.testing.assert_allclose(found[..., 0], np.tile(x / np.sqrt((x**2).mean() + 1e-5), [4, 1]), atol=1e-5)
  np.testing.assert_allclose(found[..., 1], np.tile((y / np.sqrt((y**2).mean() + 1e-5))[:, None], [1, 5]), atol=1e-5)
  assert not found[..., 2:].any()


@pytest.mark.parametrize("aligned", [True, False])
def test_the_category_branch_step_by_step(aligned):
  features = _features()
  head = CategoryHead(2, 2, 8, LEVELS, aligned=aligned)
  found = head(features)
  _randomise(head)
  found = head(features)
  for name, key, grid in zip(LEVELS.names, LEVELS.features, LEVELS.grids):
    maps = features[key]
    if aligned:
      maps = tf.image.resize(maps, [grid, grid])
    for convolution, norm in zip(head.tower, head.norms):
      maps = tf.nn.relu(norm(tf.nn.conv2d(maps, convolution.kernel, 1, "SAME")))
    if not aligned:
      maps = tf.image.resize(maps, [grid, grid])
    expected = tf.nn.conv2d(maps, head.predict.kernel, 1, "SAME") + head.predict.bias
    assert found[name].shape == (2, grid, grid, 2)
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4)


def test_features_at_another_stride():
  maps = tf.random.stateless_normal([1, 4, 6, 2], [1, 2])
  half = AtStride(1)(maps)
  np.testing.assert_allclose(half, tf.nn.avg_pool2d(maps, 2, 2, "VALID"), atol=1e-6)
  assert AtStride(-1)(maps).shape == (1, 8, 12, 2)
  assert AtStride(-1, (7, 11))(maps).shape == (1, 7, 11, 2)
