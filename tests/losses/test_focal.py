"""Focal loss against the literal formula on one-hot targets in float64."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.losses.focal import focal_loss_sum

K = 5


def literal(logits, targets, alpha, gamma):
  """Sum over anchors and classes; logits float64[N, K]."""
  one_hot = tf.one_hot(targets, K, dtype=tf.float64)
  p = tf.sigmoid(logits)
  p_t = one_hot * p + (1 - one_hot) * (1 - p)
  alpha_t = one_hot * alpha + (1 - one_hot) * (1 - alpha)
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=one_hot, logits=logits)
  return tf.reduce_sum(tf.where((targets > -2)[:, None], alpha_t * (1 - p_t) ** gamma * entropy, 0))


def example(seed=0, ignored=True, scale=3.0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(-1, scale, (2, 3, 4, 6 * K)).astype(np.float32)
  return tf.constant(logits), tf.constant(rng.integers(-2 if ignored else -1, K, (2, 72)).astype(np.int32))


def reference(logits, targets, alpha, gamma):
  flat = tf.reshape(tf.cast(logits, tf.float64), [-1, K])
  with tf.GradientTape() as tape:
    tape.watch(flat)
    value = literal(flat, tf.reshape(targets, [-1]), alpha, gamma)
  return value.numpy(), tf.reshape(tape.gradient(value, flat), logits.shape).numpy()


def ours(logits, targets, alpha=0.25, gamma=1.5, factor=1.0):
  with tf.GradientTape() as tape:
    tape.watch(logits)
    value = focal_loss_sum(logits, targets, K, alpha, gamma)
    scaled = value * factor
  return value, tape.gradient(scaled, logits)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0, 2.7])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_value_and_gradient(alpha, gamma):
  logits, targets = example()
  assert {-2, -1, 0, K - 1} <= set(targets.numpy().reshape(-1))
  expected, slope = reference(logits, targets, alpha, gamma)
  value, gradient = ours(logits, targets, alpha, gamma)
  assert value.dtype == tf.float32 and value.shape == []
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_hand_worked():
  # p = 1/2 everywhere: one positive and one background anchor with 2 classes.
  value = focal_loss_sum(tf.zeros([1, 1, 1, 4]), tf.constant([[1, -1]]), 2, alpha=0.25, gamma=2.0)
  np.testing.assert_allclose(value, (0.25 + 3 * 0.75) * 0.25 * np.log(2), rtol=1e-6)


def test_ignored_anchors_have_no_part():
  logits, _ = example()
  value, gradient = ours(logits, tf.fill([2, 72], -2))
  assert value == 0 and not gradient.numpy().any()


@pytest.mark.parametrize("size", [50.0, 1e4, -50.0, -1e4])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.7])
def test_huge_logits(size, gamma):
  logits = tf.fill([1, 1, 1, 2 * K], size)
  targets = tf.constant([[2, -1]])
  value, gradient = ours(logits, targets, gamma=gamma)
  wrong = 0.75 * (2 * K - 1) * size if size > 0 else 0.25 * -size  # each wrong one costs |x|
  np.testing.assert_allclose(value, wrong, rtol=1e-5)
  expected = np.zeros(2 * K)
  if size > 0:
    expected[:] = 0.75
    expected[2] = 0
  else:
    expected[2] = -0.25
  np.testing.assert_allclose(gradient.numpy().reshape(-1), expected, atol=1e-5)


def test_upstream_gradient():
  logits, targets = example(1)
  _, plain = ours(logits, targets)
  _, scaled = ours(logits, targets, factor=-7.0)
  np.testing.assert_allclose(scaled, -7.0 * plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_and_called_again(jit):
  spec = [tf.TensorSpec([None, 3, 4, 6 * K]), tf.TensorSpec([None, 72], tf.int32), tf.TensorSpec([])]
  run = tf.function(lambda x, t, f: ours(x, t, factor=f), jit_compile=jit, input_signature=spec)
  for seed, factor in ((2, 1.0), (3, 0.5)):
    logits, targets = example(seed)
    expected, slope = reference(logits, targets, 0.25, 1.5)
    value, gradient = run(logits, targets, factor)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, factor * slope, rtol=1e-4, atol=1e-6)


def test_gradient_reaches_what_made_the_logits():
  logits, targets = example(4)
  _, slope = reference(logits, targets, 0.25, 1.5)
  weight = tf.Variable(1.0)
  with tf.GradientTape() as tape:
    value = focal_loss_sum(weight * logits, targets, K) + focal_loss_sum(weight * logits, targets, K)
  np.testing.assert_allclose(tape.gradient(value, weight), 2 * (slope * logits.numpy()).sum(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision(dtype):
  logits, targets = example(5)
  logits = tf.cast(logits, dtype)
  expected, slope = reference(tf.cast(logits, tf.float32), targets, 0.25, 1.5)
  value, gradient = ours(logits, targets)
  assert value.dtype == tf.float32 and gradient.dtype == dtype
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(tf.cast(gradient, tf.float32), slope, rtol=2e-2, atol=1e-4)
