"""The policy: an exact distribution, by an independent one in NumPy; drawing and scoring are the same."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.search.policy import Policy
from spinenet_tf.search.presets import SPACES
from spinenet_tf.search.space import SearchSpace

# 2 x 2 permutations, 1 x 3 x 6 x 10 pairs, offsets 2 for base level 2 and 1 for base level 7, 2^4 types.
SMALL = SearchSpace("small", (2, 2), (2, 7), (3, 4), offsets=(0, 1), types=("bottleneck", "residual"))
SPACES_TO_ENUMERATE = {
  "small": (SMALL, 4 * 180 * 2 * 16),
  "fixed_order": (
    SearchSpace("a", (2, 2, 3), (7, 4), (4, 3), window=3, learn_permutation=False, offsets=(0, 1)),
    3 * 3 * 10 * 15 * 2,
  ),
  "permutation_alone": (
    SearchSpace(
      "b", (2, 2), (3, 4, 4), (3, 4), learn_connections=False, parents=((0, 1), (1, 2), (2, 3), (3, 4), (0, 5))
    ),
    3 * 2,
  ),
}


def _all(space: SearchSpace) -> np.ndarray:
  return np.array(list(space.points()), np.int32)


def _noise(rng: np.random.Generator, space: SearchSpace, count: int) -> np.ndarray:
  shape = (count, len(space.decisions), max(len(d.options) for d in space.decisions))
  return rng.gumbel(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", SPACES_TO_ENUMERATE)
def test_probabilities_of_all_points_sum_to_1(name):
  space, count = SPACES_TO_ENUMERATE[name]
  points = _all(space)
  assert len(points) == count
  log_probs, entropies = Policy(space, units=(6, 5), embedding=4, initial_range=1.5).log_prob(points)
  probabilities = np.exp(log_probs.numpy().astype(np.float64))
  assert probabilities.max() > 3 * probabilities.min(), "not an even distribution"
  assert probabilities.sum() == pytest.approx(1, abs=1e-5)
  # The entropy of the whole is the mean of the entropies on the way.
  whole = -(probabilities * np.log(probabilities)).sum()
  assert (probabilities * entropies.numpy()).sum() == pytest.approx(whole, rel=1e-4)


def test_scores_of_zero_draw_all_points_alike():
  points = _all(SMALL)
  log_probs, entropies = Policy(SMALL, initial_range=0).log_prob(points)
  np.testing.assert_allclose(log_probs, -np.log(len(points)), rtol=1e-5)
  assert np.mean(entropies) == pytest.approx(np.log(len(points)), rel=1e-4)


def test_what_is_forbidden_has_no_probability():
  policy = Policy(SMALL)
  good = np.array(next(SMALL.points()), np.int32)
  for t, choice in ((1, 0), (3, 0), (5, 0), (13, 1)):  # a level twice, an output twice, a parent twice, 7 + 1
    bad = good.copy()
    bad[t] = choice
    assert not SMALL.is_valid(tuple(bad.tolist()))
    assert policy.log_prob(bad[None])[0].numpy() < -1e8


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _log_prob_step_by_step(policy: Policy, point: tuple[int, ...]) -> float:
  """The docstring's policy in float64, one decision after the other."""
  space, w = (
    policy.space,
    {v.name.split(":")[0].removeprefix("policy/"): np.float64(v.numpy()) for v in policy.variables},
  )
  states = [(np.zeros(u), np.zeros(u)) for u in policy.units]
  x, start, total, anchors = w["embeddings"][-1], 0, 0.0, {}
  for t, (decision, choice) in enumerate(zip(space.decisions, point)):
    count = len(decision.options)
    h = x
    for n, (c, old) in enumerate(states):
      inputs, cell, forget, output = np.split(np.concatenate([h, old]) @ w[f"lstm_{n}/kernel"] + w[f"lstm_{n}/bias"], 4)
      c = _sigmoid(forget) * c + _sigmoid(inputs) * np.tanh(cell)
      h = _sigmoid(output) * np.tanh(c)
      states[n] = (c, h)
    if t and space.decisions[t - 1].kind == "second_parent":
      anchors[space.decisions[t - 1].block] = h
    scores = w["scores/bias"][start : start + count].copy()
    if decision.kind.endswith("parent"):
      for k, feature in enumerate(decision.options):
        key = anchors[feature] @ w["attention/built_kernel"] if feature in anchors else 0
        key = key + w["attention/of_feature"][feature]
        asks = h @ w["attention/asks_kernel"] + w["attention/of_decision"][t]
        scores[k] += np.tanh(key + asks) @ w["attention/vector"]
    else:
      scores += w["scores/kernel"][start : start + count] @ h
    weighted = np.array(space.weights(point[:t])) * np.exp(scores)
    total += np.log(weighted[choice] / weighted.sum())
    x = w["embeddings"][start + choice]
    start += count
  return total


@pytest.mark.parametrize("units", [(7, 5), (6,)])
def test_probabilities_are_those_of_the_formulas(units):
  rng = np.random.default_rng(1)
  for space in (SMALL, SPACES["tiny"], SPACES["fish"]):
    policy = Policy(space, units=units, embedding=4, initial_range=1.0)
    points = [space.random_point(rng) for _ in range(4)]
    expected = [_log_prob_step_by_step(policy, point) for point in points]
    np.testing.assert_allclose(policy.log_prob(np.array(points, np.int32))[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "hourglass", "spinenet49"])
def test_drawing_takes_the_largest_of_scores_and_noise(name):
  rng, space = np.random.default_rng(0), SPACES[name]
  policy = Policy(space, initial_range=0.7, units=(9, 8), embedding=7)
  noise = _noise(rng, space, 20)
  points = policy.sample(noise)
  assert all(map(space.is_valid, map(tuple, points.numpy().tolist())))
  totals = policy.scores(points) + policy.log_weights(points) + noise.transpose(1, 0, 2)
  np.testing.assert_array_equal(tf.transpose(tf.argmax(totals, 2)), points)


def test_points_are_drawn_as_often_as_they_are_likely():
  space, _ = SPACES_TO_ENUMERATE["permutation_alone"]
  policy = Policy(space, initial_range=1.0)
  count = 20_000
  drawn = policy.sample(_noise(np.random.default_rng(0), space, count)).numpy().tolist()
  times = collections.Counter(map(tuple, drawn))
  points = _all(space)
  expected = np.exp(policy.log_prob(points)[0]) * count
  seen = np.array([times[tuple(point)] for point in points.tolist()])
  assert seen.sum() == count and expected.max() > 1.5 * expected.min()
  assert ((seen - expected) ** 2 / expected).sum() < 15.1  # chi squared with 5 degrees of freedom, 1 in 100
