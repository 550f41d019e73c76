"""Values of a JSON document to arrays of a given type and shape, checked; and arrays to JSON text.

Both go level by level over flat lists, in C, and text is made in pieces, so that other threads get their turn.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from spinenet_tf.serving.server.refusal import Refusal, shortened
from spinenet_tf.serving.server.signatures import TensorSpec

_PIECE = 4096  # numbers that are written at one go
_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def to_array(value: Any, name: str, spec: TensorSpec) -> np.ndarray:
  """Turns nested lists into an array.

  Args:
    value: what the JSON parser gave: numbers, strings, {"b64": ...}, nested in lists.
    name: of the input, for the reason.
    spec: type and shape asked for.

  Returns: array of that type; strings as bytes in an array of objects.

  Raises: Refusal 400 for another rank, length or type, ragged lists, numbers out of range, text that is no base64.
  """
  level, shape = [value], []
  while level and (kinds := set(map(type, level))) and list in kinds:
    if kinds != {list}:
      raise _refusal(name, spec, "lists and values are mixed at one depth")
    sizes = set(map(len, level))
    if len(sizes) > 1:
      raise _refusal(name, spec, f"lists at one depth have lengths from {min(sizes)} to {max(sizes)}")
    shape.append(sizes.pop())
    if len(shape) > len(spec.shape):
      raise _refusal(name, spec, f"lists are nested deeper than {len(spec.shape)}")
    level = list(itertools.chain.from_iterable(level))
  if shape and shape[-1] == 0:
    where = "the batch is empty" if len(shape) == 1 else f"dimension {len(shape) - 1} has length 0"
    raise _refusal(name, spec, where)
  if len(shape) != len(spec.shape):
    raise _refusal(name, spec, f"rank {len(shape)}{_of(shape)} was given")
  if any(asked not in (None, given) for asked, given in zip(spec.shape, shape)):
    raise _refusal(name, spec, f"shape {shape} was given")
  convert = _strings if spec.dtype == object else _numbers
  return convert(level, name, spec).reshape(shape)


def json_pieces(array: np.ndarray, name: str) -> Iterator[str]:
  """Writes an array as JSON text.

  Args:
    array: of numbers, or of bytes objects. float32 is written with the fewest digits that give the same float32 back.
    name: of the output; strings of one that ends in `_bytes` are written as {"b64": ...}, others as text.

  Yields: pieces of the text.
  """
  if array.ndim and array.size > _PIECE and len(array) > 1:
    for i, part in enumerate(array):
      yield "," if i else "["
      yield from json_pieces(part, name)
    yield "]"
  elif array.dtype == object:
    yield json.dumps(_texts(array.tolist(), name.endswith("_bytes")), ensure_ascii=False)
  else:
    yield json.dumps(shortest(array).tolist())


def _numbers(level: list[Any], name: str, spec: TensorSpec) -> np.ndarray:
  kinds = set(map(type, level))
  allowed = {bool} if spec.dtype == bool else {int} if spec.dtype.kind in "iu" else {int, float}
  if wrong := kinds - allowed:
    first = next(value for value in level if type(value) in wrong)
    what = _JSON_NAMES.get(type(first), "the number")
    said = f"{what} {shortened(first)}" if isinstance(first, (int, float, str)) else what
    raise _refusal(name, spec, f"{said} was given")
  if spec.dtype.kind in "iu":
    limits = np.iinfo(spec.dtype)
    if min(level) < limits.min or max(level) > limits.max:
      worst = min(level) if min(level) < limits.min else max(level)
      raise _refusal(name, spec, f"{shortened(worst)} was given, which is not in [{limits.min}, {limits.max}]")
  try:
    with np.errstate(over="ignore"):
      array = np.array(level, np.float64 if spec.dtype.kind == "f" else spec.dtype).astype(spec.dtype)
  except OverflowError as error:
    raise _refusal(name, spec, "a number is too large") from error
  if spec.dtype.kind == "f" and not np.isfinite(array).all():
    raise _refusal(name, spec, "a number is not finite")
  return array


def _strings(level: list[Any], name: str, spec: TensorSpec) -> np.ndarray:
  array = np.empty(len(level), object)
  for i, value in enumerate(level):
    if isinstance(value, str):
      try:
        array[i] = value.encode()
      except UnicodeEncodeError as error:
        raise _refusal(name, spec, f"value {i} is no valid text") from error
    elif isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
      array[i] = _from_base64(value["b64"], name, spec, i)
    else:
      what = _JSON_NAMES.get(type(value), f"the number {shortened(value)}")
      raise _refusal(name, spec, f'value {i} is {what}, neither a string nor {{"b64": "..."}}')
  return array


def _from_base64(text: str, name: str, spec: TensorSpec, index: int) -> bytes:
  """Padding may be missing and lines may be broken, as TensorFlow Serving has it."""
  compact = "".join(text.split())
  try:
    return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
  except (binascii.Error, ValueError) as error:
    raise _refusal(name, spec, f"value {index} is no base64 ({error}): {shortened(text, 30)}") from error


def _refusal(name: str, spec: TensorSpec, reason: str) -> Refusal:
  return Refusal(400, f"input {name!r} must be {spec}: {reason}")


def _of(shape: list[int]) -> str:
  return f" of shape {shape}" if shape else " (no list)"


def _texts(value: Any, binary: bool) -> Any:
  if isinstance(value, list):
    return [_texts(item, binary) for item in value]
  if binary:
    return {"b64": base64.b64encode(value).decode()}
  return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def shortest(array: np.ndarray) -> np.ndarray:
  """Returns float64 that print as short as the float32 they stand for: 0.1, and not 0.10000000149011612."""
  return array.astype(str).astype(np.float64) if array.dtype in (np.float32, np.float16) else array
