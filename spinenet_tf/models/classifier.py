"""Image classifier on a scale-permuted backbone, forward only.  [SpineNet section 4.3]"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.heads.classification import ClassifierHead
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.models.network import Network, check_levels, check_num_classes


@keras.utils.register_keras_serializable("spinenet_tf")
class Classifier(Network):
  """Backbone and linear classifier. Use `build_classifier`, which finds the architecture.

  All levels of the pyramid are read, unless `levels` names some. Of a ResNet with a feature pyramid network the last block is
  read and the feature pyramid network is left out, as in the authors' ResNet classifiers.

  Args:
    backbone: a `Backbone`, or its config.
    num_classes: outputs.
    levels: pyramid levels that are read; None for all.

  Call: float[B, H, W, 3], normalised pixels -> {"logits": float32[B, num_classes], "features": float32[B, C]}; C is 256 for
    SpineNet-49 to 143 and 2048 for ResNet-50 to 152.
  """

  def __init__(
    self,
    backbone: Backbone | dict,
    num_classes: int,
    levels: Sequence[int] | None = None,
    name: str | None = None,
    **kwargs,
  ):
    if isinstance(backbone, dict):
      backbone = Backbone.from_config(backbone)
    check_num_classes(num_classes)
    features = _levels(backbone)
    if levels is not None:
      check_levels(backbone.architecture, levels)
      features = {level: maps for level, maps in features.items() if int(level) in levels}
    outputs = ClassifierHead(num_classes, tuple(map(int, features)), name="classifier")(features)
    config = {"num_classes": num_classes, "levels": levels and list(levels)}
    super().__init__(backbone, outputs, config, name or f"classifier_{backbone.name}", **kwargs)


def _levels(backbone: Backbone) -> dict[str, tf.Tensor]:
  """Returns the features that are classified, by level."""
  arch = backbone.architecture
  if arch.pyramid != "fpn":
    return dict(backbone.output)
  last = len(arch.stem) - 1
  layer = backbone.get_layer(f"block_{last:02d}/repeat_{arch.repeats(last) - 1}")
  return {str(arch.stem[last].level): layer.output}


def build_classifier(
  architecture: str | pathlib.Path | dict | Architecture,
  num_classes: int,
  input_size: tuple[int | None, int | None] = (224, 224),
  *,
  activation: str = "relu",
  stochastic_depth: float = 0.0,
  dropblock_keep: float = 1.0,
  dropblock_size: int = 7,
  synchronized: bool = False,
  norm_momentum: float = 0.9,
  norm_epsilon: float = 1e-5,
  padding: str = "symmetric",
  folded: bool = False,
  pooling: str = "chain",
  pool_padding: str = "same",
  endpoint_activation: bool = True,
  squeeze: str = "swish",
  levels: Sequence[int] | None = None,
) -> Classifier:
  """Builds a classifier on a backbone.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    num_classes: outputs; 1001 for the authors' layout of ImageNet, whose index 0 is no class.
    input_size: (height, width) in pixels; any size is built, levels that do not divide have ceil(size / 2^level).
    activation: "relu", or "swish" in the improved recipe.
    stochastic_depth: drop rate of the backbone's last block; 0.2 in the improved recipe.
    dropblock_keep: DropBlock's keep probability in the backbone; 1 is off.
    dropblock_size: DropBlock's square, in feature pixels.
    synchronized: batch statistics of all replicas together.
    norm_momentum: share of the old moving averages kept at each step.
    norm_epsilon: added to variances.
    padding: of strided convolutions, see `ConvStyle`.
    folded: for inference, without normalisations; `serving.fold` makes the weights.
    pooling: of connections that go down more than one level, see `ConvStyle`.
    pool_padding: of max-pools, see `ConvStyle`.
    endpoint_activation: whether the activation follows an endpoint's convolution.
    squeeze: activations of mobile blocks' squeeze-and-excitation, see `ConvStyle`.
    levels: pyramid levels that are read, such as (7,) in Model Garden; None for all.

  Returns: a Keras model; its call is described at `Classifier`.

  Raises: UserError for an unknown architecture or a value outside its range.
  """
  arch = find_architecture(architecture)
  style = ConvStyle(
    activation,
    norm_momentum,
    norm_epsilon,
    synchronized,
    padding,
    folded,
    pooling,
    pool_padding,
    endpoint_activation,
    squeeze,
  )
  return Classifier(
    Backbone(arch, input_size, style, stochastic_depth, dropblock_keep, dropblock_size), num_classes, levels
  )
