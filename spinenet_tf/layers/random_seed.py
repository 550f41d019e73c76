"""Where the random layers get their seeds from.

A training step that must be repeatable names its seed around the model's call:

    with step_seed(seed):                      # int32[2], a function of run seed, step and replica
      outputs = model(images, training=True)

Every stochastic-depth and DropBlock layer then draws from that seed and its own salt, so that a resumed run sees the
draws it would have seen. Outside such a block the layers draw from TensorFlow's global generator.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf

_state = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def step_seed(seed: tf.Tensor) -> Iterator[None]:
  """Makes the random layers called inside draw from `seed`, int32[2]."""
  previous = getattr(_state, "seed", None)
  _state.seed = tf.convert_to_tensor(seed, tf.int32)
  try:
    yield
  finally:
    _state.seed = previous


def layer_seed(salt: int) -> tf.Tensor:
  """Returns int32[2]: the seed of the layer with this salt, at this step."""
  seed = getattr(_state, "seed", None)
  if seed is None:
    return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
  return tf.random.experimental.stateless_fold_in(seed, salt)
