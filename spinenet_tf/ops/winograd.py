"""3x3 convolutions with fewer multiplications, for CPUs.  [Lavin & Gray 2016, F(4x4, 3x3)]

A 4 x 4 square of the result needs 36 multiplications per pair of channels instead of 144: squares of 6 x 6 pixels and
the kernel are transformed (additions, mostly), multiplied point by point, which over many squares and channels is 36
matrix products, and transformed back. In float32 results differ from the direct sum by about 1e-5 of the largest value.
TensorFlow's CPU kernels always take the direct sum; libraries for GPUs choose by themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

WIDEST = 512  # filters computed at once, which bounds the memory for the 819 outputs of 91 classes and 9 anchors
TILE = 4  # side of a square of the result; of the input 2 more

# The one-dimensional transforms, interpolation points 0, 1, -1, 2, -2, infinity; in two dimensions their Kronecker squares.
INPUT = np.array(
  [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
  ]
)
KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_TO_POINTS, KERNEL_TO_POINTS, _FROM_POINTS = (np.kron(m, m).astype(np.float32) for m in (INPUT, KERNEL, OUTPUT))
POINTS = len(_TO_POINTS)

_enabled = False


@contextlib.contextmanager
def enabled(value: bool = True) -> Iterator[None]:
  """Lets the convolutions that are traced inside take this way where it pays."""
  previous = _enabled
  enable(value)
  try:
    yield
  finally:
    enable(previous)


def enable(value: bool) -> None:
  """Does so for the rest of the process."""
  global _enabled
  _enabled = value


def is_enabled() -> bool:
  """Tells whether `enable` or `enabled` is in effect."""
  return _enabled


def pays(features: tf.Tensor, kernel: tf.Tensor) -> bool:
  """Tells whether `conv2d` is enabled and, as measured on CPUs, faster than the direct sum: float32, wide, large maps."""
  height, width = features.shape[1:3]
  if not _enabled or features.dtype != tf.float32 or tuple(kernel.shape[:2]) != (3, 3) or None in (height, width):
    return False
  return min(kernel.shape[2:]) >= 128 and height * width >= 1024


def conv2d(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Returns `tf.nn.conv2d(features, kernel, 1, "SAME")`, up to rounding; gradients likewise.

  Args:
    features: float32[B, H, W, C]; H and W are known.
    kernel: float32[3, 3, C, K].

  Returns: float32[B, H, W, K].
  """

  @tf.custom_gradient
  def convolve(features: tf.Tensor, kernel: tf.Tensor):
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      # One after the other, and each transformed kernel only when it is needed: memory is largest here.
      with tf.control_dependencies([upstream]):
        turned = tf.transpose(tf.identity(kernel)[::-1, ::-1], [0, 1, 3, 2])
      inputs = _convolve(upstream, turned)
      with tf.control_dependencies([inputs]):
        return inputs, _kernel_gradient(features, upstream)

    return _convolve(features, kernel), gradient

  features, kernel = tf.convert_to_tensor(features), tf.convert_to_tensor(kernel)
  parts = -(-kernel.shape[3] // WIDEST)
  if parts == 1:
    return convolve(features, kernel)
  widths = [kernel.shape[3] // parts + (i < kernel.shape[3] % parts) for i in range(parts)]
  return tf.concat([convolve(features, part) for part in tf.split(kernel, widths, axis=3)], axis=3)


def _convolve(features: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  height, width = features.shape[1:3]
  channels, filters = kernel.shape[2:]
  with tf.control_dependencies([features]):
    points = tf.matmul(KERNEL_TO_POINTS, tf.reshape(kernel, [9, channels * filters]))
  products = tf.matmul(_to_points(features), tf.reshape(points, [POINTS, channels, filters]))
  squares = tf.matmul(_FROM_POINTS, tf.reshape(products, [POINTS, -1]))
  rows, columns = _squares(height), _squares(width)
  squares = tf.reshape(squares, [TILE, TILE, -1, rows, columns, filters])
  result = tf.reshape(tf.transpose(squares, [2, 3, 0, 4, 1, 5]), [-1, rows * TILE, columns * TILE, filters])
  return tf.ensure_shape(result[:, :height, :width], [features.shape[0], height, width, filters])


def _kernel_gradient(features: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  channels, filters = features.shape[3], upstream.shape[3]
  squares = tf.reshape(_blocks(upstream, 0, 0), [TILE * TILE, -1])
  products = tf.reshape(tf.matmul(_FROM_POINTS, squares, transpose_a=True), [POINTS, -1, filters])
  points = tf.matmul(_to_points(features), products, transpose_a=True)
  kernel = tf.matmul(KERNEL_TO_POINTS, tf.reshape(points, [POINTS, channels * filters]), transpose_a=True)
  return tf.reshape(kernel, [3, 3, channels, filters])


def _to_points(features: tf.Tensor) -> tf.Tensor:
  """Returns the transformed 6 x 6 squares of float32[B, H, W, C], as float32[36, B * squares, C]."""
  blocks = _blocks(features, 1, 1)  # of 4 x 4 pixels; a square is one and the edges of three neighbours
  tall = tf.concat([blocks[:, :, :, :-1], blocks[:2, :, :, 1:]], 0)
  squares = tf.concat([tall[:, :, :, :, :-1], tall[:, :2, :, :, 1:]], 1)
  return tf.reshape(tf.matmul(_TO_POINTS, tf.reshape(squares, [POINTS, -1])), [POINTS, -1, features.shape[3]])


def _blocks(features: tf.Tensor, before: int, extra: int) -> tf.Tensor:
  """Cuts float32[B, H, W, C] into blocks, after `before` zeros and with `extra` blocks of zeros behind.

  Returns: float32[4, 4, B, rows + extra, columns + extra, C].
  """
  height, width, channels = features.shape[1:]
  rows, columns = _squares(height) + extra, _squares(width) + extra
  after = [rows * TILE - height - before, columns * TILE - width - before]
  padded = tf.pad(features, [[0, 0], [before, after[0]], [before, after[1]], [0, 0]])
  return tf.transpose(tf.reshape(padded, [-1, rows, TILE, columns, TILE, channels]), [2, 4, 0, 1, 3, 5])


def _squares(side: int) -> int:
  return -(-side // TILE)
