"""SOLO's losses against values worked by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.solo import SoloLoss, dice_loss
from spinenet_tf.ops.solo_targets import SoloMasks, SoloTargets
from tests.losses.replicas import image_of, sums_of_two


def _focal(logit, target, alpha=0.25, gamma=2.0):
  p = 1 / (1 + math.exp(-logit))
  return -alpha * (1 - p) ** gamma * math.log(p) if target else -(1 - alpha) * p**gamma * math.log(1 - p)


def test_dice_by_hand():
  masks = tf.constant([[[[0.5, 1.0], [0.0, 0.5]], [[0.25, 0.0], [0.0, 0.0]], [[0.1, 0.1], [0.0, 0.0]]]])
  wanted = tf.constant([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
  found = dice_loss(masks, wanted, tf.constant([[False, False, True]]))[0].numpy()
  expected = [1 - 2 * 1.5 / (1.5 + 0.001 + 2 + 0.001), 1.0, 0.02 / (0.02 + 0.002)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_trains_where_a_mask_shall_be_empty():
  masks = tf.constant(np.full([1, 1, 2, 2], 0.02, "f"))
  for empty, moves in ((True, True), (False, False)):
    with tf.GradientTape() as tape:
      tape.watch(masks)
      loss = dice_loss(masks, tf.zeros_like(masks), tf.constant([[empty]]))
    assert bool(np.abs(tape.gradient(loss, masks)).max() > 0) == moves, (
      "the published dice of an empty mask is constant"
    )


def _example():
  """Two images, one level of 2 x 1 cells, 2 classes; masks of 1 x 2 pixels for two cells each."""
  logits = {"0": tf.constant([[[[1.0, -2.0], [0.5, 0.0]]], [[[-1.0, -1.0], [2.0, 3.0]]]])}
  targets = SoloTargets(
    classes={"0": tf.constant([[0, -1], [-1, 1]])},
    objects={"0": tf.constant([[0, -1], [-1, 0]])},
    centres={"0": tf.constant([[True, False], [False, True]])},
    num_positives=tf.constant([1, 1]),
    lost=tf.constant([0, 0]),
    without_cell=tf.constant([0, 0]),
  )
  masks = {"0": tf.constant([[[[0.5, 0.5]], [[0.9, 0.9]]], [[[1.0, 0.5]], [[0.1, 0.2]]]])}
  wanted = SoloMasks(
    masks={"0": tf.constant([[[[1.0, 0.0]], [[0.0, 0.0]]], [[[1.0, 1.0]], [[0.0, 0.0]]]])},
    positive={"0": tf.constant([[True, False], [True, False]])},
    negative={"0": tf.constant([[False, False], [False, True]])},
  )
  return logits, masks, targets, wanted


def test_the_whole_loss_by_hand():
  found = SoloLoss(2)(*_example())
  terms = [(1.0, 1), (-2.0, 0), (0.5, 0), (0.0, 0), (-1.0, 0), (-1.0, 0), (2.0, 0), (3.0, 1)]
  cls = sum(_focal(*term) for term in terms) / 3
  dice = [1 - 1.0 / (0.5 + 1 + 0.002), 1 - 3.0 / (1.25 + 2 + 0.002), 0.05 / 0.052]
  np.testing.assert_allclose(found["cls"], cls, rtol=1e-5)
  np.testing.assert_allclose(found["mask"], sum(dice) / 3, rtol=1e-5)
  np.testing.assert_allclose(found["total"], cls + sum(dice), rtol=1e-5)
  other = SoloLoss(2, alpha=0.5, gamma=1.0, mask_weight=0.5, normalizer="replica")(*_example())
  np.testing.assert_allclose(other["cls"], sum(_focal(*term, 0.5, 1.0) for term in terms) / 3, rtol=1e-5)
  np.testing.assert_allclose(other["total"], other["cls"] + 0.5 * other["mask"], rtol=1e-5)


@pytest.mark.parametrize("normalizer", ["global", "replica"])
def test_two_replicas(normalizer):
  logits, masks, targets, wanted = _example()
  targets = targets._replace(num_positives=tf.constant([3, 1]))  # replicas with different counts, as they have of masks
  example = (logits, masks, targets, wanted)
  loss = SoloLoss(2, normalizer=normalizer)
  alone = loss(*example)
  halves = [loss(*image_of(example, i)) for i in range(2)]
  for name, value in sums_of_two(loss, example).items():
    average = sum(float(half[name]) for half in halves) / 2
    assert average != pytest.approx(float(alone[name]), rel=0.01)  # else the two rules could not be told apart
    np.testing.assert_allclose(
      value, float(alone[name]) if normalizer == "global" else average, rtol=1e-5, err_msg=name
    )


def test_nothing_to_learn_from():
  logits, masks, targets, wanted = _example()
  nobody = {"0": tf.fill([2, 2], False)}
  empty = targets._replace(classes={"0": tf.fill([2, 2], -1)}, num_positives=tf.constant([0, 0]))
  found = SoloLoss(2)(logits, masks, empty, wanted._replace(positive=nobody, negative=nobody))
  assert found["mask"] == 0 and 0 < found["cls"] < 10
  np.testing.assert_allclose(found["cls"], sum(_focal(x, 0) for x in logits["0"].numpy().ravel()), rtol=1e-5)


def test_half_precision_is_computed_in_single():
  logits, masks, targets, wanted = _example()
  half = [{name: tf.cast(value, tf.float16) for name, value in given.items()} for given in (logits, masks)]
  for key, value in SoloLoss(2)(*half, targets, wanted).items():
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, SoloLoss(2)(logits, masks, targets, wanted)[key], rtol=2e-3)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"alpha": 2}, "alpha is 2"),
    ({"gamma": -1}, "gamma is -1"),
    ({"mask_weight": -3}, "mask_weight is -3"),
    ({"normalizer": "local"}, "normalizer is 'local'"),
  ],
)
def test_bad_arguments(kwargs, text):
  with pytest.raises(UserError, match=text):
    SoloLoss(**{"num_classes": 2, **kwargs})


def test_other_levels():
  logits, masks, targets, wanted = _example()
  with pytest.raises(UserError, match=r"masks has levels \['1'\] and the targets have \['0'\]"):
    SoloLoss(2)(logits, {"1": masks["0"]}, targets, wanted)
