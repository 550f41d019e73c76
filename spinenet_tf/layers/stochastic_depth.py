"""Stochastic depth: whole residual branches dropped at random.  [Huang et al. 2016; SpineNet section 5.1, protocol C]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.random_seed import layer_seed


@keras.utils.register_keras_serializable("spinenet_tf")
class StochasticDepth(keras.layers.Layer):
  """Zeroes each image's residual branch with probability `rate`; survivors are divided by 1 - rate.

  Args:
    rate: drop probability, in [0, 1).
    salt: number that tells this layer's draws from those of the others in the network.

  Call: float[B, H, W, C] -> the same shape and dtype; the identity when not training.
  """

  def __init__(self, rate: float, salt: int = 0, **kwargs):
    super().__init__(**kwargs)
    if not 0 <= rate < 1:
      raise UserError(f"stochastic depth rate is {rate}; it must lie in [0, 1), protocol C has 0.2")
    self.rate, self.salt = rate, salt

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns `inputs` with the branches of some images zeroed."""
    if not training or self.rate == 0:
      return inputs
    draws = tf.random.stateless_uniform([tf.shape(inputs)[0], 1, 1, 1], layer_seed(self.salt))
    scale = tf.where(draws < self.rate, 0.0, 1.0 / (1.0 - self.rate))
    return inputs * tf.cast(scale, inputs.dtype)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"rate": self.rate, "salt": self.salt}


def drop_rate(last_rate: float, index: int, count: int) -> float:
  """Returns the drop rate of permuted block `index` (from 0) of `count`: a line that reaches `last_rate` at the end."""
  return last_rate * (index + 1) / count
