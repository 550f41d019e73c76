"""Which ground truth each anchor has to predict [Lin et al. 2017, section 4; thresholds of SpineNet].

An anchor is positive for the ground truth it overlaps most if that overlap (IoU) is 1/2 or more, and
background otherwise; besides, every ground truth forces the one anchor, over all levels, that overlaps it
most. With thresholds that differ, as a region proposal network has them, anchors between the two are ignored.
Ties: among ground truths, overlapping alike or forcing the same anchor, the
first of the list wins; among anchors the first one, in the order of levels, rows, columns, shapes.

This is Model Garden's AnchorLabeler with the same thresholds, except that
* a ground truth that overlaps no anchor at all (empty, or far outside the image) forces none; there it
  forces the very first anchor, onto a box it cannot reach;
* anchors of one scale have one area here. There it is recomputed from rounded corners, and rounding decides
  which of several anchors that contain a small box is forced.

How it is fast. Over the grid of a level (H rows, W columns, A shapes) an intersection is a height that
depends on (row, shape) times a width that depends on (column, shape). So a ground truth's best anchor of a
shape is the best row with the best column, without looking at the grid; and overlaps over the grid cost one
product. Ground truths are taken a few at a time, in a loop that ends with the last real one, so memory is
that of a few [B, anchors] arrays and padding costs nothing. IoU itself is not needed: r = intersection /
(sum of both areas) = IoU / (1 + IoU) rises with it, and IoU = 1/2 is r = 1/3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from spinenet_tf.ops.anchors import AnchorConfig, LevelGrid, grids

BACKGROUND = -1
IGNORED = -2
_FAR = np.array([-2e6, -2e6, -1e6, -1e6], np.float32)
_CHUNK = 8  # ground truths per turn of the loop: few enough to stay in cache, enough to keep kernels few


class Targets(NamedTuple):
  """What the heads have to predict, in the order of `ops.anchors.anchors`.

  Attributes:
    classes: level ("3") -> int32[B, H*W*A]: class index 0 ... K-1, -1 background, -2 ignored.
    boxes: level -> float32[B, H*W*A, 4]: codes (ty, tx, th, tw), 0 where the anchor is not positive.
    num_positives: int32[B], positive anchors of each image.
  """

  classes: dict[str, tf.Tensor]
  boxes: dict[str, tf.Tensor]
  num_positives: tf.Tensor


def assign(
  config: AnchorConfig,
  image_size: tuple[int, int],
  boxes: tf.Tensor,
  classes: tf.Tensor,
  positive_iou: float = 0.5,
  negative_iou: float = 0.5,
) -> Targets:
  """Assigns ground truth to anchors, for a batch of padded images.

  No gradient flows through the result. Shapes are static but for the batch; compiles under XLA.

  Args:
    config: the anchors.
    image_size: (height, width) of the network's input in pixels.
    boxes: float32[B, M, 4], (ymin, xmin, ymax, xmax) in input pixels. They may reach beyond the image.
    classes: int32[B, M], 0 ... K-1, or negative for padding. Padding may lie anywhere, though at the end it
      is free. A box of no area, or with a NaN, counts as padding.
    positive_iou: overlap from which an anchor is positive, in (0, 1].
    negative_iou: overlap below which an anchor that is not forced is background, at most `positive_iou`.

  Returns: `Targets`.
  """
  with tf.name_scope("assign"):
    levels = grids(config, image_size)
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    classes = tf.cast(classes, tf.int32)
    sides = boxes[..., 2:] - boxes[..., :2]
    valid = (classes >= 0) & tf.reduce_all(sides > 0, axis=-1) & tf.reduce_all(tf.math.is_finite(boxes), axis=-1)
    # Padding becomes an ordinary box far away: it overlaps nothing, and no arithmetic on it is special. Some is
    # appended to fill the last turn of the loop, at least one so that there is always a first box.
    boxes = tf.where(valid[..., None], boxes, tf.constant(_FAR))
    count = boxes.shape[1] if boxes.shape[1] is not None else tf.shape(boxes)[1]
    extra = _CHUNK - count % _CHUNK
    boxes = tf.concat([boxes, tf.broadcast_to(_FAR, [tf.shape(boxes)[0], extra, 4])], axis=1)
    classes = tf.pad(classes, [[0, 0], [0, extra]], constant_values=BACKGROUND)
    valid = tf.pad(valid, [[0, 0], [0, extra]])
    truth = _centre_form(boxes)

    overlap, matched = _best_truth(levels, truth, valid)
    forced = _forced_truth(levels, truth)
    is_forced = forced < tf.shape(classes)[1]
    positive = is_forced | (overlap >= _ratio(positive_iou))
    matched = tf.where(is_forced, forced, matched)

    index = tf.maximum(matched, 0)
    others = BACKGROUND
    if negative_iou < positive_iou:
      others = tf.where(overlap < _ratio(negative_iou), BACKGROUND, IGNORED)
    anchor_classes = tf.where(positive, tf.gather(classes, index, batch_dims=1), others)
    codes = tf.where(positive[..., None], _encode(levels, tf.gather(truth, index, batch_dims=1)), 0.0)
    names = [str(grid.level) for grid in levels]
    sizes = [grid.count for grid in levels]
    return Targets(
      classes=dict(zip(names, tf.split(anchor_classes, sizes, axis=1))),
      boxes=dict(zip(names, tf.split(codes, sizes, axis=1))),
      num_positives=tf.reduce_sum(tf.cast(positive, tf.int32), axis=1),
    )


def _centre_form(boxes: tf.Tensor) -> tf.Tensor:
  """float32[B, M, 4] corners -> (yc, xc, h, w)."""
  low, high = boxes[..., :2], boxes[..., 2:]
  return tf.concat([(low + high) / 2, high - low], axis=-1)


def _overlap(centres: np.ndarray, sides: np.ndarray, truth_centre: tf.Tensor, truth_side: tf.Tensor) -> tf.Tensor:
  """Lengths of intersections along one axis.

  Args:
    centres: float64[N] of the anchors.
    sides: float64[A] of the anchors.
    truth_centre: float32[B, M].
    truth_side: float32[B, M].

  Returns: float32[B, M, A, N] >= 0. An interval inside another gives the inner one's length without
    rounding, so that ties are ties.
  """
  distance = tf.abs(truth_centre[..., None] - tf.constant(centres, tf.float32))  # [B, M, N]
  sides = tf.constant(sides, tf.float32)
  inner = tf.minimum(truth_side[..., None], sides)  # [B, M, A]
  reach = (truth_side[..., None] + sides) / 2
  length = tf.minimum(inner[..., None], reach[..., None] - distance[:, :, None, :])
  return tf.maximum(length, 0.0)


def _area_sum(grid: LevelGrid, truth: tf.Tensor) -> tf.Tensor:
  """float32[B, M, A], area of a ground truth plus area of an anchor."""
  areas = grid.heights * grid.widths
  areas = areas.astype(np.float32)
  return (truth[..., 2] * truth[..., 3])[..., None] + areas


def _forced_truth(levels: list[LevelGrid], truth: tf.Tensor) -> tf.Tensor:
  """int32[B, anchors]: the first ground truth whose best anchor this is; M where there is none."""
  scores, indices, offset = [], [], 0
  for grid in levels:
    height = _overlap(grid.y, grid.heights, truth[..., 0], truth[..., 2])
    width = _overlap(grid.x, grid.widths, truth[..., 1], truth[..., 3])
    row = tf.argmax(height, axis=-1, output_type=tf.int32)
    column = tf.argmax(width, axis=-1, output_type=tf.int32)
    common = tf.reduce_max(height, axis=-1) * tf.reduce_max(width, axis=-1)  # [B, M, A]
    scores.append(common / _area_sum(grid, truth))
    shapes = len(grid.heights)
    indices.append(offset + (row * len(grid.x) + column) * shapes + tf.range(shapes))
    offset += grid.count
  scores, indices = tf.concat(scores, axis=-1), tf.concat(indices, axis=-1)  # [B, M, levels * A]
  best = tf.reduce_max(scores, axis=-1, keepdims=True)
  anchor = tf.reduce_min(tf.where(scores == best, indices, offset), axis=-1)  # [B, M]

  batch, count = tf.shape(truth)[0], tf.shape(truth)[1]
  order = tf.where(best[..., 0] > 0, tf.range(count)[None], count)
  where = tf.stack([tf.broadcast_to(tf.range(batch)[:, None], [batch, count]), anchor], axis=-1)
  return tf.tensor_scatter_nd_min(tf.fill([batch, offset], count), where, order)


def _ratio(iou: float) -> np.float32:
  """IoU / (1 + IoU), rounded once."""
  return np.float32(iou) / np.float32(1 + iou)


def _best_truth(levels: list[LevelGrid], truth: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """float32[B, anchors] IoU / (1 + IoU) with the ground truth an anchor overlaps most; int32[B, anchors] which, -1 none."""
  batch, count = tf.shape(truth)[0], tf.shape(truth)[1]
  last = tf.reduce_max(tf.where(valid, tf.range(1, count + 1)[None], 0))

  def body(start, best, index):
    part = tf.gather(truth, start + tf.range(_CHUNK), axis=1)  # a slice with a moving start has no static shape
    order = start + tf.range(_CHUNK)[None, :, None, None, None]
    new_best, new_index = [], []
    for grid, old_best, old_index in zip(levels, best, index):
      height = _overlap(grid.y, grid.heights, part[..., 0], part[..., 2])
      width = _overlap(grid.x, grid.widths, part[..., 1], part[..., 3])
      ratio = height[..., None] * width[..., None, :] / _area_sum(grid, part)[..., None, None]  # [B, chunk, A, H, W]
      top = tf.reduce_max(ratio, axis=1)
      first = tf.reduce_min(tf.where(ratio == top[:, None], order, count), axis=1)
      new_index.append(tf.where(top > old_best, first, old_index))
      new_best.append(tf.maximum(top, old_best))
    return start + _CHUNK, new_best, new_index

  shapes = [[len(grid.heights), len(grid.y), len(grid.x)] for grid in levels]
  _, best, index = tf.while_loop(
    lambda start, best, index: start < last,
    body,
    (
      tf.constant(0),
      [tf.zeros([batch, *shape]) for shape in shapes],
      [tf.fill([batch, *shape], -1) for shape in shapes],
    ),
  )

  def flat(values):
    parts = [tf.reshape(tf.transpose(v, [0, 2, 3, 1]), [batch, grid.count]) for grid, v in zip(levels, values)]
    return tf.concat(parts, axis=1)

  return flat(best), flat(index)


def _encode(levels: list[LevelGrid], truth: tf.Tensor) -> tf.Tensor:
  """Codes float32[B, anchors, 4] of the ground truth (yc, xc, h, w) that each anchor got."""
  shift, scale = [], []
  for grid in levels:
    y, x, h, w = np.broadcast_arrays(grid.y[:, None, None], grid.x[None, :, None], grid.heights, grid.widths)
    shift.append(np.stack([y, x], axis=-1).reshape(-1, 2))
    scale.append(np.stack([h, w], axis=-1).reshape(-1, 2))
  shift = np.concatenate(shift).astype(np.float32)
  scale = np.concatenate(scale).astype(np.float32)
  return tf.concat([(truth[..., :2] - shift) / scale, tf.math.log(truth[..., 2:] / scale)], axis=-1)
