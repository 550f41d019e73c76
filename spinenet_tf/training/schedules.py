"""Durations in steps, epochs or percent, and learning rates as pure functions of the step.  [SpineNet section 4.1]"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Callable, Union

import tensorflow as tf

from spinenet_tf.errors import UserError

Duration = Union[int, str]
SHAPES = ("steps", "cosine")

_DURATION = re.compile(r"^\s*(\d+(?:\.\d*)?)\s*(%|steps?|epochs?)\s*$")


def steps_per_epoch(num_examples: int, batch: int) -> int:
  """Returns the steps that see every example once: ceil(num_examples / batch); 463 for COCO at 256."""
  return math.ceil(num_examples / batch)


def to_steps(duration: Duration, epoch: int, total: int | None = None) -> int:
  """Returns a duration as a number of steps.

  Args:
    duration: an int (steps), "2000 steps", "350 epochs", "2.5 epochs", or "85%" of `total`.
    epoch: steps of one epoch.
    total: what percentages are taken of; None where they are not allowed.

  Raises: UserError when it is none of these or negative.
  """
  forms = 'a number of steps, "2000 steps", "5 epochs"' + (' or "85%"' if total is not None else "")
  if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
    return duration
  match = _DURATION.match(duration) if isinstance(duration, str) else None
  if not match or (match[2] == "%" and total is None):
    raise UserError(f"duration is {duration!r}; it must be {forms}")
  amount, unit = float(match[1]), match[2]
  if unit == "%":
    return round(amount / 100 * total)
  return round(amount * epoch) if unit.startswith("epoch") else round(amount)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The learning rate over a run: linear warm-up, then constant with drops, or a cosine to zero.

  Defaults are those of the authors' detection runs, protocol B.

  Attributes:
    learning_rate: after warm-up, tuned for a batch of `learning_rate_batch`.
    learning_rate_batch: every rate is multiplied by batch / learning_rate_batch; None takes the rates as they are.
    shape: "steps" or "cosine".
    warmup: duration of the warm-up.
    warmup_learning_rate: where the warm-up starts, tuned for the same batch.
    drops: times of the drops, ascending, from the start of the run; shape "steps" only.
    factors: what the rate is multiplied by from each drop on, relative to `learning_rate`.
  """

  learning_rate: float = 0.28
  learning_rate_batch: int | None = 256
  shape: str = "steps"
  warmup: Duration = "2000 steps"
  warmup_learning_rate: float = 0.0067
  drops: tuple[Duration, ...] = ("320 epochs", "340 epochs")
  factors: tuple[float, ...] = (0.1, 0.01)

  def __post_init__(self):
    object.__setattr__(self, "drops", tuple(self.drops))
    object.__setattr__(self, "factors", tuple(self.factors))
    if self.shape not in SHAPES:
      raise UserError(f"schedule.shape is {self.shape!r}; it must be one of {list(SHAPES)}")
    if self.learning_rate <= 0 or self.warmup_learning_rate < 0:
      raise UserError(
        f"schedule.learning_rate is {self.learning_rate}, warmup_learning_rate {self.warmup_learning_rate}; "
        "the first must be above 0, the second at least 0"
      )
    if self.learning_rate_batch is not None and self.learning_rate_batch < 1:
      raise UserError(f"schedule.learning_rate_batch is {self.learning_rate_batch}; give a batch size, or None")
    if len(self.drops) != len(self.factors):
      raise UserError(
        f"schedule has {len(self.drops)} drops and {len(self.factors)} factors; give one factor for each drop"
      )

  def scale(self, batch: int) -> float:
    """Returns what the rates are multiplied by for a global batch."""
    return batch / self.learning_rate_batch if self.learning_rate_batch else 1.0

  def resolve(self, *, batch: int, epoch: int, total: int) -> LearningRate:
    """Returns the schedule of one run.

    Args:
      batch: examples in one optimizer step, over all replicas.
      epoch: steps of one epoch.
      total: steps of the run.

    Raises: UserError for drops that are not ascending or lie within the warm-up.
    """
    scale = self.scale(batch)
    warmup = to_steps(self.warmup, epoch, total)
    drops = tuple(to_steps(drop, epoch, total) for drop in self.drops) if self.shape == "steps" else ()
    if list(drops) != sorted(set(drops)) or (drops and drops[0] < warmup):
      raise UserError(
        f"schedule.drops {self.drops} are steps {drops} and the warm-up ends at {warmup}; drops must ascend and follow it"
      )
    return LearningRate(
      self.learning_rate * scale, self.shape, warmup, self.warmup_learning_rate * scale, drops, self.factors, total
    )


@dataclasses.dataclass(frozen=True)
class LearningRate:
  """A schedule in steps: `rate(step)` gives the learning rate as a float32 scalar tensor."""

  peak: float
  shape: str
  warmup: int
  start: float
  drops: tuple[int, ...]
  factors: tuple[float, ...]
  total: int

  def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
    """Returns the rate used by the update that leads from `step` to `step + 1`."""
    now = tf.cast(step, tf.float32)
    rate = self._cosine(now) if self.shape == "cosine" else self._steps(now)
    if not self.warmup:
      return rate
    warming = self.start + (self.peak - self.start) * now / self.warmup
    return tf.where(now < self.warmup, warming, rate)

  def _steps(self, now: tf.Tensor) -> tf.Tensor:
    rate = tf.constant(self.peak, tf.float32)
    for drop, factor in zip(self.drops, self.factors):
      rate = tf.where(now >= drop, self.peak * factor, rate)
    return rate

  def _cosine(self, now: tf.Tensor) -> tf.Tensor:
    done = tf.clip_by_value((now - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)
    return self.peak * 0.5 * (1.0 + tf.cos(math.pi * done))

  def of(self, step_variable: tf.Variable) -> Callable[[], tf.Tensor]:
    """Returns the rate as the function without arguments that optimizers take, reading the run's own step.

    The optimizer's `iterations` would do but for float16: updates skipped by loss scaling do not count there.
    """
    return lambda: self(step_variable)
