"""RetinaNet's head: class and box towers, shared by all levels.  [Lin et al. 2017; SpineNet section 4.1; authors' heads.py]"""

from __future__ import annotations

import math

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class Tower(keras.layers.Layer):
  """`convs` 3x3 convolutions and a 3x3 prediction; kernels are shared by the levels, batch norms are not.

  The convolutions before a batch normalisation have no bias: the normalisation takes it out again, so it would never
  learn. (The authors' and Model Garden's have one; an import folds it into the moving mean, which is exact.)

  Args:
    convs: how many convolutions come before the prediction.
    filters: their channels.
    outputs: channels of the prediction.
    levels: pyramid levels, each with batch norms of its own.
    bias: what every prediction's bias starts at.
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
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.convs, self.filters, self.outputs, self.levels, self.bias = (
      convs,
      filters,
      outputs,
      tuple(levels),
      bias,
    )
    self.style = ConvStyle.of(style)
    self.tower = [
      keras.layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=f"conv{i + 1}",
      )
      for i in range(convs)
    ]
    self.norms = {str(level): [self.style.norm(f"norm{i + 1}_level{level}") for i in range(convs)] for level in levels}
    self.predict = keras.layers.Conv2D(
      outputs,
      3,
      padding="same",
      kernel_initializer=keras.initializers.RandomNormal(stddev=1e-5),
      bias_initializer=keras.initializers.Constant(bias),
      name="predict",
    )

  @tf.autograph.experimental.do_not_convert
  def call(self, pyramid: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the predictions of every level."""
    predictions = {}
    for level, norms in self.norms.items():
      features = pyramid[level]
      for conv, norm in zip(self.tower, norms):
        features = self.style.activate(norm(conv(features), training=training))
      predictions[level] = tf.cast(self.predict(features), tf.float32)
    return predictions

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "convs": self.convs,
      "filters": self.filters,
      "outputs": self.outputs,
      "levels": self.levels,
      "bias": self.bias,
      "style": self.style.to_dict(),
    }


def prior_bias(prior: float) -> float:
  """Returns the logit of probability `prior`: where class biases start, so that background does not swamp the loss."""
  return -math.log((1 - prior) / prior)
