"""What a run is about: detection, classification. The loop, the checkpoints and the devices are the same for all."""

from __future__ import annotations

from spinenet_tf.errors import UserError
from spinenet_tf.training.settings import Experiment
from spinenet_tf.training.tasks.base import Task
from spinenet_tf.training.tasks.retinanet import RetinaNetTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (RetinaNetTask,)}


def task_of(experiment: Experiment) -> Task:
  """Returns the task that `train.task` names.

  Raises: UserError for an unknown name.
  """
  name = experiment.train.task
  if name not in TASKS:
    raise UserError(f"train.task is {name!r}; it must be one of {list(TASKS)}")
  return TASKS[name](experiment)
