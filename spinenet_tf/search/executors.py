"""Where trials run. In this process, one after the other; `ray_runner` has many machines."""

from __future__ import annotations

from typing import Protocol

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.search.trials import ObjectiveFactory, Outcome, attempt


class Executor(Protocol):
  """Runs trials, ends them in any order.

  Attributes:
    is_own_process: a trial that kills its process kills the search; the attempt counts when the search goes on.
  """

  is_own_process: bool

  def capacity(self) -> int:
    """Returns how many trials fit at the same time, now."""

  def submit(self, trial_id: int, architecture: Architecture) -> None:
    """Takes a trial."""

  def wait(self) -> list[tuple[int, Outcome]]:
    """Waits until one of the submitted trials has ended, at least. Returns: (id, outcome) of those that have."""

  def close(self) -> None:
    """Ends what still runs."""


class InProcess:
  """Runs one trial at a time in this process.

  Args:
    factory: called once, at the first trial.
  """

  is_own_process = True

  def __init__(self, factory: ObjectiveFactory):
    self._factory, self._objective = factory, None
    self._waiting: list[tuple[int, Architecture]] = []

  def capacity(self) -> int:
    """Returns 1."""
    return 1

  def submit(self, trial_id: int, architecture: Architecture) -> None:
    """Takes a trial, which runs in `wait`."""
    self._waiting.append((trial_id, architecture))

  def wait(self) -> list[tuple[int, Outcome]]:
    """Runs the trial that has waited longest."""
    if self._objective is None:
      self._objective = self._factory()
    trial_id, architecture = self._waiting.pop(0)
    return [(trial_id, attempt(self._objective, architecture))]

  def close(self) -> None:
    """Does nothing: no trial runs between two calls."""
