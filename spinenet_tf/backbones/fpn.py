"""Feature pyramid network: top-down sums over a ResNet's levels.  [Lin et al. 2017; authors' fpn.py]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.backbones.rules import FPN_LEVELS
from spinenet_tf.compat import keras
from spinenet_tf.layers.conv_norm import ConvNorm
from spinenet_tf.layers.resample import upsample
from spinenet_tf.layers.style import ConvStyle

NORM_BEHIND = (5, 6)  # levels whose convolution is also read without its normalisation


@keras.utils.register_keras_serializable("spinenet_tf")
class TopDown(keras.layers.Layer):
  """Adds the nearest-neighbour up-sampled level above to a lateral.

  Args:
    output_size: (height, width) of the lateral, or None where sizes are known to divide.

  Call: [float[B, H, W, C], float[B, ceil(H / 2), ceil(W / 2), C]], the lateral and the level above -> float[B, H, W, C].
  """

  def __init__(self, output_size: tuple[int, int] | None = None, **kwargs):
    super().__init__(**kwargs)
    self.output_size = tuple(output_size) if output_size else None

  @tf.autograph.experimental.do_not_convert
  def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
    """Returns the sum."""
    lateral, above = inputs
    return lateral + upsample(above, 2, self.output_size)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return super().get_config() | {"output_size": self.output_size}


def feature_pyramid(
  features: dict[int, tf.Tensor], filters: int, sizes: dict[int, tuple[int, int] | None], style: ConvStyle
) -> dict[int, tf.Tensor]:
  """Builds the pyramid on symbolic tensors.

  1x1 laterals on levels 3 to 5, top-down sums, 3x3 on each; level 6 is 3x3/2 on level 5, level 7 3x3/2 on the activated
  level 6; then each level is normalised, without activation. Levels 5 and 6 are read by the next one before their
  normalisation. Convolutions that no normalisation follows at once have a bias.

  Args:
    features: level -> float[B, H_l, W_l, C_l], levels 3 to 5.
    filters: channels of every level of the pyramid.
    sizes: level -> (height, width), or None where sizes are known to divide.
    style: of the convolutions.

  Returns: level -> float[B, H_l, W_l, filters], levels 3 to 7.
  """
  plain = {"activate": False, "normalize": False, "style": style}
  top = max(features)
  merged: dict[int, tf.Tensor] = {}
  for level in sorted(features, reverse=True):
    lateral = ConvNorm(filters, name=f"fpn/lateral_{level}", **plain)(features[level])
    if level < top:
      lateral = TopDown(sizes[level], name=f"fpn/top_down_{level}")([lateral, merged[level + 1]])
    merged[level] = lateral
  outputs: dict[int, tf.Tensor] = {}
  below = None  # the level below, before its normalisation
  for level in FPN_LEVELS:
    strides = 1 if level <= top else 2
    inputs = merged[level] if level <= top else below
    if level > top + 1:
      inputs = keras.layers.Activation(style.activation, name=f"fpn/activation_{level - 1}")(inputs)
    normalize = level not in NORM_BEHIND
    name = f"fpn/post_hoc_{level}" if level <= top else f"fpn/coarser_{level}"
    below = ConvNorm(filters, 3, strides, activate=False, normalize=normalize, style=style, name=name)(inputs)
    outputs[level] = below if normalize else style.norm(f"fpn/norm_{level}")(below)
  return outputs
