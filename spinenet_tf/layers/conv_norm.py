"""Convolution, batch normalisation, activation: the unit every block is made of.  [SpineNet section 3, authors' nn_ops]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.composite import Composite, build_part, image_shape
from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.layers.initializers import FAN_IN, ZEROS
from spinenet_tf.layers.style import ConvStyle


def symmetric_padding(kernel_size: int) -> list[list[int]]:
  """Returns NHWC paddings of (k - 1) // 2 zeros on each side of height and width."""
  side = (kernel_size - 1) // 2
  return [[0, 0], [side, side], [side, side], [0, 0]]


class _Unit(Composite):
  """What `ConvNorm` and `DepthwiseNorm` share: padding, normalisation, activation. A subclass makes `self.conv`."""

  def __init__(
    self, kernel_size: int, strides: int, activate: bool, normalize: bool, style: ConvStyle | dict | None, **kwargs
  ):
    super().__init__(**kwargs)
    self.kernel_size, self.strides, self.activate, self.normalize = kernel_size, strides, activate, normalize
    self.style = ConvStyle.of(style)
    self._pads = strides > 1 and kernel_size > 1 and self.style.padding == "symmetric"
    self._has_norm = normalize and not self.style.folded
    self.norm = None

  def _conv_arguments(self) -> dict:
    padding = "valid" if self._pads else "same"
    return {
      "strides": self.strides,
      "padding": padding,
      "use_bias": not self._has_norm,
      "bias_initializer": ZEROS,
      "name": "conv",
    }

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds convolution and normalisation."""
    build_part(self.conv, input_shape)
    if self.norm:
      build_part(self.norm, self.compute_output_shape(input_shape))

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns (B, ceil(H / strides), ceil(W / strides), channels)."""
    return image_shape(input_shape, self.strides, self._channels(input_shape))

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the convolution of `inputs`, normalised and activated where that was asked for."""
    if self._pads:
      inputs = tf.pad(inputs, symmetric_padding(self.kernel_size))
    outputs = self.conv(inputs)
    if self.norm:
      outputs = self.norm(outputs, training=training)
    return self.style.activate(outputs) if self.activate else outputs

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "kernel_size": self.kernel_size,
      "strides": self.strides,
      "activate": self.activate,
      "normalize": self.normalize,
      "style": self.style.to_dict(),
    }


@keras.utils.register_keras_serializable("spinenet_tf")
class ConvNorm(_Unit):
  """Convolution without bias, batch normalisation and, unless told otherwise, activation.

  Under a folded style, convolution with bias and no normalisation. Kernels start as the authors' do: truncated normal,
  variance 1 / fan-in.

  Args:
    filters: output channels.
    kernel_size: side of the square kernel.
    strides: 1 or 2.
    activate: whether the style's activation ends the unit.
    normalize: whether there is a normalisation; without one the convolution has a bias.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C] -> float[B, ceil(H / strides), ceil(W / strides), filters].
  """

  def __init__(
    self,
    filters: int,
    kernel_size: int = 1,
    strides: int = 1,
    activate: bool = True,
    normalize: bool = True,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(kernel_size, strides, activate, normalize, style, **kwargs)
    self.filters = filters
    self.conv = Convolution(filters, kernel_size, kernel_initializer=FAN_IN, **self._conv_arguments())
    self.norm = self.style.norm() if self._has_norm else None

  def _channels(self, input_shape: tf.TensorShape) -> int:
    return self.filters

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"filters": self.filters}


@keras.utils.register_keras_serializable("spinenet_tf")
class DepthwiseNorm(_Unit):
  """Depthwise convolution without bias, batch normalisation and, unless told otherwise, activation.

  Under a folded style, convolution with bias and no normalisation. Kernels start as the authors' do: Glorot uniform.

  Args:
    kernel_size: side of the square kernel.
    strides: 1 or 2.
    activate: whether the style's activation ends the unit.
    normalize: whether there is a normalisation; without one the convolution has a bias.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C] -> float[B, ceil(H / strides), ceil(W / strides), C].
  """

  def __init__(
    self,
    kernel_size: int = 3,
    strides: int = 1,
    activate: bool = True,
    normalize: bool = True,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(kernel_size, strides, activate, normalize, style, **kwargs)
    initializer = keras.initializers.GlorotUniform()
    arguments = self._conv_arguments()
    self.conv = keras.layers.DepthwiseConv2D(kernel_size, depthwise_initializer=initializer, **arguments)
    self.norm = self.style.norm() if self._has_norm else None

  def _channels(self, input_shape: tf.TensorShape) -> int:
    return input_shape[-1]
