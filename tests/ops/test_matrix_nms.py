"""Matrix NMS against loops over pairs."""

import math

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops.matrix_nms import matrix_nms


def _loop(masks, scores, classes, kernel, sigma):
  """Pair by pair, as the paper says it."""

  def iou(a, b):
    both = np.logical_and(masks[a], masks[b]).sum()
    either = np.logical_or(masks[a], masks[b]).sum()
    return both / either if either and classes[a] == classes[b] else 0.0

  def decay(overlap):
    return math.exp(-sigma * overlap**2) if kernel == "gaussian" else 1 - overlap

  result = []
  for j in range(len(scores)):
    factor = 1.0
    for i in range(j):
      suppressed = decay(max([iou(k, i) for k in range(i)], default=0.0))
      factor = min(factor, decay(iou(i, j)) / suppressed)
    result.append(scores[j] * factor)
  return result


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("sigma", [2.0, 0.5])
def test_equals_loops_over_pairs(kernel, sigma):
  rng = np.random.default_rng(5)
  count = 60
  masks = np.zeros([count, 24, 32], bool)
  for mask in masks:
    y, x, h, w = rng.integers([0, 0, 4, 4], [16, 20, 20, 24])
    mask[y : y + h, x : x + w] = rng.random(mask[y : y + h, x : x + w].shape) < 0.9
  masks[7] = False
  scores = np.sort(rng.random(count).astype("f"))[::-1]
  classes = rng.integers(0, 3, count)
  found = matrix_nms(masks.reshape(count, -1), scores.copy(), classes, kernel, sigma).numpy()
  np.testing.assert_allclose(found, _loop(masks, scores, classes, kernel, sigma), rtol=1e-5)
  assert (found < scores).sum() > 20 and (found == scores).sum() > 2


def test_by_hand():
  masks = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
  scores, classes = np.array([0.9, 0.8, 0.7, 0.6], "f"), np.array([0, 0, 1, 0])
  # The second overlaps the first by 3/4; the third is of another class; the fourth overlaps the first by 1/6.
  gaussian = matrix_nms(masks, scores, classes).numpy()
  np.testing.assert_allclose(gaussian, scores * np.exp([0, -2 * 9 / 16, 0, -2 / 36]), rtol=1e-6)
  linear = matrix_nms(masks, scores, classes, "linear").numpy()
  np.testing.assert_allclose(linear, [0.9, 0.2, 0.7, 0.5], rtol=1e-6)


def test_copies_and_nothing_at_all():
  same = np.ones([3, 5], bool)
  linear = matrix_nms(same, np.array([0.9, 0.8, 0.7], "f"), np.zeros(3, int), "linear").numpy()
  np.testing.assert_allclose(linear, [0.9, 0, 0], atol=1e-6)
  graph = tf.function(lambda m, s, c: matrix_nms(m, s, c), autograph=False)
  assert graph(np.zeros([0, 5], bool), np.zeros(0, "f"), np.zeros(0, int)).shape == (0,)
  empty = matrix_nms(np.zeros([2, 5], bool), np.array([0.5, 0.4], "f"), np.zeros(2, int)).numpy()
  np.testing.assert_allclose(empty, [0.5, 0.4], rtol=1e-6)


def test_bad_arguments():
  nothing = np.zeros([1, 2], bool), np.ones(1, "f"), np.zeros(1, int)
  with pytest.raises(UserError, match="suppression is 'hard'"):
    matrix_nms(*nothing, "hard")
  with pytest.raises(UserError, match="suppression_sigma is 0"):
    matrix_nms(*nothing, sigma=0)
