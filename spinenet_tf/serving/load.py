"""A trained model from a run directory, without its gin files: model.json holds all that is needed."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any, Callable

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.models.classifier import build_classifier
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.network import Network
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.serving.classifier import ImageClassifier
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.fold import fold as fold_norms
from spinenet_tf.training import checkpoints
from spinenet_tf.training.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class _Kind:
  """How the model of a task is built and used; its settings of use stand in model.json under `settings`."""

  build: Callable[..., Network]
  use: Callable[..., Detector | ImageClassifier]
  settings: str


_KINDS = {
  "retinanet": _Kind(build_retinanet, Detector, "detection"),
  "mask_rcnn": _Kind(build_mask_rcnn, Detector, "detection"),
  "classification": _Kind(build_classifier, ImageClassifier, "classification"),
}


def load(path: str | os.PathLike, *, fold: bool = True, **settings: Any) -> Detector | ImageClassifier:
  """Loads a trained model: the best checkpoint of a run, or the latest when none was kept as the best.

  Args:
    path: a run directory, its best/ or checkpoints/, or one checkpoint in there ("runs/a/checkpoints/step-500").
    fold: fold the batch norms into the convolutions, which is faster and equal up to rounding; False gives the model with
      the variables of the checkpoint.
    **settings: arguments of `Detector` or `ImageClassifier` that take the place of the run's, such as score_threshold.

  Returns: a `Detector`, or for a run of classification an `ImageClassifier`.

  Raises: UserError when there is no such run, it has no checkpoint yet, the checkpoint is of another model, or a setting
    does not belong to the run's task.
  """
  folder = find_run(path)
  run = RunDirectory(folder, writes=False).read_model()
  prefix = _checkpoint(path, folder)
  model = build(run, folder, folded=fold)
  epsilon = model.style.norm_epsilon
  checkpoints.restore_weights(model, prefix, functools.partial(fold_norms, epsilon=epsilon) if fold else None)
  kind = _KINDS[run["task"]]
  arguments = {**(run.get(kind.settings) or {}), **{k: v for k, v in settings.items() if v is not None}}
  try:
    return kind.use(model, run["categories"], class_ids=run.get("class_ids"), **arguments)
  except TypeError as error:
    raise UserError(f"a run of {run['task']} cannot be loaded with {sorted(settings)}: {error}") from error


def task_of_run(path: str | os.PathLike) -> str:
  """Returns what a run was trained for: "retinanet", "mask_rcnn" or "classification".

  Args:
    path: as in `load`.

  Raises: UserError when there is no such run.
  """
  return RunDirectory(find_run(path), writes=False).read_model().get("task")


def find_run(path: str | os.PathLike) -> pathlib.Path:
  """Returns the run directory that a path is, or lies in.

  Raises: UserError when there is none.
  """
  start = pathlib.Path(path)
  for folder in (start, *list(start.absolute().parents)[:2]):
    if (folder / "model.json").is_file():
      if start.exists() or pathlib.Path(f"{start}.index").exists():
        return folder
      break
  if not start.exists():
    raise UserError(f"{str(path)!r} does not exist; give the --model_dir that training wrote to")
  if (start / "saved_model.pb").exists():
    raise UserError(f"{str(path)!r} is a SavedModel; give the run directory that it was exported from")
  raise UserError(
    f"{str(path)!r} is not a run directory: it has no model.json, which training writes at its start; give the "
    "--model_dir of a run"
  )


def build(run: dict[str, Any], where: str | os.PathLike = "model.json", folded: bool = False) -> Network:
  """Builds the model that the content of a model.json describes, with fresh weights.

  Args:
    run: `task`, `architecture` (as `Architecture.to_dict`) and `model`, arguments of the task's builder.
    where: named in errors.
    folded: build it without batch norms.

  Raises: UserError when something is missing or unknown.
  """
  if run.get("task") not in _KINDS:
    raise UserError(f"{where}: the task is {run.get('task')!r}; this version loads {list(_KINDS)}")
  if missing := sorted({"architecture", "model", "categories"} - set(run)):
    raise UserError(f"{where}: model.json lacks {missing}; start training again to have it written")
  # Statistics are only read from here on, so there is nothing to synchronise.
  arguments = {**run["model"], "synchronized": False, "folded": folded}
  arguments["input_size"] = tuple(arguments["input_size"])
  if anchors := arguments.get("anchors"):
    arguments["anchors"] = AnchorConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in anchors.items()})
  try:
    return _KINDS[run["task"]].build(Architecture.from_dict(run["architecture"]), **arguments)
  except TypeError as error:
    raise UserError(f"{where}: model.json does not fit this version ({error})") from error


def _checkpoint(path: str | os.PathLike, folder: pathlib.Path) -> str:
  try:
    return checkpoints.find(path)
  except UserError as error:
    raise UserError(
      f"the run {str(folder)!r} has no checkpoint at {str(path)!r} yet; wait for training to save the first one"
    ) from error
