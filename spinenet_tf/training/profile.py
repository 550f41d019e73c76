"""A TensorBoard profile of some steps of a run."""

from __future__ import annotations

import dataclasses
import re

import tensorflow as tf

from spinenet_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class StepRange:
  """Steps `first` to `last`, both included; the first step of a run is 1.

  Raises: UserError when there are none.
  """

  first: int
  last: int

  def __post_init__(self):
    if not 1 <= self.first <= self.last:
      raise UserError(f"--profile={self.first}:{self.last}; give FROM:TO with 1 <= FROM <= TO, such as --profile=20:24")

  @classmethod
  def parse(cls, text: str) -> StepRange:
    """Reads "FROM:TO".

    Raises: UserError when it is not that.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18})\s*:\s*([0-9]{1,18})\s*", text)
    if not match:
      raise UserError(f"--profile={text}; give the first and the last step, FROM:TO, such as --profile=20:24")
    return cls(int(match[1]), int(match[2]))

  def check(self, total: int) -> None:
    """Raises UserError unless a run of `total` steps has all of them."""
    if self.last > total:
      raise UserError(f"--profile={self.first}:{self.last}; the run has {total} steps: give some of 1 to {total}")


class Profile:
  """Records the steps of a range; each of them is a loop of its own, so that it shows as one.

  Args:
    steps: to record.
    folder: of TensorBoard, None records nothing (all workers but the first).
  """

  def __init__(self, steps: StepRange, folder: str | None):
    self._steps, self._folder, self._running = steps, folder, False

  def most_steps(self, step: int) -> int | None:
    """Returns how many steps the loop that follows `step` may have at most; None for any number."""
    if step >= self._steps.last:
      return None
    return max(1, self._steps.first - 1 - step)

  def at(self, step: int) -> None:
    """Begins or ends the recording if it is time; called between two loops, after `step` steps."""
    inside = self._steps.first - 1 <= step < self._steps.last
    if inside and not self._running and self._folder:
      tf.profiler.experimental.start(self._folder)
      self._running = True
    elif not inside:
      self.close()

  def close(self) -> None:
    """Ends a recording that is going on, and writes it."""
    if self._running:
      self._running = False
      tf.profiler.experimental.stop()
