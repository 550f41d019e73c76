"""Group normalisation.  [Wu and He 2018]"""

from __future__ import annotations

import math

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.initializers import ONES, ZEROS


@keras.utils.register_keras_serializable("spinenet_tf")
class GroupNorm(keras.layers.Layer):
  """Normalises each image over its pixels and the channels of a group; training and inference are the same.

  Mean and variance are float32 under any policy. Those of a group follow from those of its channels, so that features are
  read, never reshaped, and only one product and one sum are as large as they are.

  Args:
    groups: at most so many; the greatest number that divides both it and the channels is taken.
    epsilon: added to variances.

  Call: float[B, H, W, C] -> float[B, H, W, C].
  """

  def __init__(self, groups: int = 32, epsilon: float = 1e-5, **kwargs):
    super().__init__(**kwargs)
    self.groups, self.epsilon = groups, epsilon

  def build(self, input_shape: tf.TensorShape) -> None:
    """Makes the variables."""
    self.gamma = self.add_weight("gamma", [input_shape[-1]], initializer=ONES)
    self.beta = self.add_weight("beta", [input_shape[-1]], initializer=ZEROS)
    super().build(input_shape)

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns the same shape."""
    return tf.TensorShape(input_shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the features normalised."""
    channels = inputs.shape[-1]
    groups = math.gcd(self.groups, channels)
    mean, variance = tf.nn.moments(tf.cast(inputs, tf.float32), [1, 2])
    mean, variance = (tf.reshape(x, [-1, groups, channels // groups]) for x in (mean, variance))
    group_mean = tf.reduce_mean(mean, axis=-1, keepdims=True)
    group_variance = tf.reduce_mean(variance + tf.square(mean - group_mean), axis=-1, keepdims=True)
    spread = tf.math.rsqrt(group_variance + self.epsilon)
    gamma, beta = (tf.reshape(tf.cast(x, tf.float32), [1, groups, -1]) for x in (self.gamma, self.beta))
    scale = gamma * spread
    shift = beta - group_mean * scale
    scale, shift = (tf.cast(tf.reshape(x, [-1, 1, 1, channels]), inputs.dtype) for x in (scale, shift))
    return inputs * scale + shift

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"groups": self.groups, "epsilon": self.epsilon}
