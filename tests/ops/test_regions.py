"""Sampled regions and their masks: hand-worked values, agreement with Model Garden, padding, compilation."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.regions import mask_targets, sample_regions

SEED = tf.constant([1, 2])
TRUTH = tf.constant([[[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]])
CLASSES = tf.constant([[4, 2, -1]])


def test_hand_worked():
  # IoU with the second object: 1/2 exactly, and 200/600 = 1/3. The fourth is padding.
  proposals = tf.constant([[[20.0, 20, 30, 40], [20, 30, 40, 50], [60, 60, 70, 70], [5, 5, 5, 5]]])
  regions = sample_regions(proposals, TRUTH, CLASSES, SEED, count=8, positive_share=0.5)
  classes = regions.classes[0].numpy()
  # Positive: the half and both objects themselves; background: the other two.
  assert sorted(classes[:3].tolist()) == [2, 2, 4]
  np.testing.assert_array_equal(classes[3:], [-1, -1, -2, -2, -2])
  np.testing.assert_array_equal(regions.boxes[0, 5:], np.zeros((3, 4)))
  np.testing.assert_array_equal(regions.codes[0, 3:], np.zeros((5, 4)))
  rows = {tuple(box): i for i, box in enumerate(regions.boxes[0, :3].numpy().tolist())}
  half = rows[(20, 20, 30, 40)]
  # Centre 5 lower of height 10, height twice, weights 10 and 5.
  np.testing.assert_allclose(regions.codes[0, half], [5.0, 0.0, 5 * np.log(2), 0.0], atol=1e-5)
  np.testing.assert_allclose(regions.codes[0, rows[(0, 0, 10, 10)]], np.zeros(4), atol=1e-5)
  assert regions.truth[0, half] == 1
  np.testing.assert_array_equal(regions.truth_boxes[0, half], [20, 20, 40, 40])


def test_codes_are_decoded():
  region, box = tf.constant([3.0, 4, 30, 50]), tf.constant([0.0, 10, 33, 44])
  np.testing.assert_allclose(box_ops.decode_region(box_ops.encode_region(box, region), region), box, atol=1e-4)


def test_no_objects():
  proposals = tf.constant([[[20.0, 20, 30, 40], [0, 0, 0, 0]]])
  regions = sample_regions(proposals, tf.zeros([1, 3, 4]), tf.fill([1, 3], -1), SEED, count=4)
  np.testing.assert_array_equal(regions.classes, [[-1, -2, -2, -2]])
  assert not regions.codes.numpy().any()


def test_share_of_positives():
  rng = np.random.default_rng(0)
  low = rng.uniform(0, 60, (2, 300, 2))
  proposals = tf.constant(np.concatenate([low, low + rng.uniform(5, 40, low.shape)], -1), tf.float32)
  boxes = tf.tile(proposals[:, :20], [1, 1, 1])
  regions = sample_regions(proposals, boxes, tf.zeros([2, 20], tf.int32), SEED, count=64)
  np.testing.assert_array_equal(tf.reduce_sum(tf.cast(regions.classes >= 0, tf.int32), 1), [16, 16])
  np.testing.assert_array_equal(tf.reduce_sum(tf.cast(regions.classes == -1, tf.int32), 1), [48, 48])


def test_matches_as_model_gardens_sampler():
  """Without subsampling its layer returns what each candidate is matched with."""
  layers = pytest.importorskip("official.vision.modeling.layers.roi_sampler")
  rng = np.random.default_rng(3)
  low = rng.uniform(0, 80, (2, 150, 2))
  proposals = np.concatenate([low, low + rng.uniform(8, 40, low.shape)], -1).astype(np.float32)
  shifts = rng.normal(0, 4, (2, 12, 4))
  boxes = np.maximum(proposals[:, :12] + shifts, -0.5).astype(np.float32)
  boxes[1, 8:] = -1
  classes = rng.integers(1, 6, (2, 12)).astype(np.int32)
  classes[1, 8:] = -1
  sampler = layers.ROISampler(num_sampled_rois=162, foreground_fraction=1.0, skip_subsampling=True)
  rois, _, gt_classes, gt_rows = sampler(tf.constant(proposals), tf.constant(boxes), tf.constant(classes))

  # One draw of everything: all positives and all negatives are taken.
  ours_boxes = np.where((classes >= 0)[..., None], boxes, 0)
  ours = sample_regions(
    proposals, ours_boxes, np.where(classes > 0, classes - 1, -1), SEED, count=324, positive_share=0.5
  )
  for i in range(2):
    expected = {}
    for box, label, row in zip(rois[i].numpy(), gt_classes[i].numpy(), gt_rows[i].numpy()):
      if box.max() > 0:
        expected[tuple(np.round(box, 3))] = (int(label) - 1, int(row) if label > 0 else 0)
    found = {}
    for box, label, row in zip(ours.boxes[i].numpy(), ours.classes[i].numpy(), ours.truth[i].numpy()):
      if label > -2:
        found[tuple(np.round(box, 3))] = (int(label), int(row))
    assert found == expected
    assert sum(label >= 0 for label, _ in found.values()) >= 8


def test_masks_hand_worked():
  # The left half of a 4 x 4 mask in the box [0, 8] x [0, 8].
  mask = np.zeros((1, 1, 4, 4), np.uint8)
  mask[..., :2] = 1
  box = tf.constant([[[0.0, 0, 8, 8]]])

  def seen(region):
    return mask_targets(mask, box, tf.constant([[region]], tf.float32), 4)[0, 0].numpy()

  np.testing.assert_array_equal(seen([0, 0, 8, 8]), mask[0, 0])
  np.testing.assert_array_equal(seen([2, 2, 6, 6]), [[1, 1, 0, 0]] * 4)
  np.testing.assert_array_equal(seen([0, 0, 8, 4]), np.ones((4, 4)))
  # Twice as wide and high, so every bin is one of [0, 4, 8, 12, 16]: the second row and column lie outside.
  np.testing.assert_array_equal(seen([0, 0, 16, 16]), [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4])
  np.testing.assert_array_equal(seen([20, 20, 30, 30]), np.zeros((4, 4)))


def test_masks_as_model_garden_crops_them():
  """Its samples lie half a cell of the stored mask up and left of the bin's centre: 1/224 of the box."""
  peer = pytest.importorskip("official.vision.ops.spatial_transform_ops")
  rng = np.random.default_rng(5)
  y, x = np.mgrid[0:112, 0:112]
  masks = np.zeros((1, 6, 112, 112), np.uint8)
  for i in range(6):
    centre, radii = rng.uniform(40, 72, 2), rng.uniform(20, 50, 2)
    masks[0, i] = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
  low = rng.uniform(0, 50, (1, 6, 2))
  boxes = np.concatenate([low, low + rng.uniform(20, 60, low.shape)], -1).astype(np.float32)
  regions = (boxes + rng.normal(0, 5, boxes.shape)).astype(np.float32)
  ours = mask_targets(masks, boxes, regions).numpy()
  theirs = (
    peer.crop_mask_in_target_box(tf.cast(masks, tf.float32), boxes, regions, 28, sample_offset=0.5).numpy() >= 0.5
  )
  assert ours.mean() > 0.2
  assert (ours != theirs).mean() < 0.01


@pytest.mark.parametrize("jit", [False, True])
def test_compiles_with_unknown_batch(jit):
  signature = [tf.TensorSpec([None, 4, 4]), tf.TensorSpec([None, 3, 4]), tf.TensorSpec([None, 3], tf.int32)]

  @tf.function(jit_compile=jit, input_signature=signature)
  def run(proposals, boxes, classes):
    regions = sample_regions(proposals, boxes, classes, SEED, count=6)
    masks = tf.ones([tf.shape(boxes)[0], 6, 8, 8], tf.uint8)
    return regions, mask_targets(masks, regions.truth_boxes, regions.boxes)

  proposals = tf.constant([[[20.0, 20, 30, 40], [20, 30, 40, 50], [60, 60, 70, 70], [5, 5, 5, 5]]])
  regions, masks = run(proposals, TRUTH, CLASSES)
  assert regions.boxes.shape == [1, 6, 4] and masks.shape == [1, 6, 28, 28]
  assert np.isfinite(masks).all() and masks[0, 0].numpy().all()
