"""A run becomes a SavedModel: loaded by anything that has TensorFlow, without this package.

The folder is written beside its place and verified there, and renamed at the end: what is found at the place is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import spinenet_tf
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.network import Network
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.decode import MAX_PIXELS
from spinenet_tf.serving.exported import INFO, LABELS, is_saved_model, load_exported
from spinenet_tf.serving.load import LoadedRun, load_run
from spinenet_tf.serving.module import ServingModule, resolved

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ExportResult:
  """What was exported.

  Attributes:
    path: of the artefact.
    info: content of its export_info.json.
    verification: how it compares with the run.
  """

  path: pathlib.Path
  info: dict[str, Any]
  verification: verification.Verification

  @property
  def size(self) -> int:
    """Bytes of the artefact."""
    files = self.path.rglob("*") if self.path.is_dir() else [self.path]
    return sum(file.stat().st_size for file in files if file.is_file())

  def __str__(self) -> str:
    height, width = self.info["input_size"]
    return (
      f"{self.info['model']} at {height} x {width}, {self.info['num_classes']} classes, for {self.info['target']}\n"
      f"weights of step {self.info['step']}, sha256 {self.info['weights_sha256'][:16]}\n"
      f"verified on {self.verification}\n"
      f"{self.path}: {self.size / 1e6:.1f} MB"
    )


def export(
  source: str | os.PathLike,
  output: str | os.PathLike,
  *,
  overwrite: bool = False,
  target: str | None = None,
  input_size: tuple[int, int] | None = None,
  max_pixels: int = MAX_PIXELS,
  images: Sequence[str | os.PathLike] = (),
  count: int = 8,
  **settings: Any,
) -> ExportResult:
  """Writes a SavedModel of a run and verifies it; its signatures are those of `ServingModule.signatures`.

  Args:
    source: a run directory or a checkpoint in it, as of `st.load`.
    output: folder to be made. For TensorFlow Serving it ends in a version, "models/NAME/1".
    overwrite: replace a SavedModel or an empty folder that is there.
    target: "cpu" or "gpu", see `ServingModule`; what this machine has when None.
    input_size: another (height, width) of the network's input than it was trained with, in pixels.
    max_pixels: image files that claim more are refused by the model, one by one.
    images: image files or folders to verify on; generated pictures without any.
    count: images that are taken from these.
    **settings: arguments of `Detector` or `ImageClassifier` that take the place of the run's, such as score_threshold.

  Raises: UserError when there is no such run or checkpoint, something is at the place already, it cannot be written, or an
    argument is out of range; VerificationError when the answers differ. Then nothing is at the place.
  """
  target = resolved(target)
  pictures = verification.pictures(images, count)
  with replacing(output, overwrite) as folder:
    run = load_run(source, input_size=input_size)
    # The same convolutions on both sides: what is compared is the export, not one rounding with another.
    module = ServingModule.of(run.use(direct=target == "gpu", **settings), target=target, max_pixels=max_pixels)
    info = {**describe(module, run), "signatures": interfaces(module.signatures())}
    write(module, folder)
    write_info(folder, info)
    info["verification"] = verify(folder, module, pictures).check("the SavedModel").to_dict()
    write_info(folder, info)
  result = {key: value for key, value in info["verification"].items() if key != "passed"}
  return ExportResult(pathlib.Path(output), info, verification.Verification(**result))


def write(module: ServingModule, folder: pathlib.Path) -> None:
  """Saves the signatures and the weights to a folder; nothing of Keras or of training goes with them.

  Raises: UserError when the file system refuses.
  """
  labels = folder.with_name(f"{folder.name}.labels") / LABELS
  root = tf.Module()
  root.variables_by_name = module.variables
  try:
    labels.parent.mkdir(exist_ok=True)
    labels.write_text("".join(f"{number}\t{' '.join(name.split())}\n" for number, name in module.labels))
    root.labels = tf.saved_model.Asset(str(labels))
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(root, str(folder), signatures=module.signatures(), options=options)
    _forget_gradients(folder)
  except (OSError, tf.errors.OpError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    raise UserError(f"cannot write {folder}: {reason}; free some space, or give another --output") from error
  finally:
    shutil.rmtree(labels.parent, ignore_errors=True)


def _forget_gradients(folder: pathlib.Path) -> None:
  """Removes the names of custom gradients from operations, about which a loading process would be warned."""
  place = folder / "saved_model.pb"
  content = saved_model_pb2.SavedModel.FromString(place.read_bytes())
  for graph in content.meta_graphs:
    for function in graph.graph_def.library.function:
      for node in function.node_def:
        node.attr.pop("_gradient_op_type", None)
  place.write_bytes(content.SerializeToString(deterministic=True))
  (folder / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was


def describe(module: ServingModule, run: LoadedRun) -> dict[str, Any]:
  """Returns what the export_info.json of every artefact says: which model it holds, and whence it is."""
  return {
    "format": FORMAT,
    "task": module.task,
    "model": module.model.name,
    "architecture": module.model.architecture.to_dict(),
    "input_size": list(module.input_size),
    "num_classes": module.model.num_classes,
    "labels": [list(pair) for pair in module.labels],
    "settings": module.settings,
    "target": module.target,
    "max_pixels": module.max_pixels,
    "weights_sha256": weights_sha256(module.model),
    "run": str(run.folder),
    "checkpoint": os.path.relpath(run.checkpoint, run.folder),
    "step": run.step,
    "versions": {"spinenet_tf": spinenet_tf.__version__, "tensorflow": tf.__version__},
  }


def interfaces(functions: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
  """Returns names, types and shapes of the inputs and outputs of concrete functions."""

  def told(specs: dict[str, tf.TensorSpec]) -> dict[str, str]:
    sides = {name: ["?" if side is None else str(side) for side in spec.shape] for name, spec in specs.items()}
    return {name: f"{spec.dtype.name}[{', '.join(sides[name])}]" for name, spec in specs.items()}

  found = {}
  for name, function in functions.items():
    given, named = function.structured_input_signature
    inputs = {spec.name: spec for spec in given} | dict(named)
    found[name] = {"inputs": told(inputs), "outputs": told(function.structured_outputs)}
  return found


def weights_sha256(model: Network) -> str:
  """Returns the hash of a model's weights by name: equal for equal weights, whenever and wherever they were exported."""
  digest = hashlib.sha256()
  for name, variable in sorted(named_variables(model).items()):
    values = np.ascontiguousarray(variable.numpy())
    digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
    digest.update(values.tobytes())
  return digest.hexdigest()


def write_info(folder: pathlib.Path, info: dict[str, Any]) -> None:
  """Writes export_info.json into a folder."""
  (folder / INFO).write_text(json.dumps(info, indent=1) + "\n")


def verify(
  folder: str | os.PathLike,
  module: ServingModule,
  pictures: verification.Pictures,
  *,
  boxes: float = verification.BOX_TOLERANCE,
  scores: float = verification.SCORE_TOLERANCE,
) -> verification.Verification:
  """Compares a SavedModel with the run, by its pixels' signature and by its files' signature.

  Args:
    folder: of the SavedModel, with its export_info.json.
    module: that it was made of.
    pictures: to compare on.
    boxes: tolerance in pixels.
    scores: tolerance.

  Returns: the worse of the two.
  """
  loaded = load_exported(folder)
  expected = [module.source(array) for array in pictures.arrays]
  return verification.worst(
    verification.compare(expected, found, pictures.origin, settings=module.settings, boxes=boxes, scores=scores)
    for found in (
      [loaded(array) for array in pictures.arrays],
      loaded.of_files(verification.as_files(pictures)),
    )
  )


@contextlib.contextmanager
def replacing(
  output: str | os.PathLike,
  overwrite: bool,
  is_ours: Callable[[pathlib.Path], bool] = is_saved_model,
  kind: str = "SavedModel",
) -> Iterator[pathlib.Path]:
  """Gives a folder that takes the place of `output` when the block ends well, and vanishes when it does not.

  Args:
    output: where it goes.
    overwrite: whether an artefact of this kind, or an empty folder, may be there already.
    is_ours: tells whether a folder is such an artefact.
    kind: its name in errors.

  Raises: UserError when something is there that may not be replaced, or the place cannot be written.
  """
  place = pathlib.Path(os.path.abspath(output))
  if place.exists() or place.is_symlink():
    if not overwrite:
      raise UserError(f"{output} exists already; give another --output, or --overwrite")
    if not (is_ours(place) or (place.is_dir() and not any(place.iterdir()))):
      raise UserError(f"{output} is no {kind}, and is not overwritten; give another --output, or remove it yourself")
  folder = place.with_name(f".{place.name}.incomplete")
  try:
    shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
    folder.mkdir(parents=True)
  except OSError as error:
    raise UserError(f"{output} cannot be written ({error.strerror}); give another --output") from error
  try:
    yield folder
    old = place.with_name(f".{place.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
      os.rename(place, old)
    os.rename(folder, place)
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
