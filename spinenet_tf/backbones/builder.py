"""From an architecture to a Keras model: image in, feature pyramid out.  [SpineNet section 3]"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import tensorflow as tf

from spinenet_tf.backbones import rules
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.fpn import feature_pyramid
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import make_block
from spinenet_tf.layers.composite import Composite, build_part, image_shape
from spinenet_tf.layers.conv_norm import ConvNorm
from spinenet_tf.layers.resample import make_connection
from spinenet_tf.layers.stochastic_depth import drop_rate
from spinenet_tf.layers.style import ConvStyle

SALTS_PER_BLOCK = 8  # a block draws for its branch and up to four times for DropBlock


def level_size(input_size: tuple[int | None, int | None], level: int) -> tuple[int, int] | None:
  """Returns the (height, width) of features at a level, ceil(size / 2^level), or None where the input's is not known."""
  if None in input_size:
    return None
  return tuple(-(-side // 2**level) for side in input_size)


@keras.utils.register_keras_serializable("spinenet_tf")
class StemPool(Composite):
  """The stem's 3x3/2 max-pool.

  Args:
    style: a `ConvStyle`, or the dictionary of one; its `pool_padding` counts.

  Call: float[B, H, W, C] -> float[B, ceil(H / 2), ceil(W / 2), C].
  """

  def __init__(self, style: ConvStyle | dict | None = None, **kwargs):
    super().__init__(**kwargs)
    self.style = ConvStyle.of(style)

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """There are none."""

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns (B, ceil(H / 2), ceil(W / 2), C)."""
    return image_shape(input_shape, 2, input_shape[-1])

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the largest values."""
    return self.style.max_pool(inputs, 3, 2)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"style": self.style.to_dict()}


@keras.utils.register_keras_serializable("spinenet_tf")
class ScalePermutedBlock(Composite):
  """A block with its cross-scale connections: resample each parent, sum, activate, then the block and its repeats.

  Args:
    connections: for each parent, the arguments of `make_connection`.
    blocks: for each repeat, the arguments of `make_block`.
    style: a `ConvStyle`, or the dictionary of one.

  Call: list of float[B, H_i, W_i, C_i], the parents first and then the features that the out-degree-0 rule adds as they
  are -> float[B, H, W, C].
  """

  def __init__(self, connections: list[dict], blocks: list[dict], style: ConvStyle | dict | None = None, **kwargs):
    super().__init__(**kwargs)
    self.connections, self.blocks, self.style = list(connections), list(blocks), ConvStyle.of(style)
    self.resamples = [
      make_connection(**args, style=self.style, name=f"resample_{i}") for i, args in enumerate(self.connections)
    ]
    self.repeats = [make_block(**args, style=self.style, name=f"repeat_{i}") for i, args in enumerate(self.blocks)]

  def build_parts(self, input_shape: list[tf.TensorShape]) -> None:
    """Builds connections and blocks."""
    shape, *_ = [build_part(*pair) for pair in zip(self.resamples, input_shape)]
    for block in self.repeats:
      shape = build_part(block, shape)

  def compute_output_shape(self, input_shape: list[tf.TensorShape]) -> tf.TensorShape:
    """Returns (B, H, W, C)."""
    shape = self.resamples[0].compute_output_shape(input_shape[0])
    for block in self.repeats:
      shape = block.compute_output_shape(shape)
    return shape

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
    """Returns the block's features."""
    count = len(self.resamples)
    features = [resample(x, training=training) for resample, x in zip(self.resamples, inputs[:count])]
    fused = features[0]
    for other in [*features[1:], *inputs[count:]]:
      fused = fused + other
    fused = self.style.activate(fused)
    for block in self.repeats:
      fused = block(fused, training=training)
    return fused

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    connections, blocks = ([dict(args) for args in group] for group in (self.connections, self.blocks))
    return super().get_config() | {"connections": connections, "blocks": blocks, "style": self.style.to_dict()}


@keras.utils.register_keras_serializable("spinenet_tf")
class Backbone(keras.Model):
  """A scale-permuted backbone.

  Args:
    architecture: an `Architecture`, or the dictionary of one.
    input_size: (height, width) in pixels; (None, None) for sizes that are multiples of 2^(highest level) but not known.
    style: a `ConvStyle`, or the dictionary of one.
    stochastic_depth: drop rate of the last block, rising to it along a line; 0 turns it off.  [protocol C: 0.2]
    dropblock_keep: keep probability of DropBlock in the permuted blocks; 1 turns it off.  [protocol A]
    dropblock_size: side of DropBlock's squares, in feature pixels.
    literal_order: up-sample before the expanding convolutions, as the paper draws it: the same numbers, slower.

  Call: float[B, H, W, 3], normalised pixels -> {"3": float[B, ceil(H / 8), ceil(W / 8), endpoint_filters], ...}.
  """

  def __init__(
    self,
    architecture: Architecture | dict,
    input_size: tuple[int | None, int | None] = (640, 640),
    style: ConvStyle | dict | None = None,
    stochastic_depth: float = 0.0,
    dropblock_keep: float = 1.0,
    dropblock_size: int = 7,
    literal_order: bool = False,
    name: str | None = None,
    **kwargs,
  ):
    arch, style = find_architecture(architecture), ConvStyle.of(style)
    size = tuple(input_size)
    config = {
      "architecture": arch.to_dict(),
      "input_size": size,
      "style": style.to_dict(),
      "stochastic_depth": stochastic_depth,
      "dropblock_keep": dropblock_keep,
      "dropblock_size": dropblock_size,
      "literal_order": literal_order,
    }
    if not 0 <= stochastic_depth < 1:
      raise UserError(f"stochastic_depth is {stochastic_depth}; it must lie in [0, 1), protocol C has 0.2")
    rules.check_size(arch, size)
    drops = _Drops(stochastic_depth, dropblock_keep, dropblock_size)
    images = keras.Input((*size, 3), name="images")
    features = _stem(arch, images, style, drops)
    used = arch.used()
    for i in range(len(arch.stem), len(arch.features)):
      if i in used:
        block = _permuted_block(arch, i, size, style, literal_order, drops)
        features[i] = block([features[j] for j in arch.inputs(i)])
    if arch.pyramid == "fpn":
      sizes = {level: level_size(size, level) for level in arch.output_levels}
      bottom_up = {level: features[i] for level, i in arch.outputs.items()}
      pyramid = feature_pyramid(bottom_up, arch.endpoint_filters, sizes, style)
    else:
      pyramid = {
        level: ConvNorm(
          arch.endpoint_filters, activate=style.endpoint_activation, style=style, name=f"endpoint_{level}"
        )(features[i])
        for level, i in arch.outputs.items()
      }
    outputs = {str(level): endpoint for level, endpoint in pyramid.items()}
    super().__init__(inputs=images, outputs=outputs, name=name or arch.name, **kwargs)
    self._config_json = json.dumps(config)  # as text: Keras would wrap a dictionary in a tracker of its own
    self._architecture = arch

  @property
  def architecture(self) -> Architecture:
    """What this backbone was built from."""
    return self._architecture

  @property
  def output_specs(self) -> dict[str, tf.TensorShape]:
    """Shape of every level of the pyramid."""
    return {level: tf.TensorShape(shape) for level, shape in self.output_shape.items()}

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {"name": self.name, **json.loads(self._config_json)}

  @classmethod
  def from_config(cls, config: dict, custom_objects: dict | None = None) -> Backbone:
    """Builds the backbone that `get_config` describes."""
    return cls(**config)


@dataclasses.dataclass(frozen=True)
class _Drops:
  """What is dropped in training: arguments of `Backbone`, and what they mean for one block."""

  stochastic_depth: float
  keep: float
  size: int

  def of(self, position: int, count: int, salt: int, keep: float) -> dict:
    """Returns the arguments of block `position` (from 0) of the `count` that drop anything."""
    rate = drop_rate(self.stochastic_depth, position, count)
    return {"drop_rate": rate, "dropblock_keep": keep, "dropblock_size": self.size, "salt": salt}

  def in_stem(self, arch: Architecture, index: int, repeat: int) -> dict:
    """Returns the arguments of a stem block: none before permuted blocks.

    In a ResNet, DropBlock's drop rate is a quarter for each level below 5, as in the authors' ResNet.
    """
    if arch.pyramid != "fpn":
      return {}
    keep = 1 - (1 - self.keep) * 0.25 ** (arch.stem[-1].level - arch.stem[index].level)
    return self.of(index, len(arch.stem), _salt(arch, index, repeat), keep)

  def in_blocks(self, arch: Architecture, index: int, repeat: int) -> dict:
    """Returns the arguments of a permuted block."""
    return self.of(index - len(arch.stem), len(arch.blocks), _salt(arch, index, repeat), self.keep)


def _salt(arch: Architecture, index: int, repeat: int) -> int:
  most = max(map(arch.repeats, range(len(arch.features))))
  return (index * most + repeat) * SALTS_PER_BLOCK


def _stem(arch: Architecture, images: tf.Tensor, style: ConvStyle, drops: _Drops) -> dict[int, tf.Tensor]:
  """Returns the features of the stem by index: a strided convolution, perhaps a max-pool, then a chain of blocks."""
  features = ConvNorm(arch.stem_filters, arch.stem_kernel, 2, style=style, name="stem")(images)
  level, outputs = 1, {}
  if arch.stem_pool:
    features, level = StemPool(style, name="stem_pool")(features), 2
  for i, spec in enumerate(arch.stem):
    for repeat in range(arch.repeats(i)):
      block = make_block(
        spec.block,
        arch.filters(spec.level),
        2 ** (spec.level - level),
        features.shape[-1],
        style=style,
        name=f"block_{i:02d}/repeat_{repeat}",
        **drops.in_stem(arch, i, repeat),
      )
      features, level = block(features), spec.level
    outputs[i] = features
  return outputs


def _permuted_block(
  arch: Architecture, index: int, size: tuple, style: ConvStyle, literal_order: bool, drops: _Drops
) -> ScalePermutedBlock:
  spec = arch.features[index]
  connections = [
    {
      "filters": arch.channels(index),
      "squeeze_filters": None if arch.separable else arch.squeeze_filters(parent),
      "levels_down": spec.level - arch.features[parent].level,
      "output_size": level_size(size, spec.level),
      "literal_order": literal_order,
    }
    for parent in spec.parents
  ]
  blocks = [
    {"block": spec.block, "filters": arch.filters(spec.level), **drops.in_blocks(arch, index, repeat)}
    for repeat in range(arch.repeats(index))
  ]
  return ScalePermutedBlock(connections, blocks, style=style, name=f"block_{index:02d}")


def build_backbone(
  architecture: str | pathlib.Path | dict | Architecture,
  input_size: tuple[int | None, int | None] = (640, 640),
  *,
  activation: str = "relu",
  norm_momentum: float = 0.99,
  norm_epsilon: float = 1e-3,
  synchronized: bool = False,
  padding: str = "symmetric",
  stochastic_depth: float = 0.0,
  dropblock_keep: float = 1.0,
  dropblock_size: int = 7,
  pooling: str = "chain",
  pool_padding: str = "same",
  endpoint_activation: bool = True,
  squeeze: str = "swish",
) -> Backbone:
  """Builds a backbone.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    input_size: (height, width) in pixels, or (None, None).
    activation: "relu" or "swish".
    norm_momentum: share of the old moving averages kept at each step.
    norm_epsilon: added to variances.
    synchronized: batch statistics of all replicas together.
    padding: of strided convolutions, see `ConvStyle`.
    stochastic_depth: drop rate of the last block.
    dropblock_keep: DropBlock's keep probability; 1 is off.
    dropblock_size: DropBlock's square, in feature pixels.
    pooling: of connections that go down more than one level, see `ConvStyle`.
    pool_padding: of max-pools, see `ConvStyle`.
    endpoint_activation: whether the activation follows an endpoint's convolution.
    squeeze: activations of mobile blocks' squeeze-and-excitation, see `ConvStyle`.

  Returns: a Keras model, float[B, H, W, 3] -> {"3": float[B, H / 8, W / 8, C], ..., "7": ...}.

  Raises: UserError for an unknown name or a value outside its range.
  """
  style = ConvStyle(
    activation,
    norm_momentum,
    norm_epsilon,
    synchronized,
    padding,
    pooling=pooling,
    pool_padding=pool_padding,
    endpoint_activation=endpoint_activation,
    squeeze=squeeze,
  )
  return Backbone(find_architecture(architecture), input_size, style, stochastic_depth, dropblock_keep, dropblock_size)
