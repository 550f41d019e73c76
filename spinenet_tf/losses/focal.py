"""Focal loss over dense logits with sparse targets [Lin et al. 2017, eq. 5].

With p = sigmoid(x), summed over anchors and classes:

  target class:   -alpha       * (1 - p)^gamma * ln(p)
  other classes:  -(1 - alpha) * p^gamma       * ln(1 - p)

At 640 pixels an image has 76,725 anchors and nearly all of their 80 or 91 targets are zero. So the sum is
that of the second line over everything, one reading of the logits, plus a correction at the one class of
each positive anchor. The gradient is computed with the value, when its ingredients are at hand, and is all
that is kept for the backward pass.
"""

from __future__ import annotations

import tensorflow as tf


def focal_loss_sum(
  logits: tf.Tensor, targets: tf.Tensor, num_classes: int, alpha: float = 0.25, gamma: float = 1.5
) -> tf.Tensor:
  """Sum of the sigmoid focal loss over all anchors and classes that are not ignored.

  Args:
    logits: float[B, H, W, A*K], unnormalised scores, channel a*K + k; finite, of any size. Computed in
      float32.
    targets: int32[B, H*W*A]: 0 ... K-1 the class of a positive anchor, -1 background (all K targets are 0),
      -2 or less ignored: no loss and no gradient.
    num_classes: K.
    alpha: weight of the target class in [0, 1]; 1 - alpha is that of the others.
    gamma: focusing exponent, >= 0. The authors have 1.5.

  Returns: float32[]. Differentiable once, with respect to `logits`.
  """
  dtype = logits.dtype

  @tf.custom_gradient
  def loss(logits):
    shape = tf.shape(logits)
    x = tf.cast(tf.reshape(logits, [shape[0], -1, num_classes]), tf.float32)
    counted = tf.cast(targets > -2, tf.float32)
    positive = targets >= 0

    value, slope = _negative(x, gamma)
    at_label = tf.gather(x, tf.maximum(targets, 0), batch_dims=2)  # [B, anchors]
    # The loss of a target class is that of another class at -x.
    positive_value, positive_slope = _negative(-at_label, gamma)
    extra = alpha * positive_value - (1 - alpha) * _negative(at_label, gamma)[0]
    # Anchor by anchor, before the long sum: the confident right answer cancels only what it added itself.
    per_anchor = (1 - alpha) * tf.reduce_sum(value, axis=-1) + tf.where(positive, extra, 0.0)
    total = tf.reduce_sum(per_anchor * counted)

    def grad(upstream):
      upstream = tf.cast(upstream, tf.float32)
      result = slope * ((1 - alpha) * upstream * counted)[..., None]
      at_positive = (-alpha * upstream) * positive_slope[..., None]
      result = tf.where(tf.range(num_classes) == targets[..., None], at_positive, result)
      return tf.cast(tf.reshape(result, shape), dtype)

    return total, grad

  with tf.name_scope("focal_loss"):
    return loss(logits)


def _negative(x: tf.Tensor, gamma: float) -> tuple[tf.Tensor, tf.Tensor]:
  """p^gamma * softplus(x), p = sigmoid(x): loss of a zero target, and its derivative; finite for finite x."""
  p = tf.sigmoid(x)
  power = _power(p, gamma)
  value = power * tf.math.softplus(x)
  # d/dx = p^gamma * (p + gamma * (1 - p) * softplus) = p * p^gamma + gamma * (1 - p) * value
  return value, p * power + gamma * (1 - p) * value


def _power(p: tf.Tensor, gamma: float) -> tf.Tensor:
  """p^gamma for p in [0, 1]; halves and small integers without the much slower general power."""
  if gamma == 0:
    return tf.ones_like(p)
  if gamma == 1:
    return p
  if gamma == 1.5:
    return p * tf.sqrt(p)
  if gamma == 2:
    return p * p
  return tf.exp(gamma * tf.math.log(p))  # a quarter of the time of tf.pow; p = 0 gives 0
