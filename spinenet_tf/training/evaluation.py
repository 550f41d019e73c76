"""Evaluating a run after the fact; the evaluation itself is the one of training."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import tensorflow as tf

from spinenet_tf.data.pipeline import explain_errors
from spinenet_tf.training import checkpoints, inputs, strategy
from spinenet_tf.training.run_directory import RunDirectory
from spinenet_tf.training.settings import Experiment
from spinenet_tf.training.tasks import task_of


class Evaluated(NamedTuple):
  """Metrics as the task's evaluator returns them, a table to read, and what was evaluated."""

  metrics: dict[str, Any]
  table: str
  checkpoint: str
  step: int


def evaluate(
  experiment: Experiment,
  model_dir: str | os.PathLike,
  *,
  checkpoint: str | None = None,
  output_dir: str | os.PathLike | None = None,
) -> Evaluated:
  """Evaluates a checkpoint.

  Args:
    experiment: whose evaluation data, model and thresholds count.
    model_dir: the run.
    checkpoint: prefix or folder; None takes the run's best, else its latest.
    output_dir: where `CocoEvaluator.save` writes; None writes nothing.

  Raises: UserError when there is no checkpoint or it belongs to another model.
  """
  run = RunDirectory(model_dir)
  prefix = checkpoints.find(checkpoint or model_dir)
  task = task_of(experiment)
  data = inputs.resolve(experiment.data, task.network, training=False)
  strategy.set_precision(experiment.train.precision)
  if experiment.train.strategy != "tpu":
    strategy.tune_for_cpu(training=False, fast_convolutions=experiment.train.winograd)
  devices = strategy.make_strategy(experiment.train.strategy, experiment.train.tpu)
  replicas = devices.num_replicas_in_sync
  if checkpoint is None:
    run.check_same(task.describe(data, replicas))
  with devices.scope():
    model = task.network.build(data.num_classes, replicas)
    step = checkpoints.restore_weights(model, prefix)
  evaluator = task.evaluator(devices, model, data)
  with explain_errors(data.eval_pattern):
    metrics = evaluator.evaluate(tf.constant(-1))
  if output_dir is not None and strategy.Worker.of(devices).is_chief:
    evaluator.scores.save(output_dir)
  return Evaluated(metrics, evaluator.scores.table(), prefix, step)
