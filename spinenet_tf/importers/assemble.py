"""From what a checkpoint holds to one of our models, with an account of every variable."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from spinenet_tf.data.meta import Category, Meta
from spinenet_tf.errors import UserError
from spinenet_tf.importers.classes import class_layout
from spinenet_tf.importers.found import Found
from spinenet_tf.importers.infer import Inferred, infer
from spinenet_tf.training import settings
from spinenet_tf.training.inputs import Inputs
from spinenet_tf.training.tasks import task_of
from spinenet_tf.training.tasks.base import Task

# What differs between implementations, as options of our model.
STYLES: dict[str, dict[str, Any]] = {
  "model_garden": {"padding": "same", "squeeze": "relu"},
  "tpu_detection": {"padding": "symmetric", "pooling": "single"},
  "mmdet": {
    "padding": "symmetric",
    "pooling": "single",
    "pool_padding": "symmetric",
    "endpoint_activation": False,
  },
}
RATIOS = {"model_garden": (0.5, 1.0, 2.0), "tpu_detection": (1.0, 2.0, 0.5), "mmdet": (1.0, 2.0, 0.5)}
EPSILON = {"retinanet": 1e-3, "mask_rcnn": 1e-3, "classification": 1e-5, "backbone": 1e-3}


@dataclasses.dataclass(frozen=True)
class Choices:
  """What checkpoints do not say; None takes what the source's own configurations have.

  Attributes:
    activation: "relu" or "swish"; None is swish for mobile networks and relu else.
    norm_epsilon: of batch norms.
    image_size: side in pixels, or (height, width).
    anchor_size: RetinaNet's and Mask R-CNN's base anchor, in strides.
    aspect_ratios: width by height, in the order of the anchors.
    categories: of the data it was trained on.
  """

  activation: str | None = None
  norm_epsilon: float | None = None
  image_size: Any = None
  anchor_size: float | None = None
  aspect_ratios: tuple[float, ...] | None = None
  categories: tuple[Category, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Assembled:
  """A model of ours, not built yet, and its weights.

  Attributes:
    inferred: which model.
    experiment: its settings.
    inputs: its classes.
    weights: by variable name.
  """

  inferred: Inferred
  experiment: settings.Experiment
  inputs: Inputs
  weights: dict[str, np.ndarray]

  @property
  def task(self) -> Task:
    """Of the experiment; of a backbone alone that of RetinaNet."""
    return task_of(self.experiment)


def assemble(found: Found, choices: Choices) -> Assembled:
  """Returns the model of a checkpoint.

  Raises: UserError for contradictions, within the checkpoint or with the choices.
  """
  found.absorb_biases()
  inferred = infer(found)
  classes, layout, categories = class_layout(found, inferred, choices.categories)
  model = _model(found, inferred, choices, classes)
  network = model["classifier"] if inferred.task == "classification" else model["model"]
  data = settings.DataSettings(class_layout=layout, directory="data")
  legacy = inferred.task in ("retinanet", "mask_rcnn") and found.source == "tpu_detection"
  experiment = settings.Experiment(
    **model,
    data=data,
    detection=settings.DetectionSettings(legacy_plus_one=legacy),
    train=settings.RunSettings(task="retinanet" if inferred.task == "backbone" else inferred.task),
  )
  inputs = Inputs(data, network.size, classes, Meta(tuple(categories)), None, None, 0)
  return Assembled(inferred, experiment, inputs, found.weights)


def _model(found: Found, inferred: Inferred, choices: Choices, classes: int) -> dict[str, Any]:
  """Returns the fields of `Experiment` that describe the model."""
  arch = inferred.architecture
  separable = arch.separable
  style = dict(STYLES[found.source])
  if not separable:
    style.pop("squeeze", None)
  shared = {
    "architecture": arch,
    "num_classes": classes,
    "activation": choices.activation or ("swish" if separable else "relu"),
    "norm_epsilon": choices.norm_epsilon or EPSILON[inferred.task],
    **style,
  }
  if inferred.task == "classification":
    levels = (max(arch.output_levels),) if found.source == "model_garden" else None
    return {"classifier": settings.ClassifierSettings(image_size=choices.image_size or 224, levels=levels, **shared)}
  ratios = tuple(choices.aspect_ratios or RATIOS[found.source])
  if inferred.anchors % len(ratios):
    raise UserError(
      f"the checkpoint has {inferred.anchors} anchors at each location, no multiple of the {len(ratios)} aspect ratios "
      f"{list(ratios)}; give --aspect_ratios"
    )
  levels = inferred.levels or arch.output_levels
  model = settings.ModelSettings(
    image_size=choices.image_size or (384 if separable else 640),
    head_convs=inferred.head_convs,
    head_width=inferred.head_width,
    anchor_size=choices.anchor_size,
    num_scales=inferred.anchors // len(ratios) or None,
    aspect_ratios=ratios,
    min_level=levels[0],
    max_level=levels[-1],
    **shared,
  )
  if inferred.task != "mask_rcnn":
    return {"model": model}
  heads = settings.MaskRCNNSettings(
    rpn_convs=inferred.rpn_convs, dense_width=inferred.dense_width, endpoint_width=arch.endpoint_filters
  )
  return {"model": model, "mask_rcnn": heads}
