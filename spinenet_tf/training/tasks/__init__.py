"""What a run is about: boxes, masks, classes. The loop, the checkpoints and the devices are the same for all."""

from __future__ import annotations

from spinenet_tf.errors import UserError
from spinenet_tf.training.settings import Experiment
from spinenet_tf.training.tasks.base import Task
from spinenet_tf.training.tasks.classification import Classification
from spinenet_tf.training.tasks.mask_rcnn import MaskRCNNTask
from spinenet_tf.training.tasks.retinanet import RetinaNetTask
from spinenet_tf.training.tasks.solo import SoloTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (RetinaNetTask, MaskRCNNTask, SoloTask, Classification)}


def task_of(experiment: Experiment) -> Task:
  """Returns the task of an experiment.

  Raises: UserError for an unknown name.
  """
  return find_task(experiment.train.task)(experiment)


def find_task(name: str) -> type[Task]:
  """Returns the class of the task of that name.

  Raises: UserError for an unknown name.
  """
  if name not in TASKS:
    raise UserError(f"train.task is {name!r}; it must be one of {list(TASKS)}")
  return TASKS[name]
