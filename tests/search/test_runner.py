"""The search's loop: budgets, equal architectures, failures, lost workers, any order; going on after a kill."""

import collections
import json
import types

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.search.executors import InProcess
from spinenet_tf.search.journal import read
from spinenet_tf.search.presets import find_space
from spinenet_tf.search.progress import Progress
from spinenet_tf.search.runner import Runner
from spinenet_tf.search.settings import SearchSettings
from spinenet_tf.search.trials import Outcome, attempt, one_line

SPACE = find_space("tiny")


def points(count, seed=0):
  rng = np.random.default_rng(seed)
  return [SPACE.random_point(rng) for _ in range(count)]


class Listed:
  """Gives the points of a list in order, and remembers what it was told."""

  name = "listed"

  def __init__(self, given):
    self.given, self.asked, self.told = given, 0, []

  def ask(self, count):
    self.asked += count
    return self.given[self.asked - count : self.asked]

  def tell(self, points, rewards):
    self.told += list(zip(map(tuple, points), rewards))
    return {"reward_mean": float(np.mean(rewards))}

  def save(self, path):
    path.write_text(json.dumps([self.asked, self.told]))

  def restore(self, path):
    self.asked, told = json.loads(path.read_text())
    self.told = [(tuple(point), reward) for point, reward in told]


class Backwards:
  """Ends the trial that was handed out last first; outcomes by id, or a reward of id / 100."""

  is_own_process = False

  def __init__(self, size, outcomes=None):
    self.size, self.outcomes, self.running, self.submitted = size, outcomes or {}, [], []

  def capacity(self):
    return self.size

  def submit(self, trial_id, architecture):
    self.running.append(trial_id)
    self.submitted.append(trial_id)

  def wait(self):
    trial_id = self.running.pop()
    waiting = self.outcomes.get(trial_id, [])
    return [(trial_id, waiting.pop(0) if waiting else Outcome(trial_id / 100, {"AP": 1.0}))]

  def close(self):
    pass


def runner(folder, searcher, executor, trials, **settings):
  said = []
  made = Runner(folder, SPACE, searcher, executor, SearchSettings(SPACE, trials=trials, **settings), say=said.append)
  made.said = said
  return made


def scored(reward):
  return types.SimpleNamespace(reward=reward, metrics={})


def test_every_result_is_told_once_in_the_order_it_came(tmp_path):
  given = points(7)
  searcher, executor = Listed(given), Backwards(3)
  search = runner(tmp_path, searcher, executor, trials=7)
  best = search.run()
  order = [trial.id for trial in search.journal.results]
  assert sorted(order) == list(range(7)) and order[0] == 2
  assert searcher.told == [(given[i], i / 100) for i in order]
  assert (best.id, best.reward) == (6, 0.06) and searcher.asked == 7
  assert max(collections.Counter(executor.submitted).values()) == 1
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
  assert [line["step"] for line in lines] == list(range(1, 8))


def test_equal_architectures_are_trained_once(tmp_path):
  a, b = points(2)
  executor, searcher = Backwards(1), Listed([a, b, a, a])
  search = runner(tmp_path, searcher, executor, trials=4)
  search.run()
  assert executor.submitted == [0, 1]
  assert [(t.id, t.status, t.reward, t.source) for t in search.journal.results] == [
    (0, "ok", 0.0, None),
    (1, "ok", 0.01, None),
    (2, "repeated", 0.0, 0),
    (3, "repeated", 0.0, 0),
  ]
  assert [reward for _, reward in searcher.told] == [0.0, 0.01, 0.0, 0.0]
  assert "2 repeated" in search.said[-1]


def test_equal_architectures_wait_for_the_one_that_is_trained(tmp_path):
  a, b = points(2)
  executor = Backwards(3)
  search = runner(tmp_path, Listed([a, a, b, b]), executor, trials=4)
  search.run()
  assert executor.submitted == [0, 2]
  assert {t.id: (t.status, t.source) for t in search.journal.results} == {
    0: ("ok", None),
    1: ("repeated", 0),
    2: ("ok", None),
    3: ("repeated", 2),
  }


def test_equal_architectures_are_trained_again_when_asked(tmp_path):
  a, _ = points(2)
  executor = Backwards(2)
  runner(tmp_path, Listed([a] * 4), executor, trials=4, retrain_equal=True).run()
  assert sorted(executor.submitted) == [0, 1, 2, 3]


def test_the_same_network_in_another_order_is_equal(tmp_path):
  point = points(1)[0]
  assert SPACE.key(point) == SPACE.key(SPACE.canonical(point))


def test_a_failed_child_gets_the_floor_and_its_reason(tmp_path):
  executor = Backwards(1, {1: [Outcome(None, {}, "ResourceExhaustedError: too large", 3.0)]})
  search = runner(tmp_path, Listed(points(3)), executor, trials=3, floor=-1.0)
  search.run()
  failed = search.journal.trials[1]
  assert (failed.status, failed.reward, failed.seconds) == ("failed", -1.0, 3.0)
  assert failed.reason == "ResourceExhaustedError: too large"
  assert "trial 1 failed: ResourceExhaustedError: too large" in search.said
  assert search._searcher.told[1][1] == -1.0 and "1 failed" in search.said[-1]


def test_when_nothing_can_be_trained_the_search_ends(tmp_path):
  outcomes = {i: [Outcome(None, {}, "UserError: no records")] for i in range(20)}
  search = runner(tmp_path, Listed(points(20)), Backwards(1, outcomes), trials=20)
  with pytest.raises(
    UserError, match=r"none of the first 5 children could be trained; the last one: UserError: no rec"
  ):
    search.run()
  assert len(search.journal.results) == 5


def test_a_lost_trial_is_handed_out_again_and_fails_in_the_end(tmp_path):
  lost = Outcome(None, {}, "the worker died", lost=True)
  executor = Backwards(1, {0: [lost], 1: [lost, lost, lost]})
  search = runner(tmp_path, Listed(points(3)), executor, trials=3, attempts=3)
  search.run()
  assert executor.submitted == [0, 0, 1, 1, 1, 2]
  trials = search.journal.trials
  assert (trials[0].status, trials[0].attempt, trials[1].status) == ("ok", 2, "failed")
  assert trials[1].reason == "its process died 3 times"
  assert "trial 0: the worker died; attempt 1 of 3" in search.said


def test_a_search_can_be_made_longer(tmp_path):
  given = points(6)
  first = runner(tmp_path, Listed(given), Backwards(2), trials=4)
  first.run()
  first.journal.close()
  searcher = Listed(given)
  second = runner(tmp_path, searcher, Backwards(2), trials=6)
  second.run()
  assert len(searcher.told) == 6 and {t.point for t in second.journal.results} == set(given)
  assert "going on: 4 of 6 results are there" in second.said[0]


class Killed(BaseException):
  pass


@pytest.mark.parametrize("moment", range(1, 24, 2))
def test_killed_at_any_write(tmp_path, monkeypatch, moment):
  """Every file operation of the search is one moment; the search is dead at one of them, then goes on."""
  import os

  given, replaced, synced = points(5), os.replace, os.fsync
  count = [0]

  def tick():
    count[0] += 1
    if count[0] == moment:
      raise Killed

  monkeypatch.setattr(os, "replace", lambda *a: (tick(), replaced(*a)))
  monkeypatch.setattr(os, "fsync", lambda *a: (synced(*a), tick()))
  for _ in range(3):
    searcher = Listed(given)
    objective = InProcess(lambda: lambda architecture: scored(0.5))
    search = None
    try:
      search = runner(tmp_path, searcher, objective, trials=5)
      search.run()
      break
    except Killed:
      if search:
        search.journal.close()
  assert searcher.told == [(point, 0.5) for point in given] and searcher.asked == 5
  _, trials, results = read(tmp_path)
  assert [t.id for t in results] == list(range(5)) and [t.point for t in trials.values()] == given
  assert sum(t.attempt for t in results) <= 6


def test_a_state_without_its_journal_is_an_error(tmp_path):
  runner(tmp_path, Listed(points(3)), Backwards(1), trials=3).run()
  (tmp_path / "trials.jsonl").unlink()
  with pytest.raises(UserError, match=r"state.json tells of 3 results, .*trials.jsonl has 0"):
    runner(tmp_path, Listed(points(3)), Backwards(1), trials=3).run()


def test_a_journal_without_its_state_is_an_error(tmp_path):
  search = runner(tmp_path, Listed(points(3)), Backwards(1), trials=3)
  search.run()
  search.journal.close()
  (tmp_path / "state.json").unlink()
  with pytest.raises(UserError, match=r"trials.jsonl has trials, but .*state.json is missing"):
    runner(tmp_path, Listed(points(3)), Backwards(1), trials=3).run()


def test_attempts():
  def fail(architecture):
    raise MemoryError("out of\n memory")

  assert attempt(fail, None).reason == "MemoryError: out of memory"
  assert attempt(lambda a: scored(float("nan")), None).reason == "the reward is nan"
  good = attempt(lambda a: types.SimpleNamespace(reward=np.float32(0.5), metrics={"a": np.nan, "b": np.int64(2)}), None)
  assert (good.reward, good.metrics) == (0.5, {"b": 2.0})
  assert len(one_line(ValueError("x" * 1000))) < 330


def test_the_line_of_progress(tmp_path):
  search = runner(tmp_path, Listed(points(4)), Backwards(1), trials=4)
  best = search.run()
  results = search.journal.results
  clock = [0.0]
  said = []
  progress = Progress(10, 5.0, said.append, clock=lambda: clock[0])
  progress.begin(0)
  clock[0] = 8.0
  progress.report(results, best)
  assert said == [
    "4/10 trials | reward 0.0300 | best 0.0300 (trial 3) | mean of the last 4 0.0150 | 1800 trials/hour | ETA 12s"
  ]
  progress.report(results, best)
  assert len(said) == 1
