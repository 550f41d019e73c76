"""RetinaNet's head: class and box towers, shared by all levels.  [Lin et al. 2017; SpineNet section 4.1; authors' heads.py]"""

from __future__ import annotations

import math

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.heads.shared import SharedConvolutions
from spinenet_tf.layers.composite import build_part, image_shape
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class Tower(SharedConvolutions):
  """`convs` 3x3 convolutions and a 3x3 prediction; kernels are shared by the levels, batch norms are not.

  Args:
    convs: how many convolutions come before the prediction.
    filters: their channels.
    outputs: channels of the prediction.
    levels: pyramid levels, each with batch norms of its own.
    bias: what every prediction's bias starts at.
    separable: every convolution, the prediction's too, is a 3x3 depthwise and a 1x1 one.  [appendix A]
    style: a `ConvStyle`, or the dictionary of one. Under a folded one see `SharedConvolutions`.

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
    super().__init__(convs, filters, levels, separable, style, **kwargs)
    self.outputs, self.bias = outputs, bias
    initializer = keras.initializers.Constant(bias)
    self.predict = self._convolution(outputs, 1e-5, "predict", bias_initializer=initializer)

  def build_parts(self, input_shape: dict[str, tf.TensorShape]) -> None:
    """Builds the units and the prediction."""
    for shape in self._build_features(input_shape).values():
      build_part(self.predict, shape)

  def compute_output_shape(self, input_shape: dict[str, tf.TensorShape]) -> dict[str, tf.TensorShape]:
    """Returns (B, H, W, outputs) of every level."""
    return {level: image_shape(input_shape[level], 1, self.outputs) for level in map(str, self.levels)}

  @tf.autograph.experimental.do_not_convert
  def call(self, pyramid: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the predictions of every level."""
    features = self._features(pyramid, training)
    return {level: tf.cast(self.predict(maps), tf.float32) for level, maps in features.items()}

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"outputs": self.outputs, "bias": self.bias, "separable": self.separable}


def prior_bias(prior: float) -> float:
  """Returns the logit of probability `prior`: where class biases start, so that background does not swamp the loss."""
  return -math.log((1 - prior) / prior)
