"""Evaluation of classifiers, the same during training and after."""

from __future__ import annotations

from typing import Any, Callable

import orbit
import tensorflow as tf

from spinenet_tf.evaluation.accuracy import AccuracyEvaluator
from spinenet_tf.models.classifier import Classifier
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.strategy import gather
from spinenet_tf.visualize.confusion import draw_confusion

FACTS = ("label", "source_id", "is_real")


class ClassificationEvaluator(orbit.AbstractEvaluator):
  """Runs the model over the evaluation examples; `evaluate(-1)` over all, `evaluate(n)` over n batches.

  Args:
    strategy: that the model was built under.
    model: built.
    inputs: with an evaluation pattern.
    data: returns the distributed evaluation examples; called once, at the first evaluation.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    model: Classifier,
    inputs: Inputs,
    data: Callable[[], tf.distribute.DistributedDataset],
  ):
    self._strategy, self._model, self._data = strategy, model, data
    self._dataset: tf.distribute.DistributedDataset | None = None
    self._scores = AccuracyEvaluator(inputs.categories, inputs.class_ids, draw=draw_confusion)
    self._logits = tf.function(lambda images: strategy.run(self._predict, args=(images,)), autograph=False)

  @property
  def scores(self) -> AccuracyEvaluator:
    """The evaluator with the predictions of the last evaluation, for its table and files."""
    return self._scores

  def evaluate(self, num_steps: tf.Tensor) -> dict[str, Any]:
    """Evaluates.

    Args:
      num_steps: int32[], batches; -1 for all.

    Returns: "top1", "top5", and "class_top1/NAME" for each class with examples; floats in [0, 1].
    """
    if self._dataset is None:
      self._dataset = self._data()
    self._scores.reset()
    for number, batch in enumerate(self._dataset):
      if number == int(num_steps):
        break
      facts = {key: gather(self._strategy, batch[key]) for key in FACTS}
      self._scores.update(gather(self._strategy, self._logits(batch["image"])), facts)
    result = self._scores.result()
    per_class = result.pop("per_class")
    return result | {f"class_top1/{name}": row["top1"] for name, row in per_class.items() if row["examples"]}

  def _predict(self, images: tf.Tensor) -> tf.Tensor:
    return self._model(images, training=False)["logits"]
