"""The RetinaNet loss: focal loss of classes plus weighted Huber loss of boxes [Lin et al. 2017; SpineNet's code]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Optional

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.box import huber_loss_sum
from spinenet_tf.losses.focal import focal_loss_sum
from spinenet_tf.losses.replicas import average_over, check_normalizer, normalizing_counts
from spinenet_tf.ops.matching import Targets


@dataclasses.dataclass(frozen=True)
class RetinaNetLoss:
  """Loss of one replica's part of a batch, made so that the trainer SUMS gradients (and reports) over replicas.

  With P the number of positive anchors and R the number of replicas, the parts of replica r are

    normalizer   cls                               box
    "global"     focal_r / (P_all + 1)             huber_r / (4 * (P_all + 1))
    "replica"    focal_r / (P_r + 1) / R           huber_r / (4 * (P_r + 1)) / R

  "global" counts positives over all replicas of the running `tf.distribute` strategy; summed over replicas the loss
  equals that of one device at the same global batch. "replica" is the authors' rule: each replica counts its
  own, and gradients are averaged. With one replica they are the same. The 1 keeps a batch without objects
  finite.

  Attributes:
    num_classes: K, background not counted.
    alpha: of the focal loss.
    gamma: of the focal loss.
    huber_delta: where the box loss turns from a square into a line, in coded units.
    box_weight: of the box part in the total.
    normalizer: "global" or "replica".

  Raises:
    UserError: a value is out of range.
  """

  num_classes: int
  alpha: float = 0.25
  gamma: float = 1.5
  huber_delta: float = 0.1
  box_weight: float = 50.0
  normalizer: str = "global"

  def __post_init__(self):
    if self.num_classes < 1:
      raise UserError(f"num_classes is {self.num_classes}; the loss needs at least 1 class")
    if not 0 <= self.alpha <= 1:
      raise UserError(f"alpha is {self.alpha}; the focal loss takes 0 to 1")
    if self.gamma < 0:
      raise UserError(f"gamma is {self.gamma}; the focal loss takes 0 or more")
    if self.huber_delta <= 0:
      raise UserError(f"huber_delta is {self.huber_delta}; it must be positive")
    if self.box_weight < 0:
      raise UserError(f"box_weight is {self.box_weight}; it must be 0 or more")
    check_normalizer(self.normalizer)

  def __call__(
    self,
    outputs: Mapping[str, Mapping[str, tf.Tensor]],
    targets: Targets,
    num_positives: Optional[tf.Tensor] = None,
  ) -> dict[str, tf.Tensor]:
    """Computes the loss of this replica. Call it in the replica's step.

    Args:
      outputs: "cls_logits" and "box_deltas", each level ("3") -> float[B, H, W, A*K] or [B, H, W, A*4].
      targets: from `ops.matching.assign`, with the same levels.
      num_positives: scalar that takes the place of the counted positives and is used as it is, without a
        reduction over replicas: for a batch in several parts, whose count the caller knows. None counts.

    Returns: "cls", "box", "total": float32[], total = cls + box_weight * box. Weight decay is not included.

    Raises:
      UserError: outputs and targets have different levels.
    """
    levels = list(targets.classes)
    for name in ("cls_logits", "box_deltas"):
      if set(outputs[name]) != set(levels):
        raise UserError(
          f"{name} has levels {sorted(outputs[name])} and the targets have {sorted(levels)}; they must be the same: "
          "use the model's own anchor configuration"
        )
    cls = tf.add_n(
      [
        focal_loss_sum(outputs["cls_logits"][k], targets.classes[k], self.num_classes, self.alpha, self.gamma)
        for k in levels
      ]
    )
    box = tf.add_n([huber_loss_sum(outputs["box_deltas"][k], targets.boxes[k], self.huber_delta) for k in levels])
    normalizer = self._normalizer(targets, num_positives)
    cls, box = cls / normalizer, box / (4.0 * normalizer)
    return {"cls": cls, "box": box, "total": cls + self.box_weight * box}

  def _normalizer(self, targets: Targets, num_positives: Optional[tf.Tensor]) -> tf.Tensor:
    if num_positives is None:
      count = tf.cast(tf.reduce_sum(targets.num_positives), tf.float32)
      count = normalizing_counts(count, self.normalizer)
    else:
      count = tf.stop_gradient(tf.cast(num_positives, tf.float32))
    return (count + 1.0) * average_over(self.normalizer)
