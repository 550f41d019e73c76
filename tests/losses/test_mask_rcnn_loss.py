"""The five losses of Mask R-CNN: hand-worked values, Model Garden's, replicas, nothing to learn from."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.mask_rcnn import MaskRCNNLoss, MaskTargets, Predictions
from spinenet_tf.ops.matching import Targets
from spinenet_tf.ops.regions import Regions
from spinenet_tf.ops.sampling import Sample
from tests.losses.replicas import image_of, sums_of_two

LEVELS, K, A, S, N = {"3": 4, "4": 2}, 3, 2, 6, 4


def example(batch=2, seed=0):
  """Random predictions; targets with positives, background, ignored anchors, an empty place, a region without a mask."""
  rng = np.random.default_rng(seed)

  def normal(*shape, scale=1.0):
    return tf.constant(rng.normal(0, scale, shape), tf.float32)

  outputs = Predictions(
    rpn_scores={level: normal(batch, side, side, A) for level, side in LEVELS.items()},
    rpn_deltas={level: normal(batch, side, side, A * 4, scale=0.3) for level, side in LEVELS.items()},
    logits=normal(batch, S, K + 1),
    codes=normal(batch, S, K, 4),
    masks=normal(batch, N, 5, 5),
  )
  counts = {level: side * side * A for level, side in LEVELS.items()}
  labels = {level: rng.choice([0, -1, -1, -2], (batch, n)).astype(np.int32) for level, n in counts.items()}
  codes = {level: rng.normal(0, 0.3, (batch, n, 4)) * (labels[level] >= 0)[..., None] for level, n in counts.items()}
  anchors = Targets(
    {level: tf.constant(values) for level, values in labels.items()},
    {level: tf.constant(values, tf.float32) for level, values in codes.items()},
    tf.constant(sum((values >= 0).sum(1) for values in labels.values()), tf.int32),
  )
  flat = np.concatenate(list(labels.values()), axis=1)
  index = np.stack([np.concatenate([np.flatnonzero(row >= 0)[:3], np.flatnonzero(row == -1)[:5]]) for row in flat])
  kind = np.tile([1, 1, 1, 0, 0, 0, 0, 0], (batch, 1))
  sampled = Sample(tf.constant(index, tf.int32), tf.constant(kind == 1), tf.constant(kind == 0))
  classes = np.tile([[2, 0, 1, -1, -1, -1]], (batch, 1))
  region_codes = rng.normal(0, 1, (batch, S, 4)) * (classes >= 0)[..., None]
  zeros = tf.zeros([batch, S, 4])
  truth = tf.zeros([batch, S], tf.int32)
  regions = Regions(zeros, tf.constant(classes, tf.int32), tf.constant(region_codes, tf.float32), truth, zeros)
  masks = tf.constant(rng.integers(0, 2, (batch, N, 5, 5)), tf.float32)
  has_mask = tf.constant(np.tile([True, True, True, False], (batch, 1)))
  return outputs, MaskTargets(anchors, sampled, regions, masks, has_mask)


def test_hand_worked():
  scores = {"3": tf.reshape(tf.math.log([3.0, 1.0, 1 / 3, 9.0]), [1, 2, 2, 1])}
  deltas = {"3": tf.constant([[[[0.1, 0, 0, 0], [9.0, 9, 9, 9]], [[9.0, 9, 9, 9], [0, 0, 0, 0.5]]]])}
  anchors = Targets(
    {"3": tf.constant([[0, -2, -1, 0]])},
    {"3": tf.constant([[[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.25]]])},
    tf.constant([2]),
  )
  # The first anchor and the third are sampled, the third place is empty.
  sampled = Sample(tf.constant([[0, 2, 0]]), tf.constant([[True, False, False]]), tf.constant([[False, True, False]]))
  logits = tf.math.log([[[1.0, 2, 1], [2, 1, 1], [1, 1, 1]]])
  codes = tf.constant([[[[7.0, 7, 7, 7]] * 2, [[7.0, 7, 7, 7]] * 2, [[7.0, 7, 7, 7]] * 2]])
  codes = tf.tensor_scatter_nd_update(codes, [[0, 0, 0]], [[0.5, 0.0, 3.0, 0.0]])
  regions = Regions(
    tf.zeros([1, 3, 4]),
    tf.constant([[0, -1, -2]]),
    tf.constant([[[0.0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]),
    tf.zeros([1, 3], tf.int32),
    tf.zeros([1, 3, 4]),
  )
  masks = tf.math.log([[[[3.0, 1.0]], [[5.0, 5.0]]]])
  targets = MaskTargets(
    anchors, sampled, regions, tf.constant([[[[1.0, 0.0]], [[1.0, 1.0]]]]), tf.constant([[True, False]])
  )
  losses = MaskRCNNLoss()(Predictions(scores, deltas, logits, codes, masks), targets)
  # Probabilities 3/4 of a positive and 1/4 of a negative; both cost -ln(3/4).
  np.testing.assert_allclose(losses["rpn_cls"], -np.log(3 / 4), rtol=1e-5)
  # 0.1 is below 1/9: 0.1^2 / 2; 0.25 beyond: (0.25 - 1/18) / 9. Over 8 coordinates.
  np.testing.assert_allclose(losses["rpn_box"], (0.005 + (0.25 - 1 / 18) / 9) / 8, rtol=1e-5)
  # Class 0 is the second of the outputs, with probability 2/4; background the first, 2/4; the empty place does not count.
  np.testing.assert_allclose(losses["cls"], np.log(2), rtol=1e-5)
  # 0.5^2 / 2 and 2 - 1/2, over 4.
  np.testing.assert_allclose(losses["box"], (0.125 + 1.5) / 4, rtol=1e-5)
  np.testing.assert_allclose(losses["mask"], (np.log(4 / 3) + np.log(2)) / 2, rtol=1e-5)
  np.testing.assert_allclose(losses["total"], sum(float(v) for k, v in losses.items() if k != "total"), rtol=1e-6)


def test_as_model_garden():
  peer = pytest.importorskip("official.vision.losses.maskrcnn_losses")
  outputs, targets = example()
  ours = MaskRCNNLoss()(outputs, targets)
  labels = np.full((2, 40), -1, np.int32)  # ignored unless sampled
  for i in range(2):
    labels[i, targets.sampled.index[i].numpy()] = targets.sampled.positive[i].numpy()
  score_targets = {"3": labels[:, :32].reshape(2, 4, 4, A), "4": labels[:, 32:].reshape(2, 2, 2, A)}
  box_targets = {level: tf.reshape(targets.anchors.boxes[level], outputs.rpn_deltas[level].shape) for level in LEVELS}
  classes = targets.regions.classes + 1
  box_outputs = tf.reshape(tf.pad(outputs.codes, [[0, 0], [0, 0], [1, 0], [0, 0]]), [2, S, (K + 1) * 4])
  expected = {
    "rpn_cls": peer.RpnScoreLoss(8)(outputs.rpn_scores, score_targets),
    "rpn_box": peer.RpnBoxLoss(1 / 9)(outputs.rpn_deltas, box_targets),
    "cls": peer.FastrcnnClassLoss()(outputs.logits, classes),
    "box": peer.FastrcnnBoxLoss(1.0)(box_outputs, classes, targets.regions.codes),
    "mask": peer.MaskrcnnLoss()(outputs.masks, targets.masks, classes[:, :N]),
  }
  for name, value in expected.items():  # it adds 0.01 to its counts of coordinates and pixels
    np.testing.assert_allclose(ours[name], value, rtol=2e-3, err_msg=name)
  np.testing.assert_allclose(ours["cls"], expected["cls"], rtol=1e-5)


def test_nothing_to_learn_from():
  outputs, targets = example()
  nothing = tf.nest.map_structure(
    lambda v: tf.zeros_like(v) - (2 if v.dtype == tf.int32 else 0), targets.anchors.classes
  )
  empty = MaskTargets(
    targets.anchors._replace(classes=nothing),
    Sample(targets.sampled.index, *[tf.zeros_like(targets.sampled.positive)] * 2),
    targets.regions._replace(classes=tf.fill([2, S], -2)),
    targets.masks,
    tf.zeros_like(targets.has_mask),
  )
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = MaskRCNNLoss()(outputs, empty)
  assert all(float(value) == 0 for value in losses.values())
  for gradient in tf.nest.flatten(tape.gradient(losses["total"], outputs)):
    assert not tf.convert_to_tensor(gradient).numpy().any()


@pytest.mark.parametrize("normalizer", ["global", "replica"])
def test_two_replicas(normalizer):
  whole = example(batch=2, seed=1)
  labels = whole[1].regions.classes.numpy()
  labels[1] = [0, -1, -1, -1, -2, -2]  # replicas with different counts
  targets = whole[1]._replace(regions=whole[1].regions._replace(classes=tf.constant(labels)))
  loss = MaskRCNNLoss(normalizer=normalizer)

  result = sums_of_two(loss, (whole[0], targets))
  alone = loss(whole[0], targets)
  halves = [loss(*image_of((whole[0], targets), i)) for i in range(2)]
  for name, value in result.items():
    expected = float(alone[name]) if normalizer == "global" else sum(float(half[name]) for half in halves) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("wrong", [{"huber_delta": 0}, {"rpn_huber_delta": -1.0}, {"normalizer": "mean"}])
def test_refuses(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    MaskRCNNLoss(**wrong)
