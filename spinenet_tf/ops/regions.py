"""What the second stage trains on: sampled proposals with class, box code and mask.  [Ren et al. 2015; He et al. 2017]"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.sampling import sample


class Regions(NamedTuple):
  """S sampled regions of each image: positive ones first, then background, then empty places. No gradient flows back.

  Attributes:
    boxes: float32[B, S, 4], input pixels; 0 at empty places.
    classes: int32[B, S]: 0 ... K-1, -1 background, -2 empty.
    codes: float32[B, S, 4], the ground truth seen from the region, see `ops.boxes.encode_region`; 0 where not positive.
    truth: int32[B, S], the row of the ground truth; 0 where not positive.
    truth_boxes: float32[B, S, 4], of that row.
  """

  boxes: tf.Tensor
  classes: tf.Tensor
  codes: tf.Tensor
  truth: tf.Tensor
  truth_boxes: tf.Tensor


def sample_regions(
  proposals: tf.Tensor,
  boxes: tf.Tensor,
  classes: tf.Tensor,
  seed: tf.Tensor,
  *,
  count: int = 512,
  positive_share: float = 0.25,
  positive_iou: float = 0.5,
) -> Regions:
  """Matches proposals, and the ground truth itself, with the ground truth and samples among them.

  A region is positive for the ground truth it overlaps most if that IoU is `positive_iou` or more, the first of equal
  ones, and background otherwise.

  Args:
    proposals: float32[B, P, 4], (ymin, xmin, ymax, xmax) in input pixels; boxes without area are padding.
    boxes: float32[B, M, 4] likewise, ground truth.
    classes: int32[B, M], 0 ... K-1, negative for padding.
    seed: int32[2].
    count: S.
    positive_share: the largest share of positive regions.
    positive_iou: overlap from which a region is positive.

  Returns: `Regions`.
  """
  with tf.name_scope("sample_regions"):
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    real = (classes >= 0) & (box_ops.area(boxes) > 0)
    boxes = tf.where(real[..., None], boxes, 0.0)
    candidates = tf.concat([tf.stop_gradient(tf.cast(proposals, tf.float32)), boxes], axis=1)
    overlap = box_ops.iou(candidates[:, :, None], boxes[:, None])
    overlap = tf.where(real[:, None], overlap, -1.0)
    best = tf.argmax(overlap, axis=-1, output_type=tf.int32)
    usable = box_ops.area(candidates) > 0
    positive = usable & (tf.reduce_max(overlap, axis=-1) >= positive_iou)
    taken = sample(positive, usable & ~positive, count, positive_share, seed)

    truth = tf.where(taken.positive, tf.gather(best, taken.index, batch_dims=1), 0)
    filled = (taken.positive | taken.negative)[..., None]
    region = tf.where(filled, tf.gather(candidates, taken.index, batch_dims=1), 0.0)
    truth_boxes = tf.where(taken.positive[..., None], tf.gather(boxes, truth, batch_dims=1), 0.0)
    own = tf.gather(tf.cast(classes, tf.int32), truth, batch_dims=1)
    # The arithmetic of codes wants areas, also where its result is thrown away.
    unit = tf.constant([0.0, 0.0, 1.0, 1.0])
    codes = box_ops.encode_region(
      tf.where(taken.positive[..., None], truth_boxes, unit), tf.where(taken.positive[..., None], region, unit)
    )
    return Regions(
      boxes=region,
      classes=tf.where(taken.positive, own, tf.where(taken.negative, -1, -2)),
      codes=tf.where(taken.positive[..., None], codes, 0.0),
      truth=truth,
      truth_boxes=truth_boxes,
    )


def mask_targets(
  masks: tf.Tensor, truth_boxes: tf.Tensor, regions: tf.Tensor, size: int | tuple[int, int] = 28
) -> tf.Tensor:
  """Sees masks, which are stored within their own boxes, from regions.

  The value of a bin is the bilinear one at its centre, 0 outside the mask's box, cut at 1/2. A mask is the product of
  a matrix for its rows and one for its columns, so nothing is gathered.

  Args:
    masks: uint8[B, S, h, w], 0 or 1: bins of `truth_boxes`.
    truth_boxes: float32[B, S, 4], (ymin, xmin, ymax, xmax) in input pixels.
    regions: float32[B, S, 4] likewise.
    size: bins of a side of the result, or (rows, columns).

  Returns: float32[B, S, rows, columns], 0 or 1; without a meaning where a box has no area.
  """
  with tf.name_scope("mask_targets"):
    height, width = int(masks.shape[2]), int(masks.shape[3])
    row_count, column_count = size if isinstance(size, tuple) else (size, size)
    ymin, xmin, ymax, xmax = tf.unstack(truth_boxes, axis=-1)
    y0, x0, y1, x1 = tf.unstack(regions, axis=-1)
    rows = _interpolation(y0, y1, ymin, ymax, row_count, height)
    columns = _interpolation(x0, x1, xmin, xmax, column_count, width)
    seen = tf.matmul(tf.matmul(rows, tf.cast(masks, tf.float32)), columns, transpose_b=True)
    return tf.stop_gradient(tf.cast(seen >= 0.5, tf.float32))


def _interpolation(
  begin: tf.Tensor, end: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bins: int, cells: int
) -> tf.Tensor:
  """float32[B, S, bins, cells]: weight of each cell of [low, high] in the value at the centres of bins of [begin, end]."""
  centres = (tf.range(bins, dtype=tf.float32) + 0.5) / bins
  places = begin[..., None] + (end - begin)[..., None] * centres
  places = tf.math.divide_no_nan(places - low[..., None], (high - low)[..., None]) * cells - 0.5
  inside = tf.abs(places - (cells - 1) / 2) <= cells / 2
  # Between the outermost centres and the border the value stays what it is there.
  places = tf.where(inside, tf.clip_by_value(places, 0.0, cells - 1.0), -1.0)
  return tf.maximum(0.0, 1.0 - tf.abs(places[..., None] - tf.range(cells, dtype=tf.float32)))
