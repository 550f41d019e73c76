"""The peer: Model Garden's SpineNet RetinaNet, built from its own experiment, with our weights put into it."""

from __future__ import annotations

import re

import numpy as np
import tensorflow as tf
from official.core import exp_factory
from official.vision.modeling.backbones import spinenet
from official.vision.tasks import retinanet as retinanet_task

import official.vision  # noqa: F401, isort: skip - registers the experiments

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.models.retinanet import RetinaNet

SPINENET_IDS = {f"spinenet{m.lower()}": m for m in ("49S", "49", "96", "143", "190")}
MOBILE_IDS = {f"spinenet{m.lower()}_mobile": m for m in ("49", "49S", "49XS")}
RESNET_DEPTHS = {f"r{depth}_fpn": depth for depth in (50, 101, 152)}


def build_task(name: str, num_classes: int, size: int, **overrides) -> retinanet_task.RetinaNetTask:
  """Returns Model Garden's RetinaNet task for a catalog name, with `size` pixel input and the authors' anchor order."""
  config = exp_factory.get_exp_config(_experiment(name)).task
  backbone = config.model.backbone
  if name in RESNET_DEPTHS:
    backbone.resnet.model_id = RESNET_DEPTHS[name]
  elif name in MOBILE_IDS:
    backbone.spinenet_mobile.model_id = MOBILE_IDS[name]
    backbone.spinenet_mobile.stochastic_depth_drop_rate = 0.0
  else:
    backbone.spinenet.model_id = SPINENET_IDS[name]
    backbone.spinenet.stochastic_depth_drop_rate = 0.0
  config.model.input_size = [size, size, 3]
  config.model.num_classes = num_classes
  config.model.anchor.aspect_ratios = [1.0, 2.0, 0.5]
  config.model.norm_activation.norm_momentum = 0.99
  config.model.norm_activation.norm_epsilon = 1e-3
  config.model.norm_activation.activation = "swish" if name in MOBILE_IDS else "relu"
  config.model.norm_activation.use_sync_bn = False
  config.losses.l2_weight_decay = 3e-5 if name in MOBILE_IDS else 4e-5
  if name == "spinenet49s":  # towers as wide as the paper's; its endpoints too
    spinenet.SCALING_MAP["49S"]["endpoints_num_filters"] = 256
    config.model.head.num_filters = 128
  config.override(overrides, is_strict=True)
  return retinanet_task.RetinaNetTask(config)


def _experiment(name: str) -> str:
  if name in RESNET_DEPTHS:
    return "retinanet_resnetfpn_coco"
  return "retinanet_mobile_coco" if name in MOBILE_IDS else "retinanet_spinenet_coco"


def use_authors_squeeze_activations(peer: tf.Module) -> None:
  """Gives Model Garden's mobile blocks the authors' swish and sigmoid, for its own relu and hard sigmoid."""
  for block in _rank(peer.backbone.layers, "inverted_bottleneck_block"):
    block._squeeze_excitation._activation_fn = tf.nn.silu
    block._squeeze_excitation._gating_activation_fn = tf.sigmoid


def _rank(layers: list, prefix: str) -> list:
  """Returns the layers called `prefix` or `prefix_N`, in order of creation."""
  numbered = [(int(m.group(1) or 0), layer) for layer in layers if (m := re.fullmatch(rf"{prefix}_?(\d*)", layer.name))]
  return [layer for _, layer in sorted(numbered, key=lambda item: item[0])]


def copy_backbone(ours: dict[str, tf.Variable], peer: tf.Module, model: RetinaNet) -> None:
  """Assigns our backbone's variables to Model Garden's: convolutions and norms in order of creation, blocks by role."""
  arch = model.architecture
  convs = {kind: _rank(peer.layers, kind) for kind in ("conv2d", "depthwise_conv2d")}
  norms = _rank(peer.layers, "batch_normalization")
  units = ["stem", *_connection_units(arch)]
  if arch.pyramid == "endpoints":
    units += [f"endpoint_{level}" for level in arch.output_levels]
  for unit, norm in zip(units, norms, strict=True):
    conv = convs["depthwise_conv2d" if f"{unit}/conv/depthwise_kernel" in ours else "conv2d"].pop(0)
    _assign(ours, unit, conv, norm)
  assert not any(convs.values())
  names = {"bottleneck": "bottleneck_block", "residual": "residual_block", "mbconv": "inverted_bottleneck_block"}
  blocks = {kind: _rank(peer.layers, name) for kind, name in names.items()}
  for i, spec in enumerate(arch.features):
    for repeat in range(arch.repeats(i)):
      block, prefix = blocks[spec.block].pop(0), f"block_{i:02d}/repeat_{repeat}"
      if spec.block == "mbconv":
        for j, role in enumerate(("expand", "depthwise", "project")):
          _assign(ours, f"{prefix}/{role}", getattr(block, f"_conv{j}"), getattr(block, f"_norm{j}"))
        for role in ("reduce", "expand"):
          conv = getattr(block._squeeze_excitation, f"_se_{role}")
          _assign_conv(ours, f"{prefix}/squeeze_excitation/{role}/conv", conv)
        continue
      for j in range(3 if spec.block == "bottleneck" else 2):
        _assign(ours, f"{prefix}/conv{j + 1}", getattr(block, f"_conv{j + 1}"), getattr(block, f"_norm{j + 1}"))
      if f"{prefix}/shortcut/conv/kernel" in ours:
        _assign(ours, f"{prefix}/shortcut", block._shortcut, block._norm0)


def _connection_units(arch: Architecture) -> list[str]:
  """Returns our names of what connections are made of, in Model Garden's order."""
  units = []
  for i, spec in enumerate(arch.features[len(arch.stem) :], len(arch.stem)):
    for p, parent in enumerate(spec.parents):
      halvings = max(0, spec.level - arch.features[parent].level)
      if arch.separable:
        roles = [*(f"down_{n}" for n in range(halvings)), "expand"]
      else:
        roles = ["squeeze", *(["down"] if halvings else []), "expand"]
      units += [f"block_{i:02d}/resample_{p}/{role}" for role in roles]
  return units


def copy_pyramid(ours: dict[str, tf.Variable], decoder: tf.Module) -> None:
  """Assigns our feature pyramid network to Model Garden's; its biases that ours lacks become 0."""
  for level in range(3, 8):
    name = f"post_hoc_{level}" if level <= 5 else f"coarser_{level}"
    if level <= 5:
      _assign_conv(ours, f"fpn/lateral_{level}/conv", decoder.get_layer(f"lateral_{level}"))
    _assign_conv(ours, f"fpn/{name}/conv", decoder.get_layer(name))
    norm = f"fpn/norm_{level}" if f"fpn/norm_{level}/gamma" in ours else f"fpn/{name}/norm"
    _assign_norm(ours, norm, decoder.get_layer(f"norm_{level}"))


def copy_weights(ours: dict[str, tf.Variable], peer: tf.Module, model: RetinaNet) -> None:
  """Assigns all our variables to a Model Garden RetinaNet; biases before a norm, which ours lacks, become 0."""
  copy_backbone(ours, peer.backbone, model)
  if peer.decoder is not None:
    copy_pyramid(ours, peer.decoder)
  head = peer.head
  for tower, convs, norms, predict in (
    ("class_tower", head._cls_convs, head._cls_norms, head._classifier),
    ("box_tower", head._box_convs, head._box_norms, head._box_regressor),
  ):
    for i, conv in enumerate(convs):
      _assign_conv(ours, f"{tower}/conv{i + 1}", conv)
      for j, level in enumerate(model.levels):
        _assign_norm(ours, f"{tower}/norm{i + 1}_level{level}", norms[j][i])
    _assign_conv(ours, f"{tower}/predict", predict)


def _assign(ours: dict[str, tf.Variable], unit: str, conv, norm) -> None:
  _assign_conv(ours, f"{unit}/conv", conv)
  _assign_norm(ours, f"{unit}/norm", norm)


def _assign_conv(ours: dict[str, tf.Variable], prefix: str, conv) -> None:
  """Assigns a convolution of any kind; a bias that ours lacks becomes 0."""
  for variable in conv.weights:
    leaf = variable.name.split(":")[0].split("/")[-1]
    variable.assign(
      tf.zeros_like(variable) if leaf == "bias" and f"{prefix}/bias" not in ours else ours[f"{prefix}/{leaf}"]
    )


def _assign_norm(ours: dict[str, tf.Variable], prefix: str, norm) -> None:
  for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
    getattr(norm, leaf).assign(ours[f"{prefix}/{leaf}"])


def randomise(variables: dict[str, tf.Variable], seed: int = 0) -> None:
  """Gives every variable random values of a size that keeps a network's features in range."""
  rng = np.random.default_rng(seed)
  for name, variable in variables.items():
    shape = variable.shape.as_list()
    if name.endswith("kernel"):
      fan_in = shape[:2] if name.endswith("depthwise_kernel") else shape[:-1]
      value = rng.normal(size=shape) / np.sqrt(np.prod(fan_in))
    elif name.endswith(("gamma", "moving_variance")):
      value = rng.uniform(0.5, 1.5, shape)
    else:
      value = rng.normal(scale=0.1, size=shape)
    variable.assign(value.astype(np.float32))
