"""What tasks have in common that find objects: their data, their metric, the settings of their models."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.data.pipeline import detection_dataset
from spinenet_tf.training.evaluator import DetectionEvaluator
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.settings import DetectionSettings, ModelSettings, NetworkSettings
from spinenet_tf.training.solo_settings import SoloDetectionSettings
from spinenet_tf.training.tasks.base import Task

BOXES = ("image", "boxes", "classes")
MASKS = (*BOXES, "masks", "has_mask")


@dataclasses.dataclass(frozen=True)
class DetectorNetwork(NetworkSettings):
  """A detector whose settings stand in two places.

  Attributes:
    model: what it shares with other detectors.
    heads: what it does not; each task has its own kind.
  """

  scope: ClassVar[str] = "model"
  model: ModelSettings
  heads: Any

  @property
  def architecture(self) -> Any:
    """`model.architecture`."""
    return self.model.architecture

  @property
  def num_classes(self) -> int | None:
    """`model.num_classes`."""
    return self.model.num_classes

  @property
  def image_size(self) -> Any:
    """`model.image_size`."""
    return self.model.image_size


class DetectionTask(Task):
  """A task whose examples are images with objects, scored by COCO's metric.

  Attributes:
    trained_on: what of a training example the objective takes, `BOXES` or `MASKS`; with masks, these are scored too.
  """

  trained_on: tuple[str, ...] = BOXES

  @property
  @abc.abstractmethod
  def thresholds(self) -> DetectionSettings | SoloDetectionSettings:
    """The settings of the post-processing."""

  def training_data(self, inputs: Inputs, **arguments: Any) -> tf.data.Dataset:
    """Returns endless batches of what `trained_on` names."""
    settings = inputs.settings
    dataset = detection_dataset(
      inputs.train_pattern,
      image_size=inputs.image_size,
      training=True,
      class_ids=inputs.class_ids,
      scale_jitter=tuple(settings.scale_jitter),
      flip=settings.flip,
      max_boxes=settings.max_boxes,
      masks=settings.mask_size if "masks" in self.trained_on else 0,
      **arguments,
    )
    return dataset.map(lambda batch: {key: batch[key] for key in self.trained_on})

  def evaluation_data(self, inputs: Inputs, batch_size: int) -> tf.data.Dataset:
    """Returns images with what belongs to them."""
    return detection_dataset(
      inputs.eval_pattern,
      image_size=inputs.image_size,
      batch_size=batch_size,
      training=False,
      class_ids=inputs.class_ids,
      max_boxes=inputs.settings.max_boxes,
    )

  def evaluator(
    self, strategy: tf.distribute.Strategy, model: keras.Model, inputs: Inputs, pictures: int = 0
  ) -> DetectionEvaluator:
    """Returns the evaluator with COCO's metric of boxes, and of masks where they are trained."""
    data = functools.partial(self.evaluate_on, strategy, inputs)
    return DetectionEvaluator(
      strategy, model, inputs, data, self.thresholds, pictures, masks="masks" in self.trained_on
    )

  def post_processing(self) -> dict[str, Any]:
    """Returns thresholds of the detections."""
    return {"detection": self.thresholds.arguments()}
