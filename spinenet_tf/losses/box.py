"""Box regression loss: Huber [Huber 1964; the authors' RetinaNet with delta 0.1]."""

from __future__ import annotations

import tensorflow as tf


def huber_loss_sum(
  codes: tf.Tensor, targets: tf.Tensor, delta: float = 0.1, positive: tf.Tensor | None = None
) -> tf.Tensor:
  """Sum of the Huber loss over coded coordinates that have a target.

  With e = code - target: e^2 / 2 up to |e| = delta, delta * (|e| - delta / 2) beyond.

  As in the authors' code a coordinate has a target if its target is not 0. Anchors that are not positive
  have four zeros. A positive anchor's coordinate that is 0 exactly (centre and side equal to the anchor's)
  is left out too; this differs from a mask by positive anchors on such coordinates only.

  Args:
    codes: float[B, H, W, A*4], predicted (ty, tx, th, tw), channel a*4 + i. Computed in float32.
    targets: float32[B, H*W*A, 4].
    delta: where the square ends, > 0.
    positive: bool[B, H*W*A], which boxes have a target, in all four coordinates; None for the rule above.

  Returns: float32[].
  """
  with tf.name_scope("huber_loss"):
    targets = tf.stop_gradient(tf.cast(targets, tf.float32))
    codes = tf.reshape(tf.cast(codes, tf.float32), tf.shape(targets))
    counted = targets != 0 if positive is None else positive[..., None]
    size = tf.abs(tf.where(counted, codes - targets, 0.0))
    near = tf.minimum(size, delta)
    return tf.reduce_sum(near * (size - near / 2))
