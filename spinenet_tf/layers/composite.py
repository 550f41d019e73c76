"""Layers made of layers, built by shape.

Keras finds out what a layer of a functional model puts out, and builds what is inside, by tracing its `call` in a graph
that is then thrown away. The layers here say what they put out and build their parts themselves, which takes a third of
the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spinenet_tf.compat import keras


class Composite(keras.layers.Layer):
  """A layer made of layers. A subclass has `build_parts` and `compute_output_shape` beside `call`."""

  def build_parts(self, input_shape: Any) -> None:
    """Builds the sublayers, each with `build_part`; `input_shape` has the structure of `call`'s inputs."""
    raise TypeError(f"{type(self).__name__} does not say how its parts are built")

  def build(self, input_shape: Any) -> None:
    """Makes all variables."""
    if not self.built:
      with _one_kernel_for_all_variables():
        self.build_parts(input_shape)
    super().build(input_shape)

  @property
  def output_dtype(self) -> tf.DType:
    """Of what `call` returns."""
    return tf.as_dtype(self.compute_dtype)

  def _keras_tensor_symbolic_call(self, inputs: Any, input_masks: Any, args: tuple, kwargs: dict) -> Any:
    """Returns symbolic outputs. Keras's own calls `call` here; were this hook to go, it would again."""
    with tf.name_scope(self._name_scope()):
      self._maybe_build(inputs)
    self._set_save_spec(inputs, args, kwargs)
    shapes = self.compute_output_shape(tf.nest.map_structure(lambda tensor: tensor.shape, inputs))
    return tf.nest.map_structure(self._symbolic, shapes)

  def _symbolic(self, shape: tf.TensorShape) -> Any:
    return keras.__internal__.KerasTensor(tf.TensorSpec(shape, self.output_dtype))


def build_part(layer: keras.layers.Layer, input_shape: Any) -> tf.TensorShape:
  """Builds a sublayer under its name, unless it is built. Returns the shape that it puts out."""
  if not layer.built:
    with tf.name_scope(layer.name):
      layer.build_parts(input_shape) if isinstance(layer, Composite) else layer.build(input_shape)
    keras.layers.Layer.build(layer, input_shape)  # marks it as built
  return layer.compute_output_shape(input_shape)


def image_shape(inputs: tf.TensorShape, stride: int, channels: int) -> tf.TensorShape:
  """Returns (B, ceil(H / stride), ceil(W / stride), channels) for (B, H, W, ...), where sizes may be None."""
  batch, height, width, _ = tf.TensorShape(inputs)
  return tf.TensorShape([batch, *(side and -(-side // stride) for side in (height, width)), channels])


@contextlib.contextmanager
def _one_kernel_for_all_variables() -> Iterator[None]:
  """Lets variables be made under one name, and named afterwards.

  TensorFlow keeps kernels by their attributes, among them the name of the variable to make; each new one costs half a
  millisecond, three quarters of what a variable takes. With several replicas names are left to their strategy.
  """
  replicated = tf.distribute.has_strategy() and not isinstance(
    tf.distribute.get_strategy(), tf.distribute.OneDeviceStrategy
  )
  if replicated or not tf.executing_eagerly():
    yield
    return

  def create(next_creator, **kwargs):
    with tf.name_scope(kwargs.pop("name") or "Variable") as scope:
      name = scope.rstrip("/")
    with tf.name_scope("variable/"):
      variable = next_creator(name=None, **kwargs)
    variable._handle_name = variable.handle._name = f"{name}:0"
    return variable

  with tf.variable_creator_scope(create):
    yield
