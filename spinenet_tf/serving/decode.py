"""Bytes of image files to pixels within a graph, where one bad file does not fail its batch.

TensorFlow's decoders raise, and so fail the whole call. Here each file is decoded by a tf.data pipeline of one element that
ignores errors, which runs wherever TensorFlow runs, TensorFlow Serving included.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf

from spinenet_tf.serving import headers

MAX_PIXELS = 100_000_000  # of an image file, unless told otherwise: 300 MB once it is decoded
_Decoded = tuple[tf.Tensor, tf.Tensor]


def decode(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> _Decoded:
  """Decodes one image file, upright: as `data.image_io.decode_image`, but for the orientation in PNG files.

  JPEG of any colour space, PNG of any depth (16 bits keep their upper 8, an alpha channel is dropped), the first frame of
  GIF, BMP of 24 or 32 bits.

  Args:
    encoded: string[].
    max_pixels: files that claim more are not decoded.

  Returns: uint8[H, W, 3], RGB; string[], empty, or why it could not be decoded: then the image is one black pixel.
  """
  return _guarded(lambda text: _decode(text, max_pixels), encoded, lambda: _no_image(_explain(encoded)))


def decode_example(example: tf.Tensor, max_pixels: int = MAX_PIXELS) -> _Decoded:
  """Decodes the image of a `tf.train.Example`, string[], whose `image/encoded` holds the file; otherwise as `decode`."""

  def parse(text: tf.Tensor) -> tf.Tensor:
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_single_example(text, features)["image/encoded"]

  reason = "not a tf.train.Example with one image/encoded"
  encoded, error = _guarded(
    lambda text: (parse(text), tf.constant("")), example, lambda: (tf.constant(b""), tf.constant(reason))
  )
  return tf.cond(error == "", lambda: decode(encoded, max_pixels), lambda: _no_image(error))


def _guarded(function: Callable[[tf.Tensor], tuple], value: tf.Tensor, fallback: Callable[[], tuple]) -> tuple:
  """Returns `function(value)`, or where that raises `fallback()`."""
  values = tf.data.Dataset.from_tensors(value).map(function).ignore_errors(log_warning=False)
  return values.concatenate(tf.data.Dataset.from_tensors(fallback())).take(1).get_single_element()


def _no_image(reason: tf.Tensor) -> _Decoded:
  return tf.zeros([1, 1, 3], tf.uint8), tf.ensure_shape(reason, [])


def _explain(encoded: tf.Tensor) -> tf.Tensor:
  """Returns string[], why bytes that no decoder took are no image."""
  kind = tf.gather([*headers.KINDS, "image"], headers.kind(encoded))
  length = tf.strings.as_string(tf.strings.length(encoded))
  return tf.strings.join(["truncated or corrupt ", kind, " file (", length, " bytes): get it again"])


def _decode(encoded: tf.Tensor, max_pixels: int) -> _Decoded:

  def sized(size: tf.Tensor, pixels: Callable[[], tf.Tensor]) -> _Decoded:
    told = tf.strings.reduce_join(tf.strings.as_string(tf.stack([size[1], size[0]])), separator=" x ")
    reason = tf.strings.join([told, f" pixels; at most {max_pixels} are taken: scale the image down"])
    fits = (size[0] <= max_pixels) & (size[0] * size[1] <= max_pixels)
    return tf.cond(fits, lambda: (_rgb(pixels()), tf.constant("")), lambda: _no_image(reason))

  def jpeg() -> _Decoded:
    def pixels() -> tf.Tensor:
      stored = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
      return _upright(stored, headers.jpeg_orientation(encoded))

    return sized(headers.jpeg_size(encoded), pixels)

  def png() -> _Decoded:
    return sized(headers.png_size(encoded), lambda: tf.io.decode_png(encoded, channels=3))

  def gif() -> _Decoded:
    size, frame = headers.gif_first_frame(encoded)
    return sized(size, lambda: tf.io.decode_gif(frame)[0])

  def bmp() -> _Decoded:
    size, bits = headers.bmp_size(encoded)
    reason = tf.strings.join(["BMP file of ", tf.strings.as_string(bits), " bits; give one of 24, or PNG"])
    known = (bits == 24) | (bits == 32)
    pixels = lambda: tf.io.decode_bmp(encoded)[..., :3]  # noqa: E731
    return tf.cond(known, lambda: sized(size, pixels), lambda: _no_image(reason))

  def unknown() -> _Decoded:
    length = tf.strings.as_string(tf.strings.length(encoded))
    return _no_image(tf.strings.join(["not an image file (", length, " bytes): JPEG, PNG, GIF and BMP are read"]))

  return tf.switch_case(headers.kind(encoded), [jpeg, png, gif, bmp, unknown])


def _rgb(image: tf.Tensor) -> tf.Tensor:
  return tf.ensure_shape(image, [None, None, 3])


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
  """Undoes an EXIF orientation, int32[] from 1 to 8, of uint8[H, W, 3]."""

  def among(*values: int) -> tf.Tensor:
    return tf.reduce_any(orientation == tf.constant(values))

  def turn() -> tf.Tensor:
    turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    turned = tf.cond(among(3, 4, 7, 8), lambda: turned[::-1], lambda: turned)
    return tf.cond(among(2, 3, 6, 7), lambda: turned[:, ::-1], lambda: turned)

  return tf.cond(orientation == 1, lambda: image, turn)
