"""The search: asks the searcher for points, has them tried, tells it the rewards. Survives being killed at any moment.

What is on disk, and in which order:

1. The searcher is asked. Its state and the points that it gave are saved (`state.json` names the searcher's file, how many
   results it had been told, and the points), in one step.
2. Each point is noted in the journal, then handed out.
3. A result is noted in the journal, then told.

A search that goes on restores the searcher as of 1, tells it the results that followed, in the same order, and hands out the
points that have none. So no trial is lost or counted twice, and a search in one process repeats to the digit what it would
have done.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import Any, Callable

from spinenet_tf import json_text
from spinenet_tf.errors import UserError
from spinenet_tf.search.executors import Executor
from spinenet_tf.search.journal import FAILED, OK, REPEATED, Journal, Trial
from spinenet_tf.search.progress import Progress
from spinenet_tf.search.searchers import Searcher
from spinenet_tf.search.settings import SearchSettings
from spinenet_tf.search.space import Point, SearchSpace
from spinenet_tf.search.trials import Outcome
from spinenet_tf.training.run_directory import RunDirectory

STATE = "state.json"
ALL_FAILED = 5  # first results; when none of them succeeded, the search ends


class Runner:
  """One search in one folder.

  Args:
    directory: of the search.
    space: where it searches.
    searcher: new; its state is restored here.
    executor: runs the trials.
    settings: budget, floor, attempts.
    on_best: called with the trial whenever one is the best so far, and once when a search goes on.
    say: prints a line.

  Attributes:
    journal: of all trials.

  Raises: UserError for a folder with the journal of another space or searcher.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    space: SearchSpace,
    searcher: Searcher,
    executor: Executor,
    settings: SearchSettings,
    on_best: Callable[[Trial], None] = lambda trial: None,
    say: Callable[[str], None] = print,
  ):
    self._directory, self._files = pathlib.Path(directory), RunDirectory(directory)
    self._space, self._searcher, self._executor, self._settings = space, searcher, executor, settings
    self._on_best, self._say = on_best, say
    self.journal = Journal(directory, space, searcher.name, settings.seed, say)
    self._told = 0
    self._given = len(self.journal.trials)  # points that the searcher gave
    self._waiting: collections.deque[int] = collections.deque()  # trials to be handed out
    self._running: dict[str, int] = {}  # key -> the trial that is being trained
    self._followers: dict[str, list[int]] = collections.defaultdict(list)  # key -> trials that wait for that one
    self._known: dict[str, Trial] = {}  # key -> the trial that was trained
    self._progress = Progress(settings.trials, settings.log_seconds, say)
    self._best: Trial | None = None

  @property
  def best(self) -> Trial | None:
    """The trained trial with the highest reward so far, the first of equals."""
    return self._best

  def run(self) -> Trial | None:
    """Searches until there are `settings.trials` results. Returns: the best trial.

    Raises: UserError when none of the first children could be trained.
    """
    self._resume()
    while len(self.journal.results) < self._settings.trials:
      self._hand_out()
      if self._running:
        for trial_id, outcome in self._executor.wait():
          self._end(trial_id, outcome)
    self._save([])
    self._progress.report(self.journal.results, self._best, force=True)
    return self._best

  # Handing out.

  def _hand_out(self) -> None:
    """Fills the executor's capacity; points that have a result already get it at once."""
    while (room := self._room()) > 0 and len(self.journal.results) < self._settings.trials:
      if not self._waiting and not self._ask(room):
        return
      self._start(self._waiting.popleft())

  def _room(self) -> int:
    """Trials that may be started. Those that wait for an equal one count as running, or they could be all that is left."""
    return self._executor.capacity() - len(self._running) - sum(map(len, self._followers.values()))

  def _ask(self, count: int) -> bool:
    """Asks the searcher for points and notes them. Returns: whether there are any."""
    count = min(count, self._settings.trials - self._given)
    if count < 1:
      return False
    points = self._searcher.ask(count)
    given = [(self._given + i, tuple(int(choice) for choice in point)) for i, point in enumerate(points)]
    self._save(given)
    self._note(given)
    return True

  def _note(self, given: list[tuple[int, Point]]) -> None:
    """Writes points into the journal that are not there yet; attempt 0: they were given, not handed out."""
    for trial_id, point in given:
      if trial_id not in self.journal.trials:
        self.journal.start(trial_id, point, self._space.key(point), attempt=0)
      self._waiting.append(trial_id)
    self._given = len(self.journal.trials)

  def _start(self, trial_id: int) -> None:
    trial = self.journal.trials[trial_id]
    if not self._settings.retrain_equal:
      if trial.key in self._known:
        self._repeat(trial, self._known[trial.key])
        return
      if trial.key in self._running:
        self._followers[trial.key].append(trial_id)
        return
    if trial.attempt >= self._settings.attempts:
      self._fail(trial, f"its process died {trial.attempt} times")
      return
    self.journal.start(trial_id, trial.point, trial.key, trial.attempt + 1)
    self._running[self._slot(trial)] = trial_id
    self._executor.submit(trial_id, self._space.decode(trial.point))

  def _slot(self, trial: Trial) -> str:
    """What `_running` knows a trial by: equal architectures share a slot, unless each is trained."""
    return f"{trial.key} {trial.id}" if self._settings.retrain_equal else trial.key

  # Results.

  def _end(self, trial_id: int, outcome: Outcome) -> None:
    """Takes the outcome of an attempt."""
    trial = self.journal.trials[trial_id]
    del self._running[self._slot(trial)]
    if outcome.lost:
      self._say(f"trial {trial_id}: {outcome.reason}; attempt {trial.attempt} of {self._settings.attempts}")
      self.journal.lost(trial_id, outcome.reason)
      self._waiting.appendleft(trial_id)
      return
    if outcome.reward is None:
      self._fail(trial, outcome.reason, outcome)
    else:
      self.journal.end(trial_id, OK, outcome.reward, seconds=outcome.seconds, metrics=outcome.metrics)
      self._take(trial)

  def _fail(self, trial: Trial, reason: str, outcome: Outcome | None = None) -> None:
    self._say(f"trial {trial.id} failed: {reason}")
    extra = {"seconds": outcome.seconds, "metrics": outcome.metrics} if outcome else {}
    self.journal.end(trial.id, FAILED, self._settings.floor, reason=reason, **extra)
    self._take(trial)
    results = self.journal.results
    if len(results) >= min(ALL_FAILED, self._settings.trials) and all(t.status == FAILED for t in results):
      raise UserError(
        f"none of the first {len(results)} children could be trained; the last one: {reason}. Mend that, and start again in "
        "another --model_dir"
      )

  def _repeat(self, trial: Trial, source: Trial) -> None:
    self.journal.end(trial.id, REPEATED, source.reward, source=source.id, metrics=source.metrics)
    self._take(trial)

  def _take(self, trial: Trial) -> None:
    """Tells the searcher a result that is in the journal, and all that hangs on it."""
    self._count(trial)
    self._tell(trial)
    for follower in self._followers.pop(trial.key, []):
      self._repeat(self.journal.trials[follower], trial)
    self._progress.report(self.journal.results, self._best)

  def _count(self, trial: Trial) -> None:
    if trial.status == REPEATED:
      return
    self._known.setdefault(trial.key, trial)
    if trial.status == OK and (self._best is None or trial.reward > self._best.reward):
      self._best = trial
      self._on_best(trial)

  def _tell(self, trial: Trial) -> None:
    metrics = self._searcher.tell([trial.point], [trial.reward])
    self._told += 1
    if metrics:
      self._files.append_metrics({"step": self._told, "kind": "search", **metrics})

  # Disk.

  def _save(self, given: list[tuple[int, Point]]) -> None:
    """Saves the searcher with the points that it just gave: all or nothing."""
    name = f"searcher-{self._told:06d}-{self._given + len(given):06d}"
    path = self._directory / name
    self._searcher.save(path)
    state = {"searcher": name, "told": self._told, "given": [[number, list(point)] for number, point in given]}
    _replace(self._directory / STATE, json.dumps(state))
    for old in self._directory.glob("searcher-*"):
      if old.name != name:
        old.unlink()

  def _resume(self) -> None:
    """Restores the searcher and finds out what is left to do."""
    state = self._read_state()
    results = self.journal.results
    if state is None:
      if self.journal.trials:
        raise UserError(
          f"{self.journal.path} has trials, but {self._directory / STATE} is missing; restore it, or give another --model_dir"
        )
      return
    if state["told"] > len(results):
      raise UserError(
        f"{self._directory / STATE} tells of {state['told']} results, {self.journal.path} has {len(results)}; restore the "
        "journal, or give another --model_dir"
      )
    self._searcher.restore(self._directory / state["searcher"])
    self._told = state["told"]
    self._files.drop_metrics_after(self._told)
    for trial in results:
      if trial.status != REPEATED:
        self._known.setdefault(trial.key, trial)
        if trial.status == OK and (self._best is None or trial.reward > self._best.reward):
          self._best = trial
    for trial in results[self._told :]:
      self._tell(trial)
    self._waiting.extend(trial.id for trial in self.journal.trials.values() if not trial.status)
    self._forgive()
    self._note([(number, tuple(point)) for number, point in state["given"] if number not in self.journal.trials])
    if self._best:
      self._on_best(self._best)
    if results or self._waiting:
      self._say(
        f"going on: {len(results)} of {self._settings.trials} results are there, {len(self._waiting)} trial(s) had none yet "
        "and are handed out again"
      )
    self._progress.begin(len(results))

  def _forgive(self) -> None:
    """Does not count the attempts that ended with the search, where trials have processes of their own."""
    if not self._executor.is_own_process:
      for trial_id in self._waiting:
        trial = self.journal.trials[trial_id]
        trial.attempt = max(0, trial.attempt - 1)

  def _read_state(self) -> dict[str, Any] | None:
    path = self._directory / STATE
    if not path.is_file():
      return None
    try:
      return json_text.parse(path.read_bytes())
    except ValueError as error:
      raise UserError(f"{path} is not JSON ({error}); restore it, or give another --model_dir") from error


def _replace(path: pathlib.Path, text: str) -> None:
  """Writes a file, whole or not at all, through to the disk."""
  new = path.with_name(f".{path.name}.new")
  try:
    with open(new, "w") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, path)
  except OSError as error:
    raise UserError(
      f"cannot write {path} ({error.strerror}); free some space, and the same command goes on from there"
    ) from error
