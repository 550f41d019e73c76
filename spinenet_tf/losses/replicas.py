"""How losses are normalised where a batch is spread over replicas.

Trainers sum gradients over replicas. "global" divides by what all replicas have counted, so that the sum is the loss of one
device with the whole batch. "replica" is the authors' rule: each divides by its own count, and the results are averaged.
"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.errors import UserError

NORMALIZERS = ("global", "replica")


def check_normalizer(normalizer: str) -> None:
  """Raises UserError for another name than those of `NORMALIZERS`."""
  if normalizer not in NORMALIZERS:
    raise UserError(f"normalizer is {normalizer!r}; it must be one of {list(NORMALIZERS)}")


def num_replicas() -> int:
  """Returns over how many replicas the running step is spread."""
  context = tf.distribute.get_replica_context()
  return context.num_replicas_in_sync if context is not None else 1


def normalizing_counts(counts: tf.Tensor, normalizer: str) -> tf.Tensor:
  """Returns what losses are divided by, without a gradient: summed over replicas for "global". Call it in the replica's step.

  Args:
    counts: float32[...], of this replica.
    normalizer: "global" or "replica".
  """
  counts = tf.stop_gradient(counts)
  if normalizer == "global" and num_replicas() > 1:
    counts = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, counts)
  return counts


def average_over(normalizer: str) -> int:
  """Returns what a replica's loss is divided by on top: for "replica" the number of them, so that sums are means; else 1."""
  return num_replicas() if normalizer == "replica" else 1
