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
from spinenet_tf.models.solo import build_solo
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.ops.solo_levels import solo_levels
from spinenet_tf.serving.classifier import ImageClassifier
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.exported import Exported, is_saved_model, load_exported, read_export_info
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
  "solo": _Kind(build_solo, Detector, "detection"),
  "classification": _Kind(build_classifier, ImageClassifier, "classification"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedRun:
  """A trained model with what its run says of it.

  Attributes:
    folder: of the run.
    checkpoint: prefix that the weights come from.
    step: that they were saved at, 0 when not told.
    description: content of model.json.
    model: with the weights.
  """

  folder: pathlib.Path
  checkpoint: str
  step: int
  description: dict[str, Any]
  model: Network

  @property
  def task(self) -> str:
    """What it was trained for: "retinanet", "mask_rcnn", "solo" or "classification"."""
    return self.description["task"]

  def use(self, *, direct: bool = False, **settings: Any) -> Detector | ImageClassifier:
    """Returns the model with everything around it.

    Args:
      direct: as of `Detector`.
      **settings: those that are given and not None take the place of the run's.

    Raises: UserError for a setting that does not belong to the task, or is out of range.
    """
    kind = _KINDS[self.task]
    arguments = {**(self.description.get(kind.settings) or {}), **{k: v for k, v in settings.items() if v is not None}}
    ids = self.description.get("class_ids")
    try:
      return kind.use(self.model, self.description["categories"], class_ids=ids, direct=direct, **arguments)
    except TypeError as error:
      raise UserError(f"a run of {self.task} cannot be loaded with {sorted(settings)}: {error}") from error


def load(path: str | os.PathLike, *, fold: bool = True, **settings: Any) -> Detector | ImageClassifier | Exported:
  """Loads a trained model: the best checkpoint of a run, or the latest when none was kept as the best; or a SavedModel.

  Args:
    path: a run directory, its best/ or checkpoints/, or one checkpoint in there ("runs/a/checkpoints/step-500"); or a
      SavedModel that was exported from a run.
    fold: fold the batch norms into the convolutions, which is faster and equal up to rounding; False gives the model with
      the variables of the checkpoint. SavedModels are folded.
    **settings: arguments of `Detector` or `ImageClassifier` that take the place of the run's, such as score_threshold; of a
      SavedModel those that only leave something out: score_threshold, top.

  Returns: a `Detector`, or for a run of classification an `ImageClassifier`; of a SavedModel an object of the same calls.

  Raises: UserError when there is no such run, it has no checkpoint yet, the checkpoint is of another model, or a setting
    does not belong to the run's task.
  """
  if is_saved_model(path):
    return load_exported(path, **settings)
  return load_run(path, fold=fold).use(**settings)


def load_run(path: str | os.PathLike, *, fold: bool = True, input_size: tuple[int, int] | None = None) -> LoadedRun:
  """Loads the network of a run.

  Args:
    path: of a run, or in it, as in `load`.
    fold: as in `load`.
    input_size: another (height, width) of its input than it was trained with, in pixels.

  Raises: UserError, as `load`.
  """
  folder = find_run(path)
  run = RunDirectory(folder, writes=False).read_model()
  prefix = _checkpoint(path, folder)
  if input_size is not None:
    run = {**run, "model": {**run["model"], "input_size": list(input_size)}}
  model = build(run, folder, folded=fold)
  epsilon = model.style.norm_epsilon
  step = checkpoints.restore_weights(model, prefix, functools.partial(fold_norms, epsilon=epsilon) if fold else None)
  return LoadedRun(folder, prefix, step, run, model)


def task_of_run(path: str | os.PathLike) -> str:
  """Returns what a run, or the run of a SavedModel, was trained for: "retinanet", "mask_rcnn", "solo" or "classification".

  Args:
    path: as in `load`.

  Raises: UserError when there is no such run.
  """
  if is_saved_model(path):
    return read_export_info(path)["task"]
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
  if is_saved_model(start):
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
  if levels := arguments.get("solo_levels"):
    arguments["solo_levels"] = solo_levels(levels)
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
