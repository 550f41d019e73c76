"""The only place that knows versions of TensorFlow and Keras.

The package is written against the Keras 2 API, as Model Garden is. From TensorFlow 2.16 on that API is the
package `tf_keras`; on 2.15 it is `tf.keras`, and `tf_keras` must be left alone there: AutoGraph does not know
it and converts its whole source, which turns seconds of tracing into minutes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.framework import ops as _ops

TF_VERSION: tuple[int, int] = tuple(int(part) for part in tf.__version__.split(".")[:2])  # type: ignore[assignment]

if TF_VERSION < (2, 15):
  raise ImportError(
    f"TensorFlow {tf.__version__} is installed; spinenet_tf needs 2.15 to 2.20. Run: pip install 'tensorflow==2.20.*'"
  )
if TF_VERSION >= (2, 16):
  import tf_keras as keras
else:
  keras = tf.keras

__all__ = ["TF_VERSION", "change_input", "forgotten", "keras"]


def change_input(op: tf.Operation, index: int, tensor: tf.Tensor) -> None:
  """Lets an operation of a graph read another tensor of that graph, of equal type and shape."""
  op._update_input(index, tensor)


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
  """Frees the models and graphs of this block at its end; nothing built in it may be used after it.

  TensorFlow keeps the gradient functions of `tf.custom_gradient` in a registry for good, and with them every graph that
  has one: 140 MB for each small detector that is trained.
  """
  registry = getattr(getattr(_ops, "gradient_registry", None), "_registry", {})
  before = set(registry)
  try:
    yield
  finally:
    for name in set(registry) - before:
      if name.startswith("CustomGradient-"):
        del registry[name]
    keras.backend.clear_session()
    gc.collect()
