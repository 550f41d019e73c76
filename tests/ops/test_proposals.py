"""Proposals: by hand, Model Garden's on random outputs, padding, what is not finite, compilation."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.ops.anchors import AnchorConfig, anchors, feature_size
from spinenet_tf.ops.portable import portable
from spinenet_tf.ops.proposals import propose

SIZE = (64, 96)
CONFIG = AnchorConfig(min_level=3, max_level=5, num_scales=1)
ONE = AnchorConfig(min_level=4, max_level=5, num_scales=1, aspect_ratios=(1.0,), anchor_size=1.0)
both_ways = pytest.mark.parametrize("plain", [False, True], ids=["fast", "portable"])


def _random_outputs(config, size, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  scores, deltas = {}, {}
  for level in config.levels:
    shape = (batch, *feature_size(size, level))
    scores[str(level)] = tf.constant(rng.normal(0, 2, (*shape, config.per_location)), tf.float32)
    deltas[str(level)] = tf.constant(rng.normal(0, 0.3, (*shape, config.per_location * 4)), tf.float32)
  return scores, deltas


def _by_hand():
  """Scores of a 32 x 64 image: 2 x 4 anchors of 16 pixels at level 4, 1 x 2 of 32 pixels at level 5."""
  scores = {"4": np.full([1, 2, 4, 1], -5.0, np.float32), "5": np.full([1, 1, 2, 1], -6.0, np.float32)}
  deltas = {"4": np.zeros([1, 2, 4, 4], np.float32), "5": np.zeros([1, 1, 2, 4], np.float32)}
  return scores, deltas


@both_ways
def test_by_hand(plain):
  scores, deltas = _by_hand()
  scores["4"][0, 0, 1] = 2.0  # rows 0 to 16, columns 16 to 32
  scores["4"][0, 0, 2] = 1.0  # columns 32 to 48, moved onto the one before: dropped
  deltas["4"][0, 0, 2] = [0, -1, 0, 0]
  scores["5"][0, 0, 0] = 3.0  # columns 0 to 32, moved up by half and made twice as high: 0 to 32 after clipping
  deltas["5"][0, 0, 0] = [-0.5, 0, np.log(2), 0]
  with portable(plain):
    boxes, found = propose(scores, deltas, ONE, (32, 64), pre_nms_top_k=3, count=6)
  assert boxes.shape == (1, 6, 4)
  np.testing.assert_allclose(boxes[0, :2], [[0, 0, 32, 32], [0, 16, 16, 32]], atol=1e-4)
  assert sorted(boxes[0, 2:].numpy().tolist()) == [[0] * 4, [0] * 4, [0, 0, 16, 16], [0, 32, 32, 64]]
  np.testing.assert_allclose(found[0], tf.sigmoid([3.0, 2.0, -5.0, -6.0, -1e9, -1e9]), atol=1e-6)


@both_ways
def test_a_level_does_not_suppress_another(plain):
  scores, deltas = _by_hand()
  scores["4"][0, 0, 0], scores["5"][0, 0, 0] = 2.0, 3.0
  deltas["4"][0, 0, 0] = [0.5, 0.5, np.log(2), np.log(2)]  # the same box as level 5's
  with portable(plain):
    boxes, _ = propose(scores, deltas, ONE, (32, 64), pre_nms_top_k=1, count=2)
  np.testing.assert_allclose(boxes[0], [[0, 0, 32, 32]] * 2, atol=1e-4)


@both_ways
@pytest.mark.parametrize(("top_k", "count"), [(1000, 1000), (60, 50), (20, 1000)])
def test_equals_model_gardens(plain, top_k, count):
  peer = pytest.importorskip("official.vision.modeling.layers.roi_generator")
  scores, deltas = _random_outputs(CONFIG, SIZE)
  boxes = {
    level: tf.constant(np.broadcast_to(values.reshape(1, *scores[level].shape[1:3], -1), deltas[level].shape))
    for level, values in anchors(CONFIG, SIZE).items()
  }
  generator = peer.MultilevelROIGenerator(test_pre_nms_top_k=top_k, test_num_proposals=count)
  expected, expected_scores = generator(deltas, scores, boxes, tf.constant([[64.0, 96.0]] * 2), training=False)
  with portable(plain):
    found, found_scores = propose(scores, deltas, CONFIG, SIZE, pre_nms_top_k=top_k, count=count)
  size = expected.shape[1]  # theirs has no more places than candidates
  np.testing.assert_allclose(found_scores[:, :size], tf.reshape(expected_scores, [2, -1]), atol=1e-6)
  np.testing.assert_allclose(found[:, :size], expected, atol=1e-3)
  assert not found_scores[:, size:].numpy().any() and not found[:, size:].numpy().any()
  assert (found_scores[:, 30] > 0).numpy().all()


@both_ways
def test_what_is_not_finite_is_never_proposed(plain):
  scores, deltas = _by_hand()
  scores["4"][0, 0, 0], scores["4"][0, 0, 1], scores["4"][0, 0, 2] = np.nan, np.inf, 4.0
  deltas["4"][0, 0, 2] = np.nan
  scores["4"][0, 0, 3] = -np.inf
  with portable(plain):
    boxes, found = propose(scores, deltas, ONE, (32, 64), pre_nms_top_k=100, count=20)
  assert (found.numpy() > 0).sum() == 4 + 2  # the lower row of level 4, and level 5
  assert np.isfinite(boxes).all() and boxes.numpy()[0, :, 0].max() == 16


@both_ways
def test_no_gradient(plain):
  scores, deltas = _random_outputs(CONFIG, SIZE)
  with portable(plain), tf.GradientTape() as tape:
    tape.watch([scores, deltas])
    total = tf.add_n([tf.reduce_sum(t) for t in propose(scores, deltas, CONFIG, SIZE, pre_nms_top_k=9, count=9)])
  assert all(g is None for g in tf.nest.flatten(tape.gradient(total, [scores, deltas])))


@both_ways
def test_the_batch_may_be_unknown(plain):
  scores, deltas = _random_outputs(CONFIG, SIZE)
  free = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]]), (scores, deltas))
  with portable(plain):
    traced = tf.function(lambda s, d: propose(s, d, CONFIG, SIZE, pre_nms_top_k=50, count=40), autograph=False)
    concrete = traced.get_concrete_function(*free)
    expected = propose(scores, deltas, CONFIG, SIZE, pre_nms_top_k=50, count=40)
  assert [t.shape.as_list() for t in concrete.structured_outputs] == [[None, 40, 4], [None, 40]]
  for a, b in zip(concrete(scores, deltas), expected):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_compiles():
  scores, deltas = _random_outputs(CONFIG, SIZE)
  with portable():
    compiled = tf.function(
      lambda s, d: propose(s, d, CONFIG, SIZE, pre_nms_top_k=40, count=30), jit_compile=True, autograph=False
    )(scores, deltas)
  for a, b in zip(compiled, propose(scores, deltas, CONFIG, SIZE, pre_nms_top_k=40, count=30)):
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_half_precision_outputs():
  scores, deltas = _random_outputs(CONFIG, SIZE)
  halves = tf.nest.map_structure(lambda t: tf.cast(t, tf.bfloat16), (scores, deltas))
  boxes, found = propose(*halves, CONFIG, SIZE, pre_nms_top_k=40, count=30)
  assert boxes.dtype == found.dtype == tf.float32


def test_decoded_as_the_authors_do_by_hand():
  scores, deltas = _by_hand()
  scores["4"][0, 0, 2], scores["5"][0, 0, 0] = 1.0, 3.0
  deltas["4"][0, 0, 2] = [0, -1, 0, 0]  # columns 32 to 48, 17 of them with both ends: moved left by 17
  deltas["5"][0, 0, 0] = [0, 0, np.log(0.5), 0]  # rows 0 to 32, 33 around 16.5: 16.5 rows, 8.25 to 24.75, less one
  boxes, _ = propose(scores, deltas, ONE, (32, 64), pre_nms_top_k=1, count=2, legacy_plus_one=True)
  np.testing.assert_allclose(boxes[0], [[8.25, 0, 23.75, 32], [0, 15, 16, 31]], atol=1e-4)
