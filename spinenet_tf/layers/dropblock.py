"""DropBlock: contiguous squares of feature maps dropped at random.  [Ghiasi et al. 2018; SpineNet protocol A]

The paper names neither block size, probability nor schedule; 7, 0.9 and a linear schedule are this package's assumption
(the best ImageNet setting of the DropBlock paper). Training raises the strength from 0 to 1 by

    with dropblock_strength(step / total_steps):
      outputs = model(images, training=True)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.random_seed import layer_seed

_state = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def dropblock_strength(strength: tf.Tensor | float) -> Iterator[None]:
  """Multiplies the drop rate of the DropBlock layers called inside by `strength`, a scalar in [0, 1]."""
  previous = getattr(_state, "strength", 1.0)
  _state.strength = strength
  try:
    yield
  finally:
    _state.strength = previous


@keras.utils.register_keras_serializable("spinenet_tf")
class DropBlock(keras.layers.Layer):
  """Zeroes squares of `block_size` pixels, independently for each image and channel.

  The seed probability is  (1 - keep) / b^2 * H * W / ((H - b + 1) * (W - b + 1)),  b = min(block_size, H, W), with seeds
  only where the whole square fits; what is kept is rescaled by the inverse of the kept share.  [authors' dropblock.py]

  Args:
    keep: probability in (0, 1] that a unit stays, at full strength.
    block_size: side of the square, in feature pixels.
    salt: number that tells this layer's draws from those of the others in the network.

  Call: float[B, H, W, C] -> the same shape and dtype; the identity when not training.
  """

  def __init__(self, keep: float = 0.9, block_size: int = 7, salt: int = 0, **kwargs):
    super().__init__(**kwargs)
    if not 0 < keep <= 1:
      raise UserError(f"dropblock_keep is {keep}; it must lie in (0, 1], 1 turns DropBlock off")
    if block_size < 1:
      raise UserError(f"dropblock_size is {block_size}; it must be at least 1")
    self.keep, self.block_size, self.salt = keep, block_size, salt

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns `inputs` with squares zeroed and the rest rescaled."""
    if not training or self.keep == 1:
      return inputs
    height, width = inputs.shape[1], inputs.shape[2]
    if height is None or width is None:
      raise UserError("DropBlock needs a fixed image size in training; give input_size=(height, width) to the builder")
    side = min(self.block_size, height, width)
    rate = tf.cast((1.0 - self.keep) * getattr(_state, "strength", 1.0), tf.float32)
    fits_height, fits_width = height - side + 1, width - side + 1
    gamma = rate * (height * width / side**2 / (fits_height * fits_width))
    batch, channels = tf.shape(inputs)[0], inputs.shape[3]
    draws = tf.random.stateless_uniform([batch, fits_height, fits_width, channels], layer_seed(self.salt))
    before, after = (side - 1) // 2, side - 1 - (side - 1) // 2
    seeds = tf.pad(tf.cast(draws < gamma, tf.float32), [[0, 0], [before, after], [before, after], [0, 0]])
    kept = 1.0 - tf.nn.max_pool2d(seeds, side, 1, "SAME")
    share = tf.reduce_mean(kept)
    return inputs * tf.cast(tf.math.divide_no_nan(kept, share), inputs.dtype)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"keep": self.keep, "block_size": self.block_size, "salt": self.salt}
