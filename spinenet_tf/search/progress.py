"""What a person sees while a search goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable

import numpy as np

from spinenet_tf.search.journal import FAILED, REPEATED, Trial
from spinenet_tf.training.progress import duration

RECENT = 100  # results whose mean is shown


class Progress:
  """Prints a line now and then.

  Args:
    total: results of the search.
    interval: seconds between two lines, at least.
    say: prints a line.
    clock: seconds.
  """

  def __init__(
    self, total: int, interval: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
  ):
    self._total, self._interval, self._say, self._clock = total, interval, say, clock
    self._last, self._last_count = -float("inf"), -1
    self.begin(0)

  def begin(self, results: int) -> None:
    """Starts the clock, with `results` from before."""
    self._before, self._begin = results, self._clock()

  def report(self, results: Sequence[Trial], best: Trial | None, force: bool = False) -> None:
    """Prints a line, unless the last one is too fresh.

    Args:
      results: all so far, in order.
      best: of them.
      force: prints it in any case.
    """
    now = self._clock()
    if not force and now - self._last < self._interval and len(results) < self._total:
      return
    if force and self._last_count == len(results):
      return
    self._last, self._last_count = now, len(results)
    self._say(self.line(results, best, now - self._begin))

  def line(self, results: Sequence[Trial], best: Trial | None, seconds: float) -> str:
    """Returns the line.

    Args:
      results: all so far, in order.
      best: of them.
      seconds: since `begin`.
    """
    recent = [trial.reward for trial in results[-RECENT:]]
    parts = [f"{len(results)}/{self._total} trials"]
    if results:
      parts.append(f"reward {results[-1].reward:.4f}")
    if best is not None:
      parts.append(f"best {best.reward:.4f} (trial {best.id})")
    if recent:
      parts.append(f"mean of the last {len(recent)} {np.mean(recent):.4f}")
    for status, word in ((FAILED, "failed"), (REPEATED, "repeated")):
      if count := sum(trial.status == status for trial in results):
        parts.append(f"{count} {word}")
    if (done := len(results) - self._before) > 0 and seconds > 0:
      rate = done / seconds
      left = duration((self._total - len(results)) / rate)
      parts.append(f"{3600 * rate:.0f} trials/hour")
      parts.append(f"ETA {left}" if len(results) < self._total else f"took {duration(seconds)}")
    return " | ".join(parts)
