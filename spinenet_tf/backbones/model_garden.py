"""Our backbones inside Model Garden: importing this module registers them with its factory.

After the import a Model Garden experiment can name any of them, by catalog name or JSON file:

    config = exp_factory.get_exp_config("retinanet_spinenet_tf_coco")
    config.override({"task": {"model": {"backbone": {"spinenet_tf": {"architecture": "searched.json"}}}}})

or get one in the place of the backbone that it has, `use_backbone(config, "spinenet96")`. docs/model_garden.md shows both.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from official.core import config_definitions, exp_factory
from official.modeling import hyperparams
from official.vision.configs import backbones, decoders, retinanet
from official.vision.modeling.backbones import factory

from spinenet_tf.backbones.builder import Backbone, build_backbone
from spinenet_tf.backbones.catalog import CATALOG
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError

KEY = "spinenet_tf"  # of the backbone in Model Garden's factory and configs
EXPERIMENT = "retinanet_spinenet_tf_coco"


@dataclasses.dataclass
class ScalePermuted(hyperparams.Config):
  """One of our backbones, as a Model Garden config. Activation and normalisation are those of the model's config.

  Attributes:
    architecture: a catalog name ("spinenet49"), a path to a JSON file, or the JSON text itself.
    min_level, max_level: of the pyramid; parts of the network that lead to other levels only are not built.
    stochastic_depth_drop_rate: of the last block, rising to it along a line.
    dropblock_keep: keep probability of DropBlock; 1 turns it off.
    dropblock_size: side of its squares, in feature pixels.
    padding: of strided convolutions: "symmetric", as the paper's authors have it, or "same", as Model Garden has it.
  """

  architecture: str = "spinenet49"
  min_level: int = 3
  max_level: int = 7
  stochastic_depth_drop_rate: float = 0.0
  dropblock_keep: float = 1.0
  dropblock_size: int = 7
  padding: str = "symmetric"


@dataclasses.dataclass
class GardenBackbone(backbones.Backbone):
  """Model Garden's choice of backbones, and ours: `type="spinenet_tf"`."""

  spinenet_tf: ScalePermuted = dataclasses.field(default_factory=ScalePermuted)


@keras.utils.register_keras_serializable("spinenet_tf")
class Pyramid(keras.Model):
  """Some levels of a backbone; what only the others need is left out.

  Args:
    backbone: a `Backbone`, or its config.
    levels: to keep.

  Call: as the backbone's, with fewer levels.
  """

  def __init__(self, backbone: Backbone | dict, levels: tuple[int, ...], name: str | None = None, **kwargs):
    backbone = Backbone.from_config(backbone) if isinstance(backbone, dict) else backbone
    outputs = {str(level): backbone.output[str(level)] for level in levels}
    super().__init__(inputs=backbone.input, outputs=outputs, name=name or backbone.name, **kwargs)
    self._config_json = json.dumps({"backbone": backbone.get_config(), "levels": list(levels)})

  @property
  def output_specs(self) -> dict:
    """Shape of every level that is kept."""
    return dict(self.output_shape)

  def get_config(self) -> dict:
    """Returns the constructor's arguments."""
    return {"name": self.name, **json.loads(self._config_json)}

  @classmethod
  def from_config(cls, config: dict, custom_objects: dict | None = None) -> Pyramid:
    """Builds the model that `get_config` describes."""
    return cls(**config)


@factory.register_backbone_builder(KEY)
def build(
  input_specs: keras.layers.InputSpec,
  backbone_config: GardenBackbone,
  norm_activation_config: hyperparams.Config,
  l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> keras.Model:
  """Builds one of our backbones for Model Garden's factory.

  Args:
    input_specs: of images, [None, H, W, 3]; H and W may be None.
    backbone_config: with `spinenet_tf` chosen.
    norm_activation_config: its activation, momentum, epsilon and synchronisation are the backbone's.
    l2_regularizer: of all kernels; its sum is one of the model's `losses`.

  Returns: a Keras model, images -> {"3": features, ...}, with `output_specs`. Variables are named as everywhere in this
    package, so checkpoints of both can be exchanged by name.

  Raises: UserError for an unknown architecture, a level it lacks or a value out of range.
  """
  config: ScalePermuted = backbone_config.get()
  arch = _architecture(config.architecture)
  levels = tuple(range(config.min_level, config.max_level + 1))
  if missing := sorted(set(levels) - set(arch.output_levels)):
    raise UserError(
      f"the config asks for levels {list(levels)}, {arch.name} offers {list(arch.output_levels)}; {missing} are missing: "
      f"change min_level and max_level of the model and of backbone.{KEY}, or the architecture"
    )
  model: keras.Model = build_backbone(
    arch,
    tuple(input_specs.shape[1:3]),
    activation=norm_activation_config.activation,
    norm_momentum=norm_activation_config.norm_momentum,
    norm_epsilon=norm_activation_config.norm_epsilon,
    synchronized=norm_activation_config.use_sync_bn,
    padding=config.padding,
    stochastic_depth=config.stochastic_depth_drop_rate,
    dropblock_keep=config.dropblock_keep,
    dropblock_size=config.dropblock_size,
  )
  if levels != arch.output_levels:
    model = Pyramid(model, levels)
  if l2_regularizer is not None:
    for variable in model.trainable_variables:
      if variable.name.split(":")[0].endswith("kernel"):
        model.add_loss(lambda kernel=variable: l2_regularizer(kernel))
  return model


def _architecture(source: str) -> Architecture:
  """Returns the architecture that a config names, or spells out as JSON text."""
  if source.lstrip().startswith("{"):
    return Architecture.from_json(source)
  return find_architecture(source)


def use_backbone(
  config: config_definitions.ExperimentConfig, architecture: str | pathlib.Path | dict | Architecture, **fields
) -> config_definitions.ExperimentConfig:
  """Puts one of our backbones into a Model Garden experiment, in place.

  The decoder goes, as the backbone makes the pyramid itself. A RetinaNet also gets the towers and the base anchor that
  belong to the architecture.

  Args:
    config: any experiment whose `task.model` has a backbone.
    architecture: a catalog name, a path to a JSON file, or an `Architecture`. One that is not in the catalog is written
      into the config as JSON text, so that the config stands alone.
    **fields: other fields of `ScalePermuted`.

  Returns: `config`.

  Raises: UserError for an experiment without a backbone, or an unknown architecture.
  """
  model = getattr(config.task, "model", None)
  if not isinstance(getattr(model, "backbone", None), backbones.Backbone):
    raise UserError(f"the experiment's task is {type(config.task).__name__}, which has no image backbone to exchange")
  arch = find_architecture(architecture)
  source = arch.name if CATALOG.get(arch.name) == arch else json.dumps(arch.to_dict())
  levels = [name for name in ("min_level", "max_level") if hasattr(model, name)]
  for name in levels:
    fields.setdefault(name, getattr(model, name))
  old = {field.name: getattr(model.backbone, field.name) for field in dataclasses.fields(model.backbone)}
  model.backbone = GardenBackbone(**{**old, "type": KEY, KEY: ScalePermuted(architecture=source, **fields)})
  if hasattr(model, "decoder"):
    model.decoder = decoders.Decoder(type="identity", identity=decoders.Identity())
  if isinstance(model, retinanet.RetinaNet):
    model.head.num_convs, model.head.num_filters = arch.head_convs, arch.head_filters
    model.head.use_separable_conv = arch.separable
    model.anchor.anchor_size = arch.anchor_size
  # Those on the old backbone's fields cannot be evaluated any more: only the chosen backbone is looked at.
  kept = [rule for rule in config._restrictions if "task.model.backbone." not in rule]
  config._restrictions = kept + [f"task.model.{name} == task.model.backbone.{KEY}.{name}" for name in levels]
  return config


@exp_factory.register_config_factory(EXPERIMENT)
def retinanet_coco() -> config_definitions.ExperimentConfig:
  """Returns Model Garden's SpineNet RetinaNet experiment on COCO with our SpineNet-49; override the architecture."""
  config = exp_factory.get_exp_config("retinanet_spinenet_coco")
  return use_backbone(config, "spinenet49", stochastic_depth_drop_rate=0.2)
