"""Blocks by kind; residual and bottleneck ones.  [SpineNet section 3.2; He et al. 2016; authors' nn_blocks]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.composite import Composite, build_part, image_shape
from spinenet_tf.layers.conv_norm import ConvNorm
from spinenet_tf.layers.dropblock import DropBlock
from spinenet_tf.layers.mbconv import MBConv
from spinenet_tf.layers.stochastic_depth import StochasticDepth
from spinenet_tf.layers.style import ConvStyle

BOTTLENECK_EXPANSION = 4
BLOCKS = ("bottleneck", "residual", "mbconv")


def block_channels(block: str, filters: int) -> int:
  """Returns the channels a block of width `filters` puts out: 4C of a bottleneck, else C."""
  return filters * BOTTLENECK_EXPANSION if block == "bottleneck" else filters


def kernel_sizes(block: str) -> tuple[int, ...]:
  """Returns the kernel sizes of a residual or bottleneck block's convolutions, first to last."""
  return (1, 3, 1) if block == "bottleneck" else (3, 3)


def make_block(
  block: str, filters: int, strides: int = 1, input_channels: int | None = None, **kwargs
) -> Block | MBConv:
  """Returns a block of any kind that turns `input_channels` into `block_channels(block, filters)`.

  Args:
    block: one of `BLOCKS`.
    filters: its width.
    strides: 1 or 2.
    input_channels: of the features it reads; as many as it puts out when None. A residual or bottleneck block has a
      projection where they differ from that, or the stride is not 1.
    **kwargs: drop_rate, dropblock_keep, dropblock_size, salt, style, name: see `Block`.

  Raises: UserError for another kind.
  """
  if block not in BLOCKS:
    raise UserError(f"block is {block!r}; it must be one of {list(BLOCKS)}")
  if block == "mbconv":
    return MBConv(filters, input_channels, strides, **kwargs)
  project = strides > 1 or input_channels not in (None, block_channels(block, filters))
  return Block(block, filters, strides, project, **kwargs)


@keras.utils.register_keras_serializable("spinenet_tf")
class Block(Composite):
  """One residual or bottleneck block; the stride, if any, is on its first 3x3 convolution.

  residual:   3x3 C - norm - act - 3x3 C - norm; + shortcut; act
  bottleneck: 1x1 C - norm - act - 3x3 C - norm - act - 1x1 4C - norm; + shortcut; act

  Args:
    block: "residual" or "bottleneck".
    filters: C above.
    strides: 1 or 2.
    project: the shortcut is a 1x1 convolution and normalisation (needed where channels or size change).
    drop_rate: stochastic depth's probability of dropping the branch of an image.
    dropblock_keep: DropBlock's keep probability after every convolution and on the shortcut; 1 turns it off.
    dropblock_size: DropBlock's square, in feature pixels.
    salt: number that tells this block's random draws from those of the others.
    style: a `ConvStyle`, or the dictionary of one.

  Call: float[B, H, W, C'] -> float[B, H / strides, W / strides, C or 4C].
  """

  def __init__(
    self,
    block: str,
    filters: int,
    strides: int = 1,
    project: bool = False,
    drop_rate: float = 0.0,
    dropblock_keep: float = 1.0,
    dropblock_size: int = 7,
    salt: int = 0,
    style: ConvStyle | dict | None = None,
    **kwargs,
  ):
    super().__init__(**kwargs)
    if block not in ("bottleneck", "residual"):
      raise UserError(f"block is {block!r}; it must be 'bottleneck' or 'residual'; `make_block` makes every kind")
    self.block, self.filters, self.strides, self.project = block, filters, strides, project
    self.drop_rate, self.salt = drop_rate, salt
    self.dropblock_keep, self.dropblock_size = dropblock_keep, dropblock_size
    self.style = ConvStyle.of(style)
    sizes = kernel_sizes(block)
    strided = sizes.index(3)
    self.convs = []
    for i, size in enumerate(sizes):
      last = i == len(sizes) - 1
      conv = ConvNorm(
        block_channels(block, filters) if last else filters,
        size,
        strides=strides if i == strided else 1,
        activate=not last,
        style=self.style,
        name=f"conv{i + 1}",
      )
      self.convs.append(conv)
    self.shortcut = None
    if project:
      channels = block_channels(block, filters)
      self.shortcut = ConvNorm(channels, strides=strides, activate=False, style=self.style, name="shortcut")
    self.drop = StochasticDepth(drop_rate, salt=salt, name="stochastic_depth") if drop_rate else None
    self.dropblocks = []
    if dropblock_keep < 1:
      self.dropblocks = [
        DropBlock(dropblock_keep, dropblock_size, salt=salt + 1 + i, name=f"dropblock_{i}")
        for i in range(len(sizes) + 1)
      ]

  def build_parts(self, input_shape: tf.TensorShape) -> None:
    """Builds the convolutions and what drops."""
    shape = input_shape
    for conv in self.convs:
      shape = build_part(conv, shape)
    if self.shortcut:
      build_part(self.shortcut, input_shape)
    for layer in [*self.dropblocks, *([self.drop] if self.drop else [])]:
      build_part(layer, shape)

  def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
    """Returns (B, ceil(H / strides), ceil(W / strides), C or 4C)."""
    return image_shape(input_shape, self.strides, block_channels(self.block, self.filters))

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the block's activated output."""
    features = inputs
    for i, conv in enumerate(self.convs):
      features = conv(features, training=training)
      if self.dropblocks:
        features = self.dropblocks[i](features, training=training)
    shortcut = self.shortcut(inputs, training=training) if self.shortcut else inputs
    if self.dropblocks:
      shortcut = self.dropblocks[-1](shortcut, training=training)
    if self.drop:
      features = self.drop(features, training=training)
    return self.style.activate(features + shortcut)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {
      "block": self.block,
      "filters": self.filters,
      "strides": self.strides,
      "project": self.project,
      "drop_rate": self.drop_rate,
      "dropblock_keep": self.dropblock_keep,
      "dropblock_size": self.dropblock_size,
      "salt": self.salt,
      "style": self.style.to_dict(),
    }
