"""3x3 convolutions of many small maps of one size with fewer multiplications, for CPUs.  [Lavin & Gray 2016, F(4x4, 3x3)]

The maps stand behind each other, float32[H, W, N, C]: then the transform along an axis is one small matrix for all maps and
channels, zeros beyond the edges included, and nothing is cut into squares or put together again. 7 x 7 results take
2 x 2 x 36 products instead of 441, 14 x 14 take 4 x 4 x 36 instead of 1764. `ops.winograd` is for single large maps.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import winograd

WIDEST = 32  # pixels; the matrices of an axis grow with its square
EDGE = winograd.TILE + 2  # points of a piece of an axis


def pays(features: tf.Tensor, kernel: tf.Tensor) -> bool:
  """Tells whether `conv2d` is faster than the direct sum, as measured on CPUs: float32, wide, small maps.

  Args:
    features: [N, H, W, C], not yet turned; a few dozen maps at least are expected.
    kernel: [3, 3, C, K].
  """
  height, width = features.shape[1:3]
  if not winograd.is_enabled() or features.dtype != tf.float32 or tuple(kernel.shape[:2]) != (3, 3):
    return False
  return None not in (height, width) and max(height, width) <= WIDEST and min(kernel.shape[2:]) >= 128


def conv2d(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Returns the convolution of stride 1, with zeros beyond the edges; gradients likewise.

  Args:
    features: float32[H, W, N, C]; H, W and C are known.
    kernel: float32[3, 3, C, K].

  Returns: float32[H, W, N, K], as `tf.nn.conv2d` of the turned maps up to rounding, 1e-5 of the largest value.
  """

  @tf.custom_gradient
  def convolve(features: tf.Tensor, kernel: tf.Tensor):
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      # One after the other, as memory is largest here; points of the features are made again, not kept.
      with tf.control_dependencies([upstream]):
        turned = tf.transpose(tf.identity(kernel)[::-1, ::-1], [0, 1, 3, 2])
      inputs = _convolve(upstream, turned)
      with tf.control_dependencies([inputs]):
        return inputs, _kernel_gradient(tf.identity(features), upstream)

    return _convolve(features, kernel), gradient

  return convolve(tf.convert_to_tensor(features), tf.convert_to_tensor(kernel))


def _convolve(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  height, width = features.shape[:2]
  channels, filters = kernel.shape[2:]
  with tf.control_dependencies([features]):  # not before they are needed
    points = tf.matmul(winograd.KERNEL_TO_POINTS, tf.reshape(kernel, [9, channels * filters]))
  points = tf.reshape(points, [EDGE, 1, EDGE, channels, filters])  # the same for all pieces
  _, from_points = _axis(width)
  results: list[tf.Tensor] = []
  for top in range(0, height, winograd.TILE):
    with tf.control_dependencies(results[-1:]):  # a piece after the other takes less memory
      products = tf.matmul(_to_points(features, top), points)
    products = tf.reshape(products, [EDGE, from_points.shape[1], -1])
    results.append(_transform(products, winograd.OUTPUT[: height - top], from_points))
  return tf.reshape(tf.concat(results, 0), [height, width, -1, filters])


def _kernel_gradient(features: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  height, width = features.shape[:2]
  channels, filters = features.shape[3], upstream.shape[3]
  _, from_points = _axis(width)
  points: list[tf.Tensor] = []
  for top in range(0, height, winograd.TILE):
    with tf.control_dependencies(points[-1:]):
      rows = upstream[top : top + winograd.TILE]
      products = _in_pieces(_transform(rows, winograd.OUTPUT[: rows.shape[0]].T, from_points.T), filters)
      # A matrix product for each point, over the pieces of all maps.
      products, values = (
        tf.reshape(tf.transpose(x, [0, 2, 1, 3, 4]), [EDGE * EDGE, -1, x.shape[-1]])
        for x in (products, _to_points(features, top))
      )
      points.append(tf.matmul(values, products, transpose_a=True))
  points = tf.reshape(tf.add_n(points), [EDGE * EDGE, channels * filters])
  kernel = tf.matmul(winograd.KERNEL_TO_POINTS, points, transpose_a=True)
  return tf.reshape(kernel, [3, 3, channels, filters])


def _to_points(features: tf.Tensor, top: int) -> tf.Tensor:
  """Returns the points of the results' rows from `top` on, of float32[H, W, N, C]: float32[6, columns, 6, N, C]."""
  height, width, _, channels = features.shape
  first, end = max(top - 1, 0), min(top + EDGE - 1, height)
  rows = winograd.INPUT[:, first - top + 1 : end - top + 1]  # the others would be multiplied by zeros beyond the edge
  return _in_pieces(_transform(features[first:end], rows, _axis(width)[0]), channels)


def _in_pieces(points: tf.Tensor, channels: int) -> tf.Tensor:
  return tf.reshape(points, [EDGE, points.shape[1] // EDGE, EDGE, -1, channels])


def _transform(values: tf.Tensor, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
  """Applies [P, H] and [Q, W] to the first two axes of float32[H, W, ...]. Returns: float32[P, Q, R]."""
  (count, height), width = rows.shape, columns.shape[1]
  values = tf.matmul(rows.astype(np.float32), tf.reshape(values, [height, -1]))
  return tf.matmul(np.tile(columns, [count, 1, 1]), tf.reshape(values, [count, width, -1]))


@functools.lru_cache
def _axis(side: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns what an axis is multiplied with: float32[P, side], maps to points, and float32[side, P], products to results."""
  pieces = -(-side // winograd.TILE)
  results, points = pieces * winograd.TILE, pieces * EDGE
  maps, from_points = np.zeros([points, results + 2], np.float32), np.zeros([results, points], np.float32)
  for i in range(pieces):
    products, start = slice(i * EDGE, (i + 1) * EDGE), i * winograd.TILE
    maps[products, start : start + EDGE] = winograd.INPUT  # column 0 is the zero before the edge
    from_points[start : start + winograd.TILE, products] = winograd.OUTPUT
  return maps[:, 1 : side + 1], from_points[:side]
