"""The second stage's box head: what a region is, and its box.  [He et al. 2017; SpineNet section 4.1; authors' heads.py]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.heads.regions import RegionConvolutions
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class BoxHead(RegionConvolutions):
  """3x3 convolutions, one dense layer, then a linear layer for classes and one for box codes of each class.

  All but the last layers are followed by batch norm and activation.

  Args:
    num_classes: without background, K.
    convs: convolutions.
    filters: their channels.
    dense: width of the dense layer.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[N, H, W, C] -> logits float32[N, K + 1], index 0 is background; box codes float32[N, K, 4] as of
    `ops.boxes.encode_region`.
  """

  def __init__(
    self,
    num_classes: int,
    convs: int = 4,
    filters: int = 256,
    dense: int = 1024,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(convs, filters, style, **kwargs)
    self.num_classes, self.width = num_classes, dense
    initializers = keras.initializers
    self.dense = keras.layers.Dense(
      dense,
      use_bias=self.style.folded,
      kernel_initializer=initializers.VarianceScaling(1 / 3, "fan_out", "uniform"),
      name="dense",
    )
    self.dense_norm = self._norm("dense_norm")
    self.classes = keras.layers.Dense(
      num_classes + 1, kernel_initializer=initializers.RandomNormal(stddev=0.01), name="classes"
    )
    self.boxes = keras.layers.Dense(
      num_classes * 4, kernel_initializer=initializers.RandomNormal(stddev=0.001), name="boxes"
    )

  @tf.autograph.experimental.do_not_convert
  def call(self, crops: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the class logits and the box codes of every region."""
    features = self._features(crops, training)
    height, width, channels = features.shape[1:]
    features = self.dense(tf.reshape(features, [-1, height * width * channels]))
    features = self._activate(features, self.dense_norm, training)
    codes = tf.reshape(self.boxes(features), [-1, self.num_classes, 4])
    return tf.cast(self.classes(features), tf.float32), tf.cast(codes, tf.float32)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"num_classes": self.num_classes, "dense": self.width}
