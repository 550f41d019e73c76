"""A run becomes ONNX files, for ONNX Runtime and TensorRT 10; each is checked by ONNX Runtime before it is kept.

One folder holds a file for each flavour, with dynamic batch:

  images.onnx  uint8[B, H, W, 3] of any size -> the answer in pixels of the images: resizing and all inside
  nms.onnx     float32[B, h, w, 3], normalised pixels -> detections in pixels of the network's input
  raw.onnx     float32[B, h, w, 3] -> scores and boxes before non-maximum suppression

Non-maximum suppression is ONNX's own operation, see `serving.onnx_nms`. tf2onnx converts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import tensorflow as tf

from spinenet_tf.data.preprocess import MEAN, STD
from spinenet_tf.errors import UserError
from spinenet_tf.ops import portable, winograd
from spinenet_tf.serving import onnx_verify, packages
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.exported import LABELS
from spinenet_tf.serving.load import load_run
from spinenet_tf.serving.module import Outputs, ServingModule
from spinenet_tf.serving.saved_model import describe, replacing, write_info

OPSET = 17  # read by ONNX Runtime from 1.12 and TensorRT from 8.6 on
FLAVOURS = ("images", "nms", "raw")
METADATA = "spinenet_tf"  # the key in a file's metadata whose value is JSON


@dataclasses.dataclass(frozen=True)
class OnnxExport:
  """What was exported.

  Attributes:
    path: of the folder.
    info: content of its export_info.json.
    verifications: how each flavour compares with the run.
  """

  path: pathlib.Path
  info: dict[str, Any]
  verifications: dict[str, verification.Verification]

  def __str__(self) -> str:
    height, width = self.info["input_size"]
    lines = [f"{self.info['model']} at {height} x {width}, {self.info['num_classes']} classes, ONNX opset {OPSET}"]
    for flavour, checked in self.verifications.items():
      size = (self.path / f"{flavour}.onnx").stat().st_size
      lines.append(f"{self.path / flavour}.onnx: {size / 1e6:.1f} MB, verified on {checked}")
    return "\n".join(lines)


def export(
  source: str | os.PathLike,
  output: str | os.PathLike,
  *,
  flavours: Sequence[str] | None = None,
  overwrite: bool = False,
  input_size: tuple[int, int] | None = None,
  images: Sequence[str | os.PathLike] = (),
  count: int = 8,
  **settings: Any,
) -> OnnxExport:
  """Writes ONNX files of a run and verifies them.

  Args:
    source: a run directory or a checkpoint in it, as of `st.load`; not of SOLO.
    output: folder to be made.
    flavours: of `FLAVOURS`; all that the task has when None: a classifier has no nms.
    overwrite: replace such a folder that is there.
    input_size: another (height, width) of the network's input than it was trained with, in pixels.
    images: image files or folders to verify on; generated pictures without any.
    count: images that are taken from these.
    **settings: arguments of `Detector` or `ImageClassifier` that take the place of the run's, such as score_threshold.

  Raises: UserError when a package is missing, there is no such run or checkpoint, something is at the place already, it
    cannot be written, or an argument is out of range; VerificationError when the answers differ. Then nothing is at the
    place.
  """
  packages.require("onnx", "tf2onnx", "onnx", "onnxruntime")
  if unknown := sorted(set(flavours or ()) - set(FLAVOURS)):
    raise UserError(f"flavours {unknown} of ONNX files are not known; there are {list(FLAVOURS)}")
  pictures = verification.pictures(images, count)
  with replacing(output, overwrite, _is_ours, "folder of ONNX files") as folder:
    run = load_run(source, input_size=input_size)
    if run.task == "solo":
      raise UserError(f"{os.fspath(source)!r} is a run of solo, which has no ONNX file; export it to a SavedModel")
    # Direct convolutions. Two of them, as each keeps the graph of its first trace: one is converted, one compared with.
    used = run.use(**settings)
    module, reference = (ServingModule.of(used, target="gpu") for _ in range(2))
    available = [name for name in FLAVOURS if name != "nms" or module.task != "classification"]
    if flavours and (missing := sorted(set(flavours) - set(available))):
      raise UserError(f"a run of {module.task} has no ONNX file {missing}; it has {available}")
    chosen = [name for name in available if not flavours or name in flavours]
    info = {**describe(module, run), "opset": OPSET}
    del info["target"], info["max_pixels"]
    info["versions"] |= {name: packages.version(name) for name in ("tf2onnx", "onnx", "onnxruntime")}
    found = {}
    for name in chosen:
      file = folder / f"{name}.onnx"
      _write(convert(*function_of(module, name)), {**info, "flavour": name}, file)
      checked = onnx_verify.verify(file, reference, *function_of(reference, name), pictures)
      found[name] = checked.check(f"{name}.onnx")
    info["verification"] = {name: checked.to_dict() for name, checked in found.items()}
    write_info(folder, info)
    (folder / LABELS).write_text("".join(f"{number}\t{' '.join(name.split())}\n" for number, name in module.labels))
  return OnnxExport(pathlib.Path(output), info, found)


def function_of(module: ServingModule, flavour: str) -> tuple[Callable[[tf.Tensor], Outputs], tf.TensorSpec]:
  """Returns what a flavour computes and what it takes.

  Args:
    module: of the run.
    flavour: of `FLAVOURS`.
  """
  if flavour == "images":
    # Cast first: ONNX resizes to the type that it is given.
    return lambda images: module.answer(tf.cast(images, tf.float32)), tf.TensorSpec(
      [None] * 3 + [3], tf.uint8, "images"
    )
  spec = tf.TensorSpec([None, *module.input_size, 3], tf.float32, "images")
  if flavour == "raw":
    return module.raw, spec

  def detect(images: tf.Tensor) -> Outputs:
    found = module.find(images)
    own = found["detection_classes"]
    ids = tf.gather(tf.constant(module.source.class_ids, tf.int64), tf.maximum(own, 0))
    return {**found, "detection_classes": tf.where(own >= 0, ids, -1)}

  return detect, spec


def _write(model: Any, info: dict[str, Any], file: pathlib.Path) -> None:
  """Writes an onnx.ModelProto with what is to be known of it in its metadata.

  Raises: UserError when the file system refuses.
  """
  import onnx

  about = {**info, "mean": [255 * x for x in MEAN], "deviation": [255 * x for x in STD]}
  onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
  model.producer_name, model.producer_version = "spinenet_tf", info["versions"]["spinenet_tf"]
  for value in (*model.graph.input, *model.graph.output):
    value.type.tensor_type.shape.dim[0].dim_param = "batch"
  onnx.checker.check_model(model)
  try:
    file.write_bytes(model.SerializeToString())
  except OSError as error:
    raise UserError(f"cannot write {file} ({error.strerror}); free some space, or give another --output") from error


def convert(function: Callable[[tf.Tensor], Outputs], spec: tf.TensorSpec) -> Any:
  """Converts a function of one tensor.

  Args:
    function: as tf.function takes it; returns tensors by name, which become the names of the outputs.
    spec: of its argument; the name becomes that of the input.

  Returns: an onnx.ModelProto.
  """
  from spinenet_tf.serving.onnx_nms import handlers

  with _quietly(), winograd.enabled(False), portable.portable(one_op_nms=True):
    import tf2onnx.convert

    traced = tf.function(function, autograph=False)
    model, _ = tf2onnx.convert.from_function(traced, input_signature=[spec], opset=OPSET, custom_op_handlers=handlers())
  gc.collect()  # tf2onnx's graph refers to itself, and holds a copy of all weights from each of its passes: gigabytes
  return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Keeps tf2onnx's settings to this block; without the second one it copies the whole graph before each of its steps."""
  names = ("TF_CPP_MIN_LOG_LEVEL", "TF2ONNX_CATCH_ERRORS")
  before = {name: os.environ.get(name) for name in names}
  os.environ["TF2ONNX_CATCH_ERRORS"] = "FALSE"
  logging.getLogger("tf2onnx").setLevel(logging.ERROR)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _is_ours(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any((folder / f"{name}.onnx").is_file() for name in FLAVOURS)
