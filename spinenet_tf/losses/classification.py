"""Softmax cross-entropy with label smoothing [Szegedy et al. 2016]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.replicas import num_replicas


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
  """Loss of one replica's part of a batch, made so that the trainer SUMS gradients (and reports) over replicas.

  Of an example with class y, x the logits, K classes and s the smoothing: -sum_k t_k ln softmax(x)_k, where t_k = s / K, and
  1 - s more at y. Over replicas the losses add up to the mean over the global batch; all replicas have as many examples.

  Attributes:
    num_classes: K.
    label_smoothing: s; 0.1 in the improved recipe.

  Raises:
    UserError: a value is out of range.
  """

  num_classes: int
  label_smoothing: float = 0.0

  def __post_init__(self):
    if self.num_classes < 1:
      raise UserError(f"num_classes is {self.num_classes}; the loss needs at least 1 class")
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1), the paper has 0.1")

  def __call__(self, outputs: Mapping[str, tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Computes the loss of this replica. Call it in the replica's step.

    Args:
      outputs: "logits", float[B, K]. Computed in float32.
      labels: int[B], class indices, 0 to K - 1.

    Returns: "cls" and "total", the same float32[]. Weight decay is not included.

    Raises:
      UserError: the logits have another number of classes.
    """
    logits = tf.cast(outputs["logits"], tf.float32)
    if logits.shape[-1] != self.num_classes:
      raise UserError(
        f"the model has {logits.shape[-1]} outputs and the loss {self.num_classes} classes; they must be as many"
      )
    with tf.name_scope("classification_loss"):
      logs = tf.nn.log_softmax(logits)
      at_label = tf.gather(logs, labels, batch_dims=1)
      smoothed = (1 - self.label_smoothing) * at_label + self.label_smoothing * tf.reduce_mean(logs, axis=-1)
      value = -tf.reduce_mean(smoothed) / num_replicas()
    return {"cls": value, "total": value}
