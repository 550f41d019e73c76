"""A moving average of a model's weights, which evaluates better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.models.naming import named_variables, tree_of


class Average:
  """Exponential moving average of all float variables of a model, the statistics of batch normalisations included.

  Args:
    model: built; the average begins at its weights, see `reset`.
    decay: share of the old average kept at each step, below 1; less in the first steps, where it is (1 + n) / (10 + n)
      at step n.
  """

  def __init__(self, model: keras.Model, decay: float):
    self._decay = decay
    self._variables = {name: v for name, v in named_variables(model).items() if v.dtype.is_floating}
    self._shadows = {
      name: tf.Variable(
        tf.zeros(v.shape, v.dtype),
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name=f"average/{name}",
      )
      for name, v in self._variables.items()
    }
    self.reset()

  @property
  def tree(self) -> tf.Module:
    """The averages as a tree for a checkpoint, with the names of the model's variables."""
    return tree_of(self._shadows)

  def reset(self) -> None:
    """Makes the present weights the average."""
    for name, variable in self._variables.items():
      self._shadows[name].assign(variable.read_value())

  def update(self, step: tf.Tensor) -> None:
    """Moves the average towards the weights; in a replica's context.

    Args:
      step: int64[], steps done before this one.
    """
    now = tf.cast(step, tf.float32)
    rest = 1 - tf.minimum(self._decay, (1 + now) / (10 + now))
    for name, variable in self._variables.items():
      shadow = self._shadows[name]
      shadow.assign_sub(tf.cast(rest, shadow.dtype) * (shadow.read_value() - variable.read_value()))

  @contextmanager
  def in_place(self) -> Iterator[None]:
    """Has the model use the average; afterwards its own weights again, to the bit."""
    own = {name: variable.numpy() for name, variable in self._variables.items()}
    for name, variable in self._variables.items():
      variable.assign(self._shadows[name].read_value())
    try:
      yield
    finally:
      for name, variable in self._variables.items():
        variable.assign(own[name])
