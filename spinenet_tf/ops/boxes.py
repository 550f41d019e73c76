"""Arithmetic on boxes: code and decode against anchors, clip, area, overlap.

Boxes are (ymin, xmin, ymax, xmax) in pixels and every function works in float32. Codes are (ty, tx, th, tw)
without
scaling: ty = (yc - yc_anchor) / h_anchor, th = ln(h / h_anchor).  [Ren et al. 2015, eq. 2]
"""

from __future__ import annotations

import math

import tensorflow as tf

# A box may be at most 1000 / 16 times its anchor: exp() of an untrained output must not overflow.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)
# Sides are at least this in logarithms, so that an empty box is coded by a finite number (about -18).
MIN_SIDE = 1e-8
# Codes of the second stage are larger by these factors, so that their deviations are about 1.  [Girshick 2015]
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def _centre_form(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  ymin, xmin, ymax, xmax = tf.unstack(tf.cast(boxes, tf.float32), axis=-1)
  return (ymin + ymax) / 2, (xmin + xmax) / 2, ymax - ymin, xmax - xmin


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
  """Codes boxes relative to anchors.

  Args:
    boxes: float[..., 4], (ymin, xmin, ymax, xmax) in pixels. Empty boxes give finite codes.
    anchors: float[..., 4] likewise, of positive size; broadcasts against `boxes`.

  Returns: float32[..., 4], (ty, tx, th, tw).
  """
  yc, xc, h, w = _centre_form(boxes)
  yc_a, xc_a, h_a, w_a = _centre_form(anchors)
  return tf.stack(
    [
      (yc - yc_a) / h_a,
      (xc - xc_a) / w_a,
      tf.math.log(tf.maximum(h, MIN_SIDE) / h_a),
      tf.math.log(tf.maximum(w, MIN_SIDE) / w_a),
    ],
    axis=-1,
  )


def decode(codes: tf.Tensor, anchors: tf.Tensor, *, legacy_plus_one: bool = False) -> tf.Tensor:
  """Boxes from codes; the inverse of `encode` up to the limit on size.

  Args:
    codes: float[..., 4], (ty, tx, th, tw); th and tw are cut at ln(1000 / 16) from above.
    anchors: float[..., 4], (ymin, xmin, ymax, xmax) in pixels; broadcasts against `codes`.
    legacy_plus_one: the TF1 code's post-processing, which takes an anchor's side as max - min + 1 and
      subtracts 1 at the end. Only for parity with its checkpoints: it is not the inverse of `encode`.

  Returns: float32[..., 4], (ymin, xmin, ymax, xmax) in pixels, not clipped.
  """
  ty, tx, th, tw = tf.unstack(tf.cast(codes, tf.float32), axis=-1)
  yc_a, xc_a, h_a, w_a = _centre_form(anchors)
  extra = 1.0 if legacy_plus_one else 0.0
  h_a, w_a = h_a + extra, w_a + extra
  yc = ty * h_a + yc_a + extra / 2
  xc = tx * w_a + xc_a + extra / 2
  h = tf.exp(tf.minimum(th, MAX_LOG_SCALE)) * h_a
  w = tf.exp(tf.minimum(tw, MAX_LOG_SCALE)) * w_a
  return tf.stack([yc - h / 2, xc - w / 2, yc + h / 2 - extra, xc + w / 2 - extra], axis=-1)


def encode_region(boxes: tf.Tensor, regions: tf.Tensor) -> tf.Tensor:
  """Codes boxes relative to regions, as `encode`, times `REGION_WEIGHTS`."""
  return encode(boxes, regions) * tf.constant(REGION_WEIGHTS)


def decode_region(codes: tf.Tensor, regions: tf.Tensor, *, legacy_plus_one: bool = False) -> tf.Tensor:
  """Boxes from codes of `encode_region`; otherwise as `decode`."""
  codes = tf.cast(codes, tf.float32) / tf.constant(REGION_WEIGHTS)
  return decode(codes, regions, legacy_plus_one=legacy_plus_one)


def clip(boxes: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
  """Moves the corners of float[..., 4] boxes into [0, height] x [0, width]; image_size = (height, width) pixels."""
  height, width = float(image_size[0]), float(image_size[1])
  limit = tf.constant([height, width, height, width], tf.float32)
  return tf.minimum(tf.maximum(tf.cast(boxes, tf.float32), 0.0), limit)


def area(boxes: tf.Tensor) -> tf.Tensor:
  """Areas float32[...] in square pixels of float[..., 4] boxes; 0 where a side is not positive."""
  ymin, xmin, ymax, xmax = tf.unstack(tf.cast(boxes, tf.float32), axis=-1)
  return tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)


def iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Intersection over union of boxes, by broadcasting.

  Args:
    first: float[..., 4], (ymin, xmin, ymax, xmax).
    second: float[..., 4]; for all pairs of [N, 4] and [M, 4] pass first[:, None] and second[None].

  Returns: float32[...] in [0, 1]; 0, never NaN, where the intersection is empty.
  """
  first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
  low = tf.maximum(first[..., :2], second[..., :2])
  high = tf.minimum(first[..., 2:], second[..., 2:])
  common = tf.reduce_prod(tf.maximum(high - low, 0.0), axis=-1)
  return tf.math.divide_no_nan(common, area(first) + area(second) - common)
