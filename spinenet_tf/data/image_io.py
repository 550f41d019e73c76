"""Image files of every kind to RGB, and to bytes that TensorFlow decodes to the same pixels.

Greyscale becomes three equal channels, an alpha channel is dropped, CMYK is converted, 16 bits keep their
upper 8. Imports no TensorFlow: worker processes of `prepare` live from this.
"""

from __future__ import annotations

import io
import os
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from spinenet_tf.errors import UserError

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright, 5 to 8 exchange width and height
_KEPT_JPEG, _JPEG_QUALITY = ("L", "RGB"), 95
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class StoredImage(NamedTuple):
  """An image as it goes into a record.

  Attributes:
    encoded: JPEG or PNG file.
    image_format: "jpeg" or "png".
    height, width: of the decoded image in pixels.
    notes: what was particular about it: greyscale, alpha_dropped, transparent_pixels, cmyk_converted,
      sixteen_bit_reduced, exif_upright, exif_ignored, first_frame_only, reencoded.
  """

  encoded: bytes
  image_format: str
  height: int
  width: int
  notes: tuple[str, ...]


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads an image file as people see it: EXIF rotation applied.

  Returns: uint8[H, W, 3], RGB.
  Raises: UserError for a missing, truncated, corrupt or unknown file.
  """
  return decode_image(read_bytes(path), os.fspath(path))


def decode_image(data: bytes, name: str = "image") -> np.ndarray:
  """Decodes the bytes of an image file to uint8[H, W, 3], RGB, EXIF rotation applied; `name` is used in
  errors.
  """
  image, _ = _open(data, name)
  return np.asarray(_upright(_to_rgb(image, name)[0], _orientation(image)))


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads a file, local or on a file system TensorFlow knows (gs://...). Raises: UserError where it is
  missing.
  """
  path = os.fspath(path)
  if "://" in path:
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
      raise UserError(f"{path}: no such file")
    with tf.io.gfile.GFile(path, "rb") as file:
      return file.read()
  try:
    with open(path, "rb") as file:
      return file.read()
  except FileNotFoundError as error:
    raise UserError(f"{path}: no such file") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}); give an image file") from error


def store(
  data: bytes,
  name: str,
  height: int | None = None,
  width: int | None = None,
  *,
  upright: bool = False,
  crop: tuple[int, int, int, int] | None = None,
) -> StoredImage:
  """Checks an image file completely and brings it into the form of the records.

  The file's own bytes are kept where TensorFlow decodes them to the right pixels. An image whose EXIF tag
  rotates it is
  turned upright where the annotations describe it so (their size is the turned one), else its pixels stay as
  they
  are stored, which is how COCO and its tools read images.

  Args:
    data: content of the file; name: what to call it in errors.
    height, width: the size that the annotations give, in pixels; None where they give none.
    upright: whether an image without a given size is turned upright, or stays as it is stored.
    crop: (ymin, xmin, ymax, xmax) in pixels of the given size; this part only, encoded anew.
  Raises: UserError for a truncated, corrupt or unknown file, and for another size than the annotations'.
  """
  image, kind = _open(data, name)
  turn, raw = _orientation(image), image.size
  turned = raw[::-1] if turn >= 5 else raw
  if height is not None and (width, height) not in (raw, turned):
    also = f" ({turned[0]}x{turned[1]} upright)" if turned != raw else ""
    raise UserError(
      f"{name}: the annotations say {width}x{height} pixels, the file has {raw[0]}x{raw[1]}{also}; "
      "boxes would be misplaced: use the images that were annotated or correct width and height"
    )
  rgb, notes = _to_rgb(image, name)
  if turn != 1:
    as_stored = not upright if height is None else (width, height) == raw
    notes.append("exif_ignored" if as_stored else "exif_upright")
    rgb = rgb if as_stored else _upright(rgb, turn)
  if crop:
    rgb = rgb.crop((crop[1], crop[0], crop[3], crop[2]))
  width, height = rgb.size
  if getattr(image, "n_frames", 1) > 1 and kind != "MPO":
    notes.append("first_frame_only")
  sixteen_bit_png = kind == "PNG" and len(data) > 24 and data[24] == 16
  if sixteen_bit_png and "sixteen_bit_reduced" not in notes:
    notes.append("sixteen_bit_reduced")

  if "exif_upright" not in notes and not crop:
    if kind in ("JPEG", "MPO") and image.mode in _KEPT_JPEG:
      return StoredImage(data, "jpeg", height, width, tuple(notes))
    if kind == "PNG":
      return StoredImage(data, "png", height, width, tuple(notes))
  lossy = kind in ("JPEG", "MPO", "WEBP")
  stream = io.BytesIO()
  rgb.save(stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0) if lossy else rgb.save(stream, "PNG")
  notes.append("reencoded")
  return StoredImage(stream.getvalue(), "jpeg" if lossy else "png", height, width, tuple(notes))


def _open(data: bytes, name: str) -> tuple[Image.Image, str]:
  """Decodes completely, so that truncated files are found here. Returns: the image and its format."""
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
  except UnidentifiedImageError as error:
    raise UserError(f"{name}: not an image file ({len(data)} bytes); use JPEG or PNG") from error
  except Image.DecompressionBombError as error:
    raise UserError(f"{name}: {error}; scale the image down first") from error
  except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, ... for broken files
    raise UserError(f"{name}: truncated or corrupt image ({error}); get the file again or remove it") from error
  return image, image.format or ""


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
  """Any mode to RGB. Returns: the image and what had to be done."""
  mode, notes = image.mode, []
  if mode == "F":
    raise UserError(f"{name}: floating point pixels; convert the image to 8 bits per channel")
  if mode in _SIXTEEN_BIT:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
      raise UserError(f"{name}: pixels from {values.min()} to {values.max()}; convert the image to 8 or 16 bits")
    grey = Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
    return grey.convert("RGB"), ["greyscale", "sixteen_bit_reduced"]
  if mode in ("1", "L", "LA", "La"):
    notes.append("greyscale")
  if mode in ("CMYK", "YCCK"):
    notes.append("cmyk_converted")
  if mode in ("RGBA", "LA", "RGBa", "La", "PA"):
    notes.append("alpha_dropped")
    if np.asarray(image.getchannel("A")).min() < 255:
      notes.append("transparent_pixels")
  if mode in ("RGBa", "La"):
    image = image.convert("RGBA" if mode == "RGBa" else "LA")
  if mode == "P" and "transparency" in image.info:
    notes.append("alpha_dropped")
  return image.convert("RGB"), notes


def _orientation(image: Image.Image) -> int:
  try:
    value = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # a broken EXIF block: the pixels are all that counts
    return 1
  return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image, turn: int) -> Image.Image:
  """Undoes an EXIF orientation."""
  steps = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
  }
  return image.transpose(steps[turn]) if turn in steps else image
