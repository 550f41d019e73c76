"""The convolution that all units use: Keras's, with a faster way on CPUs."""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.ops import winograd


@keras.utils.register_keras_serializable("spinenet_tf")
class Convolution(keras.layers.Conv2D):
  """`keras.layers.Conv2D`; 3x3 convolutions of stride 1 go through `ops.winograd` where that is enabled and pays."""

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the convolution without bias or activation."""
    plain = self.strides == (1, 1) and self.dilation_rate == (1, 1) and self.groups == 1 and self.padding == "same"
    if plain and winograd.pays(inputs, kernel):
      return winograd.conv2d(inputs, kernel)
    return super().convolution_op(inputs, kernel)
