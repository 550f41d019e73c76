"""A detector from a run directory, without its gin files: model.json holds all that is needed."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.models.retinanet import RetinaNet, build_retinanet
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.fold import fold as fold_norms
from spinenet_tf.training import checkpoints
from spinenet_tf.training.run_directory import RunDirectory


def load(
  path: str | os.PathLike, *, score_threshold: float | None = None, fold: bool = True, **detection: Any
) -> Detector:
  """Loads a trained detector: the best checkpoint of a run, or the latest when none was kept as the best.

  Args:
    path: a run directory, its best/ or checkpoints/, or one checkpoint in there ("runs/a/checkpoints/step-500").
    score_threshold: objects with lower scores are left out; that of the run's evaluation when None.
    fold: fold the batch norms into the convolutions, which is faster and equal up to rounding; False gives the model with
      the variables of the checkpoint.
    **detection: other arguments of `Detector` that take the place of the run's, such as max_detections.

  Raises: UserError when there is no such run, it has no checkpoint yet, or the checkpoint is of another model.
  """
  folder = find_run(path)
  run = RunDirectory(folder, writes=False).read_model()
  prefix = _checkpoint(path, folder)
  model = build(run, folder, folded=fold)
  epsilon = model.style.norm_epsilon
  checkpoints.restore_weights(model, prefix, functools.partial(fold_norms, epsilon=epsilon) if fold else None)
  arguments = {**(run.get("detection") or {}), **detection}
  if score_threshold is not None:
    arguments["score_threshold"] = score_threshold
  return Detector(model, run["categories"], class_ids=run.get("class_ids"), **arguments)


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


def build(run: dict[str, Any], where: str | os.PathLike = "model.json", folded: bool = False) -> RetinaNet:
  """Builds the model that the content of a model.json describes, with fresh weights.

  Args:
    run: `task`, `architecture` (as `Architecture.to_dict`) and `model`, arguments of `build_retinanet`.
    where: named in errors.
    folded: build it without batch norms.

  Raises: UserError when something is missing or unknown.
  """
  if run.get("task") != "retinanet":
    raise UserError(f"{where}: the task is {run.get('task')!r}; this version loads 'retinanet'")
  if missing := sorted({"architecture", "model", "categories"} - set(run)):
    raise UserError(f"{where}: model.json lacks {missing}; start training again to have it written")
  # Statistics are only read from here on, so there is nothing to synchronise.
  arguments = {**run["model"], "synchronized": False, "folded": folded}
  arguments["input_size"] = tuple(arguments["input_size"])
  if anchors := arguments.get("anchors"):
    arguments["anchors"] = AnchorConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in anchors.items()})
  try:
    return build_retinanet(Architecture.from_dict(run["architecture"]), **arguments)
  except TypeError as error:
    raise UserError(f"{where}: model.json does not fit this version ({error})") from error


def _checkpoint(path: str | os.PathLike, folder: pathlib.Path) -> str:
  try:
    return checkpoints.find(path)
  except UserError as error:
    raise UserError(
      f"the run {str(folder)!r} has no checkpoint at {str(path)!r} yet; wait for training to save the first one"
    ) from error
