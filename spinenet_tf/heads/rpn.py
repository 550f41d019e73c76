"""The region proposal network's head.  [Ren et al. 2015; SpineNet section 4.1; authors' heads.py]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.heads.shared import SharedConvolutions
from spinenet_tf.layers.composite import build_part, image_shape
from spinenet_tf.layers.style import ConvStyle


@keras.utils.register_keras_serializable("spinenet_tf")
class RegionProposalHead(SharedConvolutions):
  """`convs` 3x3 convolutions, then 1x1 predictions of "there is an object" and of box codes for every anchor.

  Kernels are shared by the levels, batch norms are not.

  Args:
    convs: how many convolutions come before the predictions.
    filters: their channels.
    anchors: of each location, A.
    levels: pyramid levels, each with batch norms of its own.
    style: a `ConvStyle`, or the dictionary of one. Under a folded one see `SharedConvolutions`.

  Call: {"3": float[B, H3, W3, C], ...} -> logits {"3": float32[B, H3, W3, A], ...} and box codes
    {"3": float32[B, H3, W3, A * 4], ...}, anchors major.
  """

  def __init__(
    self,
    convs: int,
    filters: int,
    anchors: int,
    levels: tuple[int, ...],
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(convs, filters, levels, style=style, **kwargs)
    self.anchors = anchors
    self.scores = self._convolution(anchors, 1e-5, "scores", size=1)
    self.deltas = self._convolution(anchors * 4, 1e-5, "deltas", size=1)

  def build_parts(self, input_shape: dict[str, tf.TensorShape]) -> None:
    """Builds the units and the predictions."""
    for shape in self._build_features(input_shape).values():
      build_part(self.scores, shape)
      build_part(self.deltas, shape)

  def compute_output_shape(
    self, input_shape: dict[str, tf.TensorShape]
  ) -> tuple[dict[str, tf.TensorShape], dict[str, tf.TensorShape]]:
    """Returns (B, H, W, A) and (B, H, W, A * 4) of every level."""
    levels = [str(level) for level in self.levels]
    scores, deltas = (
      {level: image_shape(input_shape[level], 1, channels) for level in levels}
      for channels in (self.anchors, self.anchors * 4)
    )
    return scores, deltas

  @tf.autograph.experimental.do_not_convert
  def call(
    self, pyramid: dict[str, tf.Tensor], training: bool | None = None
  ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns the logits and the box codes of every level."""
    features = self._features(pyramid, training)
    scores = {level: tf.cast(self.scores(maps), tf.float32) for level, maps in features.items()}
    return scores, {level: tf.cast(self.deltas(maps), tf.float32) for level, maps in features.items()}

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"anchors": self.anchors}
