"""A balanced random choice among positive and negative examples, with static shapes.  [Ren et al. 2015, section 3.1.3]"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Sample(NamedTuple):
  """`count` examples of each image: the positive ones first, then the negative ones, then places that stay empty.

  Attributes:
    index: int32[B, count], which examples; 0 at empty places.
    positive: bool[B, count].
    negative: bool[B, count]; a place that is neither is empty.
  """

  index: tf.Tensor
  positive: tf.Tensor
  negative: tf.Tensor


def sample(positive: tf.Tensor, negative: tf.Tensor, count: int, positive_share: float, seed: tf.Tensor) -> Sample:
  """Draws without replacement, each example of a kind with the same probability.

  At most `positive_share * count` positives, rounded down, are taken; negatives fill the rest. Where there are too
  few of them places stay empty. Compiles under XLA.

  Args:
    positive: bool[B, N].
    negative: bool[B, N], nowhere true where `positive` is.
    count: examples of each image, 1 or more.
    positive_share: 0 to 1.
    seed: int32[2].

  Returns: a `Sample`.
  """
  with tf.name_scope("sample"):
    most = int(positive_share * count)
    order = tf.random.stateless_uniform(tf.shape(positive), seed)
    chosen, is_positive = _first(positive, order, most)
    others, is_negative = _first(negative, order, count)
    room = count - tf.reduce_sum(tf.cast(is_positive, tf.int32), axis=1, keepdims=True)
    is_negative &= tf.range(tf.shape(is_negative)[1])[None] < room
    index, taken = tf.concat([chosen, others], axis=1), tf.concat([is_positive, is_negative], axis=1)
    missing = max(0, count - int(index.shape[1]))  # there are fewer examples than places
    index, taken = tf.pad(index, [[0, 0], [0, missing]]), tf.pad(taken, [[0, 0], [0, missing]])
    kind = tf.pad(tf.ones_like(is_positive), [[0, 0], [0, int(index.shape[1]) - int(is_positive.shape[1])]])
    # Equal values keep their order in top_k, so taken examples move to the front, positives before negatives.
    _, place = tf.math.top_k(tf.cast(taken, tf.int32), count)
    index, taken, kind = (tf.gather(value, place, batch_dims=1) for value in (index, taken, kind))
    return Sample(tf.where(taken, index, 0), taken & kind, taken & ~kind)


def _first(wanted: tf.Tensor, order: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
  """The `count` examples, or all, with the highest `order` among those that are wanted; and which of them are."""
  value, index = tf.math.top_k(tf.where(wanted, order, -1.0), min(count, int(wanted.shape[1])))
  return index, value >= 0
