"""The inner loop, for orbit: many steps in one `tf.function`, with what they measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import numpy as np
import orbit
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.training.step import TrainStep
from spinenet_tf.training.strategy import first_value


class NonFinite(UserError):
  """A loss or the gradient was not finite.

  Attributes:
    step: the one that was not.
  """

  def __init__(self, step: int, text: str):
    super().__init__(text)
    self.step = step


class Trainer(orbit.AbstractTrainer):
  """Runs training steps; `train(n)` returns the means over its n steps.

  Args:
    strategy: that the step's variables were created under.
    step: what a replica does.
    dataset: returns the distributed data set that follows `step.global_step` steps; called once, at the first step.
  """

  def __init__(
    self, strategy: tf.distribute.Strategy, step: TrainStep, dataset: Callable[[], tf.distribute.DistributedDataset]
  ):
    self._strategy, self._step, self._dataset = strategy, step, dataset
    self._iterator: Iterator | None = None
    self._sums: list[tf.Variable] = []
    if step.accumulation > 1:
      with strategy.scope():
        self._sums = [_replica_variable(v) for v in step.variables]
    # Loss scaling lets the gradient overflow now and then, and skips those updates.
    self._must_be_finite = len(step.metrics) - isinstance(step.optimizer, keras.mixed_precision.LossScaleOptimizer)
    with tf.device("/cpu:0"):
      self._stop = tf.Variable(False, trainable=False, name="stop")
    self._loop = tf.function(self._run, autograph=False)

  def stop(self) -> None:
    """Ends a running `train` after its present step; may be called from another thread. All later ones end at once."""
    self._stop.assign(True)

  def restart(self) -> None:
    """Takes the data anew, those that follow `step.global_step` steps; after a checkpoint was restored."""
    self._iterator = None

  def skip(self) -> None:
    """Passes over the data of one step without training on them; the step counts as done."""
    if self._iterator is None:
      self._iterator = iter(self._dataset())
    for _ in range(self._step.accumulation):
      next(self._iterator)
    self._step.global_step.assign_add(1)

  def train(self, num_steps: tf.Tensor) -> dict[str, float]:
    """Runs steps.

    Args:
      num_steps: int32[].

    Returns: means of the step's metrics (finite ones), and "data_wait", seconds spent waiting for data.

    Raises: NonFinite when a loss or the gradient was not finite; it names step and part. No step follows.
    """
    if self._iterator is None:
      self._iterator = iter(self._dataset())
    with tf.profiler.experimental.Trace("train", step_num=int(self._step.global_step.numpy()) + 1, _r=1):
      done, sums, waited, last = self._loop(self._iterator, num_steps)
    last = last.numpy().tolist()
    if not np.isfinite(last[: self._must_be_finite]).all():
      step = int(self._step.global_step.numpy())
      raise NonFinite(step, _non_finite(step, dict(zip(self._step.metrics, last))))
    means = dict(zip(self._step.metrics, (sums.numpy() / max(int(done), 1)).tolist()))
    return {**means, "data_wait": max(float(waited), 0.0)}

  def _run(self, iterator: Any, num_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    zeros = tf.zeros([len(self._step.metrics)])

    def unfinished(done: tf.Tensor, sums: tf.Tensor, waited: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
      with tf.control_dependencies([last]):
        stop = self._stop.read_value()
      return (done < num_steps) & tf.reduce_all(tf.math.is_finite(last[: self._must_be_finite])) & ~stop

    def body(done: tf.Tensor, sums: tf.Tensor, waited: tf.Tensor, last: tf.Tensor):
      metrics, seconds = self._one_step(iterator, last)
      finite = tf.where(tf.math.is_finite(metrics), metrics, 0.0)
      return done + 1, sums + finite, waited + seconds, metrics

    start = (0, zeros, tf.constant(0.0, tf.float64), zeros)
    return tf.while_loop(unfinished, body, start)

  def _one_step(self, iterator: Any, previous: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    if self._step.accumulation == 1:
      batch, seconds = _timed_next(iterator, previous)
      return first_value(self._strategy, self._strategy.run(self._plain, args=(batch,))), seconds

    def body(part: tf.Tensor, losses: tf.Tensor, waited: tf.Tensor):
      batch, seconds = _timed_next(iterator, losses)
      results = self._strategy.run(self._accumulate, args=(batch, part))
      return part + 1, losses + first_value(self._strategy, results), waited + seconds

    parts = len(self._step.reported) + 1
    start = (0, tf.zeros([parts]) + 0.0 * previous[:parts], tf.constant(0.0, tf.float64))
    count = self._step.accumulation
    _, losses, seconds = tf.while_loop(lambda part, *_: part < count, body, start, parallel_iterations=1)
    return first_value(self._strategy, self._strategy.run(self._finish, args=(losses,))), seconds

  def _plain(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
    return self._step.update(*self._step.gradients(batch, 0))

  def _accumulate(self, batch: dict[str, tf.Tensor], part: tf.Tensor) -> tf.Tensor:
    gradients, losses = self._step.gradients(batch, part)
    for total, gradient in zip(self._sums, gradients):
      total.assign_add(tf.cast(gradient, total.dtype))
    replicas = tf.distribute.get_replica_context()
    return replicas.all_reduce(tf.distribute.ReduceOp.SUM, losses)

  def _finish(self, losses: tf.Tensor) -> tf.Tensor:
    gradients = [total.read_value() for total in self._sums]
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    with tf.control_dependencies(gradients):
      metrics = self._step.update(gradients, losses / replicas)  # summed over replicas already
      for total in self._sums:
        total.assign(tf.zeros_like(total))
    return metrics


def _replica_variable(like: tf.Variable) -> tf.Variable:
  """A sum that each replica keeps for itself."""
  return tf.Variable(
    tf.zeros(like.shape),
    trainable=False,
    synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=tf.VariableAggregation.SUM,
    name="gradient_sum",
  )


def _timed_next(iterator: Any, after: tf.Tensor) -> tuple[Any, tf.Tensor]:
  """Returns the next batch and the seconds it took to come, counted from when `after` was known."""
  with tf.device("/cpu:0"), tf.control_dependencies([tf.identity(after)]):
    begin = tf.timestamp()
  with tf.control_dependencies([begin]):
    batch = next(iterator)
  with tf.device("/cpu:0"), tf.control_dependencies([tf.shape(tf.nest.flatten(batch, expand_composites=True)[0])]):
    seconds = tf.maximum(tf.timestamp() - begin, 0)  # the clock may have been set back
  return batch, seconds


def _non_finite(step: int, last: dict[str, float]) -> str:
  parts = [name for name in last if name != "total"]
  bad = [name for name in parts if not np.isfinite(last[name])]
  values = ", ".join(f"{name} {last[name]:.6g}" for name in parts)
  return (
    f"not finite at step {step}: {' and '.join(bad or ['total'])} ({values}); the checkpoints from before are kept. "
    "Lower schedule.learning_rate, lengthen schedule.warmup, or check the data"
  )
