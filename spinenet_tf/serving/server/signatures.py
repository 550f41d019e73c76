"""What the signatures of a SavedModel take and give, as names, types and shapes."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class TensorSpec:
  """One input or output.

  Attributes:
    dtype: NumPy type; object for strings of bytes.
    shape: length of each dimension, None where it may be any.
    tensor: name in the graph, as TensorFlow Serving's metadata tell it.
    type_name: TensorFlow's name of the type, such as DT_UINT8.
  """

  dtype: np.dtype
  shape: tuple[int | None, ...]
  tensor: str
  type_name: str

  def metadata(self) -> dict[str, Any]:
    """Returns the form of TensorFlow Serving's `TensorInfo` in JSON."""
    dims = [{"size": str(-1 if size is None else size), "name": ""} for size in self.shape]
    return {"dtype": self.type_name, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": self.tensor}

  def __str__(self) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
    return f"{'string' if self.dtype == object else self.dtype.name}[{sizes}]"


@dataclasses.dataclass(frozen=True)
class Signature:
  """One signature.

  Attributes:
    inputs, outputs: name to `TensorSpec`, in alphabetical order.
  """

  inputs: Mapping[str, TensorSpec]
  outputs: Mapping[str, TensorSpec]

  @property
  def batched(self) -> bool:
    """Whether dimension 0 of everything is the batch, so that requests can share a run."""
    return all(spec.shape[:1] == (None,) for spec in (*self.inputs.values(), *self.outputs.values()))

  def answer_values(self, rows: int) -> int:
    """Returns how many numbers so many rows give; dimensions that are not known count as 1."""
    return sum(rows * math.prod(size or 1 for size in spec.shape[1:]) for spec in self.outputs.values())

  def metadata(self) -> dict[str, Any]:
    """Returns the form of TensorFlow Serving's `SignatureDef` in JSON."""
    return {
      "inputs": {name: spec.metadata() for name, spec in self.inputs.items()},
      "outputs": {name: spec.metadata() for name, spec in self.outputs.items()},
      "method_name": "tensorflow/serving/predict",
      "defaults": {},
    }


def read_signatures(folder: pathlib.Path, names: Iterable[str]) -> dict[str, Signature]:
  """Reads what signatures take and give from the file that TensorFlow Serving reads it from.

  Args:
    folder: of a SavedModel.
    names: of the signatures wanted.

  Returns: name to signature, in alphabetical order.
  """
  from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

  saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
  found = saved.meta_graphs[0].signature_def

  def specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {key: _spec(infos[key]) for key in sorted(infos)}

  return {name: Signature(specs(found[name].inputs), specs(found[name].outputs)) for name in sorted(names)}


def _spec(info: Any) -> TensorSpec:
  """Returns the specification of a `TensorInfo`."""
  from tensorflow.core.framework.types_pb2 import DataType
  from tensorflow.dtypes import as_dtype

  shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
  return TensorSpec(np.dtype(as_dtype(info.dtype).as_numpy_dtype), shape, info.name, DataType.Name(info.dtype))
