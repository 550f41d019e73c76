"""The parts of a run that depend on the task, and the interface of each."""

from __future__ import annotations

import abc
from typing import Any, Protocol

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.data.unreadable import Unreadable
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.run_directory import FORMAT
from spinenet_tf.training.settings import Experiment, NetworkSettings


class Objective(Protocol):
  """From a batch to losses, on one replica.

  Attributes:
    parts: names of the losses that are reported; they add up, weighted, to "total".
    counts: names of what is reported beside them and is no loss, summed over replicas.
  """

  parts: tuple[str, ...]
  counts: tuple[str, ...]

  def __call__(self, model: keras.Model, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns float32[] for each part, count and "total", normalised so that the sum over replicas is the loss."""


class Scores(Protocol):
  """Collects what a model says about the evaluation examples."""

  def table(self) -> str:
    """Returns the numbers to show."""

  def save(self, folder: str) -> None:
    """Writes results and tables into a folder."""


class TaskEvaluator(Protocol):
  """An `orbit.AbstractEvaluator` with `scores`: what the last evaluation found."""

  @property
  def scores(self) -> Scores:
    """Of the last evaluation."""

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates `num_steps` batches, all when -1. Returns: metrics."""


class Task(abc.ABC):
  """One kind of run.

  Attributes:
    name: as `train.task` says it.
    uses: fields of `Experiment` that it reads, beside `train`.
    key_metric: of the evaluation; the checkpoint where it is highest is kept.
    headline: metrics of the line that an evaluation prints.
    unreadable: records that training passed over, for each input pipeline of this process.
  """

  name: str
  uses: tuple[str, ...]
  key_metric: str
  headline: tuple[str, ...]

  def __init__(self, experiment: Experiment):
    self.experiment = experiment
    self.unreadable: list[Unreadable] = []

  @property
  @abc.abstractmethod
  def network(self) -> NetworkSettings:
    """The settings of the model."""

  @abc.abstractmethod
  def objective(self, num_classes: int) -> Objective:
    """Returns the losses."""

  @abc.abstractmethod
  def training_data(self, inputs: Inputs, **arguments: Any) -> tf.data.Dataset:
    """Returns endless batches of what the objective takes; `arguments` are those that all data sets share."""

  @abc.abstractmethod
  def evaluation_data(self, inputs: Inputs, batch_size: int) -> tf.data.Dataset:
    """Returns the evaluation examples in order, once; fillers complete the last batch."""

  @abc.abstractmethod
  def evaluator(
    self, strategy: tf.distribute.Strategy, model: keras.Model, inputs: Inputs, pictures: int = 0
  ) -> TaskEvaluator:
    """Returns an evaluator that draws the first `pictures` images into the TensorBoard summary."""

  def train_on(
    self, strategy: tf.distribute.Strategy, inputs: Inputs, start_step: int
  ) -> tf.distribute.DistributedDataset:
    """Returns endless batches for each replica, those that follow `start_step` steps."""
    settings, train = inputs.settings, self.experiment.train
    share = settings.max_unreadable
    # Hosts of a TPU slice run the pipeline without this process: they cannot tell it what they passed over.
    counts = share > 0 and not isinstance(strategy, tf.distribute.TPUStrategy)
    consumed = start_step * train.accumulation * settings.batch_size

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
      unreadable = Unreadable(share) if counts else None
      self.unreadable += [unreadable] if unreadable else []
      dataset = self.training_data(
        inputs,
        batch_size=context.get_per_replica_batch_size(settings.batch_size),
        seed=train.seed,
        start_example=consumed // context.num_input_pipelines,
        shuffle_buffer=settings.shuffle_buffer,
        cache=settings.cache,
        input_context=context,
        unreadable=unreadable,
      )
      return dataset.prefetch(2)

    return strategy.distribute_datasets_from_function(pipeline)

  def evaluate_on(self, strategy: tf.distribute.Strategy, inputs: Inputs) -> tf.distribute.DistributedDataset:
    """Returns the evaluation examples for each replica.

    Each of several workers sees them all and comes to the same numbers: nothing has to be gathered over the network.
    """
    dataset = self.evaluation_data(inputs, inputs.eval_batch_size(strategy.num_replicas_in_sync))
    # Source ids are strings, which accelerators do not take.
    return strategy.experimental_distribute_dataset(
      dataset, tf.distribute.InputOptions(experimental_fetch_to_device=False)
    )

  def check(self) -> None:  # noqa: B027 - most have nothing to check
    """Raises UserError for settings that do not fit together; before anything is read."""

  def notes(self, inputs: Inputs, model: keras.Model) -> list[str]:
    """Returns what a person should be told about data and model before the first step."""
    return []

  def post_processing(self) -> dict[str, Any]:
    """Returns settings that a loaded model uses on its outputs, for model.json."""
    return {}

  def describe(self, inputs: Inputs, replicas: int = 1) -> dict[str, Any]:
    """Returns the content of model.json: all that is needed to build the model again, without gin."""
    return {
      "format": FORMAT,
      "task": self.name,
      "architecture": self.network.find_architecture().to_dict(),
      "model": self.network.arguments(inputs.num_classes, replicas),
      "categories": inputs.categories,
      "class_ids": inputs.class_ids,
      **self.post_processing(),
    }
