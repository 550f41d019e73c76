"""Geometry, pixels and randomness of the training augmentation."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.data import augment, preprocess


def encode(pixels, kind="PNG", **options):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind, **options)
  return tf.constant(stream.getvalue())


def smooth_image(height, width, seed=0):
  random = np.random.default_rng(seed)
  small = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def reference(pixels, where, image_size):
  """The same by another kernel, from the whole image: flip, resize to any scale with any shift, pad."""
  pixels = pixels[:, ::-1] if bool(where.flip) else pixels
  resized = tf.raw_ops.ScaleAndTranslate(
    images=pixels[np.newaxis],
    size=where.size,
    scale=where.scale,
    translation=-where.shift * where.scale,
    kernel_type="triangle",
    antialias=False,
  )[0]
  out = np.zeros((*image_size, 3), np.float32)
  out[: where.size[0], : where.size[1]] = preprocess.normalize(resized)
  return out


def inner(image, where):
  """Without the rim of a window, where the reference sees neighbours that the window does not have."""
  rim = int(np.ceil(np.max(where.scale))) + 1
  height, width = where.size.numpy()
  return image[rim : height - rim, rim : width - rim]


def a_draw(flip, jitter, place=(0.3, 0.7)):
  return augment.Draw(tf.constant(flip), tf.constant(jitter, tf.float32), tf.constant(place, tf.float32))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("jitter", [0.5, 0.83, 1.0, 1.37, 2.0])
@pytest.mark.parametrize("size", [(48, 90), (90, 48), (33, 35), (200, 300)])
def test_pixels_are_where_the_geometry_says(flip, jitter, size):
  pixels = smooth_image(*size)
  image, where = augment.decode_window(encode(pixels), a_draw(flip, jitter), (64, 80))
  np.testing.assert_allclose(inner(image, where), inner(reference(pixels, where, (64, 80)), where), atol=2e-3)
  height, width = where.size.numpy()
  assert not image[height:].numpy().any() and not image[:, width:].numpy().any()


@pytest.mark.parametrize("jitter", [0.5, 0.83, 1.0])
@pytest.mark.parametrize("size", [(48, 90), (90, 48), (33, 35), (200, 300)])
def test_whole_images_are_resized_as_in_evaluation(jitter, size):
  pixels = smooth_image(*size)
  image, where = augment.decode_window(encode(pixels), a_draw(False, jitter), (64, 80))
  scaled = preprocess.scaled_size(where.original, tf.round(tf.constant(jitter) * [64, 80]))
  whole = preprocess.normalize(tf.image.resize(pixels, scaled))
  np.testing.assert_allclose(image[: scaled[0], : scaled[1]], whole, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_windows_are_as_drawn(flip):
  """Place and scale within half a stored pixel of the draw, whatever the size; inside the image."""
  random = np.random.default_rng(0)
  for _ in range(60):
    size, jitter, place = random.integers(30, 400, 2), random.uniform(0.3, 2), random.uniform(0, 1, 2)
    draws = a_draw(flip, jitter, place)
    where = augment.geometry(tf.constant(size, tf.int32), draws, (96, 64), reduce=True)
    scaled = preprocess.scaled_size(where.original, tf.round(tf.constant(jitter, tf.float32) * [96, 64])).numpy()
    step, unit = size / scaled, int(where.ratio)
    assert unit == 1 or unit <= step.min() < 2 * unit
    offset = np.floor(np.maximum(scaled - [96, 64], 0) * place.astype(np.float32))
    np.testing.assert_array_equal(where.size, np.minimum(scaled, [96, 64]))
    half = 0.5 * unit if (where.size < scaled).numpy().any() or unit == 1 else unit
    assert np.all(np.abs(where.shift - offset * step) <= half + unit / 2 + 1e-3)
    assert np.all(np.abs(where.size.numpy() / where.scale - where.size.numpy() * step) <= half + unit / 2 + 1e-3)
    assert (where.begin >= 0).numpy().all() and (where.end <= (where.original + unit - 1) // unit).numpy().all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("jitter", [0.3, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("size", [(48, 90), (233, 301), (601, 401)])
def test_jpeg_window_is_in_place(flip, jitter, size):
  """Also where the JPEG is decoded at 1/2, 1/4 or 1/8. In deviations of ImageNet; 0.017 is one grey level."""
  encoded = encode(smooth_image(*size), "JPEG", quality=95)
  image, where = augment.decode_window(encoded, a_draw(flip, jitter), (64, 80))
  ratio = int(where.ratio)
  assert ratio > 1 or jitter > 0.3
  for reduced, mean, most in ((ratio, 1e-3, 0.1), (1, 0.06, 0.6)):  # a mean over pixels is not quite a bilinear sample
    whole = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_FAST", ratio=reduced).numpy()
    shift = where.shift / reduced
    if flip:  # the reduced image may reach beyond the stored one
      shift = shift + tf.constant([0, whole.shape[1] - size[1] / reduced], tf.float32)
    expected = reference(whole, where._replace(scale=where.scale * reduced, shift=shift), (64, 80))
    difference = np.abs(inner(image, where) - inner(expected, where))
    assert difference.mean() < mean and difference.max() < most


def test_values_by_hand():
  """100x200 into 64x64 at jitter 2: long side 128, so 64x128; room for 64 columns, half of it is the offset."""
  where = augment.geometry(tf.constant([100, 200]), a_draw(False, 2.0, (0.9, 0.5)), (64, 64))
  np.testing.assert_allclose(where.scale, [0.64, 0.64])
  assert where.shift.numpy().tolist() == [0, 50]
  assert where.size.numpy().tolist() == [64, 64]
  boxes = tf.constant([[0.25, 0.5, 0.5, 0.75], [0.0, 0.0, 1.0, 0.25], [0.0, 0.0, 1.0, 0.3]])
  moved, visible = augment.transform_boxes(boxes, where)
  np.testing.assert_allclose(moved[0], [16, 32, 32, 64])
  np.testing.assert_allclose(moved[2], [0, 0, 64, 128 * 0.3 - 32], rtol=1e-5)
  assert visible.numpy().tolist() == [True, False, True]


def test_flip_moves_boxes():
  where = augment.geometry(tf.constant([50, 100]), a_draw(True, 1.0), (100, 100))
  moved, _ = augment.transform_boxes(tf.constant([[0.0, 0.1, 0.5, 0.3]]), where)
  np.testing.assert_allclose(moved, [[0, 70, 25, 90]], rtol=1e-5)


def test_boxes_stay_on_their_pixels():
  """A white rectangle stays inside its box through every draw."""
  pixels = np.zeros((90, 120, 3), np.uint8)
  pixels[20:50, 30:100] = 255
  box = tf.constant([[20 / 90, 30 / 120, 50 / 90, 100 / 120]])
  for number in range(40):
    draws = augment.draw(tf.constant([3, number], tf.int64), (0.5, 2.0), True)
    image, where = augment.decode_window(encode(pixels), draws, (64, 64))
    moved, visible = augment.transform_boxes(box, where)
    white = preprocess.denormalize(image).numpy()[..., 0] > 127
    white[where.size[0].numpy() :] = white[:, where.size[1].numpy() :] = False  # the padding is grey
    if not visible[0]:
      assert white.sum() == 0
      continue
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    np.testing.assert_allclose(moved[0], [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], atol=1.01)


def draws_of(count, seed=0):
  keys = tf.stack([tf.fill([count], tf.constant(seed, tf.int64)), tf.range(count, dtype=tf.int64)], axis=1)
  draws = tf.map_fn(
    lambda key: tuple(augment.draw(key, (0.5, 2.0), True)), keys, fn_output_signature=(tf.bool, tf.float32, tf.float32)
  )
  flip, jitter, place = (d.numpy() for d in draws)
  return np.column_stack([flip, jitter, place])


def test_operations_are_independent():
  """Chi-square of each pair of draws in a 2x2 table; 10.83 is exceeded once in a thousand by independent draws."""
  draws = draws_of(600)
  high = draws > np.median(draws, axis=0)
  high[:, 0] = draws[:, 0] > 0.5
  assert 0.42 < high[:, 0].mean() < 0.58
  assert 0.5 <= draws[:, 1].min() < 0.52 and 1.98 < draws[:, 1].max() < 2
  for first in range(4):
    for second in range(first):
      table = np.array([[np.sum((high[:, first] == a) & (high[:, second] == b)) for a in (0, 1)] for b in (0, 1)])
      expected = table.sum(0, keepdims=True) * table.sum(1, keepdims=True) / table.sum()
      assert ((table - expected) ** 2 / expected).sum() < 10.83, (first, second)


def test_draws_depend_on_the_key_only():
  first = draws_of(5)
  tf.random.set_seed(99)
  np.testing.assert_array_equal(first, draws_of(5))
  assert not np.allclose(first, draws_of(5, seed=1))


def test_evaluation_path_by_hand():
  pixels = smooth_image(50, 100)
  image, scale = preprocess.preprocess_image(tf.constant(pixels), (64, 64))
  np.testing.assert_allclose(scale, [0.64, 0.64])
  resized = tf.image.resize(pixels, (32, 64)).numpy() / 255
  np.testing.assert_allclose(image[:32], (resized - preprocess.MEAN) / preprocess.STD, atol=1e-4)
  assert not image[32:].numpy().any()


def test_evaluation_path_as_model_garden():
  ops = pytest.importorskip("official.vision.ops.preprocess_ops", reason="Model Garden is not installed")
  for size in ((50, 101), (97, 64), (64, 64), (7, 300)):
    pixels = tf.constant(smooth_image(*size))
    image, scale = preprocess.preprocess_image(pixels, (64, 96))
    theirs, info = ops.resize_and_crop_image(ops.normalize_image(pixels), [64, 96], padded_size=[64, 96])
    np.testing.assert_allclose(image, theirs, atol=1e-4)
    np.testing.assert_allclose(scale, info[2], rtol=1e-6)


def test_extreme_shapes_keep_a_pixel():
  image, scale = preprocess.preprocess_image(tf.zeros([1, 1000, 3], tf.uint8), (32, 32))
  assert image.shape == (32, 32, 3) and scale[0] == 1.0
