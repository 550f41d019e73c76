"""The outer loop, on orbit: train, report, save, evaluate, until the last step."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Callable

import orbit
import tensorflow as tf
from absl import logging

from spinenet_tf.data.pipeline import explain_errors
from spinenet_tf.training.progress import Progress, duration, memory_gib, speak
from spinenet_tf.training.run_directory import RunDirectory, environment
from spinenet_tf.training.setup import Setup
from spinenet_tf.training.stopping import on_sigterm
from spinenet_tf.training.strategy import agree
from spinenet_tf.training.trainer import NonFinite, Trainer


class Interrupted(Exception):
  """The run was told to end (SIGTERM) and has saved its state."""


class WorkerLost(Exception):
  """Another worker of the run has ended or cannot be reached, so this one cannot go on."""


def train(setup: Setup, *, config: str = "", operative_config: str = "") -> dict[str, Any] | None:
  """Trains to the last step, evaluating on the way.

  Args:
    setup: built.
    config: text for config.gin.
    operative_config: text for config.operative.gin.

  Returns: the last evaluation's metrics, None without evaluation.

  Raises: UserError when the loss is not finite, a record cannot be read, or a checkpoint cannot be written; Interrupted
    after SIGTERM; WorkerLost.
  """
  _write_facts(setup, config, operative_config)
  progress = Progress(
    setup.run,
    total=setup.plan.total,
    batch=setup.plan.batch,
    rate=setup.rate,
    parts=setup.step.objective.parts,
    headline=setup.task.headline,
  )
  _announce(setup, progress.say)
  loop = Loop(setup, progress)
  with _quiet_orbit(), on_sigterm(loop.stop), _with_others(setup), explain_errors(setup.inputs.train_pattern):
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
  """

  def __init__(self, setup: Setup, progress: Progress):
    self._setup, self._progress, self._stopped = setup, progress, False
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
    return 1 if step == self._begin else self._setup.plan.log - step % self._setup.plan.log

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


def dry_run(setup: Setup) -> None:
  """Runs two steps and one evaluation batch, and says what the run would take. Changes nothing in the run directory."""
  speak(f"dry run: two steps and one evaluation batch of {setup.run.path}")
  with tempfile.TemporaryDirectory() as scratch, _quiet_orbit(), explain_errors(setup.inputs.train_pattern):
    setup.run = RunDirectory(scratch)
    trainer = _trainer(setup)
    seconds, losses = [], []
    for _ in range(2):
      begin = time.perf_counter()
      losses.append(trainer.train(tf.constant(1)))
      seconds.append(time.perf_counter() - begin)
    speak(
      f"first step {duration(seconds[0])} with building it, loss {losses[0]['total']:.6f}; second {seconds[1]:.2f}s"
    )
    if setup.evaluator:
      begin = time.perf_counter()
      _evaluate_one_batch(setup.evaluator)
      speak(f"one evaluation batch {duration(time.perf_counter() - begin)} with building it")
  hours = seconds[1] * setup.plan.total / 3600
  speak(
    f"peak memory {memory_gib():.2f} GiB; {setup.plan.total} steps at the second step's pace take {hours:.2f} hours "
    "(a single step is a rough measure)"
  )


def _evaluate_one_batch(evaluator: orbit.AbstractEvaluator) -> None:
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # all other pictures count as not evaluated, which is meant here
  try:
    evaluator.evaluate(tf.constant(1))
  finally:
    logging.set_verbosity(verbosity)


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
