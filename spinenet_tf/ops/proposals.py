"""Proposals of the region proposal network: decoded, clipped, suppressed within levels.  [Ren et al. 2015; Lin et al. 2017]

One compiled op suppresses, the levels in the place of classes. Where functions must be portable it is TensorFlow's padded
suppression, which is made of matrix operations, or for converters that know the compiled op, one of them for each level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops import nms, portable
from spinenet_tf.ops.anchors import AnchorConfig, anchors

# Logits are ordered by a positive number, strength = exp(logit / 4), as the compiled op wants; it stays finite for logits
# beyond those whose probabilities float32 tells apart. Strength 0 is what fills a level up.
SHARPNESS, LIMIT = 4.0, 300.0


def propose(
  scores: Mapping[str, tf.Tensor],
  deltas: Mapping[str, tf.Tensor],
  anchors_config: AnchorConfig,
  image_size: tuple[int, int],
  *,
  pre_nms_top_k: int,
  iou_threshold: float = 0.7,
  count: int = 1000,
  legacy_plus_one: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Chooses the boxes that the second stage looks at. No gradient flows back.

  Args:
    scores: level ("3") -> float[B, H, W, A], logits of "there is an object". What is not finite counts as never.
    deltas: level -> float[B, H, W, A * 4], box codes relative to the anchors.
    anchors_config: the anchors the model was built with.
    image_size: (height, width) of the network's input in pixels.
    pre_nms_top_k: anchors of each level that are considered, the best ones.
    iou_threshold: a box is dropped if it overlaps a better one of its level by more than this, in [0, 1].
    count: N, the most proposals of an image, over all levels.
    legacy_plus_one: decode as the authors' TF1 code does, see `ops.boxes.decode`.

  Returns: by falling score,
    float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels, clipped to the image; 0 in padding.
    float32[B, N], probabilities; 0 in padding.
  """
  with tf.name_scope("propose"):
    candidates = [
      _best_of_level(scores[name], deltas[name], level_anchors, image_size, pre_nms_top_k, legacy_plus_one)
      for name, level_anchors in anchors(anchors_config, image_size).items()
    ]
    suppress = _suppress_portable if portable.wanted() else _suppress
    if portable.one_op_nms_wanted():
      suppress = _suppress_level_by_level
    boxes, strengths = suppress(*zip(*candidates), iou_threshold, count)
    real = strengths > 0
    probabilities = tf.sigmoid(SHARPNESS * tf.math.log(tf.where(real, strengths, 1.0)))
    boxes = tf.where(real[..., None], boxes, 0.0)
    return tf.stop_gradient(boxes), tf.stop_gradient(tf.where(real, probabilities, 0.0))


def _best_of_level(
  scores: tf.Tensor,
  deltas: tf.Tensor,
  level_anchors: np.ndarray,
  image_size: tuple[int, int],
  top_k: int,
  legacy_plus_one: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the boxes float32[B, T, 4] and their strengths float32[B, T], falling, of a level; T = min(top_k, all)."""
  total = len(level_anchors)
  scores = tf.reshape(tf.cast(scores, tf.float32), [-1, total])
  deltas = tf.reshape(tf.cast(deltas, tf.float32), [-1, total, 4])
  usable = tf.math.is_finite(scores) & tf.reduce_all(tf.math.is_finite(deltas), axis=-1)
  strengths = tf.where(usable, tf.exp(tf.clip_by_value(scores, -LIMIT, LIMIT) / SHARPNESS), 0.0)
  best, index = tf.math.top_k(strengths, min(top_k, total))
  deltas = tf.where((best > 0)[..., None], tf.gather(deltas, index, batch_dims=1), 0.0)
  boxes = box_ops.decode(deltas, tf.gather(level_anchors, index), legacy_plus_one=legacy_plus_one)
  return box_ops.clip(boxes, image_size), best


def _suppress(
  boxes: tuple[tf.Tensor, ...], strengths: tuple[tf.Tensor, ...], iou_threshold: float, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns float32[B, count, 4] and strengths float32[B, count] of what is left of all levels, by falling strength."""
  most = max(level.shape[1] for level in strengths)
  boxes = [tf.pad(level, [[0, 0], [0, most - level.shape[1]], [0, 0]]) for level in boxes]
  strengths = [tf.pad(level, [[0, 0], [0, most - level.shape[1]]]) for level in strengths]
  found = tf.image.combined_non_max_suppression(
    tf.stack(boxes, axis=2),
    tf.stack(strengths, axis=2),
    max_output_size_per_class=min(most, count),
    max_total_size=count,
    iou_threshold=iou_threshold,
    score_threshold=0.0,
    clip_boxes=False,
  )
  filled = tf.range(count)[None] < found.valid_detections[:, None]
  return found.nmsed_boxes, tf.where(filled, found.nmsed_scores, 0.0)


def _suppress_portable(
  boxes: tuple[tf.Tensor, ...], strengths: tuple[tf.Tensor, ...], iou_threshold: float, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """As `_suppress`, level by level, with operations that XLA compiles."""
  kept_boxes, kept_strengths = [], []
  for level_boxes, level_strengths in zip(boxes, strengths):
    size = min(level_strengths.shape[1], count)
    index, valid = tf.image.non_max_suppression_padded(
      level_boxes,
      level_strengths,
      size,
      iou_threshold=iou_threshold,
      score_threshold=0.0,
      pad_to_max_output_size=True,
      sorted_input=True,
      canonicalized_coordinates=True,
    )
    filled = tf.range(size)[None] < tf.reshape(valid, [-1, 1])
    kept_boxes.append(tf.gather(level_boxes, index, batch_dims=1))
    kept_strengths.append(tf.where(filled, tf.gather(level_strengths, index, batch_dims=1), 0.0))
  return _best_of_all(kept_boxes, kept_strengths, count)


def _suppress_level_by_level(
  boxes: tuple[tf.Tensor, ...], strengths: tuple[tf.Tensor, ...], iou_threshold: float, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
  """As `_suppress`, one operation for each level."""
  kept = []
  for level_boxes, level_strengths in zip(boxes, strengths):
    level = tf.zeros_like(level_strengths, tf.int32)
    limits = {"iou_threshold": iou_threshold, "max_detections": min(level_strengths.shape[1], count)}
    found = nms.suppress_by_one_op(level_boxes, level_strengths, level, 1, **limits)
    kept.append((found["detection_boxes"], found["detection_scores"]))
  return _best_of_all(*zip(*kept), count)


def _best_of_all(boxes: Sequence[tf.Tensor], strengths: Sequence[tf.Tensor], count: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the best `count` of what levels kept, filled up with strength 0."""
  boxes, strengths = tf.concat(boxes, axis=1), tf.concat(strengths, axis=1)
  missing = max(0, count - strengths.shape[1])
  boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
  strengths = tf.pad(strengths, [[0, 0], [0, missing]])
  best, index = tf.math.top_k(strengths, count)
  return tf.gather(boxes, index, batch_dims=1), best
