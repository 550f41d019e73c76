"""Mobile inverted bottleneck with squeeze-and-excitation.  [SpineNet appendix A; Sandler et al. 2018; authors' nn_blocks]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.composite import Composite, build_part, image_shape
from spinenet_tf.layers.conv_norm import ConvNorm, DepthwiseNorm
from spinenet_tf.layers.dropblock import DropBlock
from spinenet_tf.layers.stochastic_depth import StochasticDepth
from spinenet_tf.layers.style import ConvStyle

EXPANSION = 6
SQUEEZE_RATIO = 0.2


def squeeze_width(input_filters: int, ratio: float = SQUEEZE_RATIO) -> int:
  """Returns the channels a block's squeeze-and-excitation has between its two convolutions."""
  return max(1, int(ratio * input_filters))


@keras.utils.register_keras_serializable("spinenet_tf")
class SqueezeExcitation(Composite):
  """Weighs channels by what the whole image shows: mean over pixels - 1x1 - swish - 1x1 - sigmoid, times the input.

  Both convolutions have biases; the inner activation is not the network's.

  Args:
    filters: channels of the input.
    squeeze_filters: channels between the two convolutions.
    squeeze: "swish" inside and sigmoid at the end, or "relu" and relu6(x + 3) / 6, see `ConvStyle`.

  Call: float[B, H, W, filters] -> the same shape.
  """

  def __init__(self, filters: int, squeeze_filters: int, squeeze: str = "swish", **kwargs):
    super().__init__(**kwargs)
    self.filters, self.squeeze_filters, self.squeeze = filters, squeeze_filters, squeeze
    style = ConvStyle(activation=squeeze)
    self.reduce = ConvNorm(squeeze_filters, normalize=False, style=style, name="reduce")
    self.expand = ConvNorm(filters, activate=False, normalize=False, style=style, name="expand")

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds both convolutions."""
    build_part(self.expand, build_part(self.reduce, tf.TensorShape([input_shape[0], 1, 1, input_shape[-1]])))

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns the input's."""
    return tf.TensorShape(input_shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the weighted features."""
    means = tf.reduce_mean(inputs, [1, 2], keepdims=True)
    weights = self.expand(self.reduce(means))
    return inputs * (tf.sigmoid(weights) if self.squeeze == "swish" else tf.nn.relu6(weights + 3) / 6)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "filters": self.filters,
      "squeeze_filters": self.squeeze_filters,
      "squeeze": self.squeeze,
    }


@keras.utils.register_keras_serializable("spinenet_tf")
class MBConv(Composite):
  """One inverted bottleneck; the stride, if any, is on its depthwise convolution.

  1x1 to `expansion` times the input - norm - act - 3x3 depthwise - norm - act - squeeze-and-excitation - 1x1 to
  `filters` - norm; + input where the shape is kept. Nothing is activated at the end.

  Args:
    filters: channels of the result.
    input_filters: channels of the input; `filters` when None.
    strides: 1 or 2.
    expansion: how many times more channels the depthwise convolution has than the input.
    squeeze_ratio: width of squeeze-and-excitation, as a share of the input's channels; at least one channel.
    drop_rate: stochastic depth's probability of dropping the branch of an image; without effect where nothing is added.
    dropblock_keep: DropBlock's keep probability after every convolution and on the shortcut; 1 turns it off.
    dropblock_size: DropBlock's square, in feature pixels.
    salt: number that tells this block's random draws from those of the others.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, input_filters] -> float[B, ceil(H / strides), ceil(W / strides), filters].
  """

  def __init__(
    self,
    filters: int,
    input_filters: int | None = None,
    strides: int = 1,
    expansion: int = EXPANSION,
    squeeze_ratio: float = SQUEEZE_RATIO,
    drop_rate: float = 0.0,
    dropblock_keep: float = 1.0,
    dropblock_size: int = 7,
    salt: int = 0,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.filters, self.input_filters, self.strides = filters, input_filters or filters, strides
    self.expansion, self.squeeze_ratio = expansion, squeeze_ratio
    self.drop_rate, self.salt = drop_rate, salt
    self.dropblock_keep, self.dropblock_size = dropblock_keep, dropblock_size
    self.style = ConvStyle.of(style)
    wide = expansion * self.input_filters
    self.expand = ConvNorm(wide, style=self.style, name="expand")
    self.depthwise = DepthwiseNorm(3, strides, style=self.style, name="depthwise")
    width = squeeze_width(self.input_filters, squeeze_ratio)
    self.excitation = SqueezeExcitation(wide, width, self.style.squeeze, name="squeeze_excitation")
    self.project = ConvNorm(filters, activate=False, style=self.style, name="project")
    self._adds = strides == 1 and self.input_filters == filters
    self.drop = None
    if drop_rate and self._adds:
      self.drop = StochasticDepth(drop_rate, salt=salt, name="stochastic_depth")
    self.dropblocks = []
    if dropblock_keep < 1:
      self.dropblocks = [
        DropBlock(dropblock_keep, dropblock_size, salt=salt + 1 + i, name=f"dropblock_{i}")
        for i in range(4 if self._adds else 3)
      ]

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds the convolutions and what drops."""
    shape = input_shape
    for layer in (self.expand, self.depthwise, self.excitation, self.project):
      shape = build_part(layer, shape)
    for layer in [*self.dropblocks, *([self.drop] if self.drop else [])]:
      build_part(layer, shape)

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns (B, ceil(H / strides), ceil(W / strides), filters)."""
    return image_shape(input_shape, self.strides, self.filters)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the block's output, not activated."""
    features = self._dropped(0, self.expand(inputs, training=training), training)
    features = self._dropped(1, self.depthwise(features, training=training), training)
    features = self._dropped(2, self.project(self.excitation(features), training=training), training)
    if not self._adds:
      return features
    if self.drop:
      features = self.drop(features, training=training)
    return features + self._dropped(3, inputs, training)

  def _dropped(self, index: int, features: tf.Tensor, training: bool | None) -> tf.Tensor:
    return self.dropblocks[index](features, training=training) if self.dropblocks else features

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "filters": self.filters,
      "input_filters": self.input_filters,
      "strides": self.strides,
      "expansion": self.expansion,
      "squeeze_ratio": self.squeeze_ratio,
      "drop_rate": self.drop_rate,
      "dropblock_keep": self.dropblock_keep,
      "dropblock_size": self.dropblock_size,
      "salt": self.salt,
      "style": self.style.to_dict(),
    }
