"""Optimizers, and what happens to gradients before they are applied.

Optimizers are Keras's `legacy` ones: their slots are keyed by variable in checkpoints, and those of tensorflow-addons are
of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError

Optimizer = keras.optimizers.legacy.Optimizer
Rate = Callable[[], tf.Tensor]

_DECAYED = re.compile(r"(^|/)(kernel|depthwise_kernel|pointwise_kernel)$")


def sgd(learning_rate: Rate, momentum: float = 0.9, nesterov: bool = False) -> Optimizer:
  """Returns SGD with momentum, the authors' optimizer for every network of the paper."""
  return keras.optimizers.legacy.SGD(learning_rate, momentum=momentum, nesterov=nesterov)


def adam(learning_rate: Rate, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Optimizer:
  """Returns Adam."""
  return keras.optimizers.legacy.Adam(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def rmsprop(learning_rate: Rate, rho: float = 0.9, momentum: float = 0.9, epsilon: float = 1e-3) -> Optimizer:
  """Returns RMSprop."""
  return keras.optimizers.legacy.RMSprop(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon)


def lars(
  learning_rate: Rate, momentum: float = 0.9, eeta: float = 0.001, nesterov: bool = False, classic_momentum: bool = True
) -> Optimizer:
  """Returns LARS, for batches of many thousands; Model Garden's.  [You et al. 2017]

  The step of each kernel is scaled to `eeta` times its norm. Biases and batch normalisations are not scaled. Weight decay
  is `train.weight_decay`, which is part of the gradient by then.

  Args:
    learning_rate: of the scaled step; much larger than for SGD, as `eeta` makes the step small.
    momentum: of the velocity.
    eeta: the trust coefficient.
    nesterov: whether the step looks ahead.
    classic_momentum: whether the velocity sums scaled steps; else it sums gradients, and the step is scaled after.
  """
  from official.modeling.optimization.lars import LARS  # takes seconds to import

  return LARS(
    learning_rate,
    momentum=momentum,
    eeta=eeta,
    nesterov=nesterov,
    classic_momentum=classic_momentum,
    exclude_from_layer_adaptation=[r"(bias|gamma|beta)(:0)?$"],
  )


def with_loss_scale(optimizer: Optimizer, precision: str) -> Optimizer:
  """Returns the optimizer, under dynamic loss scaling when the precision is "mixed_float16"."""
  if precision == "mixed_float16":
    return keras.mixed_precision.LossScaleOptimizer(optimizer)
  return optimizer


def decayed(variables: Sequence[tf.Variable]) -> list[tf.Variable]:
  """Returns those that weight decay applies to: kernels, not biases and not batch normalisation.  [authors' config]"""
  return [variable for variable in variables if _DECAYED.search(variable.name.split(":")[0])]


def l2_loss(variables: Sequence[tf.Variable], weight_decay: float) -> tf.Tensor:
  """Returns float32[]: weight_decay * 1/2 * the sum of squares of the `decayed` variables."""
  squares = [tf.nn.l2_loss(tf.cast(variable, tf.float32)) for variable in decayed(variables)]
  return weight_decay * tf.add_n(squares) if squares and weight_decay else tf.constant(0.0)


def add_l2_gradients(
  gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], weight_decay: float
) -> list[tf.Tensor]:
  """Returns the gradients of loss + `l2_loss`, from those of the loss.

  Called after the sum over replicas, so that the decay counts once however many there are.
  """
  if not weight_decay:
    return list(gradients)
  names = {variable.name for variable in decayed(variables)}
  return [
    gradient + weight_decay * tf.cast(variable, gradient.dtype) if variable.name in names else gradient
    for gradient, variable in zip(gradients, variables)
  ]


def clip(gradients: Sequence[tf.Tensor], limit: float) -> tuple[list[tf.Tensor], tf.Tensor]:
  """Scales gradients down to a global norm of `limit`; 0 leaves them alone.

  Returns: (gradients, float32[] norm before clipping).
  """
  norm = tf.linalg.global_norm(gradients)
  if not limit:
    return list(gradients), norm
  scale = limit / tf.maximum(norm, limit)
  return [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients], norm


def check(builder: object) -> None:
  """Raises UserError unless `builder` can be called with a learning rate."""
  if not callable(builder):
    raise UserError(
      f"train.optimizer is {builder!r}; it must be a reference without brackets, such as @sgd or @tfa.LAMB, as the "
      "learning rate is handed over when the run is built"
    )
