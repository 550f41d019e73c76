"""The only place that knows versions of TensorFlow and Keras.

The package is written against the Keras 2 API, as Model Garden is. From TensorFlow 2.16 on that API is the
package `tf_keras`; on 2.15 it is `tf.keras`, and `tf_keras` must be left alone there: AutoGraph does not know
it and converts its whole source, which turns seconds of tracing into minutes.
"""

from __future__ import annotations

import tensorflow as tf

TF_VERSION: tuple[int, int] = tuple(int(part) for part in tf.__version__.split(".")[:2])  # type: ignore[assignment]

if TF_VERSION < (2, 15):
  raise ImportError(
    f"TensorFlow {tf.__version__} is installed; spinenet_tf needs 2.15 to 2.20. Run: pip install 'tensorflow==2.20.*'"
  )
if TF_VERSION >= (2, 16):
  import tf_keras as keras
else:
  keras = tf.keras

__all__ = ["TF_VERSION", "keras"]
