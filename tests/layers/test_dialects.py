"""Options for weights from elsewhere: pools, endpoints, squeeze-and-excitation."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.errors import UserError
from spinenet_tf.layers.mbconv import SqueezeExcitation
from spinenet_tf.layers.resample import Resample
from spinenet_tf.layers.style import ConvStyle


def _pooled(image, size, stride, before, after):
  """Largest values of float[H, W] in windows, by hand."""
  padded = np.pad(image, ((before, after), (before, after)), constant_values=-np.inf)
  rows = range(0, padded.shape[0] - size + 1, stride)
  return np.array([[padded[y : y + size, x : x + size].max() for x in rows] for y in rows])


@pytest.mark.parametrize("padding, before, after", [("same", 0, 1), ("symmetric", 1, 1)])
def test_max_pool_by_hand(padding, before, after):
  image = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
  got = ConvStyle(pool_padding=padding).max_pool(tf.constant(image[None, ..., None]), 3, 2)
  np.testing.assert_array_equal(got[0, ..., 0], _pooled(image, 3, 2, before, after)[:4, :4])


@pytest.mark.parametrize("padding, before, after", [("same", 0, 1), ("symmetric", 2, 2)])
def test_three_levels_by_a_single_pool(padding, before, after):
  layer = Resample(3, 2, 3, (4, 4), style=ConvStyle(pooling="single", pool_padding=padding))
  image = tf.random.stateless_normal([1, 32, 32, 5], [1, 2])
  got = layer(image)
  halved = layer.down(layer.squeeze(image)).numpy()[0]
  pooled = np.stack([_pooled(halved[..., c], 5, 4, before, after)[:4, :4] for c in range(2)], -1)
  np.testing.assert_allclose(got, layer.expand(pooled[None]), atol=1e-6)


def test_single_pool_where_sizes_do_not_divide():
  """Level 4 to level 7 of 224 pixels: 14 to 2 by a stride of 7 // 2 and the nearest of 3; to level 6, 14 to 4, by 2."""
  image = tf.random.stateless_normal([1, 14, 14, 5], [1, 2])
  layer = Resample(3, 2, 3, (2, 2), style=ConvStyle(pooling="single"))
  assert layer(image).shape == (1, 2, 2, 3)
  pooled = tf.nn.max_pool2d(layer.down(layer.squeeze(image)), 5, 3, "SAME")  # 3 x 3
  np.testing.assert_allclose(layer(image), layer.expand(pooled.numpy()[:, :2, :2]), atol=1e-6)
  layer = Resample(3, 2, 2, (4, 4), style=ConvStyle(pooling="single"))
  pooled = tf.nn.max_pool2d(layer.down(layer.squeeze(image)) if layer(image) is not None else image, 3, 2, "SAME")
  np.testing.assert_allclose(layer(image), layer.expand(pooled), atol=1e-6)


def test_endpoints_without_activation():
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  plain = build_backbone("spinenet49xs_mobile", (128, 128), endpoint_activation=False)
  active = build_backbone("spinenet49xs_mobile", (128, 128))
  active.set_weights(plain.get_weights())
  for level, features in plain(images).items():
    assert features.numpy().min() < 0
    np.testing.assert_array_equal(active(images)[level], np.maximum(features, 0))


def test_squeeze_and_excitation_by_hand():
  layer = SqueezeExcitation(1, 1, "relu")
  layer(tf.ones([1, 2, 2, 1]))
  layer.set_weights([np.full([1, 1, 1, 1], 2.0), np.zeros(1), np.full([1, 1, 1, 1], -1.0), np.full(1, 0.5)])
  # mean 1; relu(2) = 2; -2 + 0.5 = -1.5; (3 - 1.5) / 6 = 0.25
  np.testing.assert_allclose(layer(tf.ones([1, 2, 2, 1])), np.full([1, 2, 2, 1], 0.25), rtol=1e-6)


@pytest.mark.parametrize("name", ["pooling", "pool_padding", "squeeze"])
def test_unknown_choice(name):
  with pytest.raises(UserError, match=f"{name} is 'other'; it must be one of"):
    ConvStyle(**{name: "other"})
