"""What a search consists of, as plain values. Nothing here builds anything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from spinenet_tf.errors import UserError
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.training.schedules import Duration
from spinenet_tf.training.settings import Experiment

RUNNERS = ("in_process", "ray")


@dataclasses.dataclass(frozen=True)
class ProxySettings:
  """How a child is made small and rewarded; all else is what the experiment says.  [SpineNet section 5.1]

  Attributes:
    filter_scale: of the child; 0.25 in the paper.
    resample_alpha: of the child; 0.25 in the paper. None keeps that of the space.
    endpoint_filters: channels of the child's pyramid.
    head_filters: channels of its towers; 64 in the paper.
    head_convs: convolutions of each tower.
    held_out: training images that reward children rather than train them: a number from 1 on (7,392 in the paper), or a
      share below 1.
    metric: of the evaluation on them, the reward: "AP", "AP50", "top_1", ...
    stop_at: time of a first evaluation, such as "40%"; None for none. A child whose metric is then below `stop_below` is
      not trained further, and that metric is its reward.
    stop_below: what the metric must reach.
    target_multiply_adds: with it the reward is multiplied by (multiply-adds / target)^budget_exponent.
    budget_exponent: negative; -0.07 halves the reward for 20,000 times the cost, and takes 5 % for twice.
    cost_size: side in pixels of the image that multiply-adds are counted for, those of the network found, not the child.
  """

  filter_scale: float = 0.25
  resample_alpha: float | None = 0.25
  endpoint_filters: int = 64
  head_filters: int = 64
  head_convs: int = 4
  held_out: float = 7392
  metric: str = "AP"
  stop_at: Duration | None = None
  stop_below: float = 0.0
  target_multiply_adds: float | None = None
  budget_exponent: float = -0.07
  cost_size: int = 640

  def __post_init__(self):
    target = self.target_multiply_adds
    if target is not None and not (isinstance(target, (int, float)) and math.isfinite(target) and target > 0):
      raise UserError(f"proxy.target_multiply_adds is {target!r}; it must be a number above 0 such as 85e9, or None")
    if not (isinstance(self.budget_exponent, (int, float)) and math.isfinite(self.budget_exponent)):
      raise UserError(f"proxy.budget_exponent is {self.budget_exponent!r}; it must be a number such as -0.07")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """The search itself.

  Attributes:
    space: a name in `presets.SPACES`, a path to a JSON file, a dictionary, or a `SearchSpace`.
    trials: results after which the search ends, repeated and failed ones included.
    seed: of the searcher.
    retrain_equal: train an architecture again that has a result; otherwise it gets that result at once.
    floor: reward of a child that fails.
    attempts: how often a trial is handed out whose process dies; after that it has failed.
    runner: "in_process", or "ray" for many machines.
    log_seconds: between two lines of progress, at least.
    train_with: the gin file that `best.gin` includes, to train the best architecture in earnest.
    ray_address: of the cluster: "HOST:PORT", "ray://HOST:PORT", "auto" for the one that this machine belongs to, or
      "local" for processes of this machine only.
    workers: trials at the same time under Ray; None as many as the cluster has room for.
    cpus_per_trial, gpus_per_trial: what each trial asks Ray for; fractions share a device.
    trials_per_worker: after how many trials a worker process is replaced, which frees its devices and memory for certain.
  """

  space: Any = "spinenet49"
  trials: int = 1000
  seed: int = 0
  retrain_equal: bool = False
  floor: float = 0.0
  attempts: int = 3
  runner: str = "in_process"
  log_seconds: float = 1.0
  train_with: str = "spinenet49_protB.gin"
  ray_address: str = "auto"
  workers: int | None = None
  cpus_per_trial: float = 1
  gpus_per_trial: float = 0
  trials_per_worker: int = 1

  def __post_init__(self):
    for name in ("trials", "attempts", "workers", "trials_per_worker"):
      value = getattr(self, name)
      if not (name == "workers" and value is None) and (
        isinstance(value, bool) or not isinstance(value, int) or value < 1
      ):
        raise UserError(f"search.{name} is {value!r}; it must be a whole number from 1 on")
    if not (isinstance(self.floor, (int, float)) and math.isfinite(self.floor)):
      raise UserError(f"search.floor is {self.floor!r}; it must be a number, the reward of children that fail")
    for name in ("cpus_per_trial", "gpus_per_trial"):
      value = getattr(self, name)
      if isinstance(value, bool) or not (isinstance(value, (int, float)) and value >= 0):
        raise UserError(f"search.{name} is {value!r}; it must be a number from 0 on")
    if self.runner not in RUNNERS:
      raise UserError(f"search.runner is {self.runner!r}; it must be one of {list(RUNNERS)}")


@dataclasses.dataclass(frozen=True)
class SearcherSettings:
  """Which searcher, and what `searchers.build_searcher` passes on to it."""

  name: str = "controller"
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def searcher(name: str = "controller", **settings: Any) -> SearcherSettings:
  """Returns the settings of a searcher: `searcher(name="evolution", population=50)`."""
  return SearcherSettings(name, settings)


@dataclasses.dataclass(frozen=True)
class Search:
  """Everything that decides what a search does."""

  search: SearchSettings
  space: SearchSpace
  searcher: SearcherSettings
  proxy: ProxySettings
  experiment: Experiment
