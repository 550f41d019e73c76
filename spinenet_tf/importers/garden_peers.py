"""Model Garden's models of the same sizes as ours, whose checkpoints our weights are written into."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.importers.wiring import MOBILE, SPINENET
from spinenet_tf.models.classifier import Classifier
from spinenet_tf.models.mask_rcnn import MaskRCNN
from spinenet_tf.models.network import Network

_SIZES = ("name", "note", "filter_scale", "resample_alpha", "block_repeats", "endpoint_filters")
_SIZES = (*_SIZES, "head_convs", "head_filters", "anchor_size")
_MOBILE_IDS = {"spinenet49_mobile": "49", "spinenet49s_mobile": "49S", "spinenet49xs_mobile": "49XS"}
# How Model Garden computes, whatever its settings.
_STYLE = {"padding": "same", "pooling": "chain", "pool_padding": "same", "endpoint_activation": True}


def peer(model: Network) -> keras.Model:
  """Returns Model Garden's model of the same task and sizes as ours, with weights of its own.

  Raises: UserError for a network that Model Garden does not have, or cannot compute as ours does.
  """
  from official.core import exp_factory
  from official.vision.configs.image_classification import ImageClassificationModel
  from official.vision.modeling import factory

  import official.vision  # noqa: F401, isort: skip - registers the experiments

  arch = model.architecture
  _check(model)
  size = list(model.known_size())
  shape = keras.layers.InputSpec(shape=[None, *size, 3])
  image = tf.zeros([1, *size, 3])
  with _sizes(arch) as model_id:
    if isinstance(model, Classifier):
      config = ImageClassificationModel(num_classes=model.num_classes, input_size=[*size, 3])
      _describe_backbone(config, model, model_id)
      made = factory.build_classification_model(shape, config)
      made(image, training=False)
      return made
    regions = isinstance(model, MaskRCNN)
    experiment = "maskrcnn_spinenet_coco" if regions else "retinanet_spinenet_coco"
    config = exp_factory.get_exp_config("retinanet_mobile_coco" if arch.separable else experiment).task.model
    config.input_size = [*size, 3]
    config.num_classes = model.num_classes + regions
    config.min_level, config.max_level = model.levels[0], model.levels[-1]
    config.anchor.num_scales = model.anchors.num_scales
    config.anchor.aspect_ratios = list(model.anchors.aspect_ratios)
    config.anchor.anchor_size = model.anchors.anchor_size
    _describe_backbone(config, model, model_id)
    sizes = model.get_config()
    heads = [config.detection_head, config.mask_head, config.rpn_head] if regions else [config.head]
    for head in heads:
      head.num_convs, head.num_filters = sizes["head_convs"], sizes["head_filters"]
    if not regions:
      made = factory.build_retinanet(shape, config)
      made(image, training=False)
      return made
    config.rpn_head.num_convs, config.detection_head.fc_dims = sizes["rpn_convs"], sizes["dense"]
    made = factory.build_maskrcnn(shape, config)
    made(images=image, image_shape=tf.constant([size], tf.float32), training=False)
    return made


def _check(model: Network) -> None:
  arch, style = model.architecture, model.style
  same = dataclasses.replace(SPINENET, **{name: getattr(arch, name) for name in _SIZES})
  if arch.name not in _MOBILE_IDS and (arch != same or not isinstance(arch.block_repeats, int)):
    raise UserError(
      f"Model Garden has no {arch.name}; it has the blocks and connections of {SPINENET.name}, in any size, and "
      f"{list(_MOBILE_IDS)}"
    )
  if arch.separable and isinstance(model, MaskRCNN):
    raise UserError(f"{arch.name} of Mask R-CNN cannot be written; of {MOBILE.name} and its like RetinaNets can")
  theirs = {**_STYLE, "squeeze": "relu"} if arch.separable else _STYLE
  if other := {name: getattr(style, name) for name, value in theirs.items() if getattr(style, name) != value}:
    wanted = ", ".join(f"model.{name} = {theirs[name]!r}" for name in other)
    raise UserError(f"the run has {other}, so Model Garden would compute something else; train it with {wanted}")
  coarsest = [max(arch.output_levels)]
  if isinstance(model, Classifier) and (levels := model.get_config()["levels"]) != coarsest:
    raise UserError(
      f"the run's classifier reads {f'levels {levels}' if levels else 'all levels'}, Model Garden's the coarsest; train it "
      f"with classifier.levels = {coarsest}"
    )


@contextlib.contextmanager
def _sizes(arch: Architecture) -> Iterator[str]:
  """Gives Model Garden's table of sizes those of ours while it builds; yields their name in there."""
  from official.vision.modeling.backbones import spinenet

  if arch.separable:
    yield _MOBILE_IDS[arch.name]
    return
  known = dict(spinenet.SCALING_MAP["49"])
  try:
    spinenet.SCALING_MAP["49"].update(
      endpoints_num_filters=arch.endpoint_filters,
      filter_size_scale=arch.filter_scale,
      resample_alpha=arch.resample_alpha,
      block_repeats=arch.block_repeats,
    )
    yield "49"
  finally:
    spinenet.SCALING_MAP["49"].update(known)


def _describe_backbone(config: Any, model: Network, model_id: str) -> None:
  arch, style = model.architecture, model.style
  config.backbone.type = "spinenet_mobile" if arch.separable else "spinenet"
  backbone = config.backbone.get()
  backbone.model_id, backbone.stochastic_depth_drop_rate = model_id, 0.0
  backbone.min_level, backbone.max_level = arch.output_levels[0], arch.output_levels[-1]
  norm = config.norm_activation
  norm.activation, norm.use_sync_bn = style.activation, False
  norm.norm_momentum, norm.norm_epsilon = style.norm_momentum, style.norm_epsilon
