"""Tensors that are computed again in the backward pass rather than held for it.

Gradients read tensors of the forward pass, and most of a training step's memory is what is held for them. Much of that
follows cheaply from the rest: the features that a convolution reads are the normalised and activated output of the
convolutions before, and these outputs the normalisations' gradients read. Here such tensors are computed a second time
when the first gradient that reads them is next: by the same operations, with the same batch statistics. Moving averages
and random numbers are left alone. It works on the traced graph of a step; layers know nothing of it.
[Chen et al. 2016, "Training deep nets with sublinear memory cost"]

With XLA the results are the same; whether it keeps copies apart from the first computation is its own choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spinenet_tf import compat

VIEWS = ("Identity", "IdentityN", "Reshape")  # share their input's memory
CHEAP = (*VIEWS, "AddV2", "BiasAdd", "Cast", "FusedBatchNormV3", "Mul", "Pad", "Relu", "Sigmoid")
SHAPES = ("Rank", "Shape", "ShapeN", "Size")  # read no values
SMALL = 2**16  # elements; smaller tensors are held
MOST = 3  # large tensors that another may follow from: a residual block's last sum follows from so many


def gradient(tape: tf.GradientTape, target: tf.Tensor, sources: Sequence[tf.Variable], **kwargs) -> list[tf.Tensor]:
  """Returns `tape.gradient(target, sources, **kwargs)`; in a graph, less of the forward pass is held for it.

  Args:
    tape: has recorded all that leads to `target`.
    target: float[].
    sources: variables.
    **kwargs: of `tape.gradient`.
  """
  if tf.executing_eagerly():
    return tape.gradient(target, sources, **kwargs)
  graph = tf.compat.v1.get_default_graph()
  forward = {op.name for op in graph.get_operations()}
  result = tape.gradient(target, sources, **kwargs)
  _Rewriting(graph, forward).run()
  return result


class _Rewriting:
  """Of one graph whose gradients have just been added.

  Args:
    graph: with both passes.
    forward: names of the operations that were there before the gradients.
  """

  def __init__(self, graph: tf.Graph, forward: set[str]):
    self._graph, self._forward = graph, forward
    self._sources_of: dict = {}
    self._copies: dict = {}

  def run(self) -> None:
    """Lets gradients read copies of what follows from tensors that are held anyway."""
    readers = self._readers()
    held = {self._sources(t.deref())[0] for t in readers if self._is_source(t.deref())}
    for reference, uses in readers.items():
      tensor = reference.deref()
      triggers = [self._triggers(op) for op, _ in uses]
      if self._is_source(tensor) or not held.issuperset(self._sources(tensor)) or not all(triggers):
        continue
      # Uses come in the order of the backward pass: what the first waits for does not depend on a later one.
      copy = self._again(tensor, triggers[0])
      for op, index in uses:
        compat.change_input(op, index, copy)

  def _readers(self) -> dict:
    """Returns, for each large tensor of the forward pass, where the backward pass reads it: (operation, input index)."""
    found: dict = {}
    for op in self._graph.get_operations():
      if op.name in self._forward or op.type in SHAPES:
        continue
      for index, tensor in enumerate(op.inputs):
        if tensor.op.name in self._forward and not _is_small(tensor):
          found.setdefault(tensor.ref(), []).append((op, index))
    return found

  def _triggers(self, op: tf.Operation) -> list[tf.Operation]:
    """Returns what `op` waits for in the backward pass."""
    before = [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    return [other for other in before if other.name not in self._forward]

  def _sources(self, tensor: tf.Tensor) -> list:
    """Returns references to the large tensors that this one follows from by cheap operations, else to itself."""
    key = tensor.ref()
    if key not in self._sources_of:
      large = [t for t in _inputs(tensor) if not _is_small(t)] if _is_cheap(tensor) else []
      found = list(dict.fromkeys(source for t in large for source in self._sources(t)))
      self._sources_of[key] = found if 0 < len(found) <= MOST else [key]
    return self._sources_of[key]

  def _is_source(self, tensor: tf.Tensor) -> bool:
    """Tells whether a tensor follows from no other, or is a view of one that does not."""
    source, *more = self._sources(tensor)
    while tensor.ref() != source and tensor.op.type in VIEWS:
      tensor = _inputs(tensor)[0]
    return tensor.ref() == source and not more

  def _again(self, tensor: tf.Tensor, triggers: list[tf.Operation]) -> tf.Tensor:
    """Returns a copy of a tensor, computed from its sources after `triggers`."""
    key = tensor.ref()
    if _is_small(tensor) or self._sources(tensor) == [key]:
      return tensor
    if key not in self._copies:
      inputs = [self._again(t, triggers) for t in _inputs(tensor)]
      if tensor.op.type == "IdentityN":
        self._copies[key] = inputs[0]
      else:
        with tf.control_dependencies(triggers), tf.device(tensor.op.device):
          self._copies[key] = self._copy(tensor.op, inputs)
    return self._copies[key]

  def _copy(self, op: tf.Operation, inputs: list[tf.Tensor]) -> tf.Tensor:
    """Returns the first output of an operation like `op`."""
    attributes = {attribute.name: op.node_def.attr[attribute.name] for attribute in op.op_def.attr}
    on_cpu = not tf.config.list_physical_devices("GPU")
    if op.type == "FusedBatchNormV3" and op.get_attr("is_training") and on_cpu:
      # There the reserved outputs are the batch's mean and variance; other devices keep other things in them.
      inputs[3:] = op.outputs[3:5]
      attributes["is_training"] = tf.compat.v1.AttrValue(b=False)
    types = [output.dtype for output in op.outputs]
    return self._graph.create_op(op.type, inputs, types, name="again", attrs=attributes).outputs[0]


def _inputs(tensor: tf.Tensor) -> list[tf.Tensor]:
  """Returns what a tensor is computed from."""
  inputs = list(tensor.op.inputs)
  return [inputs[tensor.value_index]] if tensor.op.type == "IdentityN" else inputs


def _is_cheap(tensor: tf.Tensor) -> bool:
  return tensor.op.type in CHEAP and (tensor.value_index == 0 or tensor.op.type == "IdentityN")


def _is_small(tensor: tf.Tensor) -> bool:
  size = tensor.shape.num_elements()
  return size is not None and size <= SMALL
