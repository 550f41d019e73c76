"""Image classification."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from spinenet_tf.data.classification import classification_dataset
from spinenet_tf.losses.classification import ClassificationLoss
from spinenet_tf.models.classifier import Classifier
from spinenet_tf.training.accuracy import ClassificationEvaluator
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import ClassifierSettings
from spinenet_tf.training.tasks.base import Task

TRAINED_ON = ("image", "label")


@dataclasses.dataclass(frozen=True)
class ClassificationObjective:
  """Cross-entropy.

  Attributes:
    loss: of one replica.
  """

  loss: ClassificationLoss
  parts = ("cls",)
  counts = ()

  def __call__(self, model: Classifier, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns "cls" and "total".

    Args:
      model: built.
      batch: "image" float[B, H, W, 3], "label" int32[B].
    """
    return self.loss(model(batch["image"], training=True), batch["label"])


class Classification(Task):
  """`train.task = 'classification'`: `classifier.*` and `classifier_loss.*` apply."""

  name = "classification"
  uses = ("classifier", "data", "schedule", "classifier_loss")
  key_metric = "top1"
  headline = ("top1", "top5")

  @property
  def network(self) -> ClassifierSettings:
    """`classifier.*`."""
    return self.experiment.classifier

  def objective(self, num_classes: int) -> ClassificationObjective:
    """Returns the cross-entropy."""
    return ClassificationObjective(
      ClassificationLoss(num_classes, **dataclasses.asdict(self.experiment.classifier_loss))
    )

  def training_data(self, inputs: Inputs, **arguments: Any) -> tf.data.Dataset:
    """Returns endless batches of crops and labels."""
    settings = inputs.settings
    dataset = classification_dataset(
      inputs.train_pattern,
      image_size=inputs.image_size,
      training=True,
      class_ids=inputs.class_ids,
      crop_area=tuple(settings.crop_area),
      crop_ratio=tuple(settings.crop_ratio),
      flip=settings.flip,
      **arguments,
    )
    return dataset.map(lambda batch: {key: batch[key] for key in TRAINED_ON})

  def evaluation_data(self, inputs: Inputs, batch_size: int) -> tf.data.Dataset:
    """Returns central crops with what belongs to them."""
    return classification_dataset(
      inputs.eval_pattern,
      image_size=inputs.image_size,
      batch_size=batch_size,
      training=False,
      class_ids=inputs.class_ids,
      eval_crop=inputs.settings.eval_crop,
    )

  def post_processing(self) -> dict[str, Any]:
    """Returns the central crop."""
    return {"classification": {"crop": self.experiment.data.eval_crop}}

  def evaluator(
    self, strategy: tf.distribute.Strategy, model: Classifier, inputs: Inputs, pictures: int = 0
  ) -> ClassificationEvaluator:
    """Returns the evaluator with top-1 and top-5 accuracy."""
    return ClassificationEvaluator(strategy, model, inputs, functools.partial(self.evaluate_on, strategy, inputs))
