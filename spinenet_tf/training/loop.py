"""The outer loop, on orbit: train, report, save, evaluate, until the last step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Callable

import orbit
import tensorflow as tf
from absl import logging

from spinenet_tf.data.pipeline import explain_errors
from spinenet_tf.training.profile import Profile, StepRange
from spinenet_tf.training.progress import Progress
from spinenet_tf.training.run_directory import environment
from spinenet_tf.training.setup import Setup
from spinenet_tf.training.stopping import on_sigterm
from spinenet_tf.training.strategy import agree
from spinenet_tf.training.trainer import NonFinite, Trainer


class Interrupted(Exception):
  """The run was told to end (SIGTERM) and has saved its state."""


class WorkerLost(Exception):
  """Another worker of the run has ended or cannot be reached, so this one cannot go on."""


def train(
  setup: Setup, *, config: str = "", operative_config: str = "", profile: StepRange | None = None
) -> dict[str, Any] | None:
  """Trains to the last step, evaluating on the way.

  Args:
    setup: built.
    config: text for config.gin.
    operative_config: text for config.operative.gin.
    profile: steps to record for TensorBoard.

  Returns: the last evaluation's metrics, None without evaluation.

  Raises: UserError when the loss is not finite, a record cannot be read, or a checkpoint cannot be written; when the run
    does not have the steps of `profile`; Interrupted after SIGTERM; WorkerLost.
  """
  if profile:
    profile.check(setup.plan.total)
  _write_facts(setup, config, operative_config)
  progress = Progress(
    setup.run,
    total=setup.plan.total,
    batch=setup.plan.batch,
    rate=setup.rate,
    parts=setup.step.objective.parts,
    counts=setup.step.objective.counts,
    headline=setup.task.headline,
  )
  _announce(setup, progress.say)
  recording = Profile(profile, setup.run.tensorboard) if profile else None
  if profile and profile.last <= setup.global_step:
    progress.say(f"steps {profile.first} to {profile.last} were done before: no profile of them is recorded")
  loop = Loop(setup, progress, recording)
  closing = contextlib.closing(recording) if recording else contextlib.nullcontext()
  others = _with_others(setup)
  with closing, _quiet_orbit(), on_sigterm(loop.stop), others, explain_errors(setup.inputs.train_pattern):
    try:
      metrics = loop.run()
    finally:
      setup.checkpoints.clean_up()
  if setup.lock:
    setup.lock.release()
  _farewell(setup, progress.say)
  return metrics


class Loop:
  """Calls orbit's controller for one stretch after the other; each ends where something is due.

  Args:
    setup: the run.
    progress: told of every loop of steps and every evaluation.
    profile: records some of the steps.
  """

  def __init__(self, setup: Setup, progress: Progress, profile: Profile | None = None):
    self._setup, self._progress, self._profile, self._stopped = setup, progress, profile, False
    self._trainer = _trainer(setup)
    tensorboard = setup.run.tensorboard
    self._controller = orbit.Controller(
      trainer=self._trainer,
      evaluator=setup.evaluator,
      strategy=setup.strategy,
      global_step=setup.step.global_step,
      steps_per_loop=self._steps_to_next_line,
      train_actions=[self._after_steps],
      summary_dir=tensorboard,
      eval_summary_dir=tensorboard and tensorboard + "/validation",
    )
    self._begin = self._from = setup.global_step
    self._skipped: list[int] = []
    self._evaluation: dict[str, Any] | None = None

  def stop(self) -> None:
    """Ends the run after the present step; with several workers after the present loop of steps, all at the same one."""
    self._stopped = True
    if self._setup.worker.count == 1:
      self._trainer.stop()

  def run(self) -> dict[str, Any] | None:
    """Trains to the end. Returns: the last evaluation."""
    setup, plan = self._setup, self._setup.plan
    if self._is_due(setup.global_step, plan.evaluate) and not setup.run.evaluated_at(setup.global_step):
      self._evaluate()  # killed after the last step before an evaluation
    if setup.experiment.train.skip_nonfinite:
      setup.checkpoints.save()  # there is one to go back to
    while setup.global_step < plan.total:
      step = setup.global_step
      until = min(_next(step, plan.evaluate), _next(step, plan.checkpoint), plan.total)
      try:
        self._train_to(until)
      except NonFinite as error:
        self._go_back(error)
        continue
      setup.checkpoints.save()
      if self._is_due(until, plan.evaluate):
        self._evaluate()
    return self._evaluation

  def _train_to(self, until: int) -> None:
    """Trains up to step `until`, without the steps to be skipped."""
    for bad in sorted(step for step in self._skipped if self._setup.global_step < step <= until):
      if self._setup.global_step < bad - 1:
        self._progress.start()
        self._controller.train(bad - 1, checkpoint_at_completion=False)
      self._trainer.skip()
      self._from = bad
    if self._setup.global_step < until:
      self._progress.start()
      self._controller.train(until, checkpoint_at_completion=False)

  def _go_back(self, error: NonFinite) -> None:
    """Restores the last checkpoint, to pass over the step of `error`; raises it when there were too many."""
    most, setup = self._setup.experiment.train.skip_nonfinite, self._setup
    if len(self._skipped) >= most:
      raise error
    self._skipped.append(error.step)
    setup.checkpoints.restore()
    self._trainer.restart()
    self._from = setup.global_step
    setup.run.drop_metrics_after(setup.global_step)
    self._progress.say(
      f"{str(error).split(';')[0]}: going back to step {setup.global_step} and passing over step {error.step} "
      f"({len(self._skipped)} of train.skip_nonfinite={most})"
    )

  def _steps_to_next_line(self, step: int) -> int:
    """One for the first line of a process, so that it comes early and its loss can be compared between runs."""
    steps = 1 if step == self._begin else self._setup.plan.log - step % self._setup.plan.log
    if self._profile:
      self._profile.at(step)
      steps = min(steps, self._profile.most_steps(step) or steps)
    return steps

  def _is_due(self, step: int, interval: int) -> bool:
    return step > 0 and (step % interval == 0 or step == self._setup.plan.total)

  def _after_steps(self, metrics: dict[str, Any]) -> None:
    step = self._setup.global_step
    if skipped := self._setup.task.unreadable:
      metrics["unreadable_records"] = float(sum(counter.total for counter in skipped))
    if step > self._from:
      line = self._progress.report(step, step - self._from, metrics)
      metrics.update({key: line[key] for key in ("learning_rate", "images_per_second", "data_wait_share")})
    self._from = step
    if agree(self._setup.strategy, self._stopped):
      self._setup.checkpoints.save()
      raise Interrupted(f"ended at step {step} as asked; the same command resumes from there")
    self._progress.start()

  def _evaluate(self) -> None:
    if self._setup.evaluator is None:
      return
    begin = time.perf_counter()
    average = self._setup.step.average
    with average.in_place() if average else contextlib.nullcontext():
      metrics = self._controller.evaluate(steps=-1)
      is_best = self._setup.checkpoints.save_best(metrics, self._setup.task.key_metric)
    if self._setup.run.writes:
      self._setup.evaluator.scores.save(str(self._setup.run.path / "eval"))
    self._progress.report_evaluation(self._setup.global_step, metrics, time.perf_counter() - begin, is_best)
    self._evaluation = metrics


def _trainer(setup: Setup) -> Trainer:
  return Trainer(
    setup.strategy, setup.step, lambda: setup.task.train_on(setup.strategy, setup.inputs, setup.global_step)
  )


def _next(step: int, interval: int) -> int:
  """The first multiple of `interval` after `step`."""
  return (step // interval + 1) * interval


def _write_facts(setup: Setup, config: str, operative_config: str) -> None:
  run = setup.run
  replicas = setup.strategy.num_replicas_in_sync
  run.write_json("model.json", setup.task.describe(setup.inputs, replicas))
  run.write("config.gin", config)
  run.write("config.operative.gin", operative_config)
  run.write_json("environment.json", environment())
  run.drop_metrics_after(setup.global_step)


def _announce(setup: Setup, say: Callable[[str], None]) -> None:
  plan, experiment, replicas = setup.plan, setup.experiment, setup.strategy.num_replicas_in_sync
  parameters = sum(v.shape.num_elements() for v in setup.model.trainable_variables)
  say(
    f"{setup.model.architecture.name}, {setup.inputs.num_classes} classes, "
    f"{setup.model.input_size[0]}x{setup.model.input_size[1]} px, {parameters / 1e6:.1f}M trainable parameters; "
    f"{replicas} replica(s), {experiment.train.precision}"
  )
  say(
    f"{setup.inputs.num_examples} examples, {plan.batch} in a step"
    + (
      f" ({experiment.train.accumulation} batches of {experiment.data.batch_size})"
      if experiment.train.accumulation > 1
      else ""
    )
    + f", {plan.epoch} steps in an epoch, {plan.total} steps ({plan.total / plan.epoch:.1f} epochs)"
  )
  scale = experiment.schedule.scale(plan.batch)
  scaled = f" ({experiment.schedule.learning_rate:g} for a batch of {experiment.schedule.learning_rate_batch}, scaled)"
  say(f"learning rate {setup.rate.peak:g}{scaled if scale != 1 else ''}, warm-up {setup.rate.warmup} steps")
  for note in setup.notes:
    say(note)
  if setup.global_step < plan.total:
    say(
      f"building step {setup.global_step + 1}: this takes about a minute, more for large networks and several devices"
    )


def _farewell(setup: Setup, say: Callable[[str], None]) -> None:
  folder = setup.run.path
  best, key = setup.checkpoints.best(), setup.task.key_metric
  say(f"done: {setup.plan.total} steps" + (f", best {key} {best[key]:.3f} at step {best['step']}" if best else ""))
  if setup.evaluator:
    say(f"evaluate:  python -m spinenet_tf.evaluate --model_dir={folder}")
  say(f"predict:   python -m spinenet_tf.predict --model_dir={folder} IMAGE...")
  say(f"curves:    tensorboard --logdir={folder}/tensorboard")


@contextlib.contextmanager
def _with_others(setup: Setup) -> Iterator[None]:
  """Says in one line that another worker is gone; TensorFlow ends every sum over the workers then."""
  try:
    yield
  except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
    if setup.worker.count == 1:
      raise
    reason = str(error).split("aborted by: ")[-1].splitlines()[0]
    raise WorkerLost(
      f"another worker of this run is gone ({reason}); start all workers again: they resume from the last checkpoint"
    ) from error


@contextlib.contextmanager
def _quiet_orbit() -> Iterator[None]:
  """Sends what orbit's controller prints, beside this package's own line, to the log only."""
  module = orbit.controller
  previous = getattr(module, "_log", None)
  module._log = logging.debug
  try:
    yield
  finally:
    module._log = previous
