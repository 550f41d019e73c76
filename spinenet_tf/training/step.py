"""One training step of RetinaNet on one replica: losses, gradients, update.  [SpineNet section 5.1, authors' code]"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.dropblock import dropblock_strength
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.losses.retinanet import RetinaNetLoss
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.ops import matching
from spinenet_tf.training import optimizers

METRICS = ("cls", "box", "l2", "total", "gradient_norm")


class RetinaNetStep:
  """The model with its loss and optimizer. All methods run in a replica's context.

  Args:
    model: built.
    loss: of one replica, normalised so that the sum over replicas is the loss.
    optimizer: its learning rate is a function of `global_step`.
    variables: what is trained.
    global_step: int64 variable, one more after each `update`.
    total_steps: of the run, for DropBlock's strength.
    clip_norm: largest global norm of the gradient, 0 for none.
    weight_decay: factor of the L2 loss.
    seed: of the random layers.
    accumulation: batches in one step.
  """

  def __init__(
    self,
    model: RetinaNet,
    loss: RetinaNetLoss,
    optimizer: optimizers.Optimizer,
    variables: Sequence[tf.Variable],
    global_step: tf.Variable,
    *,
    total_steps: int,
    clip_norm: float,
    weight_decay: float,
    seed: int = 0,
    accumulation: int = 1,
  ):
    self.model, self.loss, self.optimizer = model, loss, optimizer
    self.variables, self.global_step = list(variables), global_step
    self.total_steps, self.clip_norm, self.weight_decay = total_steps, clip_norm, weight_decay
    self.seed, self.accumulation = seed, accumulation
    optimizer._create_all_weights(self.variables)  # slots exist before a checkpoint is restored

  def gradients(self, batch: dict[str, tf.Tensor], part: tf.Tensor | int) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Returns this replica's gradients and losses for one batch.

    Args:
      batch: "image" float[B, H, W, 3], "boxes" float32[B, M, 4], "classes" int32[B, M].
      part: index of the batch among the `accumulation` ones of the step.

    Returns: gradients, one for each of `variables`, and float32[3]: (cls, box, cls + box_weight * box).
    """
    targets = matching.assign(self.model.anchors, self.model.input_size, batch["boxes"], batch["classes"])
    with tf.GradientTape() as tape:
      with step_seed(self._seed(part)), dropblock_strength(self._strength()):
        outputs = self.model(batch["image"], training=True)
      losses = self.loss(outputs, targets)
      goal = losses["total"] / self.accumulation
      if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
        goal = self.optimizer.get_scaled_loss(goal)
    gradients = tape.gradient(goal, self.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
      gradients = self.optimizer.get_unscaled_gradients(gradients)
    parts = tf.stack([losses["cls"], losses["box"], losses["total"]]) / self.accumulation
    return gradients, parts

  def update(self, gradients: Sequence[tf.Tensor], losses: tf.Tensor) -> tf.Tensor:
    """Sums over replicas, adds weight decay, clips, applies.

    Args:
      gradients: this replica's.
      losses: float32[3], this replica's, as `gradients` returns them.

    Returns: float32[5] in the order of `METRICS`, the same on all replicas: losses and gradient norm of the step.
    """
    replicas = tf.distribute.get_replica_context()
    if replicas.num_replicas_in_sync > 1:
      *gradients, losses = replicas.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, losses])
    l2 = optimizers.l2_loss(self.variables, self.weight_decay)
    gradients = optimizers.add_l2_gradients(gradients, self.variables, self.weight_decay)
    gradients, norm = optimizers.clip(gradients, self.clip_norm)
    self.optimizer.apply_gradients(zip(gradients, self.variables), experimental_aggregate_gradients=False)
    self.global_step.assign_add(1)
    cls, box, total = tf.unstack(losses)
    return tf.stack([cls, box, l2, total + l2, norm])

  def _seed(self, part: tf.Tensor | int) -> tf.Tensor:
    """int32[2]: another one for every batch of every replica."""
    replicas = tf.distribute.get_replica_context()
    batches = tf.cast(self.global_step, tf.int32) * self.accumulation + tf.cast(part, tf.int32)
    replica = tf.cast(replicas.replica_id_in_sync_group, tf.int32)
    return tf.stack([self.seed, batches * replicas.num_replicas_in_sync + replica])

  def _strength(self) -> tf.Tensor:
    return tf.minimum(tf.cast(self.global_step, tf.float32) / self.total_steps, 1.0)
