"""Detections from a detector's outputs: scores, decoding, class-wise non-maximum suppression [SpineNet's code].

The plain algorithm suppresses each class by itself among all anchors, then keeps the best of all classes. At
640 pixels that is 76,725 anchors times 80 or 91 classes. Here the best `pre_nms_top_k` pairs (anchor, class)
of all classes and levels are found first, and one greedy pass, in which only boxes of one class suppress
each other, runs over them until `max_detections` are found. As the pass goes from high scores to low ones,
and a pair can only be suppressed by a better one, the result is that of the plain algorithm, unless all of
this holds: more than `pre_nms_top_k` pairs of an image exceed the threshold, and the best `pre_nms_top_k` of
them leave fewer than `max_detections`. Then detections with the lowest scores are missing at the end of the
list. (The plain algorithm limits candidates per class instead, which loses some in its own way; its limit of
detections per class equals that of all classes and so never binds.)

The best pairs are found exactly without sorting all scores: a pair among the k best belongs to one of the k
anchors whose best class scores highest. Nothing here depends on the image's content in shape, so it exports
and compiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops import portable
from spinenet_tf.ops.anchors import AnchorConfig, anchors


def detect(
  outputs: Mapping[str, Mapping[str, tf.Tensor]],
  anchors_config: AnchorConfig,
  image_size: tuple[int, int],
  *,
  num_classes: int,
  pre_nms_top_k: int = 5000,
  score_threshold: float = 0.05,
  iou_threshold: float = 0.5,
  max_detections: int = 100,
  legacy_plus_one: bool = False,
) -> dict[str, tf.Tensor]:
  """Turns logits and box codes into detections, in float32 whatever the outputs are.

  Args:
    outputs: "cls_logits" and "box_deltas", each level ("3") -> float[B, H, W, A*K] or [B, H, W, A*4].
    anchors_config: the anchors the model was built with.
    image_size: (height, width) of the network's input in pixels.
    num_classes: K.
    pre_nms_top_k: pairs (anchor, class) considered per image, over all classes; >= 1.
    score_threshold: only scores above it count, in [0, 1).
    iou_threshold: a box is dropped if it overlaps a better one of its class by more than this, in [0, 1].
    max_detections: D, the most detections per image, over all classes; >= 1.
    legacy_plus_one: decode as the authors' TF1 code does, see `ops.boxes.decode`.

  Returns: detections by falling score; equal scores by rising anchor, then class:
    "detection_boxes": float32[B, D, 4], (ymin, xmin, ymax, xmax) in input pixels, clipped to the image; 0 in padding.
    "detection_scores": float32[B, D], 0 in padding.
    "detection_classes": int32[B, D], class index 0 ... K-1; -1 in padding.
    "num_detections": int32[B], the rest of D is padding.

  Raises:
    UserError: an argument is out of range.
  """
  _check(pre_nms_top_k, score_threshold, iou_threshold, max_detections)
  with tf.name_scope("detect"):
    levels = anchors(anchors_config, image_size)
    logits, anchor, label = _best_pairs(outputs["cls_logits"], levels, num_classes, pre_nms_top_k)
    scores = tf.sigmoid(logits)
    scores = tf.where(scores > score_threshold, scores, -1.0)
    deltas = outputs["box_deltas"]
    deltas = tf.concat([tf.reshape(deltas[k], [tf.shape(deltas[k])[0], -1, 4]) for k in levels], axis=1)
    deltas = tf.gather(deltas, anchor, batch_dims=1)
    reference = tf.gather(np.concatenate(list(levels.values())), anchor)
    boxes = box_ops.decode(deltas, reference, legacy_plus_one=legacy_plus_one)
    boxes = box_ops.clip(boxes, image_size)
    return _chosen(boxes, scores, label, num_classes, iou_threshold=iou_threshold, max_detections=max_detections)


def detect_regions(
  logits: tf.Tensor,
  codes: tf.Tensor,
  regions: tf.Tensor,
  image_size: tuple[int, int],
  *,
  pre_nms_top_k: int = 5000,
  score_threshold: float = 0.05,
  iou_threshold: float = 0.5,
  max_detections: int = 100,
  legacy_plus_one: bool = False,
) -> dict[str, tf.Tensor]:
  """Turns the second stage's outputs into detections, in float32 whatever the outputs are.

  Args:
    logits: float[B, N, K + 1], index 0 is background.
    codes: float[B, N, K, 4], box codes of each class, as of `ops.boxes.encode_region`.
    regions: float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels; those without area are padding.
    image_size: (height, width) of the network's input in pixels.
    pre_nms_top_k: pairs (region, class) considered per image, over all classes; >= 1.
    score_threshold, iou_threshold, max_detections, legacy_plus_one: as of `detect`; a score is the softmax of a class.

  Returns: as `detect`; equal scores by rising region, then class.

  Raises:
    UserError: an argument is out of range.
  """
  _check(pre_nms_top_k, score_threshold, iou_threshold, max_detections)
  with tf.name_scope("detect_regions"):
    scores = tf.nn.softmax(tf.cast(logits, tf.float32))[..., 1:]
    count, num_classes = scores.shape[1:]
    scores = tf.where((scores > score_threshold) & (box_ops.area(regions) > 0)[..., None], scores, -1.0)
    index = tf.broadcast_to(tf.range(count)[None], tf.shape(scores)[:2])
    scores, index = _best_anchors(scores, index, pre_nms_top_k)
    scores, region, label = _flat_pairs(scores, index, pre_nms_top_k)
    pair = tf.gather(tf.reshape(codes, [-1, count * num_classes, 4]), region * num_classes + label, batch_dims=1)
    seen_from = tf.gather(regions, region, batch_dims=1)
    boxes = box_ops.clip(box_ops.decode_region(pair, seen_from, legacy_plus_one=legacy_plus_one), image_size)
    return _chosen(boxes, scores, label, num_classes, iou_threshold=iou_threshold, max_detections=max_detections)


def _check(pre_nms_top_k: int, score_threshold: float, iou_threshold: float, max_detections: int) -> None:
  for name, value in (("pre_nms_top_k", pre_nms_top_k), ("max_detections", max_detections)):
    if value < 1:
      raise UserError(f"{name} is {value}; it must be 1 or more")
  if not 0 <= score_threshold < 1:
    raise UserError(f"score_threshold is {score_threshold}; it must be 0 or more and below 1")
  if not 0 <= iou_threshold <= 1:
    raise UserError(f"iou_threshold is {iou_threshold}; it must be between 0 and 1")


def _best_pairs(
  cls_logits: Mapping[str, tf.Tensor], levels: Mapping[str, np.ndarray], num_classes: int, top_k: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """The pairs (anchor, class) with the highest logits of each image, best first, ties by anchor then class.

  Returns: logits float32[B, T], anchor indices over all levels int32[B, T], classes int32[B, T];
    T = min(top_k, all pairs).
  """
  rows, indices, offset = [], [], 0
  for name, level_anchors in levels.items():
    count = len(level_anchors)
    logits = cls_logits[name]
    logits = tf.reshape(logits, [tf.shape(logits)[0], count, num_classes])
    index = tf.broadcast_to(tf.range(offset, offset + count)[None], tf.shape(logits)[:2])
    logits, index = _best_anchors(logits, index, top_k)
    rows.append(tf.cast(logits, tf.float32))
    indices.append(index)
    offset += count
  return _flat_pairs(*_best_anchors(tf.concat(rows, axis=1), tf.concat(indices, axis=1), top_k), top_k)


def _flat_pairs(logits: tf.Tensor, index: tf.Tensor, top_k: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """The best of float32[B, N, K] logits: these, their rows' int32[B, N] indices and their classes, each [B, T]."""
  count, num_classes = logits.shape[1:]
  total = count * num_classes
  best, flat = tf.math.top_k(tf.reshape(logits, [-1, total]), min(top_k, total))
  return best, tf.gather(index, flat // num_classes, batch_dims=1), flat % num_classes


def _best_anchors(logits: tf.Tensor, index: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Rows of float[B, N, K] logits and of int32[B, N] indices with the highest best class, `count` or all, in order."""
  if logits.shape[1] <= count:
    return logits, index
  _, kept = tf.math.top_k(tf.cast(tf.reduce_max(logits, axis=-1), tf.float32), count)
  kept = tf.sort(kept, axis=-1)  # the order of anchors, so that ties fall as documented
  return tf.gather(logits, kept, batch_dims=1), tf.gather(index, kept, batch_dims=1)


def _chosen(
  boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor, num_classes: int, **limits: Any
) -> dict[str, tf.Tensor]:
  if portable.one_op_nms_wanted():
    return suppress_by_one_op(boxes, scores, classes, num_classes, **limits)
  return suppress(boxes, scores, classes, **limits)


def suppress(
  boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor, *, iou_threshold: float, max_detections: int
) -> dict[str, tf.Tensor]:
  """Greedy non-maximum suppression within classes, for a batch.

  Args:
    boxes: float32[B, T, 4], (ymin, xmin, ymax, xmax).
    scores: float32[B, T], falling; below 0 for candidates that do not count.
    classes: int32[B, T].
    iou_threshold: overlap above which the lower score is dropped.
    max_detections: D.

  Returns: as `detect`.
  """
  batch, total = tf.shape(scores)[0], tf.shape(scores)[1]
  order = tf.range(total)[None]
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  area = box_ops.area(boxes)
  packed = tf.concat([boxes, area[..., None], tf.cast(classes, tf.float32)[..., None]], axis=-1)
  label = packed[..., 5]

  def condition(step, alive, picks):
    del picks
    return (step < max_detections) & tf.reduce_any(alive)

  def body(step, alive, picks):
    # Scores fall, so the best candidate is the first one alive.
    pick = tf.argmax(tf.cast(alive, tf.int32), axis=-1, output_type=tf.int32)[:, None]
    found = tf.reduce_any(alive, axis=-1, keepdims=True)
    y0, x0, y1, x1, own_area, own_label = tf.unstack(tf.gather(packed, pick, batch_dims=1), axis=-1)
    height = tf.maximum(tf.minimum(ymax, y1) - tf.maximum(ymin, y0), 0.0)
    width = tf.maximum(tf.minimum(xmax, x1) - tf.maximum(xmin, x0), 0.0)
    common = height * width
    overlaps = common > iou_threshold * (area + own_area - common)
    alive = alive & ~((overlaps & (label == own_label)) | (order == pick))
    picks = tf.where(tf.range(max_detections)[None] == step, tf.where(found, pick, -1), picks)
    return step + 1, alive, picks

  state = (tf.constant(0), scores >= 0, tf.fill([batch, max_detections], -1))
  _, _, picks = tf.while_loop(condition, body, state, maximum_iterations=max_detections)
  real = picks >= 0
  index = tf.maximum(picks, 0)
  return {
    "detection_boxes": tf.where(real[..., None], tf.gather(boxes, index, batch_dims=1), 0.0),
    "detection_scores": tf.where(real, tf.gather(scores, index, batch_dims=1), 0.0),
    "detection_classes": tf.where(real, tf.gather(classes, index, batch_dims=1), -1),
    "num_detections": tf.reduce_sum(tf.cast(real, tf.int32), axis=-1),
  }


def suppress_by_one_op(
  boxes: tf.Tensor,
  scores: tf.Tensor,
  classes: tf.Tensor,
  num_classes: int,
  *,
  iou_threshold: float,
  max_detections: int,
) -> dict[str, tf.Tensor]:
  """As `suppress`, for converters: one CombinedNonMaxSuppression over scores [B, T, K], 0 but for a candidate's own class.

  Args:
    boxes, scores, classes, iou_threshold, max_detections: as of `suppress`; T is known.
    num_classes: K.

  Returns: as `detect`. A score of exactly 0 does not count.
  """
  own = tf.one_hot(classes, num_classes, dtype=tf.float32) * tf.maximum(scores, 0.0)[..., None]
  found = tf.raw_ops.CombinedNonMaxSuppression(
    boxes=boxes[:, :, None],
    scores=own,
    max_output_size_per_class=max_detections,
    max_total_size=max_detections,
    iou_threshold=iou_threshold,
    score_threshold=0.0,
    clip_boxes=False,
  )
  real = tf.range(max_detections)[None] < found.valid_detections[:, None]
  return {
    "detection_boxes": tf.where(real[..., None], found.nmsed_boxes, 0.0),
    "detection_scores": tf.where(real, found.nmsed_scores, 0.0),
    "detection_classes": tf.where(real, tf.cast(found.nmsed_classes, tf.int32), -1),
    "num_detections": found.valid_detections,
  }
