"""The random crop of image classification: a window of random area and shape, resized to the input, and a flip.
[Szegedy et al. 2015, section 6]

The window is drawn by TensorFlow's own operation, as in the authors' code: the ratio of width and height is
uniform, then the height is uniform between the limits that the area sets. After ten failed attempts it is the
window in the middle of the image. Pixels are read as in `augment`: only the window, at 1/2, 1/4 or 1/8 where it
is reduced that much, its borders moved by at most half a pixel of what is read.
H, W: the image as stored; h, w: the network input.
"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.data import augment, preprocess

ATTEMPTS = 10


def draw_window(
  key: tf.Tensor,
  original: tf.Tensor,
  image_size: tuple[int, int],
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  fallback: float = 0.875,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws a window.

  Args:
    key: int64[2].
    original: int32[2], (H, W) in pixels.
    image_size: (h, w) of the network input, the shape of the window in the middle.
    area: (lowest, highest) share of the image's area.
    ratio: (lowest, highest) width / height of the window.
    fallback: side of the window in the middle / the largest of its shape.
  Returns: (int32[2] top left corner, int32[2] height and width).
  """
  begin, length, _ = tf.image.stateless_sample_distorted_bounding_box(
    tf.concat([original, [3]], 0),
    tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    key,
    min_object_covered=0.0,
    aspect_ratio_range=tuple(map(float, ratio)),
    area_range=tuple(map(float, area)),
    max_attempts=ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  begin, length = begin[:2], length[:2]
  middle, side = preprocess.center_window(original, image_size, fallback)
  failed = tf.reduce_all(length == original)  # which is what the operation gives then
  return tf.where(failed, middle, begin), tf.where(failed, side, length)


def geometry(
  original: tf.Tensor,
  begin: tf.Tensor,
  length: tf.Tensor,
  flip: tf.Tensor,
  image_size: tuple[int, int],
  reduce: bool = False,
) -> augment.Geometry:
  """A window of the stored image, resized to the whole input.

  Args:
    original: int32[2], (H, W) in pixels.
    begin, length: int32[2], the window's corner and sides in pixels of the stored image.
    flip: bool[], left-right.
    image_size: (h, w) in pixels.
    reduce: whether the image may be read at 1/2, 1/4 or 1/8.
  """
  size = tf.constant(image_size, tf.int32)
  ratio = augment.reduction(tf.cast(length, tf.float32) / tf.cast(size, tf.float32)) if reduce else tf.constant(1)
  unit = tf.cast(ratio, tf.float32)
  available = (original + ratio - 1) // ratio  # libjpeg rounds up
  sides = tf.clip_by_value(tf.cast(tf.round(tf.cast(length, tf.float32) / unit), tf.int32), 1, available)
  first = tf.clip_by_value(tf.cast(tf.round(tf.cast(begin, tf.float32) / unit), tf.int32), 0, available - sides)
  shift, end = tf.cast(first, tf.float32) * unit, first + sides
  mirrored = tf.cast(original, tf.float32) - tf.cast(end, tf.float32) * unit
  shift = tf.where(tf.stack([False, flip]), mirrored, shift)
  scale = tf.cast(size, tf.float32) / (tf.cast(sides, tf.float32) * unit)
  return augment.Geometry(original, flip, shift, scale, size, ratio, first, end)


def decode_crop(
  encoded: tf.Tensor,
  key: tf.Tensor,
  image_size: tuple[int, int],
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: bool = True,
  fallback: float = 0.875,
) -> tf.Tensor:
  """Decodes a random window of one image.

  Args:
    encoded: string[], a JPEG, PNG, BMP or GIF (first frame).
    key: int64[2], (seed, example number); window and flip have a key each.
    image_size: (h, w) in pixels.
    area, ratio, fallback: as in `draw_window`.
    flip: whether half of the images are flipped.
  Returns: float32[h, w, 3] normalised.
  """
  keys = tf.unstack(tf.random.experimental.stateless_split(key, 2))
  flipped = tf.random.stateless_uniform([], keys[1]) < 0.5 if flip else tf.constant(False)

  def place(original: tf.Tensor, reduce: bool) -> augment.Geometry:
    begin, length = draw_window(keys[0], original, image_size, area, ratio, fallback)
    return geometry(original, begin, length, flipped, image_size, reduce)

  return augment.decode_at(encoded, place, image_size)[0]
