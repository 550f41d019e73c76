"""Group normalisation against Keras's, and in half precision."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.group_norm import GroupNorm


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (8, 8), (12, 4)])
def test_equals_keras(channels, groups):
  rng = np.random.default_rng(0)
  inputs = tf.constant(rng.normal(3, 2, [2, 5, 7, channels]) * rng.uniform(0.1, 4, channels), tf.float32)
  own, other = GroupNorm(), keras.layers.GroupNormalization(groups, epsilon=1e-5)
  for layer in (own, other):
    layer.build(inputs.shape)
    layer.set_weights([np.linspace(0.5, 2, channels), np.linspace(-1, 1, channels)])
  upstream = tf.constant(rng.normal(size=inputs.shape), tf.float32)
  results = []
  for layer in (own, other):
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = layer(inputs)
      goal = tf.reduce_sum(outputs * upstream)
    results.append([outputs, *tape.gradient(goal, [inputs, *layer.trainable_weights])])
  for a, b in zip(*results):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_statistics_of_half_precision_are_single():
  layer = GroupNorm(dtype="mixed_float16")
  inputs = tf.cast(tf.random.stateless_normal([1, 64, 64, 32], [1, 2]) * 3 + 40, tf.float16)
  outputs = layer(inputs)
  assert outputs.dtype == tf.float16 and layer.gamma.dtype == tf.float32
  plain = GroupNorm()(tf.cast(inputs, tf.float32))
  assert np.abs(tf.cast(outputs, tf.float32) - plain).max() < 0.05
