"""Assignment: agreement with Model Garden and with a float64 reference, ties, padding, odd boxes, compilation."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.anchors import AnchorConfig, anchors
from spinenet_tf.ops.matching import assign

SIZE = (128, 96)
CONFIG = AnchorConfig()
ALL = np.concatenate(list(anchors(CONFIG, SIZE).values()))


def flat(targets):
  classes = np.concatenate([v.numpy() for v in targets.classes.values()], axis=1)
  return classes, np.concatenate([v.numpy() for v in targets.boxes.values()], axis=1)


def batch(*images, count=None):
  """Pads lists of (ymin, xmin, ymax, xmax, class)."""
  count = max(map(len, images)) if count is None else count
  boxes = np.zeros((len(images), count, 4), np.float32)
  classes = np.full((len(images), count), -1, np.int32)
  for i, image in enumerate(images):
    if len(image):
      boxes[i, : len(image)] = np.asarray(image, np.float32)[:, :4]
      classes[i, : len(image)] = np.asarray(image)[:, 4]
  return boxes, classes


def random_image(rng, count, low=3.0, high=90.0):
  corner = rng.uniform(-10, 100, (count, 2))
  side = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
  return np.concatenate([corner, corner + side, rng.integers(0, 7, (count, 1))], axis=1).astype(np.float32)


def iou64(truth):
  a, g = ALL[:, None].astype(np.float64), np.asarray(truth, np.float64)[None, :, :4]
  sides = np.minimum(a[..., 2:], g[..., 2:]) - np.maximum(a[..., :2], g[..., :2])
  common = np.prod(np.maximum(sides, 0), -1)
  return common / (np.prod(a[..., 2:] - a[..., :2], -1) + np.prod(g[..., 2:] - g[..., :2], -1) - common)


def undecided(truth):
  """Anchors [N] whose label hangs on rounding: tied for a ground truth, or at the threshold, or between two boxes."""
  overlap = iou64(truth)
  tied = (overlap >= overlap.max(0) - 1e-6) & ((overlap >= overlap.max(0) - 1e-6).sum(0) > 1)
  border = np.abs(overlap - 0.5) < 1e-6
  top = np.sort(overlap, axis=1)
  twins = (top[:, -1] - top[:, -2] < 1e-6) & (top[:, -1] > 0.4) if overlap.shape[1] > 1 else False
  return tied.any(1) | border.any(1) | twins


def model_garden(image):
  labeler = pytest.importorskip("official.vision.ops.anchor").AnchorLabeler(0.5, 0.5)
  tensors = {k: tf.constant(v) for k, v in anchors(CONFIG, SIZE).items()}
  boxes, labels = tf.constant(image[:, :4]), tf.constant(image[:, 4:5].astype(np.int32))
  flattened = tf.concat(list(tensors.values()), axis=0)
  indices, indicators = labeler.matcher(labeler.similarity_calc(flattened, boxes))
  classes = np.where(indicators == 1, labels.numpy()[indices, 0], -1)
  return classes, box_ops.encode(tf.gather(boxes, indices), flattened).numpy(), indicators.numpy()


@pytest.mark.parametrize("seed", range(6))
def test_same_as_model_garden(seed):
  rng = np.random.default_rng(seed)
  # Sides above the smallest anchor's: a smaller box lies in several anchors, a tie that rounding decides there.
  images = [random_image(rng, n, low=3.0 if seed % 2 else 35.0) for n in (1, 5, 20)]
  targets = assign(CONFIG, SIZE, *batch(*images, count=23))
  classes, codes = flat(targets)
  for i, image in enumerate(images):
    inside = iou64(image).max(0) > 0  # the others force an anchor there and none here
    expected, expected_codes, _ = model_garden(image[inside])
    free = undecided(image[inside])
    if seed % 2 == 0:
      assert free.sum() <= 0.01 * len(free)
    np.testing.assert_array_equal(classes[i][~free], expected[~free])
    positive = (expected >= 0) & ~free
    np.testing.assert_allclose(codes[i][positive], expected_codes[positive], atol=2e-5)
    assert not codes[i][classes[i] < 0].any()
    assert targets.num_positives[i] == (classes[i] >= 0).sum()


def test_whole_model_garden_labeler():
  anchor = pytest.importorskip("official.vision.ops.anchor")
  image = random_image(np.random.default_rng(5), 6, low=35.0)
  grid = anchor.Anchor(3, 7, 3, [1.0, 2.0, 0.5], 3.0, [128, 128]).multilevel_boxes
  theirs, their_codes, _, _, weights = anchor.AnchorLabeler(0.5, 0.5).label_anchors(
    grid, tf.constant(image[:, :4]), tf.constant(image[:, 4:5].astype(np.int32))
  )
  targets = assign(CONFIG, (128, 128), *batch(image))
  offset = 0
  for level in grid:
    ours = targets.classes[level][0].numpy()
    np.testing.assert_array_equal(ours, tf.reshape(theirs[level], [-1]))
    positive = ours >= 0
    np.testing.assert_array_equal(weights[offset : offset + len(ours)].numpy() > 0, positive)
    expected = tf.reshape(their_codes[level], [-1, 4]).numpy()
    np.testing.assert_allclose(targets.boxes[level][0].numpy()[positive], expected[positive], atol=2e-5)
    offset += len(ours)


def test_hand_worked_threshold_is_inclusive():
  # The anchor at (12, 12) of side 24 is [0, 24]^2; its upper half overlaps it by exactly 1/2.
  targets = assign(CONFIG, (64, 64), *batch([[0, 0, 12, 24, 2], [40, 40, 64, 64, 1]]))
  place = (1 * 8 + 1) * 9  # row 1, column 1, first shape
  assert targets.classes["3"][0, place] == 2
  np.testing.assert_allclose(targets.boxes["3"][0, place], [-0.25, 0, -np.log(2), 0], atol=1e-6)


def test_no_boxes():
  for count in (0, 5):
    targets = assign(CONFIG, SIZE, *batch([], [], count=count))
    classes, codes = flat(targets)
    assert (classes == -1).all() and not codes.any()
    np.testing.assert_array_equal(targets.num_positives, [0, 0])


def test_first_of_equal_boxes_wins():
  twins = [[10, 10, 50, 50, 3], [10, 10, 50, 50, 4]]
  classes, _ = flat(assign(CONFIG, SIZE, *batch(twins)))
  assert set(np.unique(classes)) == {-1, 3}


def test_boxes_that_force_one_anchor():
  # Both lie in the anchor around (12, 12) and are too small to reach 1/2. The first one gets the anchor.
  small = [[11, 11, 13, 13, 5], [10, 10, 14, 14, 6]]
  classes, _ = flat(assign(CONFIG, (64, 64), *batch(small)))
  positive = classes[0] >= 0
  assert classes[0][positive].tolist() == [5]


def test_small_box_forces_the_first_of_tied_anchors():
  classes, _ = flat(assign(CONFIG, (64, 64), *batch([[27, 27, 29, 29, 0]])))
  grid = anchors(CONFIG, (64, 64))["3"]
  inside = (grid[:, :2] <= 27).all(1) & (grid[:, 2:] >= 29).all(1)
  smallest = inside & (np.arange(len(grid)) % 9 < 3)
  assert np.flatnonzero(classes[0] >= 0).tolist() == [np.flatnonzero(smallest)[0]]


def test_padding_may_lie_anywhere():
  image = random_image(np.random.default_rng(1), 6)
  boxes, classes = batch(image, count=17)
  moved = np.full(17, 6)  # 6 is the first of padding
  moved[[1, 4, 5, 9, 11, 16]] = np.arange(6)
  first, second = assign(CONFIG, SIZE, boxes, classes), assign(CONFIG, SIZE, boxes[:, moved], classes[:, moved])
  np.testing.assert_array_equal(flat(first)[0], flat(second)[0])
  np.testing.assert_array_equal(flat(first)[1], flat(second)[1])


def test_hopeless_boxes_leave_no_trace():
  bad = [
    [30, 30, 30, 60, 1],
    [40, 40, 20, 20, 1],
    [np.nan] * 4 + [1],
    [5000, 5000, 5050, 5050, 1],
    [0, 0, np.inf, 9, 1],
  ]
  boxes, classes = batch([*bad, [10, 10, 60, 60, 2]])
  ours, codes = flat(assign(CONFIG, SIZE, boxes, classes))
  alone, alone_codes = flat(assign(CONFIG, SIZE, *batch([[10, 10, 60, 60, 2]])))
  np.testing.assert_array_equal(ours, alone)
  np.testing.assert_array_equal(codes, alone_codes)
  assert np.isfinite(codes).all()


def test_every_box_of_the_image_gets_an_anchor():
  rng = np.random.default_rng(3)
  for _ in range(20):
    image = random_image(rng, 1, low=0.5)
    low = rng.uniform(0, 90, 2)
    image[0, :4] = [*low, *(low + np.exp(rng.uniform(np.log(0.01), np.log(30), 2)))]
    assert assign(CONFIG, SIZE, *batch(image)).num_positives[0] >= 1


@pytest.mark.parametrize("jit", [False, True])
def test_compiles_with_unknown_batch(jit):
  rng = np.random.default_rng(4)
  inputs = batch(random_image(rng, 20, low=30), random_image(rng, 3, low=30), [])

  @tf.function(jit_compile=jit, input_signature=[tf.TensorSpec([None, 20, 4]), tf.TensorSpec([None, 20], tf.int32)])
  def run(boxes, classes):
    return assign(CONFIG, SIZE, boxes, classes)

  eager, compiled = flat(assign(CONFIG, SIZE, *inputs)), run(*inputs)
  assert compiled.classes["3"].shape[1:] == [16 * 12 * 9]
  np.testing.assert_array_equal(flat(compiled)[0], eager[0])
  np.testing.assert_allclose(flat(compiled)[1], eager[1], atol=1e-5)


def test_no_gradient():
  boxes, classes = batch([[10.0, 10, 60, 60, 2]])
  boxes = tf.constant(boxes)
  with tf.GradientTape() as tape:
    tape.watch(boxes)
    total = sum(tf.reduce_sum(v) for v in assign(CONFIG, SIZE, boxes, classes).boxes.values())
  assert tape.gradient(total, boxes) is None


def test_two_thresholds_as_model_gardens_proposal_labeler():
  anchor = pytest.importorskip("official.vision.ops.anchor")
  config = AnchorConfig(num_scales=1)
  image = random_image(np.random.default_rng(7), 8, low=35.0)
  image[:, 4] = 0
  grid = anchor.Anchor(3, 7, 1, [1.0, 2.0, 0.5], 3.0, [128, 128]).multilevel_boxes
  flattened = tf.concat([tf.reshape(boxes, [-1, 4]) for boxes in grid.values()], axis=0)
  labeler = anchor.RpnAnchorLabeler(0.7, 0.3)
  _, indicators = labeler.matcher(labeler.similarity_calc(flattened, tf.constant(image[:, :4])))
  targets = assign(config, (128, 128), *batch(image), positive_iou=0.7, negative_iou=0.3)
  classes, codes = flat(targets)
  np.testing.assert_array_equal(np.where(classes[0] >= 0, 1, classes[0]), indicators)
  assert {-2, -1, 0} == set(np.unique(classes))
  assert not codes[classes < 0].any() and targets.num_positives[0] == (classes >= 0).sum()


@pytest.mark.parametrize(("height", "expected"), [(24, -2), (12, -2), (8, -1)])
def test_two_thresholds_hand_worked(height, expected):
  # The box [0, height] x [0, 24] forces the first anchor that covers most of it, in column 1. The anchor [0, 24] x [8, 32]
  # has 16 * height of it in common: IoU 384/768 = 1/2, 192/672 = 0.286 and 128/640 = 0.2.
  config = AnchorConfig(num_scales=1, aspect_ratios=(1.0,))
  boxes, classes = batch([[0, 0, height, 24, 0]])
  targets = assign(config, (64, 64), boxes, classes, positive_iou=0.7, negative_iou=0.25)
  labels = targets.classes["3"][0].numpy().reshape(8, 8)
  assert labels[1, 2] == expected
  assert (labels == 0).sum() == 1 and labels[:2, 1].max() == 0
