"""One training step on one replica: losses, gradients, update.  [SpineNet section 5.1, authors' code]"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.dropblock import dropblock_strength
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.ops.recompute import gradient
from spinenet_tf.training import optimizers
from spinenet_tf.training.average import Average
from spinenet_tf.training.tasks.base import Objective


class TrainStep:
  """The model with its losses and optimizer. All methods run in a replica's context.

  Args:
    model: built.
    objective: the losses of one replica.
    optimizer: its learning rate is a function of `global_step`.
    variables: what is trained.
    global_step: int64 variable, one more after each `update`.
    total_steps: of the run, for DropBlock's strength.
    clip_norm: largest global norm of the gradient, 0 for none.
    weight_decay: factor of the L2 loss.
    seed: of the random layers.
    accumulation: batches in one step.
    average: of the weights, moved along at each step.
    recompute: compute activations again in the backward pass rather than hold them, see `ops.recompute`; None does so on a
      CPU.
  """

  def __init__(
    self,
    model: keras.Model,
    objective: Objective,
    optimizer: optimizers.Optimizer,
    variables: Sequence[tf.Variable],
    global_step: tf.Variable,
    *,
    total_steps: int,
    clip_norm: float,
    weight_decay: float,
    seed: int = 0,
    accumulation: int = 1,
    average: Average | None = None,
    recompute: bool | None = None,
  ):
    self.model, self.objective, self.optimizer = model, objective, optimizer
    self.variables, self.global_step = list(variables), global_step
    self.total_steps, self.clip_norm, self.weight_decay = total_steps, clip_norm, weight_decay
    self.seed, self.accumulation, self.average = seed, accumulation, average
    on_cpu = not any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
    self.recompute = on_cpu if recompute is None else recompute
    optimizer._create_all_weights(self.variables)  # slots exist before a checkpoint is restored

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of what `update` returns."""
    return (*self.reported, "l2", "total", "gradient_norm")

  @property
  def reported(self) -> tuple[str, ...]:
    """Names of what the objective returns beside its total."""
    return (*self.objective.parts, *self.objective.counts)

  def gradients(self, batch: dict[str, tf.Tensor], part: tf.Tensor | int) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Returns this replica's gradients and losses for one batch.

    Args:
      batch: what the objective takes.
      part: index of the batch among the `accumulation` ones of the step.

    Returns: gradients, one for each of `variables`, and float32[P + 1]: what the objective reports, and the total.
    """
    with tf.GradientTape() as tape:
      with step_seed(self._seed(part)), dropblock_strength(self._strength()):
        losses = self.objective(self.model, batch)
      goal = losses["total"] / self.accumulation
      if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
        goal = self.optimizer.get_scaled_loss(goal)
    differentiate = gradient if self.recompute else tf.GradientTape.gradient
    gradients = differentiate(tape, goal, self.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
      gradients = self.optimizer.get_unscaled_gradients(gradients)
    parts = tf.stack([losses[part] for part in (*self.reported, "total")]) / self.accumulation
    return gradients, parts

  def update(self, gradients: Sequence[tf.Tensor], losses: tf.Tensor) -> tf.Tensor:
    """Sums over replicas, adds weight decay, clips, applies.

    Args:
      gradients: this replica's.
      losses: float32[P + 1], this replica's, as `gradients` returns them.

    Returns: float32[P + 3] in the order of `metrics`, the same on all replicas: losses and gradient norm of the step.
    """
    replicas = tf.distribute.get_replica_context()
    if replicas.num_replicas_in_sync > 1:
      *gradients, losses = replicas.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, losses])
    l2 = optimizers.l2_loss(self.variables, self.weight_decay)
    gradients = optimizers.add_l2_gradients(gradients, self.variables, self.weight_decay)
    gradients, norm = optimizers.clip(gradients, self.clip_norm)
    self.optimizer.apply_gradients(zip(gradients, self.variables), experimental_aggregate_gradients=False)
    if self.average:
      self.average.update(self.global_step.read_value())
    self.global_step.assign_add(1)
    *parts, total = tf.unstack(losses)
    return tf.stack([*parts, l2, total + l2, norm])

  def _seed(self, part: tf.Tensor | int) -> tf.Tensor:
    """int32[2]: another one for every batch of every replica."""
    replicas = tf.distribute.get_replica_context()
    batches = tf.cast(self.global_step, tf.int32) * self.accumulation + tf.cast(part, tf.int32)
    replica = tf.cast(replicas.replica_id_in_sync_group, tf.int32)
    return tf.stack([self.seed, batches * replicas.num_replicas_in_sync + replica])

  def _strength(self) -> tf.Tensor:
    return tf.minimum(tf.cast(self.global_step, tf.float32) / self.total_steps, 1.0)
