"""The five losses of Mask R-CNN, summed unweighted.  [He et al. 2017; the authors' losses]"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.box import huber_loss_sum
from spinenet_tf.losses.replicas import average_over, check_normalizer, normalizing_counts
from spinenet_tf.ops.matching import Targets
from spinenet_tf.ops.regions import Regions
from spinenet_tf.ops.sampling import Sample


class Predictions(NamedTuple):
  """What a Mask R-CNN says during training.

  Attributes:
    rpn_scores: level ("3") -> float32[B, H, W, A], logits.
    rpn_deltas: level -> float32[B, H, W, A*4].
    logits: float32[B, S, K+1] of the sampled regions, background first.
    codes: float32[B, S, K, 4].
    masks: float32[B, N, h, w], logits of the first N regions' own classes.
  """

  rpn_scores: Mapping[str, tf.Tensor]
  rpn_deltas: Mapping[str, tf.Tensor]
  logits: tf.Tensor
  codes: tf.Tensor
  masks: tf.Tensor


class MaskTargets(NamedTuple):
  """What it should say.

  Attributes:
    anchors: of the proposal network, one class.
    sampled: anchors whose scores train.
    regions: sampled regions.
    masks: float32[B, N, h, w], 0 or 1, of the first N regions.
    has_mask: bool[B, N], which of these are positive and have a mask.
  """

  anchors: Targets
  sampled: Sample
  regions: Regions
  masks: tf.Tensor
  has_mask: tf.Tensor


@dataclasses.dataclass(frozen=True)
class MaskRCNNLoss:
  """Loss of one replica's part of a batch, made so that the trainer SUMS gradients (and reports) over replicas.

    part      mean over
    rpn_cls   sampled anchors, cross-entropy of their one logit
    rpn_box   for each level coordinates of positive anchors, Huber; summed over levels
    cls       sampled regions, softmax cross-entropy
    box       coordinates of positive regions, Huber, of their own class
    mask      pixels of positive regions that have a mask, cross-entropy, of their own class

  A mean over nothing is 0. "global" takes means over all replicas; "replica" is the authors' rule: each replica takes
  its own, and the results are averaged.

  Attributes:
    rpn_huber_delta: where the proposals' box loss turns from a square into a line, in coded units.
    huber_delta: the same for regions, whose codes are larger by `ops.boxes.REGION_WEIGHTS`.
    normalizer: "global" or "replica".

  Raises: UserError for a value out of range.
  """

  rpn_huber_delta: float = 1 / 9
  huber_delta: float = 1.0
  normalizer: str = "global"

  def __post_init__(self):
    for name in ("rpn_huber_delta", "huber_delta"):
      if not getattr(self, name) > 0:
        raise UserError(f"{name} is {getattr(self, name)!r}; it must be positive")
    check_normalizer(self.normalizer)

  def __call__(self, outputs: Predictions, targets: MaskTargets) -> dict[str, tf.Tensor]:
    """Computes the losses of this replica. Call it in the replica's step.

    Args:
      outputs: predictions.
      targets: of the same anchors and regions.

    Returns: "rpn_cls", "rpn_box", "cls", "box", "mask" and "total", their sum: float32[]. Weight decay is not included.
    """
    sums = {
      "rpn_cls": _scores(outputs.rpn_scores, targets.sampled),
      **{
        f"rpn_box/{level}": self._proposals(outputs.rpn_deltas[level], targets.anchors, level)
        for level in targets.anchors.classes
      },
      "cls": _classes(outputs.logits, targets.regions),
      "box": self._boxes(outputs.codes, targets.regions),
      "mask": _masks(outputs.masks, targets.masks, targets.has_mask),
    }
    means = dict(zip(sums, tf.unstack(self._means(*(tf.stack(column) for column in zip(*sums.values()))))))
    parts = {name: means[name] for name in ("rpn_cls", "cls", "box", "mask")}
    parts["rpn_box"] = tf.add_n([value for name, value in means.items() if name.startswith("rpn_box/")])
    return {**parts, "total": tf.add_n(list(parts.values()))}

  def _means(self, sums: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Returns the replica's share of each mean, float32[parts]."""
    return tf.math.divide_no_nan(sums, normalizing_counts(counts, self.normalizer)) / average_over(self.normalizer)

  def _proposals(self, deltas: tf.Tensor, anchors: Targets, level: str) -> tuple[tf.Tensor, tf.Tensor]:
    positive = anchors.classes[level] >= 0
    return huber_loss_sum(deltas, anchors.boxes[level], self.rpn_huber_delta, positive), 4.0 * _count(positive)

  def _boxes(self, codes: tf.Tensor, regions: Regions) -> tuple[tf.Tensor, tf.Tensor]:
    positive = regions.classes >= 0
    own = tf.gather(codes, tf.maximum(regions.classes, 0), batch_dims=2)
    return huber_loss_sum(own, regions.codes, self.huber_delta, positive), 4.0 * _count(positive)


def _count(mask: tf.Tensor) -> tf.Tensor:
  return tf.reduce_sum(tf.cast(mask, tf.float32))


def _scores(scores: Mapping[str, tf.Tensor], sampled: Sample) -> tuple[tf.Tensor, tf.Tensor]:
  """Sum and number of terms, as all of these functions return."""
  logits = [tf.reshape(tf.cast(values, tf.float32), [tf.shape(values)[0], -1]) for values in scores.values()]
  chosen = tf.gather(tf.concat(logits, axis=1), sampled.index, batch_dims=1)
  return _cross_entropy(chosen, tf.cast(sampled.positive, tf.float32), sampled.positive | sampled.negative)


def _classes(logits: tf.Tensor, regions: Regions) -> tuple[tf.Tensor, tf.Tensor]:
  labels = tf.maximum(regions.classes + 1, 0)
  loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
  counted = regions.classes >= -1
  return tf.reduce_sum(tf.where(counted, loss, 0.0)), _count(counted)


def _masks(logits: tf.Tensor, masks: tf.Tensor, has_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  return _cross_entropy(tf.cast(logits, tf.float32), masks, has_mask[:, :, None, None])


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor, counted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  weights = tf.broadcast_to(tf.cast(counted, tf.float32), tf.shape(logits))
  loss = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
  return tf.reduce_sum(loss * weights), tf.reduce_sum(weights)
