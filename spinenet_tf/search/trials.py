"""One trial: an objective is asked about an architecture, and whatever goes wrong becomes a reason."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any, Protocol

from spinenet_tf.backbones.spec import Architecture

MOST_LETTERS = 300  # of a reason


class Scored(Protocol):
  """What an objective returns.

  Attributes:
    reward: larger is better.
    metrics: further numbers.
  """

  reward: float
  metrics: Mapping[str, Any]


class Objective(Protocol):
  """What a search maximises; `proxy.Proxy` is one."""

  def __call__(self, architecture: Architecture) -> Scored:
    """Returns the reward of an architecture; raises what fails."""


class ObjectiveFactory(Protocol):
  """Makes the objective in the process that is to call it; pickled on the way there."""

  def __call__(self) -> Objective:
    """Returns the objective."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How one attempt at a trial ended.

  Attributes:
    reward: None when it failed.
    metrics: numbers by name.
    reason: why it failed, one line.
    seconds: it took.
    lost: the process died; another attempt may succeed.
  """

  reward: float | None
  metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
  reason: str = ""
  seconds: float = 0.0
  lost: bool = False


def attempt(objective: Objective, architecture: Architecture) -> Outcome:
  """Calls an objective. Every exception but those that end the process, and a reward that is not finite, is a failure."""
  begin = time.perf_counter()
  try:
    scored = objective(architecture)
    reward, metrics = float(scored.reward), _plain(scored.metrics)
  except Exception as error:
    return Outcome(None, reason=one_line(error), seconds=time.perf_counter() - begin)
  seconds = time.perf_counter() - begin
  if not math.isfinite(reward):
    return Outcome(None, metrics, f"the reward is {reward}", seconds)
  return Outcome(reward, metrics, seconds=seconds)


def one_line(error: BaseException) -> str:
  """Returns kind and text of an exception in one line."""
  text = re.sub(r"\s+", " ", str(error)).strip()
  if len(text) > MOST_LETTERS:
    text = f"{text[:MOST_LETTERS]}..."
  return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Numbers and texts that JSON can hold; of numbers the finite ones."""
  plain: dict[str, Any] = {}
  for name, value in metrics.items():
    if isinstance(value, (bool, int, str)):
      plain[str(name)] = value
    elif math.isfinite(number := float(value)):
      plain[str(name)] = number
  return plain
