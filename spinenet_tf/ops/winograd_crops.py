"""3x3 convolutions of many small maps of one size with fewer multiplications, for CPUs.  [Lavin & Gray 2016]

The maps stand behind each other, float32[H, W, N, C]: then a transform along an axis is one small matrix for all maps and
channels, zeros beyond the edges included, and nothing is cut into squares or put together again. An axis is covered by
pieces of 4 and 3 results, which take 6 and 5 products instead of 12 and 9: 7 x 7 results take 121 instead of 441, 14 x 14
take 484 instead of 1764. `ops.winograd` is for single large maps.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import winograd

WIDEST = 32  # pixels; the matrices of an axis grow with its square
_POINTS = {3: (0, 1, -1, 2), 4: (0, 1, -1, 2, -2)}  # and infinity, for a piece of as many results


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
      inputs = _convolve(upstream, tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2]))
      with tf.control_dependencies([inputs]):
        return inputs, _kernel_gradient(tf.identity(features), upstream)

    return _convolve(features, kernel), gradient

  return convolve(tf.convert_to_tensor(features), tf.convert_to_tensor(kernel))


def _convolve(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  height, width = features.shape[:2]
  channels, filters = kernel.shape[2:]
  (rows, kernel_rows, result_rows), (columns, kernel_columns, result_columns) = _axis(height), _axis(width)
  count = len(rows) * len(columns)
  points = tf.matmul(np.kron(kernel_rows, kernel_columns), tf.reshape(kernel, [9, channels * filters]))
  features = tf.reshape(_transform(features, rows, columns), [count, -1, channels])
  products = tf.matmul(features, tf.reshape(points, [count, channels, filters]))
  products = tf.reshape(products, [len(rows), len(columns), -1])
  return tf.reshape(_transform(products, result_rows, result_columns), [height, width, -1, filters])


def _kernel_gradient(features: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  channels, filters = features.shape[3], upstream.shape[3]
  (rows, kernel_rows, result_rows), (columns, kernel_columns, result_columns) = map(_axis, features.shape[:2])
  count = len(rows) * len(columns)
  products = tf.reshape(_transform(upstream, result_rows.T, result_columns.T), [count, -1, filters])
  points = tf.matmul(tf.reshape(_transform(features, rows, columns), [count, -1, channels]), products, transpose_a=True)
  kernel = tf.matmul(
    np.kron(kernel_rows, kernel_columns), tf.reshape(points, [count, channels * filters]), transpose_a=True
  )
  return tf.reshape(kernel, [3, 3, channels, filters])


def _transform(values: tf.Tensor, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
  """Applies float32[P, H] and float32[Q, W] to the first two axes of float32[H, W, ...]. Returns: float32[P, Q, R]."""
  (count, height), width = rows.shape, columns.shape[1]
  values = tf.reshape(tf.matmul(rows, tf.reshape(values, [height, -1])), [count, width, -1])
  return tf.matmul(np.tile(columns, [count, 1, 1]), values)


@functools.lru_cache
def _axis(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the matrices of an axis, float32: [P, side] of the maps, [P, 3] of the kernel, [side, P] of the results."""
  # The fewest products; what the last piece computes beyond the end is left out.
  fours = range(-(-side // 4) + 1)
  pieces = min(([4] * n + [3] * max(-(-(side - 4 * n) // 3), 0) for n in fours), key=lambda p: sum(p) + 2 * len(p))
  count = sum(pieces) + 2 * len(pieces)
  maps, kernel, results = np.zeros([count, side + 6]), np.zeros([count, 3]), np.zeros([side + 4, count])
  point = start = 0
  for piece in pieces:
    products = slice(point, point + piece + 2)
    of_maps, kernel[products], of_results = _piece(piece)
    maps[products, start : start + piece + 2] = of_maps  # column 0 is the zero before the edge
    results[start : start + piece, products] = of_results
    point, start = point + piece + 2, start + piece
  maps, results = maps[:, 1 : side + 1], results[:side]
  return tuple(matrix.astype(np.float32) for matrix in (maps, kernel, results))


def _piece(results: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the matrices of F(results, 3), [n, n], [n, 3] and [results, n] with n = results + 2 points, the last infinite.

  A polynomial of degree n - 1 is the sum of its values at the finite points times their Lagrange polynomials, and of its
  leading coefficient times the product of all (x - point); the denominators go to the kernel, which leaves integers.
  """
  finite = np.array(_POINTS[results], np.float64)
  others = [np.delete(finite, i) for i in range(len(finite))]
  maps = np.array([[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(finite)[::-1]])
  kernel = np.array([[1, x, x * x] / np.prod(x - rest) for x, rest in zip(finite, others)] + [[0, 0, 1]])
  leading = np.eye(results)[:, -1:]
  return maps, kernel, np.hstack([np.vander(finite, results, increasing=True).T, leading])
