"""RetinaNet's head: class and box towers, shared by all levels.  [Lin et al. 2017; SpineNet section 4.1; authors' heads.py]"""

from __future__ import annotations

import math

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class Tower(keras.layers.Layer):
  """`convs` 3x3 convolutions and a 3x3 prediction; kernels are shared by the levels, batch norms are not.

  The convolutions before a batch normalisation have no bias: the normalisation takes it out again, so it would never
  learn. (The authors' and Model Garden's have one; an import folds it into the moving mean, which is exact.)

  Under a folded style every level has convolutions of its own, with biases, and there are no normalisations.

  Args:
    convs: how many convolutions come before the prediction.
    filters: their channels.
    outputs: channels of the prediction.
    levels: pyramid levels, each with batch norms of its own.
    bias: what every prediction's bias starts at.
    separable: every convolution, the prediction's too, is a 3x3 depthwise and a 1x1 one.  [appendix A]
    style: a `ConvStyle`, or the dictionary of one.

  Call: {"3": float[B, H3, W3, C], ...} -> {"3": float32[B, H3, W3, outputs], ...}.
  """

  def __init__(
    self,
    convs: int,
    filters: int,
    outputs: int,
    levels: tuple[int, ...],
    bias: float = 0.0,
    separable: bool = False,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.convs, self.filters, self.outputs, self.levels = convs, filters, outputs, tuple(levels)
    self.bias, self.separable = bias, separable
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
    initializer = keras.initializers.Constant(bias)
    self.predict = self._convolution(outputs, 1e-5, "predict", bias_initializer=initializer)

  @tf.autograph.experimental.do_not_convert
  def call(self, pyramid: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the predictions of every level."""
    predictions = {}
    for n, level in enumerate(map(str, self.levels)):
      features = pyramid[level]
      for i in range(n * self.convs, (n + 1) * self.convs):
        features = self.tower[i % len(self.tower)](features)
        if self.norms:
          features = self.norms[i](features, training=training)
        features = self.style.activate(features)
      predictions[level] = tf.cast(self.predict(features), tf.float32)
    return predictions

  def _convolution(self, filters: int, deviation: float, name: str, **kwargs) -> keras.layers.Layer:
    """Returns a 3x3 convolution whose kernel, the 1x1 one of a separable, starts normal with that deviation."""
    initializer = keras.initializers.RandomNormal(stddev=deviation)
    if self.separable:
      kwargs |= {"depthwise_initializer": "glorot_uniform", "pointwise_initializer": initializer}
      return keras.layers.SeparableConv2D(filters, 3, padding="same", name=name, **kwargs)
    return Convolution(filters, 3, padding="same", kernel_initializer=initializer, name=name, **kwargs)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "convs": self.convs,
      "filters": self.filters,
      "outputs": self.outputs,
      "levels": self.levels,
      "bias": self.bias,
      "separable": self.separable,
      "style": self.style.to_dict(),
    }


def prior_bias(prior: float) -> float:
  """Returns the logit of probability `prior`: where class biases start, so that background does not swamp the loss."""
  return -math.log((1 - prior) / prior)
