"""RoIAlign: values by hand, Model Garden's on random input, both ways, gradients."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.ops.portable import portable
from spinenet_tf.ops.roi_align import levels, roi_align

both_ways = pytest.mark.parametrize("plain", [False, True], ids=["fast", "portable"])


def _ramps(size=(64, 96), min_level=3, max_level=5):
  """Maps whose pixel (i, j) is 1000 level + 10 i + j: linear, so bilinear values are exact."""
  result = {}
  for level in range(min_level, max_level + 1):
    rows, columns = (-(-side // 2**level) for side in size)
    ramp = 1000 * level + 10 * np.arange(rows)[:, None] + np.arange(columns)
    result[str(level)] = tf.constant(ramp[None, :, :, None], tf.float32)
  return result


def _random_boxes(rng, batch, count, height, width):
  centre = rng.uniform(0, [height, width], (batch, count, 2))
  side = np.exp(rng.uniform(np.log(4), np.log(min(height, width)), (batch, count, 2)))
  boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=-1)
  return np.clip(boxes, 0, [height, width, height, width]).astype(np.float32)


def _random_pyramid(rng, batch, size, channels, min_level=3, max_level=7):
  def draw(level):
    rows, columns = (-(-side // 2**level) for side in size)
    return tf.constant(rng.normal(size=(batch, rows, columns, channels)), tf.float32)

  return {str(level): draw(level) for level in range(min_level, max_level + 1)}


@both_ways
def test_bins_by_hand(plain):
  # In pixels of level 3 rows 1 to 3 and columns 2 to 6: bin centres are at rows 1.5 and 2.5, columns 3 and 5.
  boxes = tf.constant([[[8.0, 16.0, 24.0, 48.0]]])
  with portable(plain):
    found = roi_align(_ramps(), boxes, 2, min_level=3, max_level=5)
  np.testing.assert_allclose(found[0, 0, ..., 0], [[3018, 3020], [3028, 3030]], rtol=1e-6)


@both_ways
def test_samples_behind_the_last_pixel_repeat_it(plain):
  boxes = tf.constant([[[0.0, 0.0, 64.0, 96.0]]])  # 8 x 12 pixels of level 3
  with portable(plain):
    found = roi_align(_ramps(max_level=3), boxes, 4, min_level=3, max_level=3)
  rows, columns = np.array([1, 3, 5, 7]), np.array([1.5, 4.5, 7.5, 10.5])
  np.testing.assert_allclose(found[0, 0, ..., 0], 3000 + 10 * rows[:, None] + columns, rtol=1e-6)
  with portable(plain):
    corner = roi_align(_ramps(max_level=3), tf.constant([[[60.0, 92.0, 64.0, 96.0]]]), 1, min_level=3, max_level=3)
  np.testing.assert_allclose(corner[0, 0, 0, 0], [3000 + 70 + 11], rtol=1e-6)  # at row 7.75, column 11.75


def test_levels_by_hand():
  sides = [1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 896.0, 5000.0, 0.0]
  boxes = tf.constant([[0.0, 0.0, side, side] for side in sides])
  assert levels(boxes, 3, 7).numpy().tolist() == [3, 3, 3, 3, 4, 4, 5, 6, 7, 3]
  assert levels(boxes, 2, 7).numpy().tolist()[:4] == [2, 2, 3, 3]
  assert levels(tf.constant([[0.0, 0.0, 112.0, 448.0]]), 3, 7).numpy().tolist() == [4]  # sqrt(112 * 448) = 224


@both_ways
def test_each_region_reads_its_level(plain):
  boxes = tf.constant([[[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 256.0, 256.0], [0.0, 0.0, 512.0, 480.0]]])
  with portable(plain):
    found = roi_align(_ramps((512, 512)), boxes, 1, min_level=3, max_level=5)
  np.testing.assert_allclose(found[0, :, 0, 0, 0], [3022, 4088, 5000 + 10 * 8 + 7.5], rtol=1e-6)


@both_ways
@pytest.mark.parametrize("crop", [7, 14])
def test_equals_model_gardens(plain, crop):
  peer = pytest.importorskip("official.vision.ops.spatial_transform_ops")
  rng = np.random.default_rng(crop)
  pyramid = _random_pyramid(rng, 2, (256, 384), 5)
  boxes = tf.constant(_random_boxes(rng, 2, 60, 256, 384))
  upstream = tf.constant(rng.normal(size=(2, 60, crop, crop, 5)), tf.float32)

  def run(function):
    with tf.GradientTape() as tape:
      tape.watch(pyramid)
      found = function()
    return found, tape.gradient(found, pyramid, output_gradients=upstream)

  expected, slopes = run(lambda: peer.multilevel_crop_and_resize(pyramid, boxes, crop))
  with portable(plain):
    found, own_slopes = run(lambda: roi_align(pyramid, boxes, crop, min_level=3, max_level=7))
  np.testing.assert_allclose(found, expected, atol=2e-4)
  for level in pyramid:
    np.testing.assert_allclose(own_slopes[level], tf.convert_to_tensor(slopes[level]), atol=1e-3)


def test_both_ways_are_equal_where_sizes_do_not_divide():
  rng = np.random.default_rng(0)
  pyramid = _random_pyramid(rng, 2, (250, 170), 3)
  boxes = tf.constant(_random_boxes(rng, 2, 40, 250, 170))
  found = roi_align(pyramid, boxes, 7, min_level=3, max_level=7)
  with portable():
    np.testing.assert_allclose(found, roi_align(pyramid, boxes, 7, min_level=3, max_level=7), atol=2e-4)


@both_ways
def test_gradients_by_differences(plain):
  rng = np.random.default_rng(1)
  pyramid = _random_pyramid(rng, 1, (48, 64), 2, max_level=4)
  boxes = tf.constant([[[3.0, 5.0, 41.0, 60.0], [0.0, 0.0, 47.0, 64.0]]])
  keys = list(pyramid)
  with portable(plain):
    theoretical, numerical = tf.test.compute_gradient(
      lambda *maps: roi_align(dict(zip(keys, maps)), boxes, 3, min_level=3, max_level=4), list(pyramid.values()), 1e-2
    )
  for a, b in zip(theoretical, numerical):
    np.testing.assert_allclose(a, b, atol=1e-3)


@both_ways
def test_no_gradient_to_boxes(plain):
  boxes = tf.Variable([[[8.0, 16.0, 24.0, 48.0]]])
  with portable(plain), tf.GradientTape() as tape:
    found = tf.reduce_sum(roi_align(_ramps(), boxes, 2, min_level=3, max_level=5))
  assert tape.gradient(found, boxes) is None


@both_ways
def test_boxes_that_are_not_finite_are_empty(plain):
  boxes = tf.constant([[[np.nan] * 4, [0.0, np.inf, -np.inf, 5.0], [0.0] * 4]])
  with portable(plain):
    found = roi_align(_ramps(), boxes, 2, min_level=3, max_level=5)
  assert np.isfinite(found).all() and (found.numpy()[0, 2] == 3000).all()


@both_ways
def test_sizes_that_are_not_known(plain):
  rng = np.random.default_rng(2)
  pyramid = _random_pyramid(rng, 2, (128, 192), 3)
  boxes = tf.constant(_random_boxes(rng, 2, 9, 128, 192))
  free = tf.nest.map_structure(lambda _: tf.TensorSpec([None, None, None, 3]), pyramid)

  def align_with_slopes(maps, regions):
    with tf.GradientTape() as tape:
      tape.watch(maps)
      found = roi_align(maps, regions, 7, min_level=3, max_level=7)
    return found, tape.gradient(found, maps, output_gradients=found)

  with portable(plain):
    traced = tf.function(align_with_slopes, autograph=False)
    concrete = traced.get_concrete_function(free, tf.TensorSpec([None, None, 4]))
    expected, slopes = align_with_slopes(pyramid, boxes)
  assert concrete.structured_outputs[0].shape.as_list() == [None, None, 7, 7, 3]
  found, own_slopes = concrete(pyramid, boxes)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  for level in pyramid:
    np.testing.assert_allclose(own_slopes[level], slopes[level], atol=1e-4)


@both_ways
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_keeps_the_dtype(plain, dtype):
  pyramid = {level: tf.cast(maps / 1000, dtype) for level, maps in _ramps().items()}
  boxes = tf.constant([[[8.0, 16.0, 24.0, 48.0]]])
  with portable(plain), tf.GradientTape() as tape:
    tape.watch(pyramid)
    found = roi_align(pyramid, boxes, 2, min_level=3, max_level=5)
  assert found.dtype == dtype
  np.testing.assert_allclose(tf.cast(found, tf.float32)[0, 0, ..., 0], [[3.018, 3.02], [3.028, 3.03]], rtol=2e-2)
  assert all(slope.dtype == dtype for slope in tape.gradient(found, pyramid).values())


def test_compiles():
  rng = np.random.default_rng(3)
  pyramid, boxes = _random_pyramid(rng, 1, (64, 64), 2, max_level=4), tf.constant(_random_boxes(rng, 1, 3, 64, 64))
  with portable():
    compiled = tf.function(lambda p, b: roi_align(p, b, 2, min_level=3, max_level=4), jit_compile=True)(pyramid, boxes)
  np.testing.assert_allclose(compiled, roi_align(pyramid, boxes, 2, min_level=3, max_level=4), atol=1e-4)
