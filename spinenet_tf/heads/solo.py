"""SOLO's heads: what object each cell of a grid holds, and the mask of each cell's object.  [Wang et al. 2020, section 3.1]

Both branches are shared by all levels, their group norms too; only the last convolution of the mask branch is each level's
own. It has S^2 outputs, one map for each cell, of which few are ever wanted: a 1x1 convolution is a product with its kernel,
so `CellMasks` takes the kernel's columns of the cells that are, and makes no other map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.heads.retinanet import prior_bias
from spinenet_tf.layers.composite import Composite, build_part
from spinenet_tf.layers.convolution import Convolution
from spinenet_tf.layers.group_norm import GroupNorm
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.ops.solo_levels import SoloLevels, solo_levels

DEVIATION = 0.01  # of kernels at the start  [authors' code]


@keras.utils.register_keras_serializable("spinenet_tf")
class AtStride(keras.layers.Layer):
  """Resizes features bilinearly to another stride.

  Args:
    levels_down: half the size so many times, or twice where it is below 0.
    output_size: (height, width), or None where sizes are known to divide.

  Call: float[B, H, W, C] -> float[B, height, width, C].
  """

  def __init__(self, levels_down: int, output_size: tuple[int, int] | None = None, **kwargs):
    super().__init__(**kwargs)
    self.levels_down = levels_down
    self.output_size = tuple(output_size) if output_size else None

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the features resized."""
    size = self.output_size
    if size is None:
      sides = (n or tf.shape(inputs)[i] for i, n in enumerate(inputs.shape[1:3], 1))
      down = self.levels_down
      size = [side // 2**down if down > 0 else side * 2**-down for side in sides]
    return resized(inputs, size)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"levels_down": self.levels_down, "output_size": self.output_size}


class GroupNormTower(Composite):
  """`convs` units of 3x3 convolution without bias, group norm and activation, shared by all levels.

  Args:
    convs: how many units.
    filters: their channels.
    levels: a `SoloLevels`, or the dictionary of one.
    style: a `ConvStyle`, or the dictionary of one; under a folded one too there are norms, as they depend on the image.
  """

  def __init__(
    self,
    convs: int,
    filters: int,
    levels: SoloLevels | dict | None = None,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    self.convs, self.filters = convs, filters
    self.levels, self.style = solo_levels(levels), ConvStyle.of(style)
    self.tower = [self._convolution(filters, f"conv{i + 1}") for i in range(convs)]
    self.norms = [GroupNorm(name=f"norm{i + 1}") for i in range(convs)]

  def _convolution(self, filters: int, name: str, **kwargs) -> Convolution:
    initializer = keras.initializers.RandomNormal(stddev=DEVIATION)
    kwargs = {"use_bias": False, **kwargs}
    return Convolution(filters, 3, padding="same", kernel_initializer=initializer, name=name, **kwargs)

  def _build_units(self, shape: tf.TensorShape) -> tf.TensorShape:
    for convolution, norm in zip(self.tower, self.norms):
      shape = build_part(norm, build_part(convolution, shape))
    return shape

  def _units(self, features: tf.Tensor) -> tf.Tensor:
    for convolution, norm in zip(self.tower, self.norms):
      features = self.style.activate(norm(convolution(features)))
    return features

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "convs": self.convs,
      "filters": self.filters,
      "levels": dataclasses.asdict(self.levels),
      "style": self.style.to_dict(),
    }


@keras.utils.register_keras_serializable("spinenet_tf")
class CategoryHead(GroupNormTower):
  """The category branch: a tower and a 3x3 prediction on the grid of cells.

  Args:
    num_classes: without background, K.
    aligned: whether features are resized to the grid before the tower, or after it.
    prior: class probability that the biases start from.
    convs, filters, levels, style: as of `GroupNormTower`.

  Call: {"3_8": float[B, h, w, C], ...}, by `SoloLevels.features` -> {"0": float32[B, S, S, K], ...}, logits by level.
  """

  def __init__(self, num_classes: int, *args, aligned: bool = True, prior: float = 0.01, **kwargs):
    super().__init__(*args, **kwargs)
    self.num_classes, self.aligned, self.prior = num_classes, aligned, prior
    bias = keras.initializers.Constant(prior_bias(prior))
    self.predict = self._convolution(num_classes, "predict", use_bias=True, bias_initializer=bias)

  @property
  def output_dtype(self) -> tf.DType:
    """Predictions are float32 under any policy."""
    return tf.float32

  def build_parts(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    """Builds the tower and the prediction."""
    build_part(self.predict, self._build_units(next(iter(input_shape.values()))))

  def compute_output_shape(self, input_shape: Mapping[str, tf.TensorShape]) -> dict[str, tf.TensorShape]:
    """Returns (B, S, S, K) of every level."""
    levels = zip(self.levels.names, self.levels.features, self.levels.grids)
    return {name: tf.TensorShape([input_shape[key][0], grid, grid, self.num_classes]) for name, key, grid in levels}

  @tf.autograph.experimental.do_not_convert
  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns the logits of every level."""
    if not self.aligned:
      features = {key: self._units(maps) for key, maps in features.items()}
    result = {}
    for name, key, grid in zip(self.levels.names, self.levels.features, self.levels.grids):
      cells = resized(features[key], (grid, grid))
      result[name] = tf.cast(self.predict(self._units(cells) if self.aligned else cells), tf.float32)
    return result

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"num_classes": self.num_classes, "aligned": self.aligned, "prior": self.prior}


@keras.utils.register_keras_serializable("spinenet_tf")
class MaskTower(GroupNormTower):
  """The mask branch without its prediction: a tower that also reads where a pixel lies.  [CoordConv, Liu et al. 2018]

  Args:
    convs, filters, levels, style: as of `GroupNormTower`.

  Call: {"3_8": float[B, h, w, C], ...} -> {"3_8": float[B, h, w, filters], ...}.
  """

  def build_parts(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    """Builds the tower."""
    shape = tf.TensorShape(next(iter(input_shape.values())))
    self._build_units(tf.TensorShape([*shape[:3], shape[3] + 2]))

  def compute_output_shape(self, input_shape: Mapping[str, tf.TensorShape]) -> dict[str, tf.TensorShape]:
    """Returns (B, h, w, filters) of every feature."""
    return {key: tf.TensorShape([*tf.TensorShape(shape)[:3], self.filters]) for key, shape in input_shape.items()}

  @tf.autograph.experimental.do_not_convert
  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
    """Returns what masks are predicted from."""
    return {key: self._units(tf.concat([maps, _places(maps)], axis=-1)) for key, maps in features.items()}


@keras.utils.register_keras_serializable("spinenet_tf")
class CellMasks(keras.layers.Layer):
  """The prediction of the mask branch on one level: the masks of those cells that are asked for.

  The plain head is a 1x1 convolution to S^2 maps, the decoupled one two of S maps, of which that of the cell's row and that
  of its column are multiplied as probabilities. Maps are enlarged twofold before the sigmoid: bilinear resizing and a 1x1
  convolution commute, so that it costs nothing on the features.

  Args:
    grid: S.
    decoupled: whether rows and columns have maps of their own.
    prior: probability that the biases start from.

  Call: float[B, h, w, C], and cells int32[B, N], row * S + column, or None for all -> float32[B, N, 2 h, 2 w],
    probabilities.
  """

  def __init__(self, grid: int, decoupled: bool = False, prior: float = 0.01, **kwargs):
    super().__init__(**kwargs)
    self.grid, self.decoupled, self.prior = grid, decoupled, prior

  def build(self, input_shape: tf.TensorShape) -> None:
    """Makes the variables."""
    bias = keras.initializers.Constant(prior_bias(self.prior))
    outputs = self.grid if self.decoupled else self.grid**2
    self.kernels, self.biases = [], []
    for part in ("rows_", "columns_") if self.decoupled else ("",):
      kernel = keras.initializers.RandomNormal(stddev=DEVIATION)  # one that is used twice draws the same values
      self.kernels.append(self.add_weight(f"{part}kernel", [input_shape[-1], outputs], initializer=kernel))
      self.biases.append(self.add_weight(f"{part}bias", [outputs], initializer=bias))
    super().build(input_shape)

  @tf.autograph.experimental.do_not_convert
  def call(self, features: tf.Tensor, cells: tf.Tensor | None = None, training: bool | None = None) -> tf.Tensor:
    """Returns the masks of cells."""
    if cells is None:
      cells = tf.tile(tf.range(self.grid**2)[None], [tf.shape(features)[0], 1])
    outputs = (cells // self.grid, cells % self.grid) if self.decoupled else (cells,)
    masks = None
    for kernel, bias, chosen in zip(self.kernels, self.biases, outputs):
      factor = tf.sigmoid(_doubled(_maps(features, kernel, bias, chosen)))
      masks = factor if masks is None else masks * factor
    return masks

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"grid": self.grid, "decoupled": self.decoupled, "prior": self.prior}


def resized(maps: tf.Tensor, size: tuple | list) -> tf.Tensor:
  """Returns float[B, H, W, C] at (height, width) bilinearly, as they are where that is their size."""
  if maps.shape[1:3].as_list() == list(size):
    return maps
  return tf.cast(tf.image.resize(tf.cast(maps, tf.float32), size), maps.dtype)


def _places(maps: tf.Tensor) -> tf.Tensor:
  """Returns float[B, H, W, 2], x and y of each pixel of float[B, H, W, C], -1 in the first and 1 in the last."""
  shape = tf.shape(maps)
  rows, columns = (tf.linspace(-1.0, 1.0, shape[axis]) for axis in (1, 2))
  places = tf.stack(tf.meshgrid(columns, rows), axis=-1)
  return tf.cast(tf.broadcast_to(places[None], [*tf.unstack(shape[:3]), 2]), maps.dtype)


def _maps(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
  """Returns chosen outputs of a 1x1 convolution: float[B, h, w, C], int32[B, N] -> float32[B, N, h, w]."""
  _, height, width, channels = (n or tf.shape(features)[i] for i, n in enumerate(features.shape))
  chosen = tf.gather(tf.transpose(kernel), outputs)
  maps = tf.matmul(chosen, tf.reshape(features, [-1, height * width, channels]), transpose_b=True)
  # What is gathered is no variable itself: gradients are tensors, not slices.
  maps = tf.cast(maps, tf.float32) + tf.cast(tf.gather(bias[:, None], outputs), tf.float32)
  return tf.reshape(maps, [-1, outputs.shape[1] or tf.shape(outputs)[1], height, width])


def _doubled(maps: tf.Tensor) -> tf.Tensor:
  """Returns float32[B, N, h, w] at twice the size, bilinearly."""
  batch, count, height, width = (n or tf.shape(maps)[i] for i, n in enumerate(maps.shape))
  flat = tf.image.resize(tf.reshape(maps, [batch * count, height, width, 1]), [2 * height, 2 * width])
  return tf.reshape(flat, [batch, count, 2 * height, 2 * width])
