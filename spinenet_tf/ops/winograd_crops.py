"""3x3 convolutions of many small maps of one size with fewer multiplications, for CPUs.  [Lavin & Gray 2016]

The maps stand behind each other, float32[H, W, N, C]: then the transform along an axis is one small matrix for all maps and
channels, zeros beyond the edges included, and nothing is cut into squares or put together again. Results are computed in
pieces of 4 or 3 rows, by F(4, 3) or F(3, 3), and 4 columns, by F(4, 3): 7 x 7 of them take 11 x 12 products instead of 441,
14 x 14 take 22 x 24 instead of 1764. `ops.winograd` is for single large maps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import winograd

WIDEST = 32  # pixels; the matrices of an axis grow with its square
EDGE = winograd.TILE + 2  # points of a piece of columns


class Piece(NamedTuple):
  """The one-dimensional transforms of F(n, 3): float[n + 2, n + 2], float[n + 2, 3], float[n, n + 2]."""

  input: np.ndarray
  kernel: np.ndarray
  output: np.ndarray


_PIECES = {
  4: Piece(winograd.INPUT, winograd.KERNEL, winograd.OUTPUT),
  3: Piece(  # interpolation points 0, 1, -1, 2, infinity
    np.array([[2, -1, -2, 1, 0], [0, -2, -1, 1, 0], [0, 2, -3, 1, 0], [0, -1, 0, 1, 0], [0, 2, -1, -2, 1]]),
    np.array([[3, 0, 0], [-3, -3, -3], [-1, 1, -1], [1, 2, 4], [0, 0, 6]]) / 6,
    np.array([[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 1]]),
  ),
}


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
  columns = _axis(width)[1]
  points: dict[int, tf.Tensor] = {}  # of the kernel, the same for all pieces of as many rows
  results: list[tf.Tensor] = []
  for top, rows in _rows(height):
    if rows not in points:
      with tf.control_dependencies([features]):  # not before they are needed
        flat = tf.matmul(_kernel_to_points(rows), tf.reshape(kernel, [9, channels * filters]))
      points[rows] = tf.reshape(flat, [rows + 2, 1, EDGE, channels, filters])
    with tf.control_dependencies(results[-1:]):  # a piece after the other takes less memory
      products = tf.matmul(_to_points(features, top, rows), points[rows])
    products = tf.reshape(products, [rows + 2, columns.shape[1], -1])
    results.append(_transform(products, _PIECES[rows].output[: height - top], columns))
  return tf.reshape(tf.concat(results, 0), [height, width, -1, filters])


def _kernel_gradient(features: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  height, width = features.shape[:2]
  channels, filters = features.shape[3], upstream.shape[3]
  columns = _axis(width)[1]
  gradients: list[tf.Tensor] = []
  for top, rows in _rows(height):
    with tf.control_dependencies(gradients[-1:]):
      part = upstream[top : top + rows]
      products = _in_pieces(_transform(part, _PIECES[rows].output[: part.shape[0]].T, columns.T), filters)
      points = tf.matmul(_to_points(features, top, rows), products, transpose_a=True)
      points = tf.reshape(tf.reduce_sum(points, 1), [-1, channels * filters])
      gradients.append(tf.matmul(_kernel_to_points(rows), points, transpose_a=True))
  return tf.reshape(tf.add_n(gradients), [3, 3, channels, filters])


def _rows(height: int) -> Iterator[tuple[int, int]]:
  """Yields the first row and the number of rows of each piece, with the fewest products; the last may reach too far."""
  fours = min(range(-(-height // 4) + 1), key=lambda n: 6 * n + 5 * max(-(-(height - 4 * n) // 3), 0))
  top = 0
  while top < height:
    rows = 4 if top < 4 * fours else 3
    yield top, rows
    top += rows


def _to_points(features: tf.Tensor, top: int, rows: int) -> tf.Tensor:
  """Returns the points of a piece, of float32[H, W, N, C]: float32[rows + 2, columns, 6, N, C]."""
  height, width, _, channels = features.shape
  first, end = max(top - 1, 0), min(top + rows + 1, height)
  matrix = _PIECES[rows].input[
    :, first - top + 1 : end - top + 1
  ]  # the rest would be multiplied by zeros beyond the edge
  return _in_pieces(_transform(features[first:end], matrix, _axis(width)[0]), channels)


def _in_pieces(points: tf.Tensor, channels: int) -> tf.Tensor:
  rows, columns, _ = points.shape
  return tf.reshape(points, [rows, columns // EDGE, EDGE, -1, channels])


def _kernel_to_points(rows: int) -> np.ndarray:
  return np.kron(_PIECES[rows].kernel, winograd.KERNEL).astype(np.float32)


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
