"""Non-maximum suppression of a TensorFlow graph as one ONNX NonMaxSuppression, for any batch.

tf2onnx's own conversion counts classes and images at run time and fills tables by them; this one takes what
`ops.nms.suppress_by_one_op` promises: every candidate has one class, scores fall, and the number of candidates is known.

B: images, T: candidates, K: classes, D: detections, M: what ONNX selects, in all images together.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def handlers() -> dict[str, tuple[Any, list]]:
  """Returns tf2onnx's `custom_op_handlers`."""
  return {"CombinedNonMaxSuppression": (_convert, [])}


def _convert(ctx: Any, node: Any, name: str, args: list) -> None:
  """Replaces a CombinedNonMaxSuppression, whose inputs are boxes [B, T, 1, 4] and scores [B, T, K].

  Args:
    ctx: tf2onnx's graph.
    node: the operation.
    name: its name.
    args: not used.
  """
  from onnx import TensorProto, helper
  from tf2onnx.graph_builder import GraphBuilder
  from tf2onnx.utils import make_name

  del name, args
  build = GraphBuilder(ctx)
  candidates = ctx.get_shape(node.input[1])[1]
  detections = int(node.inputs[3].get_tensor_value())

  def constant(value: Any, dtype: Any) -> str:
    return ctx.make_const(make_name("nms"), np.array(value, dtype)).output[0]

  def make(op: str, inputs: list[str], count: int = 1, **attributes: Any) -> Any:
    outputs = ctx.make_node(op, inputs, attr=attributes, output_count=count, op_name_scope=node.name).output
    return outputs if count > 1 else outputs[0]

  boxes = build.make_squeeze({"data": node.input[0], "axes": [2]})
  scores = node.input[1]
  best = make("ReduceMax", [scores], axes=[2], keepdims=0)
  label = make("ArgMax", [scores], axis=2, keepdims=0)
  limits = [constant([detections], np.int64), *node.input[4:6]]
  selected = make("NonMaxSuppression", [boxes, make("Transpose", [scores], perm=[0, 2, 1]), *limits])  # int64[M, 3]

  # 1 at the candidates that were selected, in their order of falling scores: the best D of these are the result.
  place = make("Gather", [selected, constant([0, 2], np.int64)], axis=1)
  count = build.make_slice({"data": make("Shape", [selected]), "starts": [0], "ends": [1], "axes": [0]})
  ones = make("ConstantOfShape", [count], value=helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0]))
  kept = make("ScatterND", [make("Mul", [best, constant(0, np.float32)]), place, ones])
  size = constant([min(candidates, detections)], np.int64)
  values, index = make("TopK", [make("Mul", [best, kept]), size], 2, axis=1)
  found = [
    make("GatherND", [boxes, build.make_unsqueeze({"data": index, "axes": [2]})], batch_dims=1),
    values,
    make("Cast", [make("GatherElements", [label, index], axis=1)], to=TensorProto.FLOAT),
  ]
  if (missing := detections - candidates) > 0:
    found = [_padded(make, constant, tensor, missing, rank) for tensor, rank in zip(found, (3, 2, 2))]
  real = make("Cast", [make("Greater", [values, constant(0, np.float32)])], to=TensorProto.INT32)
  valid = build.make_reduce_sum({"data": real, "axes": [1], "keepdims": 0, "noop_with_empty_axes": 1})
  for old, new in zip(node.output, [*found, valid]):
    ctx.copy_dtype(old, new)
    ctx.copy_shape(old, new)
    ctx.replace_all_inputs(old, new)
  ctx.remove_node(node.name)


def _padded(make: Any, constant: Any, tensor: str, missing: int, rank: int) -> str:
  """Adds zeros at the end of the second axis."""
  pads = np.zeros([2, rank], np.int64)
  pads[1, 1] = missing
  return make("Pad", [tensor, constant(pads.ravel(), np.int64), constant(0, np.float32)])
