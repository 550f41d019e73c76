"""Box loss and the RetinaNet loss: hand-worked values, normalisers over replicas."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.losses.box import huber_loss_sum
from spinenet_tf.losses.focal import focal_loss_sum
from spinenet_tf.losses.retinanet import RetinaNetLoss
from spinenet_tf.ops.anchors import AnchorConfig, feature_size
from spinenet_tf.ops.matching import assign
from tests.losses.replicas import two_replicas

SIZE, K, CONFIG = (64, 64), 3, AnchorConfig()


def example(batch=4, seed=0):
  rng = np.random.default_rng(seed)
  low = rng.uniform(0, 40, (batch, 6, 2))
  boxes = np.concatenate([low, low + rng.uniform(8, 50, (batch, 6, 2))], -1).astype(np.float32)
  classes = rng.integers(0, K, (batch, 6)).astype(np.int32)
  classes[0, 1:] = -1
  outputs = {"cls_logits": {}, "box_deltas": {}}
  for level in CONFIG.levels:
    shape = (batch, *feature_size(SIZE, level))
    outputs["cls_logits"][str(level)] = np.float32(rng.normal(-2, 1, (*shape, 9 * K)))
    outputs["box_deltas"][str(level)] = np.float32(rng.normal(0, 0.2, (*shape, 36)))
  return tf.nest.map_structure(tf.constant, outputs), tf.constant(boxes), tf.constant(classes)


def sums(outputs, targets):
  cls = sum(focal_loss_sum(outputs["cls_logits"][k], targets.classes[k], K) for k in targets.classes)
  box = sum(huber_loss_sum(outputs["box_deltas"][k], targets.boxes[k]) for k in targets.classes)
  return float(cls), float(box)


def test_huber_hand_worked():
  codes = tf.constant([[[[0.05, -0.5, 3.0, 0.0, 1.0, 1.0, 1.0, 1.0]]]])
  targets = tf.constant([[[0.1, 0.5, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0]]])
  # |e| = .05 -> .00125; |e| = 1 -> .1 * .95; target 0 -> left out; |e| = .2 -> .1 * .15; no target.
  with tf.GradientTape() as tape:
    tape.watch(codes)
    value = huber_loss_sum(codes, targets, delta=0.1)
  np.testing.assert_allclose(value, 0.00125 + 0.095 + 0.015, rtol=1e-5)
  np.testing.assert_allclose(
    tf.reshape(tape.gradient(value, codes), [-1]), [-0.05, -0.1, 0, -0.1, 0, 0, 0, 0], rtol=1e-5
  )


@pytest.mark.parametrize("normalizer", ["global", "replica"])
def test_one_replica(normalizer):
  outputs, boxes, classes = example()
  targets = assign(CONFIG, SIZE, boxes, classes)
  cls, box = sums(outputs, targets)
  count = targets.num_positives.numpy().sum() + 1
  parts = RetinaNetLoss(K, normalizer=normalizer)(outputs, targets)
  np.testing.assert_allclose(parts["cls"], cls / count, rtol=1e-5)
  np.testing.assert_allclose(parts["box"], box / count / 4, rtol=1e-5)
  np.testing.assert_allclose(parts["total"], cls / count + 50 * box / count / 4, rtol=1e-5)
  assert all(v.dtype == tf.float32 and v.shape == [] for v in parts.values())


def test_given_number_of_positives():
  outputs, boxes, classes = example()
  targets = assign(CONFIG, SIZE, boxes, classes)
  cls, _ = sums(outputs, targets)
  parts = RetinaNetLoss(K)(outputs, targets, num_positives=tf.constant(999))
  np.testing.assert_allclose(parts["cls"], cls / 1000, rtol=1e-5)


def test_no_objects_at_all():
  outputs, boxes, classes = example()
  targets = assign(CONFIG, SIZE, boxes, tf.fill(classes.shape, -1))
  parts = RetinaNetLoss(K)(outputs, targets)
  assert parts["box"] == 0 and np.isfinite(parts["total"]) and parts["cls"] > 0


def run_on_replicas(loss, strategy, outputs, boxes, classes, weight):
  """Per-replica totals, and gradients of `weight` summed over replicas."""
  per_replica = 4 // strategy.num_replicas_in_sync

  def pick(value):
    return strategy.experimental_distribute_values_from_function(
      lambda context: value[context.replica_id_in_sync_group * per_replica :][:per_replica]
    )

  parts = tf.nest.map_structure(pick, (outputs, boxes, classes))

  @tf.function
  def run(parts):
    def step(outputs, boxes, classes):
      targets = assign(CONFIG, SIZE, boxes, classes)
      with tf.GradientTape() as tape:
        scaled = tf.nest.map_structure(lambda v: v * weight, outputs)
        total = loss(scaled, targets)["total"]
      gradient = tape.gradient(total, weight)
      return total, tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradient)

    return strategy.run(step, args=parts)

  totals, gradients = run(parts)
  return strategy.experimental_local_results(totals), strategy.experimental_local_results(gradients)[0]


@pytest.mark.parametrize("normalizer", ["global", "replica"])
def test_two_replicas(normalizer):
  outputs, boxes, classes = example()
  loss = RetinaNetLoss(K, normalizer=normalizer)
  strategy = two_replicas()
  with strategy.scope():
    weight = tf.Variable(1.5)
  totals, gradient = run_on_replicas(loss, strategy, outputs, boxes, classes, weight)
  alone = tf.distribute.get_strategy()
  if normalizer == "global":
    expected, slope = run_on_replicas(loss, alone, outputs, boxes, classes, tf.Variable(1.5))
    np.testing.assert_allclose(sum(totals), expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)
  else:  # each half by itself, averaged
    expected = []
    for half in (slice(0, 2), slice(2, 4)):
      targets = assign(CONFIG, SIZE, boxes[half], classes[half])
      expected.append(loss(tf.nest.map_structure(lambda v, h=half: 1.5 * v[h], outputs), targets)["total"] / 2)
    np.testing.assert_allclose(totals, expected, rtol=1e-5)


def test_learns_the_boxes():
  # Logits and codes as free variables: descent brings the loss near its floor.
  outputs, boxes, classes = example(batch=1)
  targets = assign(CONFIG, SIZE, boxes, classes)
  variables = tf.nest.map_structure(tf.Variable, outputs)
  flat = tf.nest.flatten(variables)
  loss, first = RetinaNetLoss(K), None
  for _ in range(60):
    with tf.GradientTape() as tape:
      total = loss(variables, targets)["total"]
    first = float(total) if first is None else first
    for variable, gradient in zip(flat, tape.gradient(total, flat)):
      variable.assign_sub(0.5 * gradient)
  assert total < 0.35 * first


@pytest.mark.parametrize(
  "wrong", [{"alpha": 2.0}, {"gamma": -1.0}, {"huber_delta": 0.0}, {"box_weight": -1.0}, {"normalizer": "batch"}]
)
def test_refuses(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    RetinaNetLoss(K, **wrong)


def test_refuses_other_levels():
  outputs, boxes, classes = example()
  targets = assign(AnchorConfig(max_level=6), SIZE, boxes, classes)
  with pytest.raises(UserError, match="levels"):
    RetinaNetLoss(K)(outputs, targets)
