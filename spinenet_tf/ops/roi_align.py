"""Features of regions, of one size whatever the region's: RoIAlign on a pyramid.  [He et al. 2017; Lin et al. 2017, eq. 1]

A region is read from one level, chosen by its size; it is cut into crop x crop bins, and the value of a bin is the
bilinear one at its centre. As in the authors' code there is one sample in each bin, and pixel i of a map lies at
coordinate i (not i + 1/2) in units of the level's stride.

Two ways give the same numbers. On CPUs the levels are laid out on one canvas that a compiled op reads, and gradients are a
product with the sparse matrix of the samples' weights (the op's own gradient adds up in several threads without
a lock). Elsewhere the four pixels around each sample are gathered, which every compiler and converter can take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.ops import portable

BASE_LEVEL, BASE_SIDE = 4, 224.0  # a region of 224 x 224 pixels is read from level 4


def roi_align(
  pyramid: Mapping[str, tf.Tensor], boxes: tf.Tensor, crop: int, *, min_level: int, max_level: int
) -> tf.Tensor:
  """Reads the features of regions.

  Args:
    pyramid: level ("3") -> float[B, ceil(H / 2^l), ceil(W / 2^l), C]; sizes may be unknown, C not.
    boxes: float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels, within the image; no gradient flows to them. Those
      that are not finite count as empty boxes at the origin, so that a diverged model ends in its loss.
    crop: bins along each side.
    min_level: lowest level that is read.
    max_level: highest level that is read.

  Returns: float[B, N, crop, crop, C] of the pyramid's dtype.
  """
  with tf.name_scope("roi_align"):
    maps = [pyramid[str(level)] for level in range(min_level, max_level + 1)]
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    boxes = tf.where(tf.math.is_finite(boxes), boxes, 0.0)
    shape = [*_sizes(boxes)[:2], crop, crop, maps[0].shape[3]]
    if portable.wanted() or tf.config.list_physical_devices("GPU"):
      return tf.reshape(_gathered(maps, _samples(maps, boxes, crop, min_level)), shape)
    return tf.reshape(_resized(maps, boxes, crop, min_level), shape)


def levels(boxes: tf.Tensor, min_level: int, max_level: int) -> tf.Tensor:
  """Returns the level that each region is read from: 4 + floor(log2(sqrt(area) / 224)), within the limits.

  Args:
    boxes: float32[..., 4], (ymin, xmin, ymax, xmax) in input pixels.
    min_level: lowest level.
    max_level: highest level.

  Returns: int32[...].
  """
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  area = (ymax - ymin) * (xmax - xmin)
  # Compared with the areas where levels change: no rounding of logarithms.
  limits = [(BASE_SIDE * 2.0 ** (level - BASE_LEVEL)) ** 2 for level in range(min_level + 1, max_level + 1)]
  return min_level + tf.reduce_sum(tf.cast(area[..., None] >= tf.constant(limits, tf.float32), tf.int32), axis=-1)


class _Samples(NamedTuple):
  """The four pixels around each of R = B * N * crop * crop samples.

  Attributes:
    index: int32[R, 4], rows of the maps laid out image by image, level by level, pixel by pixel.
    weight: float32[R, 4], of each in the bilinear value.
  """

  index: tf.Tensor
  weight: tf.Tensor


def _samples(maps: list[tf.Tensor], boxes: tf.Tensor, crop: int, min_level: int) -> _Samples:
  level = levels(boxes, min_level, min_level + len(maps) - 1)
  sizes = [_sizes(features) for features in maps]
  rows, columns = (tf.stack([size[axis] for size in sizes]) for axis in (1, 2))
  starts = tf.cumsum(rows * columns, exclusive=True)
  place = level - min_level
  start = tf.gather(starts, place) + tf.range(sizes[0][0])[:, None] * (starts[-1] + rows[-1] * columns[-1])
  boxes /= _stride(level)[..., None]
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  width = tf.gather(columns, place)
  y, y_weight = _neighbours(ymin, ymax, tf.gather(rows, place), crop)
  x, x_weight = _neighbours(xmin, xmax, width, crop)
  # Axes: image, region, bin row, bin column, upper or lower pixel, left or right pixel.
  start, width = (values[:, :, None, None, None, None] for values in (start, width))
  index = start + y[:, :, :, None, :, None] * width + x[:, :, None, :, None, :]
  weight = y_weight[:, :, :, None, :, None] * x_weight[:, :, None, :, None, :]
  return _Samples(tf.reshape(index, [-1, 4]), tf.reshape(weight, [-1, 4]))


def _neighbours(low: tf.Tensor, high: tf.Tensor, size: tf.Tensor, crop: int) -> tf.Tensor:
  """Returns the two pixels beside each bin's centre along one axis, int32[B, N, crop, 2], and their weights."""
  centres = low[..., None] + (high - low)[..., None] * ((tf.range(crop, dtype=tf.float32) + 0.5) / crop)
  last = size[..., None] - 1
  centres = tf.clip_by_value(centres, 0.0, tf.cast(last, tf.float32))
  first = tf.minimum(tf.cast(centres, tf.int32), last)
  share = centres - tf.cast(first, tf.float32)
  return tf.stack([first, tf.minimum(first + 1, last)], axis=-1), tf.stack([1 - share, share], axis=-1)


def _gathered(maps: list[tf.Tensor], samples: _Samples) -> tf.Tensor:
  """Returns float[R, C]: the weighted sum of four gathered pixels. Keeps indices and weights only for the gradient."""

  @tf.custom_gradient
  def gather(pixels: tf.Tensor):
    weights = tf.cast(samples.weight, pixels.dtype)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
      count = tf.shape(pixels)[0]
      parts = [
        tf.math.unsorted_segment_sum(upstream * weights[:, i, None], samples.index[:, i], count) for i in range(4)
      ]
      return tf.add_n(parts)

    return tf.add_n([tf.gather(pixels, samples.index[:, i]) * weights[:, i, None] for i in range(4)]), gradient

  return gather(_pixels(maps))


def _pixels(maps: list[tf.Tensor]) -> tf.Tensor:
  """Returns the maps as float[pixels, C], in the order of `_Samples`."""
  batch, channels = _sizes(maps[0])[0], maps[0].shape[3]
  return tf.reshape(tf.concat([tf.reshape(x, [batch, -1, channels]) for x in maps], axis=1), [-1, channels])


def _resized(maps: list[tf.Tensor], boxes: tf.Tensor, crop: int, min_level: int) -> tf.Tensor:
  """Returns float[B * N, crop, crop, C], by the canvas and the sparse matrix."""
  dtype, sizes = maps[0].dtype, [_sizes(features) for features in maps]

  @tf.custom_gradient
  def resize(*maps: tf.Tensor):
    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
      samples = _samples(maps, boxes, crop, min_level)
      pixels = [size[1] * size[2] for size in sizes]
      count = tf.shape(samples.index)[0]
      row = tf.repeat(tf.range(count), 4)
      places = tf.stack([row, tf.reshape(samples.index, [-1])], axis=1)
      matrix = tf.SparseTensor(
        tf.cast(places, tf.int64),
        tf.reshape(samples.weight, [-1]),
        tf.cast(tf.stack([count, sizes[0][0] * sum(pixels)]), tf.int64),
      )
      upstream = tf.reshape(tf.cast(upstream, tf.float32), [-1, maps[0].shape[3]])
      gradients = tf.sparse.sparse_dense_matmul(matrix, upstream, adjoint_a=True)
      gradients = tf.split(tf.reshape(gradients, [sizes[0][0], -1, maps[0].shape[3]]), pixels, axis=1)
      return [tf.cast(tf.reshape(g, tf.shape(x)), dtype) for g, x in zip(gradients, maps)]

    canvas, tops, lefts = _canvas(maps)
    level = levels(boxes, min_level, min_level + len(maps) - 1)
    inside = boxes / _stride(level)[..., None]
    place = level - min_level
    rows, columns = (tf.cast(tf.gather(tf.stack([s[axis] for s in sizes]), place), tf.float32) for axis in (1, 2))
    ymin, xmin, ymax, xmax = tf.unstack(inside, axis=-1)
    edges = []
    for low, high, size, offsets, side in (
      (ymin, ymax, rows, tops, tf.shape(canvas)[1]),
      (xmin, xmax, columns, lefts, tf.shape(canvas)[2]),
    ):
      margin = (high - low) / (2 * crop)  # the op reads at the corners of its boxes: centres of the outer bins
      offset, scale = tf.cast(tf.gather(offsets, place), tf.float32), tf.cast(side - 1, tf.float32)
      edges.append([(tf.clip_by_value(edge, 0.0, size) + offset) / scale for edge in (low + margin, high - margin)])
    (top, bottom), (left, right) = edges
    corners = tf.reshape(tf.stack([top, left, bottom, right], axis=-1), [-1, 4])
    image = tf.reshape(tf.broadcast_to(tf.range(sizes[0][0])[:, None], tf.shape(level)), [-1])
    crops = tf.image.crop_and_resize(tf.cast(canvas, tf.float32), corners, image, [crop, crop])
    return tf.cast(crops, dtype), gradient

  return resize(*maps)


def _canvas(maps: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Lays the maps out on one, the first at the left and the others below each other at its right.

  Each has its last row and column once more, which is what a sample behind the last pixel reads.

  Returns: float[B, rows, columns, C], and int32[levels], the row and the column where each map starts.
  """
  bordered = [tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]], "SYMMETRIC") for x in maps]
  sizes = [_sizes(x) for x in bordered]
  first, others = bordered[0], bordered[1:]
  tops, lefts = [0] * len(maps), [0] * len(maps)
  if others:
    width = sizes[1][2]
    right = tf.concat([tf.pad(x, [[0, 0], [0, 0], [0, width - s[2]], [0, 0]]) for x, s in zip(others, sizes[1:])], 1)
    for i in range(1, len(maps)):
      lefts[i] = sizes[0][2]
      tops[i] = tops[i - 1] + sizes[i - 1][1] if i > 1 else 0
    height = tf.maximum(sizes[0][1], tf.shape(right)[1])
    first, right = (tf.pad(x, [[0, 0], [0, height - tf.shape(x)[1]], [0, 0], [0, 0]]) for x in (first, right))
    first = tf.concat([first, right], axis=2)
  return first, tf.stack(tops), tf.stack(lefts)


def _stride(level: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.bitwise.left_shift(tf.ones_like(level), level), tf.float32)


def _sizes(tensor: tf.Tensor) -> list:
  """Returns every dimension, as a number where it is known."""
  dynamic = tf.shape(tensor)
  return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]
