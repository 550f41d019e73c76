"""A run becomes a SavedModel whose network runs in TensorRT engines: TF-TRT, in TensorFlow 2.15 to 2.17 on NVIDIA GPUs.

The SavedModel of `serving.saved_model` is converted, one signature of it, and the engines are built before it is kept. What
TF-TRT does not take (decoding, our loop of non-maximum suppression, RoIAlign) stays with TensorFlow in the same graph.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from spinenet_tf.compat import TF_VERSION
from spinenet_tf.errors import UserError
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.agreement import agreement
from spinenet_tf.serving.combined_nms import CombinedModule
from spinenet_tf.serving.exported import LABELS, load_exported
from spinenet_tf.serving.load import load_run
from spinenet_tf.serving.module import ServingModule
from spinenet_tf.serving.saved_model import describe, interfaces, replacing, write, write_info

PRECISIONS = {"FP32": 0.99, "FP16": 0.95, "INT8": 0.8}  # and the least agreement with the run that is let pass
_RAW_TOLERANCE = {"FP32": 1e-3, "FP16": 0.05, "INT8": 0.3}  # of scores before non-maximum suppression
SIGNATURES = ("serving_default", "image_bytes", "raw")
SUPPRESSION = ("loop", "combined")
_VERSIONS = ((2, 15), (2, 17))
_ELSE = "or take the way by ONNX to TensorRT 10: export/onnx.py, see docs/export.md"


@dataclasses.dataclass(frozen=True)
class TrtExport:
  """What was exported.

  Attributes:
    path: of the SavedModel.
    info: content of its export_info.json; under "tensorrt" precision, batch sizes and how it compares with the run.
  """

  path: pathlib.Path
  info: dict[str, Any]

  def __str__(self) -> str:
    about = self.info["tensorrt"]
    return (
      f"{self.info['model']}, {about['precision']}, engines for batches of {about['batches'][0]} to {about['batches'][-1]}\n"
      f"compared on {about['pictures']}: {about['compared']}\n{self.path}"
    )


def check_machine() -> None:
  """Checks that TF-TRT can work here.

  Raises: UserError that names the first thing that is missing and the remedy.
  """
  if not _VERSIONS[0] <= TF_VERSION <= _VERSIONS[1]:
    raise UserError(
      f"TF-TRT is part of TensorFlow 2.15 to 2.17, this is {tf.__version__}: run this script in an environment with one of "
      f"these (requirements/tf215.txt) and TensorRT 8.6, on the kind of GPU that will serve; {_ELSE}"
    )
  if not tf.sysconfig.get_build_info().get("is_tensorrt_build"):
    raise UserError(
      f"this TensorFlow {tf.__version__} was built without TensorRT: install the GPU build, pip install "
      f"'tensorflow[and-cuda]=={TF_VERSION[0]}.{TF_VERSION[1]}.*'; {_ELSE}"
    )
  from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils

  if not _pywrap_py_utils.is_tensorrt_enabled():
    raise UserError(
      "TensorRT's libraries are not found: pip install 'tensorrt==8.6.*' and put its folder of libnvinfer.so.8 on "
      f"LD_LIBRARY_PATH; {_ELSE}"
    )
  if not tf.config.list_physical_devices("GPU"):
    raise UserError(f"TensorFlow sees no GPU here, and engines are built on the kind of GPU that will serve; {_ELSE}")


def export(
  source: str | os.PathLike,
  output: str | os.PathLike,
  *,
  precision: str = "FP16",
  batches: Sequence[int] = (1, 8),
  signature: str = "serving_default",
  suppression: str = "loop",
  images: Sequence[str | os.PathLike] = (),
  calibration: int = 64,
  count: int = 8,
  minimum: float | None = None,
  workspace_gb: float = 4.0,
  overwrite: bool = False,
  input_size: tuple[int, int] | None = None,
  **settings: Any,
) -> TrtExport:
  """Writes a SavedModel with TensorRT engines for this machine's kind of GPU.

  Args:
    source: a run directory or a checkpoint in it.
    output: folder to be made.
    precision: "FP32", "FP16" or "INT8", which is calibrated on `images`.
    batches: batch sizes that engines are built for; those between the least and the most work too, others are computed by
      TensorFlow.
    signature: the one that is converted and kept: "serving_default", "image_bytes", or "raw" where what follows the network
      is to be done elsewhere.
    suppression: "loop", ours, computed by TensorFlow; of a RetinaNet also "combined", see `serving.combined_nms`, which
      TF-TRT takes.
    images: image files or folders to calibrate and to compare on; INT8 needs them.
    calibration: images for INT8.
    count: images to compare on.
    minimum: the least agreement with the run that is let pass, an average precision; `PRECISIONS` when None.
    workspace_gb: memory that TensorRT may use in an engine.
    overwrite: replace a SavedModel or an empty folder that is there.
    input_size: another (height, width) of the network's input than it was trained with, in pixels.
    **settings: as of `saved_model.export`.

  Raises: UserError when TF-TRT cannot work here, before anything else is done, or an argument is out of range;
    VerificationError when the answers differ too much.
  """
  check_machine()
  sizes = _check(precision, batches, signature, suppression, images, calibration)
  pictures = verification.pictures(images, count)
  with replacing(output, overwrite) as folder:
    run = load_run(source, input_size=input_size)
    kind = CombinedModule.of if suppression == "combined" else ServingModule.of
    module = kind(run.use(**settings), target="gpu")
    plain = folder.with_name(f"{folder.name}.plain")
    try:
      write(module, plain)
      feed = Feed(module, signature)
      calibrated = verification.pictures(images, calibration).arrays if precision == "INT8" else ()
      _convert(plain, folder, feed, precision, sizes, pictures.arrays, calibrated, workspace_gb)
      (folder / "assets").mkdir(exist_ok=True)
      shutil.copy(plain / "assets" / LABELS, folder / "assets" / LABELS)
    finally:
      shutil.rmtree(plain, ignore_errors=True)
    info = describe(module, run)
    info["signatures"] = interfaces({signature: module.signatures()[signature]})
    about = {"precision": precision, "batches": sizes, "suppression": suppression, "pictures": pictures.origin}
    info["tensorrt"] = about
    write_info(folder, info)
    if signature == "raw":
      about["compared"] = compare_raw(folder, feed, pictures.arrays, _RAW_TOLERANCE[precision])
    else:
      about["compared"] = compare(folder, feed, pictures, PRECISIONS[precision] if minimum is None else minimum)
    write_info(folder, info)
  return TrtExport(pathlib.Path(output), info)


def _check(
  precision: str, batches: Sequence[int], signature: str, suppression: str, images: Sequence, calibration: int
) -> list[int]:
  """Returns the batch sizes, rising."""
  for name, value, choices in (
    ("precision", precision, tuple(PRECISIONS)),
    ("signature", signature, SIGNATURES),
    ("suppression", suppression, SUPPRESSION),
  ):
    if value not in choices:
      raise UserError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
  if not batches or any(size < 1 for size in batches):
    raise UserError(f"batches are {list(batches)}; give batch sizes from 1 on, such as 1,8")
  if precision == "INT8" and not images:
    raise UserError("INT8 is calibrated on images like those that will come; give --images=FOLDER")
  if calibration < 1:
    raise UserError(f"calibration is {calibration}; it is a number of images, 1 or more")
  return sorted(set(batches))


@dataclasses.dataclass(frozen=True)
class Feed:
  """Makes a signature's inputs of pictures.

  Attributes:
    module: whose signature it is.
    signature: its name.
  """

  module: ServingModule
  signature: str

  def __call__(self, arrays: Sequence[np.ndarray], batch: int) -> dict[str, tf.Tensor]:
    """Returns a batch of `batch` pictures, the first ones and as often as is needed, all of the network's size."""
    height, width = self.module.input_size
    chosen = [arrays[i % len(arrays)] for i in range(batch)]
    resized = [np.asarray(Image.fromarray(array).resize((width, height))) for array in chosen]
    if self.signature == "raw":
      return {"images": tf.stack([self.module.prepare(tf.constant(array)) for array in resized])}
    if self.signature == "image_bytes":
      return {"image_bytes": tf.constant(verification.as_files(verification.Pictures(tuple(resized), "")))}
    return {"images": tf.constant(np.stack(resized))}


def _convert(
  plain: pathlib.Path,
  folder: pathlib.Path,
  feed: Feed,
  precision: str,
  batches: list[int],
  arrays: Sequence[np.ndarray],
  calibrated: Sequence[np.ndarray],
  workspace_gb: float,
) -> None:
  """Converts one signature, builds its engines for all batch sizes within the given ones, and saves it."""

  def calibration() -> Iterator[dict[str, tf.Tensor]]:
    for first in range(0, len(calibrated), batches[-1]):
      yield feed(calibrated[first : first + batches[-1]], batches[-1])

  def profiles() -> Iterator[dict[str, tf.Tensor]]:
    for batch in batches:
      yield feed(arrays, batch)

  converter = _converter()(
    input_saved_model_dir=str(plain),
    input_saved_model_signature_key=feed.signature,
    use_dynamic_shape=True,
    dynamic_shape_profile_strategy="Range",
    precision_mode=precision,
    max_workspace_size_bytes=int(workspace_gb * 2**30),
    minimum_segment_size=10,  # scraps of pre- and post-processing stay with TensorFlow
    maximum_cached_engines=len(batches),
    use_calibration=precision == "INT8",
    allow_build_at_runtime=False,  # a request of another size is computed by TensorFlow, not kept waiting for minutes
  )
  try:
    converter.convert(**({"calibration_input_fn": calibration} if precision == "INT8" else {}))
    converter.build(input_fn=profiles)
    converter.save(str(folder))
  except (RuntimeError, ValueError, tf.errors.OpError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    raise UserError(f"TF-TRT could not convert {feed.signature!r}: {reason}; try signature 'raw', {_ELSE}") from error


def _converter() -> Callable[..., Any]:
  return tf.experimental.tensorrt.Converter


def compare(
  folder: str | os.PathLike, feed: Feed, pictures: verification.Pictures, minimum: float
) -> dict[str, float | str]:
  """Compares the answers of a SavedModel with those of the run.

  Args:
    folder: of the SavedModel.
    feed: its module and signature.
    pictures: to compare on.
    minimum: the least average precision with the run's certain objects for ground truth; of a classifier the least share of
      pictures with the same first class.

  Returns: the measured values.

  Raises: VerificationError when they agree less.
  """
  loaded, source = load_exported(folder), feed.module.source
  expected = source(list(pictures.arrays))
  found = (
    loaded.of_files(verification.as_files(pictures))
    if feed.signature == "image_bytes"
    else loaded(list(pictures.arrays))
  )
  if feed.module.task == "classification":
    measured = {"first class": float(np.mean([a.classes[0] == b.classes[0] for a, b in zip(expected, found)]))}
  else:
    measured = agreement(expected, found, [array.shape[:2] for array in pictures.arrays])
  value = next(iter(measured.values()))
  if not value >= minimum:
    raise verification.VerificationError(
      f"the engines agree with the run by {value:.3f} only ({measured}; at least {minimum} is asked) on {pictures.origin}; "
      "nothing was kept: take a higher precision, more images to calibrate on, or a lower --minimum"
    )
  return measured


def compare_raw(
  folder: str | os.PathLike, feed: Feed, arrays: Sequence[np.ndarray], tolerance: float
) -> dict[str, float]:
  """Compares scores before non-maximum suppression (of a classifier: logits) with the network's own.

  Returns: the largest difference.

  Raises: VerificationError when it is above `tolerance`.
  """
  function = tf.saved_model.load(os.fspath(folder)).signatures["raw"]
  inputs = feed(arrays, 1)
  name = "logits" if feed.module.task == "classification" else "raw_scores"
  value = float(np.abs(function(**inputs)[name] - feed.module.raw(inputs["images"])[name]).max())
  if not value <= tolerance:
    raise verification.VerificationError(
      f"{name} of the engines differ from the run's by {value:.3g}, at most {tolerance} is let pass; nothing was kept: take "
      "a higher precision, or more images to calibrate on"
    )
  return {f"largest difference of {name}": value}
