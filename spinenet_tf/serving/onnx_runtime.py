"""ONNX files of `serving.onnx`, run by ONNX Runtime; imports no TensorFlow."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from spinenet_tf.errors import UserError
from spinenet_tf.serving.packages import optional


class OnnxModel:
  """One ONNX file.

  Args:
    path: of the file.
    threads: that compute one operation; 0 leaves the choice to ONNX Runtime.
    providers: what computes, by falling preference; all that this build of ONNX Runtime has for this machine when None.

  Attributes:
    info: what the file says of itself: "model", "task", "flavour", "input_size" (height, width), "labels" [[id, name], ...]
      and so on; see docs/export.md.

  Raises: UserError when ONNX Runtime is not installed or cannot read the file.
  """

  def __init__(self, path: str | os.PathLike, threads: int = 0, providers: list[str] | None = None):
    runtime = optional("onnx", "onnxruntime")
    self.runtime = f"ONNX Runtime {runtime.__version__}"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Azure's calls a service over the network, and takes a minute to start without one.
    local = [name for name in runtime.get_available_providers() if name != "AzureExecutionProvider"]
    try:
      self._session = runtime.InferenceSession(os.fspath(path), options, providers=providers or local)
    except Exception as error:  # ONNX Runtime has a kind of its own for each fault of a file
      reason = str(error).strip().splitlines()[0][:300]
      raise UserError(f"{os.fspath(path)!r} cannot be read by ONNX Runtime: {reason}; export the run again") from error
    given = self._session.get_inputs()[0]
    self._input, self.takes_pixels = given.name, given.type == "tensor(uint8)"
    self._outputs = [output.name for output in self._session.get_outputs()]
    text = self._session.get_modelmeta().custom_metadata_map
    self.info: dict[str, Any] = json.loads(text.get("spinenet_tf", "{}"))

  def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs by name.

    Args:
      images: uint8[B, H, W, 3], or float32[B, h, w, 3] of normalised pixels, whichever the file takes.
    """
    return dict(zip(self._outputs, self._session.run(None, {self._input: images})))
