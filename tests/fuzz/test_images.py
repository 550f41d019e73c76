"""Image files: pixels, or one error; from Pillow (`prepare`, `predict`, the server) and in the input pipeline."""

import io

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spinenet_tf.data import augment, image_io, preprocess
from tests.fuzz import fuzzing


def _files():
  colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, [24, 32, 3], np.uint8))
  exif = Image.Exif()
  exif[0x0112] = 6
  kinds = [
    ("JPEG", colours, {"exif": exif}),
    ("JPEG", colours.convert("CMYK"), {}),
    ("JPEG", colours.convert("L"), {"progressive": True}),
    ("PNG", colours, {}),
    ("PNG", colours.convert("P"), {"transparency": 0}),
    ("PNG", Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80), {}),
    ("PNG", colours.convert("RGBA"), {}),
    ("GIF", colours, {"save_all": True, "append_images": [colours.convert("L")]}),
    ("BMP", colours, {}),
    ("WEBP", colours, {}),
    ("TIFF", colours, {"compression": "tiff_lzw"}),
    ("TIFF", colours.convert("F"), {}),
    ("PPM", colours, {}),
    ("ICO", colours, {}),
  ]
  files = []
  for kind, image, options in kinds:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    files.append(stream.getvalue())
  return files


FILES = _files()
INPUTS = st.one_of(fuzzing.changed_bytes(FILES), fuzzing.changed_bytes(FILES), st.binary(max_size=64))


@given(INPUTS)
def test_reading(data):
  pixels = fuzzing.survives("images, Pillow", lambda: image_io.decode_image(data, "fuzz"))
  if pixels is not None:
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@given(
  INPUTS, st.booleans(), st.sampled_from([(None, None), (24, 32), (32, 24)]), st.sampled_from([None, (2, 3, 9, 30)])
)
def test_storing(data, upright, size, crop):
  stored = fuzzing.survives("images, Pillow", lambda: image_io.store(data, "fuzz", *size, upright=upright, crop=crop))
  if stored is not None and len(data) < 2**20:
    again = image_io.decode_image(stored.encoded, "stored")
    assert stored.image_format in ("jpeg", "png")
    if "exif_ignored" not in stored.notes:
      assert again.shape[:2] == (stored.height, stored.width)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _exact(data):
  image, scale = preprocess.preprocess_image(preprocess.decode_exact(data), (64, 64))
  return image, scale


@tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)], autograph=False)
def _window(data, key):
  return augment.decode_window(data, augment.draw(key, (0.5, 2.0), True), (64, 64))[0]


@given(INPUTS, st.integers(0, 1000))
def test_in_the_input_pipeline(data, number):
  refusals = (tf.errors.InvalidArgumentError,)  # what `diagnose` and `unreadable` explain
  for call in (lambda: _exact(data)[0], lambda: _window(data, [0, number])):
    image = fuzzing.survives("images, TensorFlow", call, refusals)
    if image is not None:
      assert image.shape == (64, 64, 3) and np.isfinite(image).all()
