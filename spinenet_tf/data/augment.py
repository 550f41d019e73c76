"""Training augmentation: flip, scale jitter, random crop, from one stateless key per image.

The long side is resized to u * input size, u uniform in `scale_jitter`; where the result exceeds the input a random window of
it is taken, else it is padded at the bottom and the right. Flip, scale and window have a key each, so they are
independent and one more operation would not change them.

Only the pixels that are needed are touched: the window is known from the JPEG's header and the draw, so only that part is
decoded and resized. To use the fast bilinear kernel a window begins and ends between stored pixels: it is moved by at most
half a pixel of the stored image, and its scale adjusted to fit. Boxes follow exactly. A JPEG reduced to 1/2 or less is
decoded at 1/2, 1/4 or 1/8 in the DCT domain (a mean over pixels) and resized from there; "pixel" is 2, 4 or 8 then.
H, W: the image as stored; h, w: the network input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.data import preprocess


class Geometry(NamedTuple):
  """Where an image lands: flip, then (pixel - shift) * scale, and `size` pixels of that.

  Attributes:
    original: int32[2], (H, W) in pixels.
    flip: bool[], left-right, first of all.
    shift: float32[2], top left corner of the window, in pixels of the flipped image.
    scale: float32[2], input pixels per original pixel, (y, x).
    size: int32[2], size of the window in input pixels, at most (h, w).
    ratio: int32[], 1, 2, 4 or 8: the stored image is read at 1/ratio.
    begin, end: int32[2], the window in the stored, unflipped image at 1/ratio; end is exclusive.
  """

  original: tf.Tensor
  flip: tf.Tensor
  shift: tf.Tensor
  scale: tf.Tensor
  size: tf.Tensor
  ratio: tf.Tensor
  begin: tf.Tensor
  end: tf.Tensor


class Draw(NamedTuple):
  """The random numbers of one image: flip bool[], jitter float32[] (a factor), place float32[2] in [0, 1)."""

  flip: tf.Tensor
  jitter: tf.Tensor
  place: tf.Tensor


def draw(key: tf.Tensor, scale_jitter: tuple[float, float], flip: bool) -> Draw:
  """Draws from a key.

  Args:
    key: int64[2], (seed, example number).
    scale_jitter: (lowest, highest) factor.
    flip: whether images may be flipped (probability 1/2).
  """
  keys = tf.unstack(tf.random.experimental.stateless_split(key, 3))
  flipped = tf.random.stateless_uniform([], keys[0]) < 0.5 if flip else tf.constant(False)
  jitter = tf.random.stateless_uniform([], keys[1], *map(float, scale_jitter))
  return Draw(flipped, jitter, tf.random.stateless_uniform([2], keys[2]))


def geometry(original: tf.Tensor, draws: Draw, image_size: tuple[int, int], reduce: bool = False) -> Geometry:
  """Turns a draw into a geometry.

  Args:
    original: int32[2], (H, W) of the stored image in pixels.
    draws: its random numbers.
    image_size: (h, w) of the network input in pixels.
    reduce: whether the image may be read at 1/2, 1/4 or 1/8 where it is reduced that much anyway.
  """
  canvas, pixels = tf.constant(image_size, tf.float32), tf.cast(original, tf.float32)
  scaled = preprocess.scaled_size(original, tf.maximum(tf.round(draws.jitter * canvas), 1.0))
  room = tf.maximum(tf.cast(scaled, tf.float32) - canvas, 0.0)
  offset = tf.floor(room * draws.place)
  size = tf.minimum(scaled, tf.constant(image_size, tf.int32))

  step = pixels / tf.cast(scaled, tf.float32)  # original pixels per input pixel, as drawn
  ratio = reduction(step) if reduce else tf.constant(1)
  unit = tf.cast(ratio, tf.float32)
  available = (original + ratio - 1) // ratio  # libjpeg rounds up
  length = tf.cast(tf.round(tf.cast(size, tf.float32) * step / unit), tf.int32)
  length = tf.where(size < scaled, tf.clip_by_value(length, 1, available), available)
  first = offset * step
  mirrored = pixels - first - tf.cast(size, tf.float32) * step
  first = tf.where(tf.stack([False, draws.flip]), mirrored, first)
  begin = tf.clip_by_value(tf.cast(tf.round(first / unit), tf.int32), 0, available - length)
  end = begin + length

  shift = tf.cast(begin, tf.float32) * unit
  shift = tf.where(tf.stack([False, draws.flip]), pixels - tf.cast(end, tf.float32) * unit, shift)
  scale = tf.cast(size, tf.float32) / (tf.cast(length, tf.float32) * unit)
  return Geometry(original, draws.flip, shift, scale, size, ratio, begin, end)


def reduction(step: tf.Tensor) -> tf.Tensor:
  """int32[], 1, 2, 4 or 8: the n for which a JPEG is read at 1/n, given original pixels per input pixel, float32[2]."""
  power = tf.reduce_sum(tf.cast(tf.reduce_min(step) >= tf.constant([2.0, 4.0, 8.0]), tf.int32))
  return tf.bitwise.left_shift(1, power)


def transform_boxes(boxes: tf.Tensor, where: Geometry) -> tuple[tf.Tensor, tf.Tensor]:
  """Moves boxes with their image.

  Args:
    boxes: float32[N, 4], (ymin, xmin, ymax, xmax) as fractions of the stored image.
    where: the image's geometry.
  Returns: (float32[N, 4] in input pixels, clipped to the window; bool[N], False where nothing is left).
  """
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  xmin, xmax = tf.where(where.flip, 1.0 - xmax, xmin), tf.where(where.flip, 1.0 - xmin, xmax)
  original, shift, scale, size = (
    tf.tile(tf.cast(v, tf.float32), [2]) for v in (where.original, where.shift, where.scale, where.size)
  )
  moved = (tf.stack([ymin, xmin, ymax, xmax], axis=-1) * original - shift) * scale
  moved = tf.clip_by_value(moved, 0.0, size)
  return moved, tf.logical_and(moved[:, 2] > moved[:, 0], moved[:, 3] > moved[:, 1])


def stored_boxes(boxes: tf.Tensor, where: Geometry) -> tf.Tensor:
  """Boxes float32[N, 4] in input pixels to pixels of the stored image; where it was flipped xmin > xmax."""
  shift, scale = (tf.tile(v, [2]) for v in (where.shift, where.scale))
  boxes = boxes / scale + shift
  width = tf.cast(where.original[1], tf.float32)
  return tf.where(where.flip, boxes * [1.0, -1.0, 1.0, -1.0] + [0.0, width, 0.0, width], boxes)


def decode_window(encoded: tf.Tensor, draws: Draw, image_size: tuple[int, int]) -> tuple[tf.Tensor, Geometry]:
  """Decodes and augments one image.

  Args:
    encoded: string[], a JPEG, PNG, BMP or GIF (first frame).
    draws: its random numbers.
    image_size: (h, w) in pixels.
  Returns: (float32[h, w, 3] normalised, padding 0; the geometry).
  """
  return decode_at(encoded, lambda original, reduce: geometry(original, draws, image_size, reduce), image_size)


def decode_at(
  encoded: tf.Tensor, place: Callable[[tf.Tensor, bool], Geometry], image_size: tuple[int, int]
) -> tuple[tf.Tensor, Geometry]:
  """Decodes the window of an image that `place` chooses.

  Args:
    encoded: string[], a JPEG, PNG, BMP or GIF (first frame).
    place: (int32[2] (H, W), whether it may be read at 1/2, 1/4 or 1/8) -> geometry.
    image_size: (h, w) in pixels.
  Returns: (float32[h, w, 3] normalised, padding 0; the geometry).
  """

  def from_jpeg():
    where = place(tf.io.extract_jpeg_shape(encoded)[:2], True)
    window = tf.concat([where.begin, where.end - where.begin], 0)

    def at(ratio: int) -> tf.Tensor:
      return tf.io.decode_and_crop_jpeg(encoded, window, channels=3, ratio=ratio, dct_method="INTEGER_FAST")

    power = tf.reduce_sum(tf.cast(where.ratio > tf.constant([1, 2, 4]), tf.int32))
    return tf.switch_case(power, [lambda ratio=ratio: at(ratio) for ratio in (1, 2, 4, 8)]), where

  def from_other():
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    where = place(tf.shape(image)[:2], False)
    return image[where.begin[0] : where.end[0], where.begin[1] : where.end[1]], where

  window, where = tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)
  window = tf.cond(where.flip, lambda: tf.reverse(window, [1]), lambda: window)
  pixels = _normalize_rows(tf.image.resize(window, where.size))
  missing = tf.constant(image_size, tf.int32) - where.size
  pixels = tf.pad(pixels, [[0, missing[0]], [0, missing[1]], [0, 0]])
  return tf.ensure_shape(pixels, (*image_size, 3)), where


def _normalize_rows(image: tf.Tensor) -> tf.Tensor:
  """`preprocess.normalize` on float32[h, w, 3], row by row: broadcasting over rows is 3 times as fast as
  over RGB.
  """
  height, width = tf.unstack(tf.shape(image)[:2])
  gain = tf.tile(tf.constant(preprocess.GAIN, tf.float32), [width])
  bias = tf.tile(tf.constant(preprocess.BIAS, tf.float32), [width])
  return tf.reshape(tf.reshape(image, [height, width * 3]) * gain + bias, [height, width, 3])
