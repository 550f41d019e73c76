"""The proxy task: an architecture is rewarded with what a small child of it learns in a short time.  [SpineNet section 5.1]

A child is the network at a fraction of its width, trained by the code of `spinenet_tf.training` on an experiment like any
other, but for the architecture and the data: some training images are held out of it, and the metric on those is the reward.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np
import tensorflow as tf

from spinenet_tf.backbones.edit import scaled
from spinenet_tf.backbones.profile import TASKS, Cost, profile
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import forgotten
from spinenet_tf.data.pipeline import explain_errors, groundtruth
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.report import METRICS
from spinenet_tf.search.held_out import Split, hold_out
from spinenet_tf.search.settings import ProxySettings
from spinenet_tf.training import inputs, setup
from spinenet_tf.training.schedules import to_steps
from spinenet_tf.training.settings import Experiment
from spinenet_tf.training.tasks import task_of
from spinenet_tf.training.tasks.base import Task
from spinenet_tf.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Result:
  """What an objective says about an architecture.

  Attributes:
    reward: larger is better.
    metrics: further numbers, for the journal.
  """

  reward: float
  metrics: dict[str, Any] = dataclasses.field(default_factory=dict)


Objective = Callable[[Architecture], Result]


class Proxy:
  """The objective of a search: trains a child, returns its reward.

  Args:
    experiment: of the children, but for the architecture and what is held out.
    settings: how children are made and rewarded.

  Attributes:
    split: training files and held-out files.

  Raises: UserError for data that cannot be found or divided, and held-out images without objects.
  """

  def __init__(self, experiment: Experiment, settings: ProxySettings):
    self.experiment, self.settings = experiment, settings
    task = task_of(experiment)
    task.check()
    if settings.metric not in (known := _metrics(task)):
      raise UserError(f"proxy.metric is {settings.metric!r}; this task has {', '.join(known)}")
    resolved = inputs.resolve(dataclasses.replace(experiment.data, eval_split=None, eval_pattern=None), task.network)
    self._num_classes = resolved.num_classes
    self.split: Split = hold_out(resolved.train_pattern, settings.held_out)
    if task.name != "classification" and not _any_objects(self.split.held_out):
      raise UserError(
        f"none of the {self.split.num_held_out} held-out images has an object, so no child could have a reward; hold out more "
        "images with proxy.held_out"
      )

  @property
  def image_size(self) -> tuple[int, int]:
    """(height, width) of a child's input, in pixels."""
    return task_of(self.experiment).network.size

  def child(self, architecture: Architecture) -> Architecture:
    """Returns the architecture in the child's widths."""
    settings = self.settings
    has_alpha = not architecture.separable and architecture.pyramid != "fpn"
    return scaled(
      architecture,
      name=f"{architecture.name}_child",
      filter_scale=settings.filter_scale,
      resample_alpha=settings.resample_alpha if has_alpha else None,
      endpoint_filters=settings.endpoint_filters,
      head_filters=settings.head_filters,
      head_convs=settings.head_convs,
    )

  def experiment_of(self, architecture: Architecture) -> Experiment:
    """Returns the child's experiment."""
    experiment = self.experiment
    network = task_of(experiment).network
    data = dataclasses.replace(
      experiment.data,
      train_pattern=list(self.split.train),
      eval_pattern=list(self.split.held_out),
      annotation_file=None,
      num_train_examples=self.split.num_train,
    )
    return dataclasses.replace(
      experiment,
      data=data,
      train=dataclasses.replace(experiment.train, pictures=0),
      **{network.scope: dataclasses.replace(network, architecture=self.child(architecture))},
    )

  def cost(self, architecture: Architecture) -> Cost:
    """Returns the cost of the architecture as it is, not of the child, at `cost_size` pixels."""
    task, size = self.experiment.train.task, (self.settings.cost_size,) * 2
    network = task_of(self.experiment).network
    levels = {name: getattr(network, name) for name in ("min_level", "max_level") if hasattr(network, name)}
    return profile(
      architecture, task if task in TASKS else "backbone", num_classes=self._num_classes, input_size=size, **levels
    )

  def __call__(self, architecture: Architecture) -> Result:
    """Trains the child of an architecture and scores it.

    Raises: whatever fails in building or training; UserError for a loss that is not finite.
    """
    cost = self.cost(architecture)
    with forgotten(), _few_words():
      metrics = self._train(self.experiment_of(architecture))
    score = metrics[self.settings.metric]
    metrics["multiply_adds"], metrics["parameters"] = cost.multiply_adds, cost.parameters
    return Result(budgeted(score, cost.multiply_adds, self.settings), metrics)

  def _train(self, experiment: Experiment) -> dict[str, float]:
    """Returns metrics of the evaluation, and the seconds that the parts took."""
    settings, clock = self.settings, _Clock()
    with tempfile.TemporaryDirectory(prefix="spinenet_tf_child_") as scratch:
      ready = setup.build(experiment, scratch)
      clock.lap("seconds_build")
      trainer = Trainer(ready.strategy, ready.step, lambda: ready.task.train_on(ready.strategy, ready.inputs, 0))
      with explain_errors(ready.inputs.train_pattern):
        for steps, is_last in _stretches(settings.stop_at, ready.plan.epoch, ready.plan.total):
          losses = trainer.train(tf.constant(steps))
          clock.lap("seconds_train")
          metrics = self._evaluate(ready)
          clock.lap("seconds_evaluate")
          if not is_last and metrics[settings.metric] < settings.stop_below:
            break
    return {**metrics, "loss": losses["total"], "steps": ready.global_step, **clock.seconds}

  def _evaluate(self, ready: setup.Setup) -> dict[str, float]:
    """Returns the numbers of the evaluation that are finite, without those of single classes."""
    average = ready.step.average
    with average.in_place() if average else contextlib.nullcontext():
      metrics = ready.evaluator.evaluate(tf.constant(-1))
    numbers = {name: float(value) for name, value in metrics.items() if "/" not in name and np.ndim(value) == 0}
    numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if self.settings.metric not in numbers:
      raise UserError(
        f"{self.settings.metric} of the {self.split.num_held_out} held-out images is not a number, as none has what it "
        "measures; choose another proxy.metric, or hold out more with proxy.held_out"
      )
    return numbers


def budgeted(score: float, multiply_adds: float, settings: ProxySettings) -> float:
  """Returns the reward under the soft budget: score * (cost / target)^exponent; the score where there is no target.

  A cost above the target lowers the reward, one below raises it.  [MnasNet, Tan et al. 2019, equation 2]
  """
  if settings.target_multiply_adds is None:
    return score
  return score * (multiply_adds / settings.target_multiply_adds) ** settings.budget_exponent


def _stretches(stop_at: Any, epoch: int, total: int) -> Iterator[tuple[int, bool]]:
  """Yields (steps, whether they are the last) up to each evaluation."""
  first = to_steps(stop_at, epoch, total) if stop_at is not None else 0
  if 0 < first < total:
    yield first, False
  else:
    first = 0
  yield total - first, True


def _metrics(task: Task) -> tuple[str, ...]:
  """What a reward may be."""
  if task.name == "classification":
    return task.headline
  return (*METRICS, *(name for name in task.headline if name not in METRICS))


def _any_objects(files: tuple[str, ...]) -> bool:
  return any(len(record["boxes"]) and not np.all(record["is_crowd"]) for record in groundtruth(list(files)))


class _Clock:
  """Seconds by what they were spent on."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self._begin = time.perf_counter()

  def lap(self, name: str) -> None:
    """Books the time since the last lap."""
    now = time.perf_counter()
    self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._begin, 3)
    self._begin = now


@contextlib.contextmanager
def _few_words() -> Iterator[None]:
  """Keeps TensorFlow from warning that each child is a graph of its own."""
  logger = logging.getLogger("tensorflow")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
