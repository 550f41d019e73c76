"""Box arithmetic with hand-worked numbers."""

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import boxes


def test_encode_hand_worked():
  # Anchor centre (10, 20), 20 high and 40 wide; box centre (15, 10), 10 high and 80 wide.
  code = boxes.encode(tf.constant([[10.0, -30, 20, 50]]), tf.constant([[0.0, 0, 20, 40]]))
  np.testing.assert_allclose(code, [[0.25, -0.25, -np.log(2), np.log(2)]], rtol=1e-6)


def test_decode_inverts_encode():
  rng = np.random.default_rng(0)
  low = rng.uniform(-20, 100, (2, 50, 2))
  truth = np.concatenate([low, low + rng.uniform(1, 90, (2, 50, 2))], -1).astype(np.float32)
  anchor = np.tile(np.float32([3, 5, 40, 60]), (50, 1))
  np.testing.assert_allclose(boxes.decode(boxes.encode(truth, anchor), anchor), truth, atol=1e-3)


def test_decode_limits_growth():
  box = boxes.decode(tf.constant([0.0, 0.0, 100.0, 0.0]), tf.constant([0.0, 0.0, 16.0, 16.0]))
  np.testing.assert_allclose(box, [8 - 500, 0, 8 + 500, 16], rtol=1e-4)


def test_legacy_decode():
  # A zero code gives the anchor back; doubling it doubles side + 1.
  anchor = tf.constant([10.0, 10.0, 29.0, 29.0])
  np.testing.assert_allclose(boxes.decode(tf.zeros(4), anchor, legacy_plus_one=True), anchor, rtol=1e-6)
  double = boxes.decode(tf.constant([0, 0, np.log(2.0), 0], tf.float32), anchor, legacy_plus_one=True)
  np.testing.assert_allclose(double, [0, 10, 39, 29], atol=1e-4)


def test_empty_box_is_finite():
  code = boxes.encode(tf.constant([5.0, 5.0, 5.0, 5.0]), tf.constant([0.0, 0.0, 10.0, 10.0]))
  assert np.all(np.isfinite(code))


def test_half_precision_is_computed_in_float32():
  assert boxes.decode(tf.zeros([3, 4], tf.float16), tf.ones([3, 4])).dtype == tf.float32
  assert boxes.encode(tf.ones([3, 4], tf.bfloat16), tf.constant([0.0, 0, 1, 1])).dtype == tf.float32


def test_clip_and_area():
  clipped = boxes.clip(tf.constant([[-5.0, 3, 70, 200]]), (64, 128))
  np.testing.assert_allclose(clipped, [[0, 3, 64, 128]])
  np.testing.assert_allclose(boxes.area(tf.constant([[0.0, 3, 64, 128], [5, 5, 4, 9]])), [64 * 125, 0])


def test_iou():
  first = tf.constant([[0.0, 0, 10, 10], [0, 0, 0, 0]])
  second = tf.constant([[0.0, 5, 10, 15], [20, 20, 30, 30], [0, 0, 0, 0]])
  np.testing.assert_allclose(boxes.iou(first[:, None], second[None]), [[1 / 3, 0, 0], [0, 0, 0]], rtol=1e-6)
