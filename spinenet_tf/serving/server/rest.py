"""TensorFlow Serving's REST in JSON: requests to arrays, arrays to answers.

Both formats: by row (`instances` -> `predictions`) and by column (`inputs` -> `outputs`). Pictures go as {"b64": "..."}.
[tensorflow.org/tfx/serving/api_rest]
"""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from spinenet_tf.serving.server.arrays import json_pieces, to_array
from spinenet_tf.serving.server.refusal import Refusal, shortened
from spinenet_tf.serving.server.signatures import Signature

DEFAULT_SIGNATURE = "serving_default"


@dataclasses.dataclass
class Call:
  """One request, understood.

  Attributes:
    signature: name of the signature.
    inputs: name to array, all of B rows where the signature is batched.
    rows: B, or 1 for a signature without a batch.
    by_row: whether the answer is to be a list of rows.
    errors: row to reason, of pictures that were taken out before running.
  """

  signature: str
  inputs: dict[str, np.ndarray]
  rows: int
  by_row: bool
  errors: dict[int, str] = dataclasses.field(default_factory=dict)


def parse(body: bytes, signatures: Mapping[str, Signature], max_batch: int, max_values: int) -> Call:
  """Understands the body of a predict request.

  Args:
    body: JSON.
    signatures: of the model.
    max_batch: most rows.
    max_values: most values in the document, counted by the signs between them before it is parsed.

  Raises: Refusal 413 for too many values, 400 for whatever else does not fit, saying what.
  """
  if (values := sum(map(body.count, (b",", b"[", b"{")))) > max_values:
    raise Refusal(
      413, f"the JSON has some {values} values, at most {max_values} are parsed: send pictures as files, to image_bytes"
    )
  document = _document(body)
  name = document.get("signature_name", "")
  name = DEFAULT_SIGNATURE if name == "" else name
  if not isinstance(name, str) or name not in signatures:
    raise Refusal(400, f"unknown signature_name {shortened(name)}; the model has {', '.join(signatures)}")
  signature = signatures[name]
  if ("instances" in document) == ("inputs" in document):
    raise Refusal(400, "a request has either instances (rows) or inputs (columns), one of the two")
  by_row = "instances" in document
  columns = (_rows_to_columns if by_row else _columns)(document["instances" if by_row else "inputs"], signature)
  inputs = {key: to_array(columns[key], key, spec) for key, spec in signature.inputs.items()}
  rows = {key: len(value) for key, value in inputs.items()} if signature.batched else {"": 1}
  if len(set(rows.values())) > 1:
    raise Refusal(400, f"inputs have different numbers of rows: {rows}")
  count = next(iter(rows.values()))
  if count > max_batch:
    raise Refusal(400, f"{count} rows in one request, at most {max_batch} are taken: send several requests")
  return Call(name, inputs, count, by_row)


def answer(call: Call, outputs: Mapping[str, np.ndarray]) -> bytes:
  """Writes the answer to a request.

  Args:
    call: the request.
    outputs: name to array; of B rows each where the request was by row.

  Raises: Refusal 400 where the answer has no rows and the request was by row.
  """
  names = sorted(outputs)
  if not call.by_row:
    pieces = _named(names, outputs) if len(names) > 1 else json_pieces(outputs[names[0]], names[0])
    return "".join(('{"outputs": ', *pieces, "}\n")).encode()
  if wrong := [name for name in names if outputs[name].shape[:1] != (call.rows,)]:
    raise Refusal(
      400, f"output {wrong[0]!r} has no row for each instance: ask by column, with inputs in place of instances"
    )
  rows = []
  for row in range(call.rows):
    of_row = {name: outputs[name][row : row + 1].reshape(outputs[name].shape[1:]) for name in names}
    rows.append("".join(_named(names, of_row) if len(names) > 1 else json_pieces(of_row[names[0]], names[0])))
  return ('{"predictions": [' + ", ".join(rows) + "]}\n").encode()


def _named(names: list[str], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
  for i, name in enumerate(names):
    yield f"{', ' if i else '{'}{json.dumps(name)}: "
    yield from json_pieces(arrays[name], name)
  yield "}"


def _document(body: bytes) -> dict[str, Any]:
  def not_finite(token: str) -> NoReturn:
    raise ValueError(f"{token} is not taken: numbers have to be finite")

  collects = gc.isenabled()
  gc.disable()  # a document has no cycles; looking for them while it grows would take longer than reading it
  try:
    document = json.loads(body, parse_constant=not_finite)
  except UnicodeDecodeError as error:
    raise Refusal(400, f"the body is not JSON in UTF-8 ({error.reason} at byte {error.start})") from error
  except ValueError as error:
    raise Refusal(400, f"the body is not JSON: {error}") from error
  except RecursionError as error:
    raise Refusal(400, "the body is not usable JSON: it is nested too deeply") from error
  finally:
    if collects:
      gc.enable()
  if not isinstance(document, dict):
    raise Refusal(400, f"the body is not a JSON object with instances or inputs, it is {shortened(document)}")
  return document


def _rows_to_columns(instances: Any, signature: Signature) -> dict[str, list]:
  if not isinstance(instances, list):
    raise Refusal(400, f"instances must be a list, with one entry a row; it is {shortened(instances)}")
  if not instances:
    raise Refusal(400, "instances is empty: give at least one")
  named = [isinstance(row, dict) and row.keys() != {"b64"} for row in instances]
  if not any(named):
    return {_only_input(signature, "each instance"): instances}
  if not all(named):
    raise Refusal(
      400, f"instance {named.index(False)} has no names of inputs, others have: give names to all or to none"
    )
  for i, row in enumerate(instances):
    _check_names(row, signature, f"instance {i}")
  return {name: [row[name] for row in instances] for name in signature.inputs}


def _columns(inputs: Any, signature: Signature) -> dict[str, Any]:
  if not isinstance(inputs, dict) or inputs.keys() == {"b64"}:
    return {_only_input(signature, "inputs"): inputs}
  _check_names(inputs, signature, "inputs")
  return inputs


def _only_input(signature: Signature, what: str) -> str:
  if len(signature.inputs) != 1:
    raise Refusal(
      400, f"{what} must be an object with {', '.join(signature.inputs)}, as the signature has several inputs"
    )
  return next(iter(signature.inputs))


def _check_names(given: dict[str, Any], signature: Signature, what: str) -> None:
  if given.keys() != signature.inputs.keys():
    names = shortened(", ".join(given))
    raise Refusal(400, f"{what} names {names}, but the signature takes {', '.join(signature.inputs)}")
