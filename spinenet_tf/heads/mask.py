"""The second stage's mask head: which pixels of a region are the object.  [He et al. 2017; SpineNet section 4.1]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.heads.regions import RegionConvolutions
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class Doubling(keras.layers.Layer):
  """A 2x2 transposed convolution of stride 2: every pixel becomes four by a matrix each, so it is one matrix product.

  The four stay together until `assembled` makes maps of them, as what follows looks at single pixels and makes them narrow.

  Args:
    filters: output channels, F.
    use_bias: whether one value for each channel is added.

  Call: float[N, H, W, C] -> float[N, H, W, 4 F], for each pixel upper left, upper right, lower left, lower right. The kernel
    is float[C, 2, 2, F]: input, row, column, output.
  """

  def __init__(self, filters: int, use_bias: bool = True, **kwargs):
    super().__init__(**kwargs)
    self.filters, self.use_bias = filters, use_bias
    self.bias = None

  def build(self, input_shape: tf.TensorShape) -> None:
    """Makes the variables."""
    # Each output has one pixel's channels as inputs, each input four outputs: variance 2 / (4 C) is the authors'.
    initializer = keras.initializers.RandomNormal(stddev=(0.5 / input_shape[-1]) ** 0.5)
    self.kernel = self.add_weight("kernel", [input_shape[-1], 2, 2, self.filters], initializer=initializer)
    if self.use_bias:
      self.bias = self.add_weight("bias", [self.filters], initializer="zeros")
    super().build(input_shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the pixels of the doubled map."""
    products = tf.tensordot(inputs, tf.reshape(self.kernel, [inputs.shape[-1], -1]), 1)
    return products + tf.tile(self.bias, [4]) if self.use_bias else products

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"filters": self.filters, "use_bias": self.use_bias}


def assembled(squares: tf.Tensor) -> tf.Tensor:
  """Returns the maps of squares of four pixels: float[N, H, W, 4, K] -> float[N, 2 H, 2 W, K]."""
  height, width = (n or tf.shape(squares)[i] for i, n in enumerate(squares.shape[1:3], 1))
  channels = squares.shape[4]
  rows = tf.transpose(tf.reshape(squares, [-1, height, width, 2, 2 * channels]), [0, 1, 3, 2, 4])
  return tf.reshape(rows, [-1, 2 * height, 2 * width, channels])


@keras.utils.register_keras_serializable("spinenet_tf")
class MaskHead(RegionConvolutions):
  """3x3 convolutions, a doubling of the resolution, then a 1x1 prediction for each class.

  All but the prediction are followed by batch norm and activation.

  Args:
    num_classes: without background, K.
    convs: convolutions.
    filters: their channels, and those of the doubled map.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[N, H, W, C] -> float32[N, 2 H, 2 W, K], logits. With `classes`, int32[N] in [0, K), float32[N, 2 H, 2 W], those
    of each region's own class; the others are not computed.
  """

  def __init__(
    self, num_classes: int, convs: int = 4, filters: int = 256, style: ConvStyle | dict | None = None, **kwargs
  ):
    super().__init__(convs, filters, style, **kwargs)
    self.num_classes = num_classes
    self.double = Doubling(filters, self.style.folded, name="double")
    self.double_norm = self._norm("double_norm")
    # The authors draw with variance 2 / fan-out, 2 / 91 for COCO; for one class that is 2 and logits start in the tens.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    self.predict = keras.layers.Dense(num_classes, kernel_initializer=initializer, name="predict")

  @tf.autograph.experimental.do_not_convert
  def call(self, crops: tf.Tensor, classes: tf.Tensor | None = None, training: bool | None = None) -> tf.Tensor:
    """Returns the mask logits."""
    squares = self.double(self._features(crops, training))
    height, width = (n or tf.shape(squares)[i] for i, n in enumerate(squares.shape[1:3], 1))
    pixels = tf.reshape(squares, [-1, height, 4 * width, self.filters])
    pixels = self._activate(pixels, self.double_norm, training)
    if classes is None or not self.predict.built:
      masks = self.predict(pixels)
    if classes is not None:
      kernel = tf.gather(tf.transpose(self.predict.kernel), classes)
      bias = tf.gather(self.predict.bias[:, None, None], classes)
      masks = (tf.einsum("nhwc,nc->nhw", pixels, kernel) + bias)[..., None]
    masks = assembled(tf.cast(tf.reshape(masks, [-1, height, width, 4, masks.shape[-1]]), tf.float32))
    return masks if classes is None else masks[..., 0]

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"num_classes": self.num_classes}
