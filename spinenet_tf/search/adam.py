"""Adam over a fixed list of variables, with its state in plain sight.  [Kingma & Ba 2015]"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class Adam:
  """A step for each variable in one kernel each; all state is in `state`, as a searcher saves it.

  Args:
    variables: what is trained.
    learning_rate, beta_1, beta_2, epsilon: of [Kingma & Ba 2015].
  """

  def __init__(
    self,
    variables: Sequence[tf.Variable],
    learning_rate: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
  ):
    self.variables = list(variables)
    self.learning_rate, self.betas, self.epsilon = learning_rate, (beta_1, beta_2), epsilon
    self._means = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
    self._squares = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
    self._powers = [tf.Variable(1.0, trainable=False) for _ in self.betas]  # beta^steps

  @property
  def state(self) -> list[tf.Variable]:
    """All variables of the optimizer, always in the same order."""
    return [*self._powers, *self._means, *self._squares]

  def step(self, gradients: Sequence[tf.Tensor]) -> None:
    """Moves the variables against the gradients, one for each variable, None where it had no part."""
    for power, beta in zip(self._powers, self.betas):
      power.assign(power * beta)
    for variable, mean, square, gradient in zip(self.variables, self._means, self._squares, gradients):
      if gradient is None:
        continue
      tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=mean.handle,
        v=square.handle,
        beta1_power=self._powers[0],
        beta2_power=self._powers[1],
        lr=self.learning_rate,
        beta1=self.betas[0],
        beta2=self.betas[1],
        epsilon=self.epsilon,
        grad=tf.convert_to_tensor(gradient),  # of tables that are gathered from it comes in slices
      )
