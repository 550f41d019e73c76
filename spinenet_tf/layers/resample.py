"""Cross-scale connections: a parent's features brought to the size and width of a block.  [SpineNet section 3.1, fig. 5]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.composite import Composite, build_part, image_shape
from spinenet_tf.layers.conv_norm import ConvNorm, DepthwiseNorm
from spinenet_tf.layers.style import ConvStyle


def upsample(features: tf.Tensor, factor: int, size: tuple[int, int] | None = None) -> tf.Tensor:
  """Nearest-neighbour up-sampling.

  Args:
    features: float[B, H, W, C].
    factor: each pixel becomes factor x factor pixels, when `size` is None or H * factor by W * factor.
    size: (height, width) of the result where the sizes do not divide; pixel i then comes from floor(i * H / height).

  Returns: float[B, H * factor, W * factor, C], or float[B, *size, C].
  """
  if size is not None and (features.shape[1] * factor, features.shape[2] * factor) != tuple(size):
    return tf.raw_ops.ResizeNearestNeighbor(images=features, size=size, half_pixel_centers=False)

  @tf.custom_gradient
  def repeat(features: tf.Tensor):
    # The gradient is the sum over each square: average pooling does that several times faster than a reduction in 6-D.
    return _repeat(features, factor), lambda upstream: tf.nn.avg_pool2d(upstream, factor, factor, "VALID") * factor**2

  return repeat(features)


def _repeat(features: tf.Tensor, factor: int) -> tf.Tensor:
  """Each pixel of float[B, H, W, C], factor x factor times."""
  shape, dynamic = features.shape, tf.shape(features)
  height, width = (shape[i] if shape[i] is not None else dynamic[i] for i in (1, 2))
  channels = shape[3]
  rows = tf.reshape(features, [-1, height, 1, width, 1, channels])
  repeated = tf.broadcast_to(rows, tf.stack([dynamic[0], height, factor, width, factor, channels]))
  result = tf.reshape(repeated, [-1, height * factor, width * factor, channels])
  result.set_shape([shape[0], *(shape[i] and shape[i] * factor for i in (1, 2)), channels])
  return result


class _Connection(Composite):
  """What both kinds of connections share: bringing features to the target's size and width.

  A 1x1 convolution and its normalisation treat every pixel alike, and up-sampling repeats every pixel equally often, so
  the two commute: batch statistics are the same, too. Going up, the expanding convolution therefore runs before the
  up-sampling, at 1/4 to 1/1024 of the cost; `literal_order=True` keeps the paper's order, to compare.
  """

  def __init__(self, filters, levels_down, output_size, literal_order, style, **kwargs):
    super().__init__(**kwargs)
    self.filters, self.levels_down = filters, levels_down
    self.output_size = tuple(output_size) if output_size else None
    self.literal_order, self.style = literal_order, ConvStyle.of(style)

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns (B, ceil(H / 2^levels_down), ceil(W / 2^levels_down), filters)."""
    if self.levels_down >= 0:
      return image_shape(input_shape, 2**self.levels_down, self.filters)
    batch, height, width, _ = tf.TensorShape(input_shape)
    size = self.output_size or [side and side * 2**-self.levels_down for side in (height, width)]
    return tf.TensorShape([batch, *size, self.filters])

  def _build_expand(self, shape: tf.TensorShape) -> None:
    """Builds the expanding convolution for features of that shape, of which it needs the channels only."""
    build_part(self.expand, tf.TensorShape([shape[0], None, None, shape[-1]]))

  def _expanded(self, features: tf.Tensor, training: bool | None) -> tf.Tensor:
    """Expands features that lie at the target's level or above it, and up-samples them to it."""
    if self.levels_down >= 0:
      return self.expand(features, training=training)
    factor = 2**-self.levels_down
    if self.literal_order or not self._repeats_evenly(features, factor):
      return self.expand(upsample(features, factor, self.output_size), training=training)
    return upsample(self.expand(features, training=training), factor, self.output_size)

  def _repeats_evenly(self, features: tf.Tensor, factor: int) -> bool:
    """Tells whether up-sampling repeats each pixel equally often: else batch statistics would differ."""
    if self.output_size is None:
      return True
    return (features.shape[1] * factor, features.shape[2] * factor) == self.output_size

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "filters": self.filters,
      "levels_down": self.levels_down,
      "output_size": self.output_size,
      "literal_order": self.literal_order,
      "style": self.style.to_dict(),
    }


@keras.utils.register_keras_serializable("spinenet_tf")
class Resample(_Connection):
  """One cross-scale connection: squeeze, move to the target's level, expand.

  1x1 to `squeeze_filters` - norm - act; then, going down n levels, 3x3/2 - norm - act and n - 1 times a 3x3/2 max-pool,
  or, going up, nearest-neighbour up-sampling; 1x1 to `filters` - norm.

  Args:
    filters: channels of the result, those that the block reads.
    squeeze_filters: channels of the first convolution, alpha times the parent's filters.
    levels_down: level of the block minus level of the parent; negative going up, 0 at the same level.
    output_size: (height, width) of the block's features, or None where sizes are known to divide.
    literal_order: up-sample before the expanding convolution.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C] -> float[B, ceil(H / 2^levels_down), ceil(W / 2^levels_down), filters].
  """

  def __init__(
    self,
    filters: int,
    squeeze_filters: int,
    levels_down: int,
    output_size: tuple[int, int] | None = None,
    literal_order: bool = False,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(filters, levels_down, output_size, literal_order, style, **kwargs)
    if squeeze_filters < 1:
      raise UserError(f"a connection is squeezed to {squeeze_filters} channels; raise resample_alpha or filter_scale")
    self.squeeze_filters = squeeze_filters
    self.squeeze = ConvNorm(squeeze_filters, style=self.style, name="squeeze")
    self.down = ConvNorm(squeeze_filters, 3, 2, style=self.style, name="down") if levels_down > 0 else None
    self.expand = ConvNorm(filters, activate=False, style=self.style, name="expand")

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds the convolutions."""
    shape = build_part(self.squeeze, input_shape)
    if self.down:
      build_part(self.down, shape)
    self._build_expand(shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the parent's features at the block's level, not activated."""
    features = self.squeeze(inputs, training=training)
    if self.down:
      features = self.down(features, training=training)
      features = self._pooled(features, inputs.shape)
    return self._expanded(features, training)

  def _pooled(self, features: tf.Tensor, source: tf.TensorShape) -> tf.Tensor:
    """Brings features that the strided convolution has halved to the target's size; `source` is that of the parent's."""
    if self.style.pooling == "chain":
      for _ in range(self.levels_down - 1):
        features = self.style.max_pool(features, 3, 2)
      return features
    if self.output_size is None:
      ratio, stride = 2**self.levels_down, 2 ** (self.levels_down - 1)
    else:  # widths decide, as in the authors' code
      ratio = source[2] / self.output_size[1]
      stride = 2 if source[2] % self.output_size[1] else int(ratio) // 2
    if ratio > 2:
      features = self.style.max_pool(features, 3 if ratio <= 4 else 5, stride)
    if self.output_size is not None and tuple(features.shape[1:3]) != self.output_size:
      features = tf.raw_ops.ResizeNearestNeighbor(images=features, size=self.output_size, half_pixel_centers=False)
    return features

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"squeeze_filters": self.squeeze_filters}


@keras.utils.register_keras_serializable("spinenet_tf")
class SeparableResample(_Connection):
  """One cross-scale connection of a mobile network: move to the target's level, expand.  [appendix A]

  Going down n levels, n times 3x3/2 depthwise - norm - act, or, going up, nearest-neighbour up-sampling; 1x1 to
  `filters` - norm.

  Args:
    filters: channels of the result, those that the block reads.
    levels_down: level of the block minus level of the parent; negative going up, 0 at the same level.
    output_size: (height, width) of the block's features, or None where sizes are known to divide.
    literal_order: up-sample before the expanding convolution.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C] -> float[B, ceil(H / 2^levels_down), ceil(W / 2^levels_down), filters].
  """

  def __init__(
    self,
    filters: int,
    levels_down: int,
    output_size: tuple[int, int] | None = None,
    literal_order: bool = False,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(filters, levels_down, output_size, literal_order, style, **kwargs)
    self.down = [DepthwiseNorm(3, 2, style=self.style, name=f"down_{i}") for i in range(levels_down)]
    self.expand = ConvNorm(filters, activate=False, style=self.style, name="expand")

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds the convolutions."""
    shape = input_shape
    for unit in self.down:
      shape = build_part(unit, shape)
    self._build_expand(shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the parent's features at the block's level, not activated."""
    features = inputs
    for unit in self.down:
      features = unit(features, training=training)
    return self._expanded(features, training)


def make_connection(squeeze_filters: int | None = None, **kwargs) -> Resample | SeparableResample:
  """Returns a connection that squeezes to so many channels, or a separable one, which does not squeeze, for None."""
  if squeeze_filters is None:
    return SeparableResample(**kwargs)
  return Resample(squeeze_filters=squeeze_filters, **kwargs)
