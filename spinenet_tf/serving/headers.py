"""What the first bytes of an image file say, read by plain TensorFlow operations: kind, size, orientation.

For graphs that leave Python: a served model checks a file's claimed size before it decodes a pixel. Functions that read
beyond a file's end read zeros.
"""

from __future__ import annotations

import tensorflow as tf

KINDS = ("JPEG", "PNG", "GIF", "BMP")
UNKNOWN = len(KINDS)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_BEYOND = 64  # zeros behind a file's end
_ORIENTATION = 0x0112  # EXIF tag
_SHORT, _LONG = 3, 4  # EXIF types
_EXIF_WITHIN = (
  2**18
)  # bytes from a file's beginning; in practice it stands in the first of the headers, of 2^16 at most


def kind(encoded: tf.Tensor) -> tf.Tensor:
  """Returns int32[], the index in `KINDS` of what string[] begins like, else `UNKNOWN`."""
  fits = [tf.strings.substr(encoded, 0, len(magic)) == magic for magic in _MAGIC]
  return tf.argmax(tf.cast(tf.stack([*fits, True]), tf.int32), output_type=tf.int32)


def png_size(encoded: tf.Tensor) -> tf.Tensor:
  """Returns int64[2], (height, width) of a PNG file, string[]."""
  data = _Bytes(tf.strings.substr(encoded, 0, 32))
  return tf.stack([data.number(20, 4, True), data.number(16, 4, True)])


def jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
  """Returns int64[2], (height, width) of a JPEG file, string[], as it is stored; raises in the graph where there is none."""
  return tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64)


def bmp_size(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Reads the header of a BMP file.

  Args:
    encoded: string[].

  Returns: int64[2], (height, width); int64[], bits for each pixel.
  """
  data = _Bytes(tf.strings.substr(encoded, 0, 64))
  height, width = data.number(22, 4, False), data.number(18, 4, False)
  height = tf.where(height >= 2**31, 2**32 - height, height)  # below 0 for files that begin with the top row
  return tf.stack([height, width]), data.number(28, 2, False)


def gif_first_frame(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Cuts the first frame out of a GIF file, as decoders read all frames.

  Args:
    encoded: string[].

  Returns: int64[2], (height, width), the larger of the screen's and the frame's; string[], a GIF of one frame, empty
    where the file ends before the frame does.
  """
  data = _Bytes(encoded)
  between, extension, image, done, broken = range(5)

  def table(flags: tf.Tensor) -> tf.Tensor:
    return tf.where(flags >= 128, tf.bitwise.left_shift(tf.constant(6, tf.int64), flags & 7), tf.constant(0, tf.int64))

  def condition(place, mode, size):
    del size
    return (mode < done) & (place < data.length)

  def body(place, mode, size):
    byte = data.number(place, 1, False)
    at_image = (mode == between) & (byte == 0x2C)
    at_extension = (mode == between) & (byte == 0x21)
    ends = (mode != between) & (byte == 0)  # an empty block is the last one
    after_image = place + 11 + table(data.number(place + 9, 1, False))
    length = tf.where(at_image, after_image - place, tf.where(at_extension, tf.constant(2, tf.int64), byte + 1))
    frame = tf.stack([data.number(place + 7, 2, False), data.number(place + 5, 2, False)])
    following = tf.where(mode == image, done, between)
    mode = tf.where(
      mode == between,
      tf.where(at_image, image, tf.where(at_extension, extension, broken)),
      tf.where(ends, following, mode),
    )
    return place + length, mode, tf.where(at_image, tf.maximum(size, frame), size)

  screen = tf.stack([data.number(8, 2, False), data.number(6, 2, False)])
  start = 13 + table(data.number(10, 1, False))
  end, mode, size = tf.while_loop(condition, body, (start, tf.constant(between), screen))
  first = tf.strings.join([tf.strings.substr(encoded, 0, tf.cast(end, tf.int32)), tf.constant(b"\x3b")])
  return size, tf.where(mode == done, first, b"")


def jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
  """Returns int32[], 1 to 8, the EXIF orientation of a JPEG file, string[]; 1, upright, where none is told."""
  data = _Bytes(tf.strings.substr(encoded, 0, _EXIF_WITHIN))

  def is_exif(place: tf.Tensor) -> tf.Tensor:
    return (data.number(place, 2, True) == 0xFFE1) & (
      data.number(place + 4, 6, True) == int.from_bytes(b"Exif\0\0", "big")
    )

  def condition(place):
    marker = data.number(place, 2, True)
    is_header = (marker > 0xFF00) & (marker != 0xFFDA) & (marker != 0xFFD9)  # neither the pixels nor the end
    return is_header & (place < data.length) & ~is_exif(place)

  def body(place):
    return (place + 2 + tf.maximum(data.number(place + 2, 2, True), 2),)

  (place,) = tf.while_loop(condition, body, (tf.constant(2, tf.int64),))
  found = tf.cond(is_exif(place), lambda: _tiff_orientation(data, place + 10), lambda: tf.constant(1, tf.int64))
  return tf.cast(tf.where((found >= 1) & (found <= 8), found, tf.ones_like(found)), tf.int32)


def _tiff_orientation(data: _Bytes, start: tf.Tensor) -> tf.Tensor:
  """Returns int64[], the value of the orientation's entry in the first directory of an EXIF block, else 1."""
  big = data.number(start, 2, True) == int.from_bytes(b"MM", "big")
  first = start + data.number(start + 4, 4, big)
  count = tf.minimum(data.number(first, 2, big), 1024)
  entries = first + 2 + 12 * tf.range(count)
  kinds = data.number(entries + 2, 2, big)
  values = tf.where(kinds == _LONG, data.number(entries + 8, 4, big), data.number(entries + 8, 2, big))
  fits = (data.number(entries, 2, big) == _ORIENTATION) & ((kinds == _SHORT) | (kinds == _LONG))
  return tf.reduce_max(tf.concat([tf.boolean_mask(values, fits), tf.constant([1], tf.int64)], 0))


class _Bytes:
  """The bytes of string[], of which numbers are read at any place."""

  def __init__(self, encoded: tf.Tensor):
    raw = tf.io.decode_raw(encoded, tf.uint8)
    self.length = tf.size(raw, tf.int64)
    self._data = tf.pad(raw, [[0, _BEYOND]])

  def number(self, place: tf.Tensor | int, count: int, big: tf.Tensor | bool) -> tf.Tensor:
    """Reads unsigned numbers.

    Args:
      place: int64[...], of their first bytes.
      count: bytes of each, up to 7.
      big: bool[], the first byte weighs most.

    Returns: int64[...].
    """
    place = tf.convert_to_tensor(place, tf.int64)
    places = tf.minimum(place[..., None] + tf.range(count, dtype=tf.int64), self.length)
    values = tf.cast(tf.gather(self._data, places), tf.int64)
    weights = [256**i for i in range(count)]
    # Two constants: reversing one in the graph makes grappler give up on its fusions.
    return tf.reduce_sum(
      values * tf.where(big, tf.constant(weights[::-1], tf.int64), tf.constant(weights, tf.int64)), axis=-1
    )
