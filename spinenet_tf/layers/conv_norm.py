"""Convolution, batch normalisation, activation: the unit every block is made of.  [SpineNet section 3, authors' nn_ops]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.style import ConvStyle


def symmetric_padding(kernel_size: int) -> list[list[int]]:
  """Returns NHWC paddings of (k - 1) // 2 zeros on each side of height and width."""
  side = (kernel_size - 1) // 2
  return [[0, 0], [side, side], [side, side], [0, 0]]


@keras.utils.register_keras_serializable("spinenet_tf")
class ConvNorm(keras.layers.Layer):
  """Convolution without bias, batch normalisation and, unless told otherwise, activation.

  Under a folded style, convolution with bias and no normalisation. Kernels start as the authors' do: truncated normal,
  variance 1 / fan-in.

  Args:
    filters: output channels.
    kernel_size: side of the square kernel.
    strides: 1 or 2.
    activate: whether the style's activation ends the unit.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C] -> float[B, ceil(H / strides), ceil(W / strides), filters].
  """

  def __init__(
    self,
    filters: int,
    kernel_size: int = 1,
    strides: int = 1,
    activate: bool = True,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.filters, self.kernel_size, self.strides, self.activate = filters, kernel_size, strides, activate
    self.style = ConvStyle.of(style)
    self._pads = strides > 1 and kernel_size > 1 and self.style.padding == "symmetric"
    self.conv = keras.layers.Conv2D(
      filters,
      kernel_size,
      strides=strides,
      padding="valid" if self._pads else "same",
      use_bias=self.style.folded,
      kernel_initializer=keras.initializers.VarianceScaling(),
      name="conv",
    )
    self.norm = None if self.style.folded else self.style.norm()

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the normalised, perhaps activated, convolution of `inputs`."""
    if self._pads:
      inputs = tf.pad(inputs, symmetric_padding(self.kernel_size))
    outputs = self.conv(inputs)
    if self.norm:
      outputs = self.norm(outputs, training=training)
    return self.style.activate(outputs) if self.activate else outputs

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "filters": self.filters,
      "kernel_size": self.kernel_size,
      "strides": self.strides,
      "activate": self.activate,
      "style": self.style.to_dict(),
    }
