"""Random search and regularised evolution: what they ask, and that they go on where they were."""

import collections

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.search.presets import SPACES
from spinenet_tf.search.searchers import build_searcher
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.search.state import read_state, write_state

TINY = SPACES["tiny"]


def ones(points):
  """A reward that the searchers can raise by single mutations."""
  return [float(sum(point)) for point in points]


@pytest.mark.parametrize(("name", "settings"), [("random", {}), ("evolution", {"population": 10, "tournament": 4})])
def test_a_restored_searcher_asks_what_the_saved_one_asks(name, settings, tmp_path):
  searcher = build_searcher(name, TINY, seed=3, **settings)
  for count in (7, 5, 4):
    points = searcher.ask(count)
    searcher.tell(points[1:], ones(points[1:]))  # one of each still waits
  path = tmp_path / "deep" / "state.npz"
  searcher.save(path)
  other = build_searcher(name, TINY, seed=99, **settings)
  other.restore(path)
  for _ in range(3):
    points = searcher.ask(6)
    assert other.ask(6) == points and all(map(TINY.is_valid, points))
    assert searcher.tell(points[::-1], ones(points[::-1])) == other.tell(points[::-1], ones(points[::-1]))
  assert [p.name for p in path.parent.iterdir()] == ["state.npz"], "nothing but the state is left"


def test_seeds_make_the_draws():
  assert build_searcher("random", TINY, seed=1).ask(4) == build_searcher("random", TINY, seed=1).ask(4)
  assert build_searcher("random", TINY, seed=1).ask(4) != build_searcher("random", TINY, seed=2).ask(4)


def test_the_oldest_of_a_population_dies_however_good():
  searcher = build_searcher("evolution", TINY, population=3, tournament=3)
  points = searcher.ask(3)
  searcher.tell(points, [9.0, 1.0, 2.0])
  child = searcher.ask(1)[0]
  differing = [t for t, pair in enumerate(zip(child, points[0])) if len(set(pair)) > 1]
  assert 1 <= len(differing) <= 3, "a neighbour of the best: one decision, two for a pair or a swap"
  metrics = searcher.tell([child], [0.0])
  assert metrics == {"reward_mean": 0.0, "population_mean": 1.0, "population_best": 2.0}


def test_a_tournament_prefers_the_better():
  space = SearchSpace("types", (2, 2), (), (3,), types=("bottleneck", "residual"))
  searcher = build_searcher("evolution", space, population=20, tournament=2)
  points = searcher.ask(20)
  assert len(set(points)) == 2
  searcher.tell(points, ones(points))
  share = collections.Counter(p[-1] for p in points)[1] / 20  # of members with reward 1 + 1
  children = collections.Counter(point[-1] for point in searcher.ask(2000))
  # A child differs from its parent; that the worse one wins needs two of the worse: (n (n - 1)) / (20 * 19).
  worse = 20 * (1 - share)
  assert children[1] / 2000 == pytest.approx(worse * (worse - 1) / 380, abs=0.04)


def test_evolution_climbs_where_random_search_does_not():
  best = {}
  for name in ("random", "evolution"):
    searcher = (
      build_searcher(name, TINY, population=20, tournament=5) if name == "evolution" else build_searcher(name, TINY)
    )
    rewards = []
    for _ in range(60):
      points = searcher.ask(10)
      rewards += ones(points)
      searcher.tell(points, ones(points))
    best[name] = max(rewards)
  assert best["evolution"] > best["random"] + 5


def test_settings_that_cannot_be():
  with pytest.raises(UserError, match=r"population is 5 and tournament 9"):
    build_searcher("evolution", TINY, population=5, tournament=9)
  with pytest.raises(UserError, match=r"no searcher named 'grid'; there are controller, evolution, random"):
    build_searcher("grid", TINY)
  with pytest.raises(UserError, match=r"has no setting\(s\) \['units'\]; it has \['population', 'tournament'\]"):
    build_searcher("evolution", TINY, units=3)


def test_states_of_other_searches_are_refused(tmp_path):
  path = tmp_path / "state"
  build_searcher("random", TINY).save(path)
  with pytest.raises(UserError, match=r"is the state of the searcher 'random', not of 'evolution'"):
    build_searcher("evolution", TINY).restore(path)
  with pytest.raises(UserError, match=r"of a search in another space"):
    build_searcher("random", SPACES["fish"]).restore(path)
  with pytest.raises(UserError, match=r"no searcher's state"):
    build_searcher("random", TINY).restore(tmp_path / "none")
  (tmp_path / "broken").write_bytes(path.read_bytes()[:100])
  with pytest.raises(UserError, match=r"holds no searcher's state"):
    build_searcher("random", TINY).restore(tmp_path / "broken")


def test_arrays_come_back(tmp_path):
  values = {"searcher": "a", "space": "b", "big": 2**127}
  write_state(tmp_path / "s", values, {"weights/0": np.arange(3.0)})
  back, arrays = read_state(tmp_path / "s", "a", "b")
  assert back == values and arrays.keys() == {"weights/0"} and arrays["weights/0"].tolist() == [0.0, 1.0, 2.0]
