"""TFLite files of `serving.tflite`, run by LiteRT, or by TensorFlow's interpreter where that is not installed."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Callable

import numpy as np

from spinenet_tf.errors import UserError
from spinenet_tf.serving.packages import version


class TFLiteModel:
  """One TFLite file, which takes one picture.

  Args:
    path: of the file.
    threads: of the interpreter; 0 leaves the choice to it.

  Attributes:
    info: content of export_info.json beside the file; empty without one.
    runtime: name and version.
    input_size: (height, width) in pixels.
    dtype: of the input.

  Raises: UserError when the file cannot be read.
  """

  def __init__(self, path: str | os.PathLike, threads: int = 0):
    place = pathlib.Path(path)
    make, self.runtime = _interpreter()
    try:
      self._interpreter = make(model_path=str(place), num_threads=threads or None)
      self._interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
      reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
      raise UserError(f"{os.fspath(path)!r} cannot be read as a TFLite file: {reason}; export the run again") from error
    about = place.with_name("export_info.json")
    self.info: dict[str, Any] = json.loads(about.read_text()) if about.is_file() else {}
    (self._given,) = self._interpreter.get_input_details()
    self.input_size = tuple(int(side) for side in self._given["shape"][1:3])
    self.dtype = self._given["dtype"]
    self._outputs = self._named_outputs()

  def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs by name, in real numbers: quantised ones are put back.

    Args:
      pixels: uint8 or float32[h, w, 3], RGB from 0 to 255.
    """
    return {name: _real(value, self._outputs[name]) for name, value in self.stored(pixels).items()}

  def stored(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs by name as the file has them, integers where it is quantised; arguments as of a call."""
    if self.dtype != np.float32:
      pixels = np.clip(np.round(pixels), 0, 255)
    self._interpreter.set_tensor(self._given["index"], pixels[None].astype(self.dtype))
    self._interpreter.invoke()
    return {name: self._interpreter.get_tensor(detail["index"]) for name, detail in self._outputs.items()}

  def quantization(self) -> dict[str, dict[str, Any]]:
    """Returns dtype, shape, scale and zero point of the input and the outputs: real = scale * (stored - zero point)."""
    details = {"images": self._given, **self._outputs}
    return {
      name: {
        "dtype": np.dtype(detail["dtype"]).name,
        "shape": [int(side) for side in detail["shape"]],
        "scale": float(detail["quantization"][0]),
        "zero_point": int(detail["quantization"][1]),
      }
      for name, detail in details.items()
    }

  def _named_outputs(self) -> dict[str, dict[str, Any]]:
    details = {detail["index"]: detail for detail in self._interpreter.get_output_details()}
    signatures = self._interpreter._get_full_signature_list()
    if not signatures:
      return {detail["name"]: detail for detail in details.values()}
    (signature,) = signatures.values()
    return {name: details[index] for name, index in signature["outputs"].items()}


def _real(value: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
  scale, zero_point = detail["quantization"]
  return value if not scale else (np.float32(scale) * (value.astype(np.int32) - zero_point)).astype(np.float32)


def _interpreter() -> tuple[Callable[..., Any], str]:
  """Returns the interpreter's class and its name: LiteRT's where it is installed, else TensorFlow's."""
  try:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter, f"LiteRT {version('ai-edge-litert')}"
  except ImportError:
    import tensorflow as tf

    return tf.lite.Interpreter, f"TensorFlow {tf.__version__}"
