"""Detections of SOLO: points that are peaks, their masks, Matrix NMS.  [Wang et al. 2020, section 3.4; authors' code]

Cells whose score is a peak and above a threshold are candidates. Masks are made of these alone, image after image, brought
to half the finest stride, weighed, and lowered by Matrix NMS. Where functions must be portable all candidates have masks.

L levels, S their grids, T candidates at most, D detections, (h, w): the input in pixels of half the finest stride.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops import portable
from spinenet_tf.ops.matrix_nms import check_kernel, matrix_nms
from spinenet_tf.ops.solo_levels import SoloLevels

MasksOf = Callable[[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


class Candidates(NamedTuple):
  """T pairs (cell, class) of each image by falling score.

  Attributes:
    scores: float32[B, T], 0 to 1; -1 for those that do not count.
    levels: int32[B, T], 0 ... L-1.
    cells: int32[B, T], row * S + column.
    classes: int32[B, T].
  """

  scores: tf.Tensor
  levels: tf.Tensor
  cells: tf.Tensor
  classes: tf.Tensor


def detect(
  cls_logits: Mapping[str, tf.Tensor],
  features: Mapping[str, tf.Tensor],
  masks_of: MasksOf,
  levels: SoloLevels,
  image_size: tuple[int, int],
  *,
  score_threshold: float = 0.05,
  max_detections: int = 100,
  pre_nms_top_k: int = 500,
  candidate_threshold: float = 0.1,
  mask_threshold: float = 0.5,
  suppression: str = "gaussian",
  suppression_sigma: float = 2.0,
) -> dict[str, tf.Tensor]:
  """Turns the outputs of a SOLO into detections, in float32 whatever they are.

  Args:
    cls_logits: level ("0") -> float[B, S, S, K].
    features: of the mask branch, by `SoloLevels.features`.
    masks_of: from the features of one image, float[1, ...], and level -> int32[1, n] cells, to level -> float32[1, n, ...]
      probabilities.
    levels: of the model.
    image_size: (height, width) of the network's input in pixels.
    score_threshold: only scores above it count, after all factors, in [0, 1).
    max_detections: D.
    pre_nms_top_k: T.
    candidate_threshold: only classes with probabilities above it are looked at, in [0, 1).
    mask_threshold: the least probability inside a mask, between 0 and 1.
    suppression: "gaussian" or "linear", see `ops.matrix_nms`.
    suppression_sigma: of the gaussian.

  Returns: detections by falling score, class probability x mean probability inside the mask x Matrix NMS's factor:
    "detection_boxes": float32[B, D, 4], round the masks, (ymin, xmin, ymax, xmax) in input pixels, clipped; 0 in padding.
    "detection_scores": float32[B, D], 0 in padding.
    "detection_classes": int32[B, D], class index 0 ... K-1; -1 in padding.
    "num_detections": int32[B], the rest of D is padding.
    "detection_masks": float32[B, D, h, w], probabilities; 0 in padding.
    "detection_mask_boxes": float32[B, D, 4], what the masks lie in: the whole input, rounded up to their pixels; 0 in
      padding.

  Raises: UserError for an argument out of range.
  """
  for name, value in (("pre_nms_top_k", pre_nms_top_k), ("max_detections", max_detections)):
    if value < 1:
      raise UserError(f"{name} is {value}; it must be 1 or more")
  for name, value in (("score_threshold", score_threshold), ("candidate_threshold", candidate_threshold)):
    if not 0 <= value < 1:
      raise UserError(f"{name} is {value}; it must be 0 or more and below 1")
  if not 0 < mask_threshold < 1:
    raise UserError(f"mask_threshold is {mask_threshold}; it must be above 0 and below 1")
  check_kernel(suppression, suppression_sigma)
  with tf.name_scope("solo_detect"):
    candidates = best_points(cls_logits, levels, pre_nms_top_k, candidate_threshold)
    pixel = levels.strides[0] // 2
    size = tuple(-(-side // pixel) for side in image_size)
    image = functools.partial(
      _of_image,
      masks_of=masks_of,
      levels=levels,
      size=size,
      mask_threshold=mask_threshold,
      score_threshold=score_threshold,
      count=max_detections,
      suppress=functools.partial(matrix_nms, kernel=suppression, sigma=suppression_sigma),
    )
    specs = {
      "detection_boxes": tf.TensorSpec([max_detections, 4]),
      "detection_scores": tf.TensorSpec([max_detections]),
      "detection_classes": tf.TensorSpec([max_detections], tf.int32),
      "num_detections": tf.TensorSpec([], tf.int32),
      "detection_masks": tf.TensorSpec([max_detections, *size]),
    }
    features = dict(features)
    # One image after the other: hundreds of masks of several at a time would take their memory.
    found = tf.map_fn(
      lambda item: image(*item), (candidates, features), fn_output_signature=specs, parallel_iterations=1
    )
    limit = tf.constant([*image_size, *image_size], tf.float32)
    whole = tf.constant([0.0, 0.0, size[0] * pixel, size[1] * pixel], tf.float32)
    real = (found["detection_classes"] >= 0)[..., None]
    boxes = tf.minimum(found["detection_boxes"] * float(pixel), limit)
    return {**found, "detection_boxes": boxes, "detection_mask_boxes": tf.where(real, whole, 0.0)}


def best_points(cls_logits: Mapping[str, tf.Tensor], levels: SoloLevels, top_k: int, threshold: float) -> Candidates:
  """Finds the pairs (cell, class) of the highest scores among those that are peaks and above a threshold.

  Args:
    cls_logits: level -> float[B, S, S, K].
    levels: of the model.
    top_k: T, or all there are where that is less.
    threshold: probabilities above it count.

  Returns: `Candidates`; equal scores by rising level, cell, class.
  """
  parts = []
  for i, name in enumerate(levels.names):
    logits = tf.cast(cls_logits[name], tf.float32)
    grid, num_classes = int(logits.shape[1]), int(logits.shape[3])
    scores = tf.where(is_peak(logits), tf.sigmoid(logits), -1.0)
    scores = tf.reshape(tf.where(scores > threshold, scores, -1.0), [-1, grid * grid * num_classes])
    best, index = tf.math.top_k(scores, min(top_k, int(scores.shape[1])))
    parts.append((best, tf.fill(tf.shape(index), i), index // num_classes, index % num_classes))
  scores, *others = (tf.concat(values, axis=1) for values in zip(*parts))
  best, index = tf.math.top_k(scores, min(top_k, int(scores.shape[1])))
  return Candidates(best, *(tf.gather(values, index, batch_dims=1) for values in others))


def is_peak(values: tf.Tensor) -> tf.Tensor:
  """Tells, of float32[B, S, S, K], which are not below their upper, left and upper left neighbour of the same channel.

  These are the values that equal their 2x2 max-pool: of two neighbours the better one stays. (Points NMS)
  """
  padded = tf.pad(values, [[0, 0], [1, 0], [1, 0], [0, 0]], constant_values=values.dtype.min)
  return values >= tf.nn.max_pool2d(padded, 2, 1, "VALID")


def _of_image(
  candidates: Candidates,
  features: Mapping[str, tf.Tensor],
  *,
  masks_of: MasksOf,
  levels: SoloLevels,
  size: tuple[int, int],
  mask_threshold: float,
  score_threshold: float,
  count: int,
  suppress: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
) -> dict[str, tf.Tensor]:
  """As `detect`, of one image, without the batch axis; boxes in pixels of the masks."""
  features = {key: maps[None] for key, maps in features.items()}
  of_level = functools.partial(_masks_of_level, features=features, masks_of=masks_of, levels=levels, size=size)
  find = _masks_of_all if portable.wanted() else _masks_of_real
  scores, classes, masks, least = find(candidates, levels, of_level)
  inside = masks >= mask_threshold
  area = tf.reduce_sum(tf.cast(inside, tf.float32), axis=[1, 2])
  mean = tf.math.divide_no_nan(tf.reduce_sum(tf.where(inside, masks, 0.0), axis=[1, 2]), area)
  total = scores.shape[0] or tf.shape(scores)[0]
  scores, order = tf.math.top_k(tf.where((scores >= 0) & (area >= least), scores * mean, -1.0), total)
  classes, masks = tf.gather(classes, order), tf.gather(masks, order)
  # Those that do not count come last, so they lower none that does.
  scores = suppress(tf.reshape(masks >= mask_threshold, [-1, size[0] * size[1]]), scores, classes)
  scores, order = tf.math.top_k(tf.where(scores > score_threshold, scores, -1.0), _at_most(count, total))
  real = scores >= 0
  masks = tf.where(real[:, None, None], tf.gather(masks, order), 0.0)
  return {
    "detection_boxes": _filled(tf.where(real[:, None], _boxes_round(masks, mask_threshold), 0.0), count),
    "detection_scores": _filled(tf.where(real, scores, 0.0), count),
    "detection_classes": _filled(tf.where(real, tf.gather(classes, order) + 1, 0), count) - 1,
    "num_detections": tf.math.count_nonzero(real, dtype=tf.int32),
    "detection_masks": _filled(masks, count),
  }


def _masks_of_real(
  candidates: Candidates, levels: SoloLevels, of_level: Callable[[int, tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Makes the masks of the candidates of an image that count, level by level.

  Returns: of the n that count their scores float32[n], classes int32[n], masks float32[n, h, w], and the least area of a
  mask of their level, float32[n].
  """
  parts = []
  for i in range(len(levels.names)):
    rows = tf.where((candidates.levels == i) & (candidates.scores >= 0))[:, 0]
    scores, cells, classes = (tf.gather(candidates._asdict()[key], rows) for key in ("scores", "cells", "classes"))
    parts.append((scores, classes, of_level(i, cells), tf.fill(tf.shape(scores), float(levels.strides[i]))))
  return tuple(tf.concat(values, axis=0) for values in zip(*parts))


def _masks_of_all(
  candidates: Candidates, levels: SoloLevels, of_level: Callable[[int, tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """As `_masks_of_real`, of all T: each level makes a mask for each, so that shapes are known beforehand."""
  masks = None
  for i, grid in enumerate(levels.grids):
    cells = tf.minimum(candidates.cells, grid * grid - 1)  # of other levels there may be more
    made = of_level(i, cells)
    masks = made if masks is None else tf.where((candidates.levels == i)[:, None, None], made, masks)
  least = tf.gather(tf.constant(levels.strides, tf.float32), candidates.levels)
  return candidates.scores, candidates.classes, masks, least


def _masks_of_level(
  i: int,
  cells: tf.Tensor,
  features: Mapping[str, tf.Tensor],
  masks_of: MasksOf,
  levels: SoloLevels,
  size: tuple[int, int],
) -> tf.Tensor:
  """Returns the masks float32[n, h, w] of cells int32[n] of one level, in pixels of half the finest stride."""
  name = levels.names[i]
  masks = masks_of(features, {name: cells[None]})[name][0]
  return _enlarged(masks, levels.strides[i] // levels.strides[0])[:, : size[0], : size[1]]


def _at_most(count: int, total: int | tf.Tensor) -> int | tf.Tensor:
  return min(count, total) if isinstance(total, int) else tf.minimum(count, total)


def _enlarged(masks: tf.Tensor, factor: int) -> tf.Tensor:
  """Returns float32[n, H, W] at `factor` times the size, bilinearly."""
  if factor == 1:
    return masks
  height, width = masks.shape[1:]
  return tf.image.resize(masks[..., None], [factor * height, factor * width])[..., 0]


def _boxes_round(masks: tf.Tensor, threshold: float) -> tf.Tensor:
  """Returns float32[n, 4], (ymin, xmin, ymax, xmax) in pixels of float32[n, H, W]: where the highest value of the rows, and of
  the columns, interpolated between their middles, passes the threshold. Of no meaning where no value reaches it.
  """
  sides = [_ends(tf.reduce_max(masks, axis=axis), threshold) for axis in (2, 1)]
  return tf.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], axis=-1)


def _ends(values: tf.Tensor, threshold: float) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns where float32[n, bins] first and last pass the threshold, float32[n] each, in bins from the left."""
  bins = int(values.shape[1])

  def first(values: tf.Tensor) -> tf.Tensor:
    index = tf.argmax(values >= threshold, axis=1, output_type=tf.int32)
    here = tf.gather(values, index, batch_dims=1)
    before = tf.gather(values, tf.maximum(index - 1, 0), batch_dims=1)
    place = tf.cast(index, tf.float32) + 0.5 - tf.math.divide_no_nan(here - threshold, here - before)
    return tf.where(index == 0, 0.0, place)

  return first(values), bins - first(tf.reverse(values, [1]))


def _filled(values: tf.Tensor, count: int) -> tf.Tensor:
  """Returns n rows and zeros after them, `count` in all."""
  rest = count - tf.shape(values)[0]
  filled = tf.pad(values, [[0, rest], *([0, 0] for _ in values.shape[1:])])
  return tf.ensure_shape(filled, [count, *values.shape[1:]])
