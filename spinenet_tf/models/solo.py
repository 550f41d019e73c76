"""SOLO on a scale-permuted backbone, forward only: instance masks without boxes.  [Wang et al. 2020]"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.heads.solo import AtStride, CategoryHead, CellMasks, MaskTower
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.models.network import Network, check_levels, check_num_classes
from spinenet_tf.ops import solo_find
from spinenet_tf.ops.solo_levels import SoloLevels
from spinenet_tf.ops.solo_levels import solo_levels as make_levels

CONVS, FILTERS = 7, 256  # of both branches  [authors' configurations]


@keras.utils.register_keras_serializable("spinenet_tf")
class Solo(Network):
  """Backbone, category branch and mask branch. Use `build_solo`, which fills in what an architecture implies.

  The call is all but the mask branch's last convolution; `mask_outputs` is that one for chosen cells, and `find` is all of it.

  Args:
    backbone: a `Backbone`, or its config.
    num_classes: without background, K.
    solo_levels: a `SoloLevels`, or the dictionary of one.
    head_convs: convolutions of each branch.
    head_filters: their channels, F.
    decoupled: whether masks are products of S row maps and S column maps, rather than S^2 maps.
    aligned: whether features are resized to the grid before the category branch, or after it.
    prior: probability that the biases of both predictions start from.

  Call: float[B, H, W, 3], normalised pixels -> {"cls_logits": {"0": float32[B, S, S, K], ...}, by level of `solo_levels`,
    "mask_features": {"3_8": float[B, h, w, F], ...}}, by its `features`.
  """

  def __init__(
    self,
    backbone: Backbone | dict,
    num_classes: int,
    solo_levels: SoloLevels | dict,
    head_convs: int,
    head_filters: int,
    decoupled: bool = False,
    aligned: bool = True,
    prior: float = 0.01,
    name: str | None = None,
    **kwargs,
  ):
    if isinstance(backbone, dict):
      backbone = Backbone.from_config(backbone)
    levels = make_levels(solo_levels)
    check_num_classes(num_classes)
    check_levels(backbone.architecture, levels.pyramid)
    if not 0 < prior < 1:
      raise UserError(f"prior is {prior}; it is a probability, above 0 and below 1, usually 0.01")
    for what, value in (("head_convs", head_convs), ("head_width", head_filters)):
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what} of SOLO's heads is {value!r}; it is a whole number from 1 on")
    config = backbone.get_config()
    features = _features(backbone.output, levels, tuple(config["input_size"]))
    parts = {"convs": head_convs, "filters": head_filters, "levels": levels, "style": ConvStyle.of(config["style"])}
    category = CategoryHead(num_classes, aligned=aligned, prior=prior, name="category", **parts)
    outputs = {
      "cls_logits": category(features),
      "mask_features": MaskTower(name="mask", **parts)(features),
    }
    config = {
      "num_classes": num_classes,
      "solo_levels": dataclasses.asdict(levels),
      "head_convs": head_convs,
      "head_filters": head_filters,
      "decoupled": decoupled,
      "aligned": aligned,
      "prior": prior,
    }
    super().__init__(backbone, outputs, config, name or f"solo_{backbone.name}", **kwargs)
    self._levels, self._decoupled, self._aligned = levels, decoupled, aligned
    self.cell_masks = [
      CellMasks(grid, decoupled, prior, name=f"mask_level{name}") for name, grid in zip(levels.names, levels.grids)
    ]
    for layer in self.cell_masks:
      layer(keras.Input((1, 1, head_filters)))  # makes its variables

  @property
  def solo_levels(self) -> SoloLevels:
    """Grids, strides and sizes of objects."""
    return self._levels

  @property
  def levels(self) -> tuple[int, ...]:
    """Pyramid levels that are read, ascending."""
    return self._levels.pyramid

  @property
  def decoupled(self) -> bool:
    """Whether masks are products of row and column maps."""
    return self._decoupled

  @property
  def aligned(self) -> bool:
    """Whether features are resized to the grid before the category branch."""
    return self._aligned

  def mask_outputs(
    self, features: Mapping[str, tf.Tensor], cells: Mapping[str, tf.Tensor], training: bool = False
  ) -> dict[str, tf.Tensor]:
    """Says which pixels the objects of cells are; nothing is computed for others.

    Args:
      features: "mask_features" of the call.
      cells: level ("0") -> int32[B, N], row * S + column. Levels may be left out.
      training: makes no difference.

    Returns: level -> float32[B, N, 2 h, 2 w], probabilities, pixels of half the level's stride.
    """
    keys = dict(zip(self._levels.names, self._levels.features))
    layers = dict(zip(self._levels.names, self.cell_masks))
    return {name: layers[name](features[keys[name]], index, training=training) for name, index in cells.items()}

  def find(self, images: tf.Tensor, **detection: Any) -> dict[str, tf.Tensor]:
    """Finds objects.

    Args:
      images: float[B, H, W, 3], normalised pixels.
      **detection: arguments of `ops.solo_find.detect`.

    Returns: as `ops.solo_find.detect`.

    Raises: UserError when the input size is not known, or an argument is out of range.
    """
    size = self.known_size()
    outputs = self(images, training=False)
    return solo_find.detect(
      outputs["cls_logits"], outputs["mask_features"], self.mask_outputs, self._levels, size, **detection
    )


def _features(
  pyramid: Mapping[str, tf.Tensor], levels: SoloLevels, input_size: tuple[int | None, int | None]
) -> dict[str, tf.Tensor]:
  """Returns the features that levels read, each once, by `SoloLevels.features`."""
  features = {}
  for i, key in enumerate(levels.features):
    if key in features:
      continue
    source, stride = levels.sources[i], levels.strides[i]
    features[key] = pyramid[str(source)]
    down = stride.bit_length() - 1 - source
    if down:
      size = None if None in input_size else levels.feature_size(i, input_size)
      features[key] = AtStride(down, size, name=f"at_stride_{key}")(features[key])
  return features


def build_solo(
  architecture: str | pathlib.Path | dict | Architecture,
  num_classes: int,
  input_size: tuple[int | None, int | None] = (640, 640),
  *,
  head_convs: int | None = None,
  head_width: int | None = None,
  solo_levels: SoloLevels | None = None,
  decoupled: bool = False,
  aligned: bool = True,
  prior: float = 0.01,
  endpoint_width: int | None = None,
  activation: str = "relu",
  stochastic_depth: float = 0.0,
  dropblock_keep: float = 1.0,
  dropblock_size: int = 7,
  synchronized: bool = False,
  norm_momentum: float = 0.99,
  norm_epsilon: float = 1e-3,
  padding: str = "symmetric",
  folded: bool = False,
  pooling: str = "chain",
  pool_padding: str = "same",
  endpoint_activation: bool = True,
  squeeze: str = "swish",
) -> Solo:
  """Builds SOLO on a backbone.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    num_classes: without background.
    input_size: (height, width) in pixels; any size is built, levels that do not divide have ceil(size / stride).
    head_convs: convolutions of each branch; 7 when None.
    head_width: their channels; when None the architecture's, as of its RetinaNet, at most 256 (128 for 49S).
    solo_levels: which features, grids and objects each level has; P3, P3, P4, P5, P6 with the authors' grids when None.
    decoupled: whether masks are products of S row maps and S column maps, rather than S^2 maps.
    aligned: whether features are resized to the grid before the category branch, or after it.
    prior: probability that the biases of both predictions start from.
    endpoint_width: channels of the pyramid; the architecture's when None.
    activation: "relu" (protocols A and B) or "swish" (C).
    stochastic_depth: drop rate of the backbone's last block; 0.2 in protocol C.
    dropblock_keep: DropBlock's keep probability in the backbone; 1 is off.
    dropblock_size: DropBlock's square, in feature pixels.
    synchronized: batch statistics of all replicas together.
    norm_momentum: share of the old moving averages kept at each step.
    norm_epsilon: added to variances.
    padding: of strided convolutions, see `ConvStyle`.
    folded: for inference, without the backbone's normalisations; `serving.fold` makes the weights. The heads' group norms
      depend on the image and stay.
    pooling: of connections that go down more than one level, see `ConvStyle`.
    pool_padding: of max-pools, see `ConvStyle`.
    endpoint_activation: whether the activation follows an endpoint's convolution.
    squeeze: activations of mobile blocks' squeeze-and-excitation, see `ConvStyle`.

  Returns: a Keras model; its call is described at `Solo`.

  Raises: UserError for an unknown architecture or a value outside its range.
  """
  arch = find_architecture(architecture)
  arch = dataclasses.replace(arch, endpoint_filters=arch.endpoint_filters if endpoint_width is None else endpoint_width)
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
  backbone = Backbone(arch, input_size, style, stochastic_depth, dropblock_keep, dropblock_size)
  width = min(FILTERS, arch.head_filters) if head_width is None else head_width
  convs = CONVS if head_convs is None else head_convs
  return Solo(backbone, num_classes, make_levels(solo_levels), convs, width, decoupled, aligned, prior)
