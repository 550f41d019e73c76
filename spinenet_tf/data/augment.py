"""Training augmentation: flip, scale jitter, random crop, from one stateless key per image.

The long side is resized to u * input size, u uniform in `scale_jitter`; where the result exceeds the input a
random window of it is taken, else it is padded at the bottom and the right. Flip, scale and window have a
key each, so they are independent and one more operation would not change them.

Only the pixels that are needed are touched: the window is known from the JPEG's header and the draw, so only
that part is decoded and resized. A JPEG reduced to 1/2 or less is decoded at 1/2, 1/4 or 1/8
in the DCT domain (a mean over pixels) and resized from there. H, W: the image as stored; h, w: the network
input.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.data import preprocess


class Geometry(NamedTuple):
  """Where an image lands: flip, resize to `scaled`, take `size` pixels from `offset`.

  Attributes:
    original: int32[2], (H, W) in pixels.
    flip: bool[], left-right, first of all.
    scaled: int32[2], size after the resize.
    offset: int32[2], top left corner of the window in the resized image.
    size: int32[2], size of the window, at most (h, w).
  """

  original: tf.Tensor
  flip: tf.Tensor
  scaled: tf.Tensor
  offset: tf.Tensor
  size: tf.Tensor

  @property
  def scale(self) -> tf.Tensor:
    """float32[2], input pixels per original pixel, (y, x)."""
    return tf.cast(self.scaled, tf.float32) / tf.cast(self.original, tf.float32)


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


def geometry(original: tf.Tensor, draws: Draw, image_size: tuple[int, int]) -> Geometry:
  """Turns a draw into a geometry for an image of `original` int32[2] (H, W) pixels and an input of
  `image_size`.
  """
  canvas = tf.constant(image_size, tf.float32)
  scaled = preprocess.scaled_size(original, tf.maximum(tf.round(draws.jitter * canvas), 1.0))
  room = tf.maximum(tf.cast(scaled, tf.float32) - canvas, 0.0)
  offset = tf.cast(room * draws.place, tf.int32)
  return Geometry(original, draws.flip, scaled, offset, tf.minimum(scaled, tf.constant(image_size, tf.int32)))


def transform_boxes(boxes: tf.Tensor, where: Geometry) -> tuple[tf.Tensor, tf.Tensor]:
  """Moves boxes with their image.

  Args:
    boxes: float32[N, 4], (ymin, xmin, ymax, xmax) as fractions of the stored image.
    where: the image's geometry.
  Returns: (float32[N, 4] in input pixels, clipped to the window; bool[N], False where nothing is left).
  """
  ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
  xmin, xmax = tf.where(where.flip, 1.0 - xmax, xmin), tf.where(where.flip, 1.0 - xmin, xmax)
  scaled, offset, size = (tf.cast(tf.tile(v, [2]), tf.float32) for v in (where.scaled, where.offset, where.size))
  moved = tf.stack([ymin, xmin, ymax, xmax], axis=-1) * scaled - offset
  moved = tf.clip_by_value(moved, 0.0, size)
  return moved, tf.logical_and(moved[:, 2] > moved[:, 0], moved[:, 3] > moved[:, 1])


def decode_window(encoded: tf.Tensor, draws: Draw, image_size: tuple[int, int]) -> tuple[tf.Tensor, Geometry]:
  """Decodes and augments one image.

  Args:
    encoded: string[], a JPEG, PNG, BMP or GIF (first frame).
    draws: its random numbers.
    image_size: (h, w) in pixels.
  Returns: (float32[h, w, 3] normalised, padding 0; the geometry).
  """

  def from_jpeg():
    original = tf.io.extract_jpeg_shape(encoded)[:2]
    where = geometry(original, draws, image_size)
    smallest = tf.reduce_min(where.scale)
    power = tf.reduce_sum(tf.cast(smallest <= tf.constant([0.5, 0.25, 0.125]), tf.int32))

    def at_ratio(ratio: int):
      reduced = (original + ratio - 1) // ratio  # libjpeg rounds up
      begin, end = _source_window(where, reduced, float(ratio))
      window = tf.io.decode_and_crop_jpeg(
        encoded, tf.concat([begin, end - begin], 0), channels=3, ratio=ratio, dct_method="INTEGER_FAST"
      )
      return _resample(window, begin, where, float(ratio))

    pixels = tf.switch_case(power, [lambda ratio=ratio: at_ratio(ratio) for ratio in (1, 2, 4, 8)])
    return pixels, where

  def from_other():
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    where = geometry(tf.shape(image)[:2], draws, image_size)
    begin, end = _source_window(where, where.original, 1.0)
    return _resample(image[begin[0] : end[0], begin[1] : end[1]], begin, where, 1.0), where

  pixels, where = tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)
  pixels = _normalize_rows(pixels)
  missing = tf.constant(image_size, tf.int32) - where.size
  pixels = tf.pad(pixels, [[0, missing[0]], [0, missing[1]], [0, 0]])
  return tf.ensure_shape(pixels, (*image_size, 3)), where


def _source_window(where: Geometry, available: tf.Tensor, ratio: float) -> tuple[tf.Tensor, tf.Tensor]:
  """The pixels (begin int32[2], end int32[2] exclusive) of the stored image, reduced by ratio, that the
  window needs.
  """
  scale = where.scale * ratio
  # A flipped image takes the mirrored window.
  left = tf.where(where.flip, where.scaled[1] - where.offset[1] - where.size[1], where.offset[1])
  first = tf.cast(tf.stack([where.offset[0], left]), tf.float32)
  last = first + tf.cast(where.size, tf.float32)
  margin = 2  # the bilinear neighbour, and one for rounding
  begin = tf.cast(tf.floor(first / scale), tf.int32) - margin
  end = tf.cast(tf.math.ceil(last / scale), tf.int32) + margin
  begin = tf.clip_by_value(begin, 0, available - 1)
  return begin, tf.clip_by_value(end, begin + 1, available)


def _resample(window: tf.Tensor, begin: tf.Tensor, where: Geometry, ratio: float) -> tf.Tensor:
  """Bilinear resize of uint8[., ., 3] cut from the stored image at `begin`, to float32[*where.size, 3].

  The same pixels as a resize of the whole image followed by the crop: the fraction of a pixel by which the
  window
  and the crop differ goes into the translation.
  """
  scale = where.scale * ratio
  left = tf.where(where.flip, where.scaled[1] - where.offset[1] - where.size[1], where.offset[1])
  first = tf.cast(tf.stack([where.offset[0], left]), tf.float32)
  resized = tf.raw_ops.ScaleAndTranslate(
    images=window[tf.newaxis],
    size=where.size,
    scale=scale,
    translation=tf.cast(begin, tf.float32) * scale - first,
    kernel_type="triangle",
    antialias=False,
  )[0]
  return tf.cond(where.flip, lambda: tf.reverse(resized, [1]), lambda: resized)


def _normalize_rows(image: tf.Tensor) -> tf.Tensor:
  """`preprocess.normalize` on float32[h, w, 3], row by row: broadcasting over rows is 3 times as fast as
  over RGB.
  """
  height, width = tf.unstack(tf.shape(image)[:2])
  gain = tf.tile(tf.constant(preprocess.GAIN, tf.float32), [width])
  bias = tf.tile(tf.constant(preprocess.BIAS, tf.float32), [width])
  return tf.reshape(tf.reshape(image, [height, width * 3]) * gain + bias, [height, width, 3])
