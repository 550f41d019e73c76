"""What heads on the features of single regions have in common: convolutions and batch norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.ops import winograd_crops

WIDEST = 8  # pixels of crops in inference: direct sums are as fast for the few larger ones that masks are made of


class RegionConvolutions(keras.layers.Layer):
  """`convs` units of 3x3 convolution, batch norm and activation over the features of each region.

  Convolutions before a batch normalisation have no bias; under a folded style they have one, and there are no
  normalisations.

  Args:
    convs: how many units.
    filters: their channels.
    style: a `ConvStyle`, or the dictionary of one.
  """

  def __init__(self, convs: int, filters: int, style: ConvStyle | dict | None = None, **kwargs):
    super().__init__(**kwargs)
    self.convs, self.filters = convs, filters
    self.style = ConvStyle.of(style)
    self.tower = [
      Convolution(
        filters,
        3,
        padding="same",
        kernel_initializer=fan_out_normal(),
        use_bias=self.style.folded,
        name=f"conv{i + 1}",
      )
      for i in range(convs)
    ]
    self.norms = [self._norm(f"norm{i + 1}") for i in range(0 if self.style.folded else convs)]

  def _norm(self, name: str) -> keras.layers.Layer | None:
    """Returns a batch norm; None under a folded style."""
    return None if self.style.folded else self.style.norm(name)

  def _activate(self, features: tf.Tensor, norm: keras.layers.Layer | None, training: bool | None) -> tf.Tensor:
    """Returns the features normalised, where there is a norm, and activated."""
    return self.style.activate(norm(features, training=training) if norm else features)

  def _features(self, crops: tf.Tensor, training: bool | None) -> tf.Tensor:
    """Returns what comes out of the units, float[N, H, W, filters]."""
    few = not training and None not in crops.shape[1:3] and max(crops.shape[1:3]) > WIDEST
    if few or not all(unit.built and winograd_crops.pays(crops, unit.kernel) for unit in self.tower):
      return self._units(crops, self.tower, training)
    convolutions = [_behind_each_other(unit) for unit in self.tower]
    features = self._units(tf.transpose(crops, [1, 2, 0, 3]), convolutions, training)
    return tf.transpose(features, [2, 0, 1, 3])

  def _units(
    self, crops: tf.Tensor, convolutions: Sequence[Callable[[tf.Tensor], tf.Tensor]], training: bool | None
  ) -> tf.Tensor:
    for i, convolution in enumerate(convolutions):
      crops = self._activate(convolution(crops), self.norms[i] if self.norms else None, training)
    return crops

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"convs": self.convs, "filters": self.filters, "style": self.style.to_dict()}


def in_parts(function: Callable[..., tf.Tensor | tuple[tf.Tensor, ...]], *regions: tf.Tensor, parts: int):
  """Calls a function with one part of the regions after the other, which takes less memory.

  Args:
    function: of tensors of B x N regions each, whose results do not depend on other regions.
    *regions: its arguments, the first axes are B, N.
    parts: how many parts, 1 for all at once.

  Returns: what the function returns for all regions.
  """
  count = regions[0].shape[1] or tf.shape(regions[0])[1]
  if parts == 1 or (isinstance(count, int) and count < parts):
    return function(*regions)
  done: list = []
  for i in range(parts):
    with tf.control_dependencies(tf.nest.flatten(done[-1:])):
      part = [x[:, count * i // parts : count * (i + 1) // parts] for x in regions]
    done.append(function(*part))
  return tf.nest.map_structure(lambda *results: tf.concat(results, 1), *done)


def _behind_each_other(convolution: Convolution) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns the convolution for float32[H, W, N, C]; norms and activations do not mind the order of the first axes."""

  def call(crops: tf.Tensor) -> tf.Tensor:
    features = winograd_crops.conv2d(crops, convolution.kernel)
    return features + convolution.bias if convolution.use_bias else features

  return call


def fan_out_normal() -> keras.initializers.Initializer:
  """Returns how the kernels of both heads start: normal, of variance 2 / fan-out.  [He et al. 2015]"""
  return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
