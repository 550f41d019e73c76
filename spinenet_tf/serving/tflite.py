"""A run becomes TFLite files, for phones and small boards; each is checked by the interpreter before it is kept.

One folder holds a file for each precision and form, "int8_nms.tflite" and its like, which takes one picture, RGB pixels 0 to
255 at the network's size, and needs no operation beyond those of the stock interpreter:

  float32  weights and arithmetic as trained
  float16  weights of half the size, arithmetic in float32 (float16 on GPUs)
  int8     whole numbers throughout, after calibration on representative pictures; takes uint8

  raw      scores and box codes of all anchors (of a classifier probabilities and features)
  nms      detections, by TFLite_Detection_PostProcess
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np
import tensorflow as tf
from absl import logging

from spinenet_tf.errors import UserError
from spinenet_tf.ops import portable, winograd
from spinenet_tf.serving import tflite_verify
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.exported import LABELS
from spinenet_tf.serving.load import load_run
from spinenet_tf.serving.module import Outputs, ServingModule
from spinenet_tf.serving.saved_model import describe, replacing, write_info
from spinenet_tf.serving.tflite_graph import FORMS, all_anchors, function_of, pixels_of
from spinenet_tf.serving.tflite_runtime import TFLiteModel

PRECISIONS = ("float32", "float16", "int8")
ANCHORS = "anchors.csv"


@dataclasses.dataclass(frozen=True)
class TFLiteExport:
  """What was exported.

  Attributes:
    path: of the folder.
    info: content of its export_info.json.
    checks: how each file, by its name, compares with the run.
  """

  path: pathlib.Path
  info: dict[str, Any]
  checks: dict[str, tflite_verify.Check]

  def __str__(self) -> str:
    height, width = self.info["input_size"]
    lines = [f"{self.info['model']} at {height} x {width}, {self.info['num_classes']} classes"]
    for name, check in self.checks.items():
      lines.append(f"{self.path / name}: {(self.path / name).stat().st_size / 1e6:.2f} MB, {check}")
    return "\n".join(lines)


def export(
  source: str | os.PathLike,
  output: str | os.PathLike,
  *,
  precisions: Sequence[str] = PRECISIONS,
  forms: Sequence[str] | None = None,
  overwrite: bool = False,
  input_size: tuple[int, int] | None = None,
  images: Sequence[str | os.PathLike] = (),
  count: int = 8,
  calibration_count: int = 100,
  least: dict[str, float] | None = None,
  **settings: Any,
) -> TFLiteExport:
  """Writes TFLite files of a run and verifies them.

  Args:
    source: a run directory or a checkpoint in it, as of `st.load`: of RetinaNet or of a classifier.
    output: folder to be made.
    precisions: of `PRECISIONS`.
    forms: of `FORMS`; all that the task has when None: a classifier has raw only.
    overwrite: replace such a folder that is there.
    input_size: another (height, width) of the network's input than it was trained with, in pixels.
    images: image files or folders, to calibrate and to verify on; int8 needs some, the others are verified on generated
      pictures without any.
    count: images that are taken from these to verify on.
    calibration_count: images that are taken to calibrate on.
    least: precision -> the least agreement with the run, see `tflite_verify.LEAST`; what is not named stays.
    **settings: arguments of `Detector` or `ImageClassifier` that take the place of the run's, such as score_threshold.

  Raises: UserError when there is no such run or checkpoint, the task has no TFLite file, something is at the place already,
    it cannot be written, or an argument is out of range; VerificationError when a file agrees less. Then nothing is at the
    place.
  """
  _check_names("precisions", precisions, PRECISIONS)
  _check_names("forms", forms or FORMS, FORMS)
  if "int8" in precisions and not images:
    raise UserError("int8 is calibrated on representative images, and none were given; give --images=FOLDER of photos")
  pictures = verification.pictures(images, count)
  with replacing(output, overwrite, _is_ours, "folder of TFLite files") as folder:
    run = load_run(source, input_size=input_size)
    if run.task in ("mask_rcnn", "solo"):
      raise UserError(
        f"{os.fspath(source)!r} is a run of {run.task}, which has no TFLite file; export it to "
        f"{'a SavedModel' if run.task == 'solo' else 'ONNX or a SavedModel'}"
      )
    module = ServingModule.of(run.use(**settings), target="gpu")  # direct convolutions
    if module.settings.get("legacy_plus_one"):
      raise UserError(
        f"{os.fspath(source)!r} has detection.legacy_plus_one on, and TFLite's operation decodes boxes without; export it to "
        "ONNX or a SavedModel"
      )
    info = describe(module, run)
    del info["target"], info["max_pixels"]
    known = FORMS if module.task == "retinanet" else FORMS[:1]
    if forms and (missing := sorted(set(forms) - set(known))):
      raise UserError(f"a run of {module.task} has no TFLite file {missing}; it has {list(known)}")
    chosen = verification.pictures(images, calibration_count)
    calibration = [pixels_of(module, array) for array in chosen.arrays] if "int8" in precisions else []
    expected = tflite_verify.answers_of_run(module, pictures)
    info["files"], checks = {}, {}
    for form in forms or known:
      traced = trace(function_of(module, form), module)
      for precision in precisions:
        name = f"{precision}_{form}.tflite"
        # Suppression is computed, and answers, in float32.
        stored = tf.int8 if (precision, form) == ("int8", "raw") else tf.float32
        _write(folder / name, convert(traced, module, precision, calibration, stored))
        model = TFLiteModel(folder / name)
        info["files"][name] = {"tensors": _checked_tensors(model, precision)}
        check = tflite_verify.verify(model, module, form, precision, pictures, expected, least or {})
        checks[name] = check.passed_or_raise(name)
        info["files"][name]["verification"] = check.to_dict()
    write_info(folder, info)
    (folder / LABELS).write_text("".join(f"{number}\t{' '.join(name.split())}\n" for number, name in module.labels))
    if module.task == "retinanet":
      np.savetxt(folder / ANCHORS, all_anchors(module.model), "%.3f", ",", header="ymin,xmin,ymax,xmax", comments="")
  return TFLiteExport(pathlib.Path(output), info, checks)


def trace(function: Callable[[tf.Tensor], Outputs], module: ServingModule) -> Any:
  """Returns a function of `tflite_graph.function_of` as tf.function, traced with operations that every converter takes."""
  spec = tf.TensorSpec([1, *module.input_size, 3], tf.float32, "images")
  with winograd.enabled(False), portable.portable():
    traced = tf.function(function, input_signature=[spec], autograph=False)
    traced.get_concrete_function()
  return traced


def convert(
  traced: Any,
  module: ServingModule,
  precision: str = "float32",
  calibration: Sequence[np.ndarray] = (),
  stored: tf.DType = tf.float32,
) -> bytes:
  """Converts a traced function.

  Args:
    traced: as of `trace`.
    module: whose variables it uses.
    precision: of `PRECISIONS`.
    calibration: float32[h, w, 3] each, pixels; for int8.
    stored: type of the outputs; of int8 it can be tf.int8.

  Returns: content of the file.
  """
  root = tf.Module()
  root.variables_by_name, root.function = module.variables, traced
  converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()], root)
  converter.allow_custom_ops = True  # TFLite_Detection_PostProcess
  if precision != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if precision == "float16":
    converter.target_spec.supported_types = [tf.float16]
  if precision == "int8":
    converter.representative_dataset = lambda: _representative(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, stored
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # it tells of every temporary file
  try:
    return converter.convert()
  finally:
    logging.set_verbosity(verbosity)


def _representative(calibration: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
  """Yields the pictures; the first has a black and a white corner, so that one step of the input is one of a pixel."""
  for i, picture in enumerate(calibration):
    if i == 0:
      picture = picture.copy()
      picture[-1, -1], picture[-1, -2] = 0, 255
    yield [picture[None]]


def _checked_tensors(model: TFLiteModel, precision: str) -> dict[str, dict[str, Any]]:
  """Returns what is to be known of the file's input and outputs.

  Raises: VerificationError when a quantised file does not take pixels as they are.
  """
  tensors = model.quantization()
  given = tensors["images"]
  if precision == "int8" and (given["dtype"] != "uint8" or abs(given["scale"] - 1) > 1e-3 or given["zero_point"]):
    raise verification.VerificationError(f"the quantised input is {given}; it should take uint8 pixels, 0 to 255")
  return tensors


def _write(path: pathlib.Path, content: bytes) -> None:
  try:
    path.write_bytes(content)
  except OSError as error:
    raise UserError(f"cannot write {path} ({error.strerror}); free some space, or give another --output") from error


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
  if unknown := sorted(set(given) - set(known)):
    raise UserError(f"{what} {unknown} are not known; there are {list(known)}")
  if not given:
    raise UserError(f"no {what} were given; there are {list(known)}")


def _is_ours(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(path.name.partition("_")[0] in PRECISIONS for path in folder.glob("*.tflite"))
