"""What all models have in common: a backbone with heads on it, described by its configuration."""

from __future__ import annotations

import json

import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.style import ConvStyle
from spinenet_tf.ops.anchors import AnchorConfig


class Network(keras.Model):
  """A backbone with heads on it.

  Args:
    backbone: whose input is the model's.
    outputs: symbolic tensors, computed from the backbone's.
    config: the subclass's further arguments, plain values; "num_classes" among them.
    name: of the model.
  """

  def __init__(self, backbone: Backbone, outputs: dict[str, tf.Tensor], config: dict, name: str, **kwargs):
    super().__init__(inputs=backbone.input, outputs=outputs, name=name, **kwargs)
    # As text: Keras would wrap a dictionary in a tracker of its own.
    self._config_json = json.dumps({"backbone": backbone.get_config(), **config})
    self._architecture = backbone.architecture

  @property
  def architecture(self) -> Architecture:
    """The backbone's."""
    return self._architecture

  @property
  def style(self) -> ConvStyle:
    """What its convolutions have in common."""
    return ConvStyle.of(json.loads(self._config_json)["backbone"]["style"])

  @property
  def num_classes(self) -> int:
    """Classes without background."""
    return json.loads(self._config_json)["num_classes"]

  @property
  def input_size(self) -> tuple[int | None, int | None]:
    """(height, width) in pixels."""
    return tuple(json.loads(self._config_json)["backbone"]["input_size"])

  def known_size(self) -> tuple[int, int]:
    """Returns `input_size`.

    Raises: UserError when it is not known.
    """
    if None in self.input_size:
      raise UserError(f"the model's input size is {self.input_size}; finding objects needs one, such as (640, 640)")
    return self.input_size

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {"name": self.name, **json.loads(self._config_json)}

  @classmethod
  def from_config(cls, config: dict, custom_objects: dict | None = None) -> Network:
    """Builds the model that `get_config` describes."""
    return cls(**config)


def check_num_classes(num_classes: int) -> None:
  """Raises UserError for what is no number of classes."""
  if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
    raise UserError(f"num_classes is {num_classes!r}; it is a whole number from 1 on and leaves background out")


def check_levels(architecture: Architecture, levels: tuple[int, ...]) -> None:
  """Raises UserError when heads ask for levels that the architecture lacks."""
  if missing := sorted(set(levels) - set(architecture.output_levels)):
    raise UserError(
      f"the heads ask for levels {list(levels)}, {architecture.name} offers {list(architecture.output_levels)}; "
      f"{missing} are missing: change min_level or max_level, or the architecture"
    )


def anchor_config(anchors: AnchorConfig | dict) -> AnchorConfig:
  """Returns anchors as an `AnchorConfig`: itself, or made from its dictionary."""
  if isinstance(anchors, AnchorConfig):
    return anchors
  return AnchorConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in anchors.items()})
