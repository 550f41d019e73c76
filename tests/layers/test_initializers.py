"""Kernels start truncated normal, of variance 1 / fan-in."""

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.initializers import FAN_IN, FanInNormal


def test_the_distribution_is_keras_variance_scaling():
  shape = (3, 3, 64, 400)
  keras.utils.set_random_seed(1)
  ours, theirs = (np.sort(f(shape).numpy().ravel()) for f in (FAN_IN, keras.initializers.VarianceScaling()))
  assert abs(ours.std() * np.sqrt(3 * 3 * 64) - 1) < 0.01
  assert np.abs(ours).max() <= 2.0001 / np.sqrt(3 * 3 * 64) / 0.8796
  # Two samples of one distribution: their sorted values lie close together.
  assert np.abs(ours - theirs)[1000:-1000].max() < 0.02 * ours.std() + 0.02 * np.abs(theirs).max()


def test_draws_differ_and_repeat_under_a_seed():
  keras.utils.set_random_seed(1)
  first, second = FAN_IN((1, 1, 4, 4)), FAN_IN((1, 1, 4, 4))
  assert not np.allclose(first, second)
  keras.utils.set_random_seed(1)
  np.testing.assert_array_equal(FAN_IN((1, 1, 4, 4)), first)
  assert FAN_IN((2, 2), tf.bfloat16).dtype == tf.bfloat16
  assert isinstance(keras.initializers.deserialize(keras.initializers.serialize(FAN_IN)), FanInNormal)
