"""What heads on a pyramid have in common: convolutions shared by the levels, each level with batch norms of its own."""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.composite import Composite, build_part
from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.layers.style import ConvStyle


class SharedConvolutions(Composite):
  """`convs` units of 3x3 convolution, batch norm and activation; kernels are shared by the levels, batch norms are not.

  The convolutions before a batch normalisation have no bias: the normalisation takes it out again, so it would never
  learn. (The authors' and Model Garden's have one; an import folds it into the moving mean, which is exact.)

  Under a folded style every level has convolutions of its own, with biases, and there are no normalisations.

  Args:
    convs: how many units.
    filters: their channels.
    levels: pyramid levels, each with batch norms of its own.
    separable: every convolution is a depthwise and a 1x1 one.  [appendix A]
    style: a `ConvStyle`, or the dictionary of one.
  """

  def __init__(
    self,
    convs: int,
    filters: int,
    levels: tuple[int, ...],
    separable: bool = False,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.convs, self.filters, self.levels = convs, filters, tuple(levels)
    self.separable = separable
    self.style = ConvStyle.of(style)
    # Flat lists, level by level: Keras's own file format does not look into nested ones.
    suffixes = [f"_level{level}" for level in self.levels]
    self.tower = [
      self._convolution(filters, 0.01, f"conv{i + 1}{suffix}", use_bias=self.style.folded)
      for suffix in (suffixes if self.style.folded else [""])
      for i in range(convs)
    ]
    self.norms = []
    if not self.style.folded:
      self.norms = [self.style.norm(f"norm{i + 1}{suffix}") for suffix in suffixes for i in range(convs)]

  def _build_features(self, input_shape: dict[str, tf.TensorShape]) -> dict[str, tf.TensorShape]:
    """Builds the units. Returns the shapes of what comes out of them."""
    result = {}
    for n, level in enumerate(map(str, self.levels)):
      shape = input_shape[level]
      for i in range(n * self.convs, (n + 1) * self.convs):
        shape = build_part(self.tower[i % len(self.tower)], shape)
        if self.norms:
          build_part(self.norms[i], shape)
      result[level] = shape
    return result

  @property
  def output_dtype(self) -> tf.DType:
    """Predictions are float32 under any policy."""
    return tf.float32

  def _features(self, pyramid: dict[str, tf.Tensor], training: bool | None) -> dict[str, tf.Tensor]:
    """Returns what comes out of the units, float[B, H, W, filters] by level."""
    result = {}
    for n, level in enumerate(map(str, self.levels)):
      features = pyramid[level]
      for i in range(n * self.convs, (n + 1) * self.convs):
        features = self.tower[i % len(self.tower)](features)
        if self.norms:
          features = self.norms[i](features, training=training)
        features = self.style.activate(features)
      result[level] = features
    return result

  def _convolution(self, filters: int, deviation: float, name: str, size: int = 3, **kwargs) -> keras.layers.Layer:
    """Returns a convolution whose kernel, the 1x1 one of a separable, starts normal with that deviation."""
    initializer = keras.initializers.RandomNormal(stddev=deviation)
    if self.separable:
      kwargs |= {"depthwise_initializer": "glorot_uniform", "pointwise_initializer": initializer}
      return keras.layers.SeparableConv2D(filters, size, padding="same", name=name, **kwargs)
    return Convolution(filters, size, padding="same", kernel_initializer=initializer, name=name, **kwargs)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "convs": self.convs,
      "filters": self.filters,
      "levels": self.levels,
      "style": self.style.to_dict(),
    }
