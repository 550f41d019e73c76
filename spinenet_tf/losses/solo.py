"""SOLO's losses: focal loss of the cells' categories, dice loss of their masks.  [Wang et al. 2020, section 3.3]"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.focal import focal_loss_sum
from spinenet_tf.losses.replicas import average_over, check_normalizer, normalizing_counts
from spinenet_tf.ops.solo_targets import SoloMasks, SoloTargets

SMOOTH = 0.001  # added to each of the two sums of squares


@dataclasses.dataclass(frozen=True)
class SoloLoss:
  """Loss of one replica's part of a batch, made so that the trainer SUMS gradients (and reports) over replicas.

    part   value
    cls    focal loss of all cells / (cells of objects + 1)
    mask   mean dice loss of the chosen cells, see `dice_loss`

  "global" counts cells over all replicas; "replica" takes each replica's own, and the results are averaged.

  Attributes:
    num_classes: K, background not counted.
    alpha: of the focal loss.
    gamma: of the focal loss.
    mask_weight: of the mask part in the total.
    normalizer: "global" or "replica".

  Raises: UserError for a value out of range.
  """

  num_classes: int
  alpha: float = 0.25
  gamma: float = 2.0
  mask_weight: float = 3.0
  normalizer: str = "global"

  def __post_init__(self):
    if self.num_classes < 1:
      raise UserError(f"num_classes is {self.num_classes}; the loss needs at least 1 class")
    if not 0 <= self.alpha <= 1:
      raise UserError(f"alpha is {self.alpha}; the focal loss takes 0 to 1")
    if self.gamma < 0:
      raise UserError(f"gamma is {self.gamma}; the focal loss takes 0 or more")
    if self.mask_weight < 0:
      raise UserError(f"mask_weight is {self.mask_weight}; it must be 0 or more")
    check_normalizer(self.normalizer)

  def __call__(
    self,
    cls_logits: Mapping[str, tf.Tensor],
    masks: Mapping[str, tf.Tensor],
    targets: SoloTargets,
    wanted: SoloMasks,
  ) -> dict[str, tf.Tensor]:
    """Computes the losses of this replica. Call it in the replica's step.

    Args:
      cls_logits: level ("0") -> float[B, S, S, K].
      masks: level -> float32[B, N, h, w], probabilities of the chosen cells.
      targets: of all cells.
      wanted: of the chosen ones.

    Returns: "cls", "mask" and "total", cls + mask_weight * mask: float32[]. Weight decay is not included.

    Raises: UserError: outputs and targets have different levels.
    """
    for name, given in (("cls_logits", cls_logits), ("masks", masks)):
      if set(given) != set(targets.classes):
        raise UserError(
          f"{name} has levels {sorted(given)} and the targets have {sorted(targets.classes)}; they must be the same: use "
          "the model's own levels"
        )
    cls, mask, count = [], [], []
    for name, classes in targets.classes.items():
      cls.append(focal_loss_sum(cls_logits[name], classes, self.num_classes, self.alpha, self.gamma))
      positive, negative = wanted.positive[name], wanted.negative[name]
      value = dice_loss(masks[name], wanted.masks[name], negative)
      counted = tf.cast(positive | negative, tf.float32)
      mask.append(tf.reduce_sum(value * counted))
      count.append(tf.reduce_sum(counted))
    positives = tf.cast(tf.reduce_sum(targets.num_positives), tf.float32)
    counts = normalizing_counts(tf.stack([positives, tf.add_n(count)]), self.normalizer)
    replicas = average_over(self.normalizer)
    parts = {
      "cls": tf.add_n(cls) / (counts[0] + 1.0) / replicas,
      "mask": tf.math.divide_no_nan(tf.add_n(mask), counts[1]) / replicas,
    }
    return {**parts, "total": parts["cls"] + self.mask_weight * parts["mask"]}


def dice_loss(masks: tf.Tensor, wanted: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
  """How little masks overlap with what they should be, each for itself.

  1 - 2 sum(p q) / (sum(p^2) + 0.001 + sum(q^2) + 0.001). For a mask that should be empty that is 1 whatever p is and has no
  gradient; there the constants stand above the line too, which makes it sum(p^2) / (sum(p^2) + 0.002).

  Args:
    masks: float[B, N, h, w], p, probabilities.
    wanted: float32[B, N, h, w], q, 0 or 1.
    empty: bool[B, N], masks that should be empty.

  Returns: float32[B, N], 0 to 1.
  """
  with tf.name_scope("dice_loss"):
    masks = tf.cast(masks, tf.float32)
    common, own, other = (
      tf.reduce_sum(value, axis=[2, 3]) for value in (masks * wanted, tf.square(masks), tf.square(wanted))
    )
    above = 2.0 * common + tf.where(empty, 2.0 * SMOOTH, 0.0)
    return 1.0 - above / (own + SMOOTH + other + SMOOTH)
