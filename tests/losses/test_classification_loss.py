"""Cross-entropy: hand-worked values, smoothing, gradients, replicas."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.losses.classification import ClassificationLoss

# Two CPU devices for the test of replicas. Devices are fixed when TensorFlow starts, so this comes first.
_CPU = tf.config.list_physical_devices("CPU")[0]
if len(tf.config.get_logical_device_configuration(_CPU) or ()) < 2:
  with contextlib.suppress(RuntimeError):
    tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

# Probabilities 1/2, 1/4, 1/4 and 1/8, 1/8, 3/4.
LOGITS = tf.math.log([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]])
LABELS = tf.constant([0, 1])


def test_hand_worked():
  """-ln(1/2) and -ln(1/8)."""
  losses = ClassificationLoss(3)({"logits": LOGITS}, LABELS)
  np.testing.assert_allclose(losses["cls"], (np.log(2) + np.log(8)) / 2, rtol=1e-6)
  assert losses["total"] is losses["cls"] and losses["cls"].shape == []


def test_smoothing_hand_worked():
  """Targets 0.7 + 0.1, 0.1, 0.1 and 0.1, 0.7 + 0.1, 0.1."""
  losses = ClassificationLoss(3, label_smoothing=0.3)({"logits": LOGITS}, LABELS)
  first = 0.8 * np.log(2) + 2 * 0.1 * np.log(4)
  second = 0.9 * np.log(8) + 0.1 * np.log(4 / 3)
  np.testing.assert_allclose(losses["total"], (first + second) / 2, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_keras(smoothing):
  rng = np.random.default_rng(0)
  logits, labels = tf.constant(np.float32(rng.normal(0, 5, (16, 10)))), rng.integers(0, 10, 16).astype(np.int32)
  peer = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(logits)
    ours = ClassificationLoss(10, smoothing)({"logits": logits}, labels)["total"]
    theirs = peer(tf.one_hot(labels, 10), logits)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  np.testing.assert_allclose(tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-7)


def test_large_scores_stay_finite_in_half_precision():
  logits = tf.constant([[6e4, -6e4, 0.0]], tf.float16)
  value = ClassificationLoss(3, 0.1)({"logits": logits}, tf.constant([1]))["total"]
  assert value.dtype == tf.float32 and np.isfinite(value)


def test_replicas_sum_to_the_mean_of_the_global_batch():
  if len(tf.config.list_logical_devices("CPU")) < 2:
    pytest.skip("TensorFlow was started with one CPU device")
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  loss = ClassificationLoss(3, 0.1)

  def part(context):
    i = context.replica_id_in_sync_group
    return LOGITS[i : i + 1], LABELS[i : i + 1]

  values = strategy.experimental_distribute_values_from_function(part)
  parts = strategy.run(tf.function(lambda x: loss({"logits": x[0]}, x[1])["total"]), args=(values,))
  total = strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
  np.testing.assert_allclose(total, loss({"logits": LOGITS}, LABELS)["total"], rtol=1e-6)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"num_classes": 3, "label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ({"num_classes": 3, "label_smoothing": -0.1}, "label_smoothing is -0.1"),
  ],
)
def test_what_is_refused(kwargs, text):
  with pytest.raises(UserError, match=text):
    ClassificationLoss(**kwargs)


def test_another_number_of_classes_is_refused():
  with pytest.raises(UserError, match="3 outputs and the loss 4 classes"):
    ClassificationLoss(4)({"logits": LOGITS}, LABELS)
