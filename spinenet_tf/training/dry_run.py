"""Before a long run: everything is built and tried for a moment, and what the whole will take is said."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from spinenet_tf.data import shards
from spinenet_tf.data.pipeline import explain_errors
from spinenet_tf.training.progress import duration, host_memory_gib, memory_gib, speak
from spinenet_tf.training.setup import Setup
from spinenet_tf.training.trainer import Trainer

STEPS = 2  # that are timed, after one that builds
INPUT_SECONDS, INPUT_BATCHES = 10.0, 32  # the input pipeline is timed for so long at most


class Rehearsal(NamedTuple):
  """What was measured; times in seconds.

  Attributes:
    first: the first step, with building it.
    step: mean of the steps after it.
    wait_share: of these steps' time, spent waiting for data that were partly prepared while the first one was built.
    batch: to prepare the data of a step, with nothing else going on.
    eval_batch: an evaluation batch, None without evaluation.
    eval_batches: in one evaluation.
    loss: of the last step.
  """

  first: float
  step: float
  wait_share: float
  batch: float
  eval_batch: float | None
  eval_batches: int
  loss: float

  def hours(self, steps: int, evaluations: int) -> tuple[float, float]:
    """Returns hours of training and of evaluation; a step takes no less than its data."""
    training = steps * max(self.step, self.batch)
    return training / 3600, evaluations * self.eval_batches * (self.eval_batch or 0.0) / 3600


def evaluations(total: int, interval: int) -> int:
  """Returns how many evaluations `total` steps have: every `interval` steps and at the end."""
  return math.ceil(total / interval)


def dry_run(setup: Setup) -> Rehearsal:
  """Runs three steps and an evaluation batch twice, and says what the run would take. Writes nothing.

  Args:
    setup: built with `writes=False`; its variables change.
  """
  plan, done = setup.plan, setup.global_step
  speak(f"dry run of {setup.run.path}: {STEPS + 1} steps and one evaluation batch; nothing is written")
  for note in setup.notes:
    speak(note)
  with explain_errors(setup.inputs.train_pattern):
    measured = _measure(setup)
  rate = plan.batch / measured.step
  speak(
    f"first step {duration(measured.first)} with building it; the next {STEPS} {measured.step:.3g} s each: "
    f"{rate:.1f} images/s, loss {measured.loss:.6g}, data wait {100 * measured.wait_share:.0f}%"
  )
  bound = "the step" if measured.step >= measured.batch else "the input"
  speak(f"input alone {plan.batch / measured.batch:.1f} images/s: {bound} is the bound")
  if measured.eval_batch is not None:
    speak(f"evaluation {measured.eval_batch:.3g} s a batch, {measured.eval_batches} batches")
  speak(_memory())
  speak(_expected(setup, measured, done))
  return measured


def _measure(setup: Setup) -> Rehearsal:
  data: list[Any] = []

  def dataset() -> tf.distribute.DistributedDataset:
    data.append(setup.task.train_on(setup.strategy, setup.inputs, setup.global_step))
    return data[0]

  trainer = Trainer(setup.strategy, setup.step, dataset)
  begin = time.perf_counter()
  trainer.train(tf.constant(1))
  first = time.perf_counter() - begin
  begin = time.perf_counter()
  metrics = trainer.train(tf.constant(STEPS))
  seconds = time.perf_counter() - begin
  eval_batch, eval_batches = _time_evaluation(setup)
  del trainer  # and with it the iterator, whose threads would go on preparing data
  batch = time_input(data[0]) * setup.step.accumulation
  return Rehearsal(
    first,
    seconds / STEPS,
    min(1.0, metrics["data_wait"] / seconds),
    batch,
    eval_batch,
    eval_batches,
    metrics["total"],
  )


def time_input(dataset: Iterable, most_batches: int = INPUT_BATCHES, most_seconds: float = INPUT_SECONDS) -> float:
  """Returns seconds a batch of an endless data set takes, the first one not counted."""
  iterator = iter(dataset)
  next(iterator)
  begin = time.perf_counter()
  for count in itertools.count(1):
    next(iterator)
    seconds = time.perf_counter() - begin
    if count >= most_batches or seconds >= most_seconds:
      return seconds / count


def _time_evaluation(setup: Setup) -> tuple[float | None, int]:
  """Seconds of an evaluation batch that is built already, and the batches of an evaluation."""
  if setup.evaluator is None:
    return None, 0
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # all other pictures count as not evaluated, which is meant here
  try:
    setup.evaluator.evaluate(tf.constant(1))
    begin = time.perf_counter()
    setup.evaluator.evaluate(tf.constant(1))
    seconds = time.perf_counter() - begin
  finally:
    logging.set_verbosity(verbosity)
  examples = sum(shards.count(shards.find(setup.inputs.eval_pattern)))
  return seconds, math.ceil(examples / setup.inputs.eval_batch_size(setup.strategy.num_replicas_in_sync))


def _memory() -> str:
  gpu = f", of the GPU {memory_gib():.2f} GiB" if tf.config.list_logical_devices("GPU") else ""
  return f"peak memory of the process {host_memory_gib():.2f} GiB{gpu}"


def _expected(setup: Setup, measured: Rehearsal, done: int) -> str:
  plan = setup.plan
  runs = evaluations(plan.total, plan.evaluate) if setup.evaluator else 0
  training, evaluating = measured.hours(plan.total, runs)
  text = (
    f"expected for {plan.total} steps {training:.3g} hours, for {runs} evaluation(s) {evaluating:.3g}, "
    f"together {training + evaluating:.3g} hours"
  )
  if done:
    left = measured.hours(plan.total - done, runs - done // plan.evaluate)
    text += f"; step {done} is done, the rest takes {sum(left):.3g}"
  return f"{text} ({STEPS} steps are a rough measure; saving and COCO's scoring are left out)"
