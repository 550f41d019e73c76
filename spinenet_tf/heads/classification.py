"""A classifier's head: the pyramid up-sampled, averaged and pooled, then a linear layer.  [SpineNet section 4.3]"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras


@keras.utils.register_keras_serializable("spinenet_tf")
class ClassifierHead(keras.layers.Layer):
  """Mean of all levels at the size of the lowest one, mean over the image, class scores.

  The paper up-samples each level to the one below (nearest neighbour), adds, and so on down to the lowest, divides by the
  number of levels and pools. All of this is linear: here each level is pooled where it is, every pixel weighted with
  the number of pixels of the lowest level that would repeat it. The same numbers, without a map of the lowest level's size.

  Computed in float32 under any precision policy.

  Args:
    num_classes: outputs of the linear layer; its kernel starts normal with deviation 0.01.
    levels: pyramid levels to read.

  Call: {"3": float[B, H3, W3, C], ...} -> {"logits": float32[B, num_classes], "features": float32[B, C]}. Where height or
    width is not known, sizes are those that divide: H3 = 2 H4 and so on.
  """

  def __init__(self, num_classes: int, levels: Sequence[int] = (3, 4, 5, 6, 7), **kwargs):
    super().__init__(**{"dtype": "float32", **kwargs})
    self.num_classes, self.levels = num_classes, tuple(sorted(levels))
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    self.predict = keras.layers.Dense(num_classes, kernel_initializer=initializer, name="predict", dtype="float32")

  @tf.autograph.experimental.do_not_convert
  def call(self, pyramid: dict[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns class scores before the softmax, and the pooled features that they come from."""
    maps = [pyramid[str(level)] for level in self.levels]
    rows, columns = (self._weights([x.shape[axis] for x in maps]) for axis in (1, 2))
    features = tf.add_n([_pool(*level) for level in zip(maps, rows, columns)]) / len(maps)
    return {"logits": self.predict(features), "features": features}

  @staticmethod
  def _weights(sizes: list[int | None]) -> list[np.ndarray | None]:
    """Returns `repeats` as shares; None for a level whose pixels all count the same."""
    if None in sizes:
      return [None] * len(sizes)
    return [np.float32(count / sizes[0]) if np.ptp(count) else None for count in repeats(sizes)]

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"num_classes": self.num_classes, "levels": self.levels}


def repeats(sizes: Sequence[int]) -> list[np.ndarray]:
  """Returns how often cascaded nearest-neighbour up-sampling repeats each row (or column) in the lowest level.

  Args:
    sizes: of the levels along one axis, lowest level first.

  Returns: int64[size] for each level; each sums to `sizes[0]`.
  """
  source = np.arange(sizes[0])  # of each row of the lowest level, in the level at hand
  counts = []
  for i, size in enumerate(sizes):
    if i:
      source = source * size // sizes[i - 1]
    counts.append(np.bincount(source, minlength=size))
  return counts


def _pool(features: tf.Tensor, rows: np.ndarray | None, columns: np.ndarray | None) -> tf.Tensor:
  """Weighted mean of float[B, H, W, C] over the image; weights sum to 1, None stands for equal ones."""
  for weights in (rows, columns):  # each time axis 1 goes
    if weights is None:
      features = tf.reduce_mean(features, axis=1)
    else:
      features = tf.reduce_sum(features * tf.reshape(weights, [-1] + [1] * (len(features.shape) - 2)), axis=1)
  return features
