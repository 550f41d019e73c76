"""From pixels to network input, the same for evaluation, prediction and export.

The image is normalised with ImageNet's mean and deviation, its long side is resized to the input (bilinear,
no anti-aliasing, aspect ratio kept), and zeros of the normalised space fill the bottom and the
right, as in the authors' code. H, W: the image as given; h, w: the network input.
"""

from __future__ import annotations

import tensorflow as tf

MEAN = (0.485, 0.456, 0.406)  # ImageNet RGB mean and deviation of pixels in [0, 1]
STD = (0.229, 0.224, 0.225)
GAIN = tuple(1.0 / (255.0 * s) for s in STD)  # normalised = pixel * GAIN + BIAS, pixel in [0, 255]
BIAS = tuple(-m / s for m, s in zip(MEAN, STD))


def scaled_size(size: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """The size of an image after its resize into `target`, aspect ratio kept.

  Args:
    size: int32[2], (height, width) in pixels, > 0.
    target: float32[2] or int32[2], (height, width) of the canvas in pixels.
  Returns: int32[2], at least 1; rounded half to even.
  """
  size, target = tf.cast(size, tf.float32), tf.cast(target, tf.float32)
  return tf.maximum(tf.cast(tf.round(size * tf.reduce_min(target / size)), tf.int32), 1)


def normalize(image: tf.Tensor) -> tf.Tensor:
  """Pixels in [0, 255], any real dtype [..., 3] RGB, to float32 of about zero mean and unit deviation."""
  return tf.cast(image, tf.float32) * tf.constant(GAIN, tf.float32) + tf.constant(BIAS, tf.float32)


def denormalize(image: tf.Tensor) -> tf.Tensor:
  """The inverse of `normalize`: float[..., 3] to uint8[..., 3], for looking at network input."""
  pixels = (tf.cast(image, tf.float32) - tf.constant(BIAS, tf.float32)) / tf.constant(GAIN, tf.float32)
  return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


def decode_exact(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes string[] (JPEG, PNG, BMP, GIF's first frame) to uint8[H, W, 3], JPEG with the accurate DCT."""
  image = tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
    lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
  )
  return tf.ensure_shape(image, [None, None, 3])


def preprocess_image(image: tf.Tensor, image_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
  """One image, or several of one size, to network input; deterministic, any image size, works inside a graph.

  Args:
    image: uint8[H, W, 3] (or float in [0, 255]), RGB; or a batch of them.
    image_size: (h, w) in pixels.
  Returns: (float32[h, w, 3] normalised, padding 0, or a batch of them; float32[2] input pixels per original pixel, (y, x)).
  """
  size = tf.shape(image)[-3:-1]
  scaled = tf.minimum(scaled_size(size, tf.constant(image_size, tf.int32)), image_size)
  resized = normalize(tf.image.resize(image, scaled))
  batch = image.shape[:-3]
  margins = [[0, 0]] * len(batch) + [[0, image_size[0] - scaled[0]], [0, image_size[1] - scaled[1]], [0, 0]]
  padded = tf.pad(resized, margins)
  return tf.ensure_shape(padded, (*batch, *image_size, 3)), tf.cast(scaled, tf.float32) / tf.cast(size, tf.float32)


def preprocess_crop(image: tf.Tensor, image_size: tuple[int, int], fraction: float = 0.875) -> tf.Tensor:
  """The middle of one image, or of several of one size, to a classifier's input; otherwise as `preprocess_image`.

  Args:
    image: uint8[H, W, 3] (or float in [0, 255]), RGB; or a batch of them.
    image_size: (h, w) in pixels.
    fraction: side of the crop / the largest with the input's aspect ratio.
  Returns: float32[h, w, 3] normalised, or a batch of them.
  """
  begin, length = center_window(tf.shape(image)[-3:-1], image_size, fraction)
  window = image[..., begin[0] : begin[0] + length[0], begin[1] : begin[1] + length[1], :]
  return tf.ensure_shape(normalize(tf.image.resize(window, image_size)), (*image.shape[:-3], *image_size, 3))


def center_window(size: tf.Tensor, image_size: tuple[int, int], fraction: float = 0.875) -> tuple[tf.Tensor, tf.Tensor]:
  """The window in the middle of an image, placed as in Model Garden.

  Args:
    size: int32[2], (H, W) in pixels; image_size, fraction: as in `preprocess_crop`.
  Returns: (int32[2] top left corner, int32[2] height and width, at least 1).
  """
  target, pixels = tf.constant(image_size, tf.float32), tf.cast(size, tf.float32)
  sides = target * (fraction * tf.reduce_min(pixels / target))
  begin, length = (tf.cast(v + 1e-3, tf.int32) for v in ((pixels - sides) / 2, sides))  # 1e-3: rounding errors
  return begin, tf.clip_by_value(length, 1, size - begin)
