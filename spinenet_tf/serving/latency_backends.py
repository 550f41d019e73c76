"""Artefacts as things to be timed: a SavedModel (TF-TRT's too), ONNX files, TFLite files.

Each backend is used in a process of its own, and imports its runtime there and nothing larger: ONNX Runtime and LiteRT run
without TensorFlow, so that the peak of memory is theirs. Pictures are decoded by TensorFlow inside a SavedModel and by Pillow
for the others, which is what their users do.
"""

from __future__ import annotations

import abc
import functools
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.serving.onnx_runtime import OnnxModel
from spinenet_tf.serving.tflite_runtime import TFLiteModel

Stage = Callable[[], Any]
PADDING = (124, 116, 104)  # the mean colour, which normalisation turns into (almost) 0


class Backend(abc.ABC):
  """One artefact, loaded.

  Attributes:
    kind: what it is called in tables.
    runtime: name and version.
    about: "model", "task", "input_size" (height, width) as far as the artefact tells them.
    differences: stage -> measured stages, of which the first minus the others is that stage.
  """

  kind = ""

  def __init__(self):
    self.runtime = ""
    self.about: dict[str, Any] = {}
    self.differences: dict[str, tuple[str, ...]] = {}

  @abc.abstractmethod
  def end_to_end(self, files: Sequence[bytes]) -> Any:
    """Takes encoded pictures of one size to detections (or classes), on the host."""

  def stages(self, files: Sequence[bytes]) -> dict[str, Stage]:
    """Returns parts of the way that can be timed alone; may load more files."""
    return {"decode": lambda: [decode(file) for file in files]}


def open_backend(path: str, threads: int) -> Backend:
  """Loads an artefact: a SavedModel folder, an .onnx or .tflite file.

  Args:
    path: of it.
    threads: of the runtime; 0 leaves the choice to it.

  Raises: UserError when it is none of these, or the runtime is not installed.
  """
  place = pathlib.Path(path)
  if (place / "saved_model.pb").is_file():
    return SavedModelBackend(place, threads)
  if place.suffix == ".onnx" and place.is_file():
    return OnnxBackend(place, threads)
  if place.suffix == ".tflite" and place.is_file():
    return TFLiteBackend(place, threads)
  raise UserError(f"{path!r} is no artefact; give a SavedModel folder, an .onnx file or a .tflite file")


class SavedModelBackend(Backend):
  """A SavedModel: its signature image_bytes, else serving_default, else raw, the first that it has.

  Pictures are decoded in the signature, or before it by the same operation; one with a batch of its own is called as often
  as it takes.
  """

  kind = "SavedModel"

  def __init__(self, path: pathlib.Path, threads: int):
    super().__init__()
    import tensorflow as tf

    if threads:
      tf.config.threading.set_intra_op_parallelism_threads(threads)
      tf.config.threading.set_inter_op_parallelism_threads(threads)
    self._tf, self.runtime = tf, f"TensorFlow {tf.__version__}"
    self._loaded = tf.saved_model.load(str(path))  # kept: signatures hold its variables weakly
    self._signatures = self._loaded.signatures
    self.about = _read_info(path)
    if tensorrt := self.about.get("tensorrt"):
      self.kind = f"TF-TRT {tensorrt['precision']}"
    self._name = next((name for name in ("image_bytes", "serving_default", "raw") if name in self._signatures), None)
    if self._name is None:
      raise UserError(
        f"{path} has the signatures {list(self._signatures)}; image_bytes, serving_default or raw is timed"
      )
    self._run = self._signatures[self._name]
    inputs = self._run.structured_input_signature[1]
    if len(inputs) != 1:
      raise UserError(f"{path}: its signature {self._name} takes {list(inputs)}; one of a single input can be timed")
    ((self._input, self._spec),) = inputs.items()
    if self._name != "raw" and self._spec.dtype not in (tf.string, tf.uint8):
      raise UserError(
        f"{path}: its signature {self._name} takes {self._spec}; encoded pictures or uint8 ones can be timed"
      )

  def end_to_end(self, files: Sequence[bytes]) -> Any:
    """Runs the signature on all files."""
    size = self._spec.shape[0] or len(files)
    return [self._call(files[first : first + size]) for first in range(0, len(files), size)]

  def _call(self, files: Sequence[bytes]) -> Any:
    tf = self._tf
    if self._spec.dtype == tf.string:
      value = tf.constant(list(files))
    else:
      value = tf.stack([self._decode(file) for file in files])
      value = self._preprocess(value) if self._name == "raw" else value
    return _fetched(self._run(**{self._input: value}))

  def stages(self, files: Sequence[bytes]) -> dict[str, Stage]:
    """Decoding and preprocessing as the signature does them, and the signature raw."""
    found: dict[str, Stage] = {"decode": lambda: [self._decode(file).numpy() for file in files]}
    if "raw" not in self._signatures:
      return found
    preprocess = self._preprocess
    pictures = self._tf.stack([self._decode(file) for file in files])
    inputs, raw = preprocess(pictures), self._signatures["raw"]
    found["preprocess"] = lambda: preprocess(pictures).numpy()
    found["network"] = lambda: _fetched(raw(images=inputs))
    if self._name != "raw":
      self.differences = {"nms": ("end_to_end", "decode", "preprocess", "network")}
    return found

  @functools.cached_property
  def _preprocess(self) -> Any:
    """The function from uint8[B, H, W, 3] to the network's input, as the run has it."""
    from spinenet_tf.data.preprocess import preprocess_crop, preprocess_image

    size, tf = tuple(self.about["input_size"]), self._tf

    def preprocess(images: Any) -> Any:
      if self.about["task"] == "classification":
        return preprocess_crop(images, size, self.about["settings"]["crop"])
      return preprocess_image(images, size)[0]

    return tf.function(preprocess, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False)

  def _decode(self, file: bytes) -> Any:
    return self._tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


class OnnxBackend(Backend):
  """An ONNX file of `serving.onnx`; the files of the same folder give the parts."""

  kind = "ONNX"

  def __init__(self, path: pathlib.Path, threads: int):
    super().__init__()
    self._threads, self._path = threads, path
    self._model = OnnxModel(path, threads)
    self.runtime, self.about = self._model.runtime, self._model.info
    if not self._model.takes_pixels and "input_size" not in self.about:
      raise UserError(f"{path} does not tell its input size; give a file that export/onnx.py wrote")

  def end_to_end(self, files: Sequence[bytes]) -> Any:
    """Decodes with Pillow and runs the file; resizes before, where the file takes the network's input."""
    return self._model(self._inputs(files, self._model.takes_pixels))

  def stages(self, files: Sequence[bytes]) -> dict[str, Stage]:
    """The files nms.onnx and raw.onnx beside this one; what they do less is the preprocessing, and the suppression."""
    found = super().stages(files)
    pixels = self._inputs(files, self._model.takes_pixels)
    found["run"] = lambda: self._model(pixels)
    network = self._inputs(files, False)
    for stage, name in (("run_nms", "nms.onnx"), ("network", "raw.onnx")):
      if (place := self._path.with_name(name)).is_file():
        model = self._model if place.samefile(self._path) else OnnxModel(place, self._threads)
        found[stage] = lambda model=model: model(network)
    preprocess = ("run", "run_nms") if self._model.takes_pixels else ("end_to_end", "run", "decode")
    self.differences = {"preprocess": preprocess, "nms": ("run_nms", "network")}
    return found

  def _inputs(self, files: Sequence[bytes], as_pixels: bool) -> np.ndarray:
    pictures = [decode(file) for file in files]
    if as_pixels:
      return np.stack(pictures)
    return normalize(np.stack([letterbox(picture, self.about["input_size"]) for picture in pictures]))


class TFLiteBackend(Backend):
  """A TFLite file of `serving.tflite`, which takes one picture at a time; the raw file beside it gives the parts."""

  def __init__(self, path: pathlib.Path, threads: int):
    super().__init__()
    self._path, self._threads = path, threads
    self._model = TFLiteModel(path, threads)
    self.runtime = self._model.runtime
    self.about = {**self._model.info, "input_size": list(self._model.input_size)}
    self._precision = path.stem.partition("_")[0]
    self.kind = f"TFLite {self._precision}"

  def end_to_end(self, files: Sequence[bytes]) -> Any:
    """Decodes, resizes and runs, picture by picture."""
    return [self._model.stored(letterbox(decode(file), self._model.input_size)) for file in files]

  def stages(self, files: Sequence[bytes]) -> dict[str, Stage]:
    """Decoding, resizing, the file, and the raw file beside it, which has no suppression."""
    found = super().stages(files)
    pictures = [decode(file) for file in files]
    inputs = [letterbox(picture, self._model.input_size) for picture in pictures]
    found["preprocess"] = lambda: [letterbox(picture, self._model.input_size) for picture in pictures]
    found["run"] = lambda: [self._model.stored(image) for image in inputs]
    place = self._path.with_name(f"{self._precision}_raw.tflite")
    if place.is_file():
      raw = self._model if place.samefile(self._path) else TFLiteModel(place, self._threads)
      found["network"] = lambda: [raw.stored(image) for image in inputs]
      self.differences = {"nms": ("run", "network")}
    return found


def decode(file: bytes) -> np.ndarray:
  """Returns uint8[H, W, 3], RGB, of an encoded picture."""
  return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def letterbox(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes uint8[H, W, 3] into uint8[h, w, 3] as `preprocess_image` does: bilinear, no anti-aliasing, padded below and right.

  The padding is the mean colour, which is about 0 after normalisation. A classifier's crop, which takes as long, is not made.
  """
  height, width = picture.shape[:2]
  scale = min(size[0] / height, size[1] / width)
  new = max(1, round(height * scale)), max(1, round(width * scale))
  image = Image.fromarray(picture)
  if new != (height, width):
    image = image.transform((new[1], new[0]), Image.Transform.EXTENT, (0, 0, width, height), Image.Resampling.BILINEAR)
  canvas = np.empty((*size, 3), np.uint8)
  canvas[:] = PADDING
  canvas[: new[0], : new[1]] = np.asarray(image)
  return canvas


def normalize(pixels: np.ndarray) -> np.ndarray:
  """Returns float32 of the same shape: the network's input of uint8 pixels [..., 3]."""
  mean, deviation = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
  return (pixels - mean) / deviation


def _fetched(outputs: dict[str, Any]) -> list[np.ndarray]:
  return [value.numpy() for value in outputs.values()]


def _read_info(folder: pathlib.Path) -> dict[str, Any]:
  """Returns what export_info.json beside an artefact says."""
  path = folder / "export_info.json"
  return json.loads(path.read_text()) if path.is_file() else {}
