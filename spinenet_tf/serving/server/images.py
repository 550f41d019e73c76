"""Size of an encoded picture, read from its header: nothing is decoded, so a picture cannot claim memory.

Knows the formats that TensorFlow decodes: JPEG, PNG, GIF, BMP.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

_BLOCKS = 200_000  # of a GIF file; a block has up to 255 bytes
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
_SCANS = 100  # of a JPEG file; each costs as much as decoding it once, and encoders write ten or so
# Start of frame, whatever the coding; C4, C8 and CC between them are other things.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_ALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # JPEG markers without a length


class BadImage(ValueError):
  """The bytes are no picture that can be decoded; the text says why."""


class ImageTooLarge(BadImage):
  """The picture claims more pixels than allowed."""


def check(data: bytes, max_pixels: int) -> tuple[int, int]:
  """Reads the size of an encoded picture and compares it with the limit.

  Args:
    data: a JPEG, PNG, GIF or BMP file.
    max_pixels: largest height times width; for a GIF of all its frames together, since the decoder reads them all.

  Returns: (height, width) in pixels, as stored: an EXIF orientation is not applied.

  Raises: ImageTooLarge above the limit, BadImage for bytes that are no such file or whose header is broken.
  """
  if not data:
    raise BadImage("the picture is empty (0 bytes)")
  try:
    height, width, pixels = _read(data)
  except (IndexError, struct.error) as error:
    raise BadImage(f"the picture ends within its header ({len(data)} bytes)") from error
  if height < 1 or width < 1:
    raise BadImage(f"the picture says it is {width}x{height} pixels")
  if pixels > max_pixels:
    raise ImageTooLarge(
      f"the picture says it has {pixels} pixels ({width}x{height}), at most {max_pixels} are decoded: scale it down"
    )
  return height, width


def shown_size(data: bytes, max_pixels: int) -> tuple[int, int]:
  """Returns (height, width) of a picture as `serving.decode` turns it: a JPEG by its EXIF orientation. Raises: as `check`."""
  height, width = check(data, max_pixels)
  if data[:2] == b"\xff\xd8":
    try:
      turn = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block: the pixels are all that counts
      turn = 1
    if turn in (5, 6, 7, 8):
      return width, height
  return height, width


def _read(data: bytes) -> tuple[int, int, int]:
  """Returns: height, width, and how many pixels the decoder will write."""
  if data[:2] == b"\xff\xd8":
    return _jpeg(data)
  if data[:8] == b"\x89PNG\r\n\x1a\n":
    if data[12:16] != b"IHDR":
      raise BadImage("the PNG file does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width, height * width
  if data[:6] in (b"GIF87a", b"GIF89a"):
    return _gif(data)
  if data[:2] == b"BM":
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), width, abs(height) * width
  raise BadImage(f"not a JPEG, PNG, GIF or BMP file: it begins with {data[:8]!r}")


def _jpeg(data: bytes) -> tuple[int, int, int]:
  if (scans := data.count(b"\xff\xda")) > _SCANS:
    raise BadImage(f"the JPEG file has {scans} scans, at most {_SCANS} are decoded: save it anew")
  at = 2
  while True:
    if data[at] != 0xFF:
      raise BadImage("the JPEG file's header is broken")
    while data[at] == 0xFF:
      at += 1
    marker, at = data[at], at + 1
    if marker in _ALONE:
      continue
    if marker in _FRAMES:
      height, width = struct.unpack_from(">HH", data, at + 3)
      return height, width, height * width
    if marker in (0xD9, 0xDA):
      raise BadImage("the JPEG file does not say its size")
    length = struct.unpack_from(">H", data, at)[0]
    if length < 2:
      raise BadImage("the JPEG file's header is broken")
    at += length


def _gif(data: bytes) -> tuple[int, int, int]:
  width, height = struct.unpack_from("<HH", data, 6)
  at, pixels, blocks = 13 + _palette(data[10]), 0, 0
  while at < len(data) and data[at] != 0x3B:  # up to the trailer; of a cut file the decoder tells
    if data[at] == 0x21:  # an extension
      at += 2
    elif data[at] == 0x2C:  # a frame, which may be larger than the picture
      frame_width, frame_height = struct.unpack_from("<HH", data, at + 5)
      pixels += frame_width * frame_height
      at += 11 + _palette(data[at + 9])
    else:
      raise BadImage("the GIF file is broken")
    while at < len(data) and data[at]:
      at, blocks = at + 1 + data[at], blocks + 1
      if blocks > _BLOCKS:
        raise BadImage(f"the GIF file has more than {_BLOCKS} blocks: save it anew")
    at += 1
  return height, width, max(pixels, height * width)


def _palette(flags: int) -> int:
  """Returns the bytes of a colour table."""
  return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
