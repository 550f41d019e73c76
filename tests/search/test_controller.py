"""The controller: its gradient, that it learns, that it goes on where it was."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.search.adam import Adam
from spinenet_tf.search.controller import Controller
from spinenet_tf.search.presets import SPACES
from spinenet_tf.search.searchers import build_searcher
from spinenet_tf.search.space import SearchSpace

SMALL = SearchSpace("small", (2, 2), (2, 7), (3,), offsets=(0, 1), types=("bottleneck", "residual"))
SIZES = {"units": (6, 5), "embedding": 4}


def agreement(points, target) -> list[float]:
  return [float(np.mean(np.array(point) == target)) for point in points]


def _batch(controller: Controller, count: int):
  points = np.array(controller.ask(count), np.int32)
  rng = np.random.default_rng(0)
  old = controller.policy.log_prob(points)[0].numpy() + np.linspace(-0.5, 0.5, count)
  return tf.constant(points), tf.constant(rng.normal(size=count), tf.float32), tf.constant(old, tf.float32)


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_the_gradient_is_the_slope_of_the_loss(algorithm):
  controller = Controller(SMALL, algorithm=algorithm, entropy_weight=0.1, initial_range=0.8, **SIZES)
  batch = _batch(controller, 8)
  if algorithm == "ppo":
    ratio = np.exp(controller.policy.log_prob(batch[0])[0] - batch[2])
    assert (abs(ratio - 1) > 0.21).any() and (abs(ratio - 1) < 0.19).any(), "some are clipped"
    assert (abs(abs(ratio - 1) - 0.2) > 5e-3).all(), "none at the kink"
  variables = controller.policy.trainable_variables
  assert len(variables) == 12
  with tf.GradientTape() as tape:
    loss = controller.loss(*batch)[0]
  rng = np.random.default_rng(1)
  for variable, gradient in zip(variables, tape.gradient(loss, variables)):
    gradient, value = tf.convert_to_tensor(gradient).numpy(), variable.numpy()
    for _ in range(3):
      direction = rng.normal(size=value.shape).astype(np.float32)
      direction /= np.linalg.norm(direction)
      ends = []
      for step in (1e-2, -1e-2):
        variable.assign(value + step * direction)
        ends.append(float(controller.loss(*batch)[0]))
      slope = (ends[0] - ends[1]) / 2e-2
      assert (gradient * direction).sum() == pytest.approx(slope, rel=0.02, abs=2e-4), variable.name
    variable.assign(value)


def test_the_update_follows_the_gradient_of_the_mean_reward():
  # Over all points, weighted by p: sum p (R - b) d log p = d sum p R, whatever b is.
  controller = Controller(SMALL, algorithm="reinforce", entropy_weight=0.0, initial_range=0.8, **SIZES)
  points = np.array(list(SMALL.points()), np.int32)
  rewards = np.random.default_rng(0).normal(size=len(points)).astype(np.float32)
  variables = controller.policy.trainable_variables
  with tf.GradientTape() as tape:
    mean = tf.reduce_sum(tf.exp(controller.policy.log_prob(points)[0]) * rewards)
  expected = tape.gradient(mean, variables)
  weights = len(points) * np.exp(controller.policy.log_prob(points)[0])
  with tf.GradientTape() as tape:
    loss = controller.loss(tf.constant(points), weights * (rewards - 0.7), tf.zeros(len(points)))[0]
  for gradient, wanted in zip(tape.gradient(loss, variables), expected):
    np.testing.assert_allclose(-tf.convert_to_tensor(gradient), tf.convert_to_tensor(wanted), atol=2e-5)


@pytest.mark.parametrize(("algorithm", "batches"), [("reinforce", 90), ("ppo", 60)])
def test_it_learns_a_small_known_answer(algorithm, batches):
  target = np.array(SMALL.random_point(np.random.default_rng(5)))
  controller = Controller(SMALL, algorithm=algorithm, learning_rate=0.01, entropy_weight=1e-3, **SIZES)
  before = controller.log_prob([tuple(target)])[0]
  means = []
  for _ in range(batches):
    points = controller.ask(20)
    metrics = controller.tell(points, agreement(points, target))
    means.append(metrics["reward_mean"])
  assert before < -6 and controller.log_prob([tuple(target)])[0] > np.log(0.5)
  assert np.mean(means[:5]) < 0.8 < 0.95 < np.mean(means[-10:])
  assert metrics["updates"] == batches and metrics["baseline"] == pytest.approx(np.mean(means[-3:]), abs=0.05)
  assert metrics["entropy"] < 3


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_a_restored_controller_asks_and_learns_what_the_saved_one_does(algorithm, tmp_path):
  space = SPACES["r35_sp18"]
  settings = {"algorithm": algorithm, "batch": 6, "learning_rate": 0.05, **SIZES}
  controller = build_searcher("controller", space, seed=4, **settings)
  target = space.random_point(np.random.default_rng(0))
  waiting = controller.ask(3)
  for count in (4, 5, 6):
    points = controller.ask(count)
    controller.tell(points[1:], agreement(points[1:], target))
    waiting.append(points[0])
  controller.save(tmp_path / "state")
  other = build_searcher("controller", space, seed=4, **settings)
  other.restore(tmp_path / "state")
  for _ in range(2):
    told = controller.tell(waiting, agreement(waiting, target))
    assert told == other.tell(waiting, agreement(waiting, target)) and "loss" in told
    waiting = controller.ask(7)
    assert waiting == other.ask(7)


def test_points_do_not_depend_on_how_many_are_asked_for_at_once():
  one, two, three = (Controller(SMALL, seed=seed, algorithm="reinforce", **SIZES) for seed in (1, 1, 2))
  points = two.ask(7)
  assert one.ask(5) + one.ask(0) + one.ask(2) == points != three.ask(7)


def test_the_baseline_is_the_mean_of_what_came_before():
  controller = Controller(SMALL, batch=2, baseline_decay=0.5, entropy_weight=0.0, **SIZES)
  points = controller.ask(5)
  assert controller.tell(points[:1], [4.0]) == {"reward_mean": 4.0} and controller.baseline is None
  metrics = controller.tell(points[1:3], [0.0, 7.0])  # learns from 4 and 0 against their mean 2
  assert metrics["baseline"] == controller.baseline == ((2 + 4) / 2 + 0) / 2
  assert metrics["updates"] == 1 and metrics["reward_mean"] == 3.5
  before = controller.log_prob(points[3:])
  controller.tell(points[3:4], [8.0])  # 7 and 8 against 1.5
  assert controller.baseline == ((1.5 + 7) / 2 + 8) / 2
  assert (controller.log_prob(points[3:]) > before)[0], "better than the baseline: likelier now"
  assert controller.tell([], []) == {}


@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_the_unit_of_the_rewards_does_not_matter(factor):
  one, other = Controller(SMALL, batch=4, **SIZES), Controller(SMALL, batch=4, **SIZES)
  for rewards in ([0.1, 0.4, 0.2, 0.3], [0.5, 0.1, 0.9, 0.7]):
    points = one.ask(4)
    one.tell(points, rewards)
    other.tell(points, [factor * reward + 3 for reward in rewards])
  np.testing.assert_allclose(other.log_prob(points), one.log_prob(points), rtol=1e-4)
  assert one._spread(np.array([])) == pytest.approx(np.std([0.1, 0.4, 0.2, 0.3, 0.5, 0.1, 0.9, 0.7]))


def test_ppo_measures_against_the_policy_that_asked():
  controller = Controller(SMALL, algorithm="ppo", batch=4, learning_rate=0.05, epochs=1, **SIZES)
  early = controller.ask(4)
  asked = controller.log_prob(early)
  points = controller.ask(8)
  controller.tell(points, agreement(points, points[0]))
  assert abs(controller.log_prob(early) - asked).max() > 0.05, "the policy moved"
  controller.tell(early[:3], [0.0, 1.0, 0.0])
  np.testing.assert_allclose([told[2] for told in controller._told], asked[:3], rtol=1e-5)


def test_adam_is_keras_adam():
  start = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  mine, theirs = tf.Variable(start), tf.Variable(start)
  adam = Adam([mine], 0.01)
  keras_adam = keras.optimizers.legacy.Adam(0.01, epsilon=1e-8)
  for n in range(5):
    gradient = tf.constant(start * (n - 2))
    adam.step([gradient])
    keras_adam.apply_gradients([(gradient, theirs)])
  np.testing.assert_allclose(mine, theirs, rtol=1e-6)
  assert abs(mine - start).numpy().max() > 0.01 and len(adam.state) == 4


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"algorithm": "a3c"}, r"algorithm is 'a3c'; it must be one of \['reinforce', 'ppo'\]"),
    ({"batch": 0}, r"batch is 0; it must be a whole number from 1 on"),
    ({"units": (35, 0)}, r"units\[1\] is 0"),
    ({"units": ()}, r"there must be a layer"),
    ({"learning_rate": 0}, r"learning_rate 0, .* above 0"),
    ({"baseline_decay": 1.0}, r"baseline_decay 1.0, .* below 1"),
  ],
)
def test_settings_that_cannot_be(settings, message):
  with pytest.raises(UserError, match=message):
    Controller(SMALL, **settings)


def test_what_cannot_be_told(tmp_path):
  controller = Controller(SMALL, **SIZES)
  points = controller.ask(2)
  with pytest.raises(UserError, match=r"a reward is nan; it must be finite"):
    controller.tell(points, [1.0, float("nan")])
  with pytest.raises(UserError, match=r"a point has 14 choices, this one has 2"):
    controller.tell([(0, 1)], [1.0])
  with pytest.raises(UserError, match=r"second_parent of block 2\) is 0"):
    controller.log_prob([(*points[0][:4], 0, *points[0][5:])])
  controller.save(tmp_path / "state")
  with pytest.raises(UserError, match=r"is the state of a controller with .*'units': \[6, 5\]"):
    Controller(SMALL, units=(6,), embedding=4).restore(tmp_path / "state")
