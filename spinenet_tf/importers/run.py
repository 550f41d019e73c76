"""Writes what was imported as a run directory, which `st.load`, `evaluate`, `predict`, fine-tuning and export take."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import tensorflow as tf

from spinenet_tf.backbones.catalog import CATALOG
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.importers import mmdet, model_garden, tensorflow_files, tpu_detection
from spinenet_tf.importers.assemble import Assembled, Choices, assemble
from spinenet_tf.importers.found import Found
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.training.run_directory import RunDirectory, environment
from spinenet_tf.training.settings import DIALECT

PROVENANCE = "provenance.json"
SOURCES: dict[str, Callable[..., Found]] = {
  "model_garden": model_garden.read,
  "tpu_detection": tpu_detection.read,
  "mmdet": mmdet.read,
}


@dataclasses.dataclass(frozen=True)
class Account:
  """What became of every variable.

  Attributes:
    mapped: our name -> the checkpoint's.
    skipped: the checkpoint's name -> why.
    missing: variables of ours that the checkpoint lacks.
    wrong_shape: our name -> (our shape, the checkpoint's).
  """

  mapped: dict[str, str]
  skipped: dict[str, str]
  missing: list[str]
  wrong_shape: dict[str, tuple[list[int], list[int]]]

  def __str__(self) -> str:
    why: dict[str, int] = {}
    for reason in self.skipped.values():
      why[reason] = why.get(reason, 0) + 1
    lines = [f"  mapped      {len(self.mapped):5d}", f"  skipped     {len(self.skipped):5d}"]
    lines += [f"    {count:5d}  {reason}" for reason, count in sorted(why.items())]
    lines += [f"  missing     {len(self.missing):5d}{_some(self.missing)}", f"  wrong shape {len(self.wrong_shape):5d}"]
    lines += [f"    {n}: ours {a}, the checkpoint's {b}" for n, (a, b) in list(self.wrong_shape.items())[:10]]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Imported:
  """A model of ours with a checkpoint's weights.

  Attributes:
    found: in the checkpoint.
    assembled: settings and classes.
    model: built, with the weights.
    account: of every variable.
  """

  found: Found
  assembled: Assembled
  model: keras.Model
  account: Account

  def describe(self) -> str:
    """Returns which model it is."""
    inferred, network = self.assembled.inferred, self.assembled.task.network
    arch = inferred.architecture
    lines = [
      f"{inferred.task}: {arch.name}, scale {arch.filter_scale:g}, alpha {arch.resample_alpha:g}, "
      f"repeats {arch.block_repeats}, pyramid {arch.endpoint_filters} wide"
    ]
    if inferred.outputs:
      lines.append(f"{inferred.outputs} outputs; class layout {self.assembled.experiment.data.class_layout!r}")
    if inferred.head_convs:
      dense = f", hidden layer {inferred.dense_width}" if inferred.dense_width else ""
      lines.append(
        f"heads {inferred.head_convs} x {inferred.head_width}{dense}, levels {inferred.levels}, {inferred.anchors} anchors"
      )
    same = ("activation", "norm_epsilon", "image_size")
    settings = getattr(network, "model", network)
    lines.append("not in the checkpoint, assumed: " + ", ".join(f"{n} {getattr(settings, n)}" for n in same))
    return "\n".join(f"  {line}" for line in [*lines, *self.found.notes])


def load(
  source: str,
  checkpoint: str | os.PathLike,
  choices: Choices | None = None,
  *,
  architecture: str | Architecture | None = None,
  average: bool = False,
) -> Imported:
  """Imports a checkpoint.

  Args:
    source: one of `SOURCES`.
    checkpoint: prefix of a TensorFlow checkpoint, or a .pth file.
    choices: what the checkpoint does not say.
    architecture: a name, which must be the checkpoint's, or a JSON file with other connections.
    average: take moving averages of weights, of Model Garden.

  Raises: UserError when the checkpoint cannot be read, is of another network, or leaves a variable without a value.
  """
  if source not in SOURCES:
    raise UserError(f"--source is {source!r}; it must be one of {list(SOURCES)}")
  given = find_architecture(architecture) if architecture is not None else None
  extra = {"average": average} if source == "model_garden" else {}
  if average and not extra:
    raise UserError(f"--average is given; {source} keeps no moving averages of weights: leave it out")
  found = SOURCES[source](os.fspath(checkpoint), given, **extra)
  assembled = assemble(found, choices or Choices())
  name = assembled.inferred.architecture.name
  if given is not None and given.name in CATALOG and given.name != name:
    raise UserError(f"--architecture is {given.name!r}, the checkpoint is of {name!r} by its shapes; leave it out")
  network = assembled.task.network
  if assembled.inferred.task != "backbone":
    model = network.build(assembled.inputs.num_classes)
  else:
    from spinenet_tf.backbones.builder import build_backbone

    same = ("activation", "norm_epsilon", "padding", *DIALECT)
    options = {name: getattr(network, name) for name in same}
    model = build_backbone(network.find_architecture(), network.size, **options)
  account = _assign(model, found)
  if account.missing or account.wrong_shape:
    raise UserError(
      f"{checkpoint} does not give every variable of {name} ({assembled.inferred.task}) a value:\n{account}"
    )
  return Imported(found, assembled, model, account)


def _assign(model: keras.Model, found: Found) -> Account:
  mapped, missing, wrong = {}, [], {}
  variables = named_variables(model)
  for name, variable in variables.items():
    if name not in found.weights:
      missing.append(name)
    elif tuple(found.weights[name].shape) != tuple(variable.shape):
      wrong[name] = (list(variable.shape), list(found.weights[name].shape))
    else:
      mapped[name] = found.origin[name]
  if not missing and not wrong:
    for name in mapped:
      variables[name].assign(found.weights[name])
  skipped = dict(found.skipped)
  skipped |= {found.origin[n]: "nothing in this model reads it" for n in found.weights if n not in variables}
  return Account(mapped, skipped, missing, wrong)


def save(imported: Imported, source: str, checkpoint: str | os.PathLike, output: str | os.PathLike) -> None:
  """Writes a run directory, whole or not at all.

  Raises: UserError when the folder has something in it, or cannot be written.
  """
  target = pathlib.Path(output)
  check_output(target)
  temporary = target.with_name(f".{target.name}.incomplete")
  shutil.rmtree(temporary, ignore_errors=True)
  try:
    _write(imported, source, checkpoint, temporary)
    if target.is_dir():
      target.rmdir()
    os.replace(temporary, target)
  except OSError as error:
    raise UserError(f"--output={target} cannot be written ({error.strerror}); give another folder") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_output(target: pathlib.Path) -> None:
  """Raises UserError when a folder to write to has something in it."""
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise UserError(f"--output={target} exists and is not empty; give a folder that is not there")


def _write(imported: Imported, source: str, checkpoint: str | os.PathLike, folder: pathlib.Path) -> None:
  assembled = imported.assembled
  run = RunDirectory(folder)
  run.prepare()
  description = assembled.task.describe(assembled.inputs)
  if assembled.inferred.task == "backbone":
    description["task"] = "backbone"
  run.write_json("model.json", description)
  run.write("config.gin", _gin(assembled))
  run.write_json("environment.json", environment())
  saved = tf.train.Checkpoint(model=variable_tree(imported.model), global_step=tf.Variable(0, dtype=tf.int64))
  saved.write(str(folder / "best" / "step-0"))
  (folder / "best" / "checkpoint").write_text('model_checkpoint_path: "step-0"\nall_model_checkpoint_paths: "step-0"\n')
  account = imported.account
  provenance = {
    "format": 1,
    "source": source,
    "checkpoint": os.fspath(checkpoint),
    "sha256": {os.path.basename(f): _sha256(f) for f in _files(source, os.fspath(checkpoint))},
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "notes": imported.found.notes,
    "report": dataclasses.asdict(account),
  }
  run.write_json(PROVENANCE, provenance)


def _gin(assembled: Assembled) -> str:
  """Returns an experiment with the model's options, for evaluation and for fine-tuning."""
  experiment = assembled.experiment
  lines = [
    "# Weights from elsewhere, see provenance.json. For evaluation, and for the options of a training from these weights:",
    "# give this file first, and this folder as train.initial_checkpoint, with another model_dir.",
    "DATA_DIR = 'data/coco'",
    f"train.task = {experiment.train.task!r}",
    "data.directory = %DATA_DIR",
    f"data.class_layout = {experiment.data.class_layout!r}",
  ]
  parts = ["classifier"] if experiment.train.task == "classification" else ["model", "detection"]
  parts += ["mask_rcnn"] if experiment.train.task == "mask_rcnn" else []
  for part in parts:
    settings = getattr(experiment, part)
    for field in dataclasses.fields(settings):
      value = getattr(settings, field.name)
      if value != field.default and field.name not in ("num_classes",):
        value = value.to_dict() if isinstance(value, Architecture) else value
        lines.append(f"{part}.{field.name} = {value!r}")
  return "\n".join(lines) + "\n"


def _files(source: str, checkpoint: str) -> Sequence[str]:
  return [checkpoint] if source == "mmdet" else tensorflow_files.files(tensorflow_files.prefix_of(checkpoint))


def _sha256(path: str) -> str:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    for chunk in iter(lambda: file.read(1 << 20), b""):
      digest.update(chunk)
  return digest.hexdigest()


def _some(names: list[str]) -> str:
  return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""
