"""Builds what an experiment describes: strategy, data, model, optimizer, checkpoints. Checks come first."""

from __future__ import annotations

import dataclasses
import os

import orbit
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.training import checkpoints, checks, inputs, optimizers, strategy
from spinenet_tf.training.average import Average
from spinenet_tf.training.freeze import freeze
from spinenet_tf.training.lock import RunLock, hold
from spinenet_tf.training.run_directory import RunDirectory
from spinenet_tf.training.schedules import LearningRate, steps_per_epoch, to_steps
from spinenet_tf.training.settings import Experiment
from spinenet_tf.training.step import TrainStep
from spinenet_tf.training.tasks import task_of
from spinenet_tf.training.tasks.base import Task, TaskEvaluator


@dataclasses.dataclass(frozen=True)
class Plan:
  """The run in steps."""

  epoch: int
  total: int
  log: int
  checkpoint: int
  evaluate: int
  batch: int


@dataclasses.dataclass
class Setup:
  """A run, built and restored, about to take its next step."""

  experiment: Experiment
  task: Task
  run: RunDirectory
  worker: strategy.Worker
  strategy: tf.distribute.Strategy
  inputs: inputs.Inputs
  plan: Plan
  rate: LearningRate
  model: keras.Model
  step: TrainStep
  checkpoints: checkpoints.Checkpoints
  evaluator: TaskEvaluator | None
  notes: list[str]
  lock: RunLock | None = None

  @property
  def global_step(self) -> int:
    """Steps done."""
    return int(self.step.global_step.numpy())


def make_plan(experiment: Experiment, num_examples: int) -> Plan:
  """Returns the durations of an experiment in steps.

  Raises: UserError for a duration that is none or too short.
  """
  train = experiment.train
  batch = experiment.data.batch_size * train.accumulation
  epoch = steps_per_epoch(num_examples, batch)
  total = to_steps(train.duration, epoch)
  if total < 1:
    raise UserError(f"train.duration {train.duration!r} is no step; it must be at least one")
  intervals = [
    min(total, max(1, to_steps(value, epoch, total)))
    for value in (train.log_interval, train.checkpoint_interval, train.eval_interval)
  ]
  return Plan(epoch, total, *intervals, batch)


def build(experiment: Experiment, model_dir: str | os.PathLike, *, writes: bool = True) -> Setup:
  """Builds a run and restores its latest checkpoint, or the initial one.

  Args:
    experiment: what to run.
    model_dir: the run directory.
    writes: False for a trial: the run directory is read, and nothing in it changes.

  Raises: UserError for everything that can be known to fail.
  """
  train, task = experiment.train, task_of(experiment)
  optimizers.check(train.optimizer)
  task.network.find_architecture()
  task.check()
  data = inputs.resolve(experiment.data, task.network)
  if train.initial_checkpoint:
    checkpoints.find(train.initial_checkpoint)
  plan = make_plan(experiment, data.num_examples)
  rate = experiment.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  strategy.set_precision(train.precision)
  if train.strategy != "tpu":
    strategy.tune_for_cpu(fast_convolutions=train.winograd)
  devices = strategy.make_strategy(train.strategy, train.tpu)
  replicas = devices.num_replicas_in_sync
  checks.check_batch(experiment.data.batch_size, replicas)
  worker = strategy.Worker.of(devices)
  run = RunDirectory(model_dir, writes=writes and worker.is_chief)
  run.check_same(task.describe(data, replicas))
  run.prepare() if writes else run.check_place()
  lock = hold(run.path) if run.writes and "://" not in str(model_dir) else None

  keras.utils.set_random_seed(train.seed)
  with devices.scope():
    model = task.network.build(data.num_classes, replicas)
    variables = freeze(model, train.freeze)
    global_step = orbit.utils.create_global_step()
    optimizer = optimizers.with_loss_scale(train.optimizer(learning_rate=rate.of(global_step)), train.precision)
    average = Average(model, train.ema) if train.ema else None
    step = TrainStep(
      model,
      task.objective(data.num_classes),
      optimizer,
      variables,
      global_step,
      total_steps=plan.total,
      clip_norm=train.clip_norm,
      weight_decay=train.weight_decay,
      seed=train.seed,
      accumulation=train.accumulation,
      average=average,
      recompute=train.recompute,
    )
    saved = checkpoints.Checkpoints(
      run.path,
      model,
      optimizer,
      global_step,
      keep=train.keep_checkpoints,
      worker=worker,
      average=average,
      writes=writes,
    )
    notes = _initialise(model, saved, train.initial_checkpoint)
    if average and not int(global_step.numpy()):
      average.reset()
  notes += task.notes(data, model)
  evaluator = None
  if data.eval_pattern is not None:
    evaluator = task.evaluator(devices, model, data, train.pictures)
  return Setup(experiment, task, run, worker, devices, data, plan, rate, model, step, saved, evaluator, notes, lock)


def _initialise(model: keras.Model, saved: checkpoints.Checkpoints, initial: str | None) -> list[str]:
  """Restores the run's latest checkpoint; else takes the weights of `initial`. Returns: what to say about it."""
  if path := saved.restore():
    skipped = [f"warning: {text}; it is set aside, and the one before is taken" for text in saved.unreadable]
    return [f"resuming from {path}" + (" (train.initial_checkpoint is not read again)" if initial else ""), *skipped]
  if initial:
    return [str(checkpoints.load_matching(model, checkpoints.find(initial)))]
  return []
