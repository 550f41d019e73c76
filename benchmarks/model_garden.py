"""The peer: Model Garden's SpineNet RetinaNet, built from its own experiment, with our weights put into it."""

from __future__ import annotations

import re

import numpy as np
import tensorflow as tf
from official.core import exp_factory
from official.vision.modeling.backbones import spinenet
from official.vision.tasks import retinanet as retinanet_task

import official.vision  # noqa: F401, isort: skip - registers the experiments

from spinenet_tf.models.retinanet import RetinaNet

MODEL_IDS = {f"spinenet{m.lower()}": m for m in ("49S", "49", "96", "143", "190")}


def build_task(name: str, num_classes: int, size: int, **overrides) -> retinanet_task.RetinaNetTask:
  """Returns Model Garden's RetinaNet task for a catalog name, with `size` pixel input and the authors' anchor order."""
  config = exp_factory.get_exp_config("retinanet_spinenet_coco").task
  config.model.input_size = [size, size, 3]
  config.model.num_classes = num_classes
  config.model.backbone.spinenet.model_id = MODEL_IDS[name]
  config.model.backbone.spinenet.stochastic_depth_drop_rate = 0.0
  config.model.anchor.aspect_ratios = [1.0, 2.0, 0.5]
  config.model.norm_activation.norm_momentum = 0.99
  config.model.norm_activation.norm_epsilon = 1e-3
  config.model.norm_activation.activation = "relu"
  config.model.norm_activation.use_sync_bn = False
  config.losses.l2_weight_decay = 4e-5
  if name == "spinenet49s":  # towers as wide as the paper's; its endpoints too
    spinenet.SCALING_MAP["49S"]["endpoints_num_filters"] = 256
    config.model.head.num_filters = 128
  config.override(overrides, is_strict=True)
  return retinanet_task.RetinaNetTask(config)


def _rank(layers: list, prefix: str) -> list:
  """Returns the layers called `prefix` or `prefix_N`, in order of creation."""
  numbered = [(int(m.group(1) or 0), layer) for layer in layers if (m := re.fullmatch(rf"{prefix}_?(\d*)", layer.name))]
  return [layer for _, layer in sorted(numbered, key=lambda item: item[0])]


def copy_backbone(ours: dict[str, tf.Variable], peer: tf.Module, model: RetinaNet) -> None:
  """Assigns our backbone's variables to Model Garden's: convolutions and norms in order of creation, blocks by role."""
  arch = model.architecture
  convs, norms = _rank(peer.layers, "conv2d"), _rank(peer.layers, "batch_normalization")
  blocks = {kind: _rank(peer.layers, f"{kind}_block") for kind in ("bottleneck", "residual")}
  units = ["stem"]
  for i, spec in enumerate(arch.features[len(arch.stem) :], len(arch.stem)):
    for p, parent in enumerate(spec.parents):
      down = spec.level > arch.features[parent].level
      units += [f"block_{i:02d}/resample_{p}/{role}" for role in ("squeeze", *(["down"] if down else []), "expand")]
  units += [f"endpoint_{level}" for level in arch.output_levels]
  assert len(units) == len(convs) == len(norms), (len(units), len(convs), len(norms))
  for unit, conv, norm in zip(units, convs, norms):
    _assign(ours, unit, conv, norm)
  for i, spec in enumerate(arch.features):
    for repeat in range(arch.block_repeats):
      block = blocks[spec.block].pop(0)
      prefix = f"block_{i:02d}/repeat_{repeat}"
      for j in range(3 if spec.block == "bottleneck" else 2):
        conv, norm = getattr(block, f"_conv{j + 1}"), getattr(block, f"_norm{j + 1}")
        _assign(ours, f"{prefix}/conv{j + 1}", conv, norm)
      if f"{prefix}/shortcut/conv/kernel" in ours:
        _assign(ours, f"{prefix}/shortcut", block._shortcut, block._norm0)


def copy_weights(ours: dict[str, tf.Variable], peer: tf.Module, model: RetinaNet) -> None:
  """Assigns all our variables to a Model Garden RetinaNet; its tower biases, which ours lacks, become 0."""
  copy_backbone(ours, peer.backbone, model)
  head = peer.head
  for tower, convs, norms, predict in (
    ("class_tower", head._cls_convs, head._cls_norms, head._classifier),
    ("box_tower", head._box_convs, head._box_norms, head._box_regressor),
  ):
    for i, conv in enumerate(convs):
      conv.kernel.assign(ours[f"{tower}/conv{i + 1}/kernel"])
      conv.bias.assign(tf.zeros_like(conv.bias))
      for j, level in enumerate(model.levels):
        _assign_norm(ours, f"{tower}/norm{i + 1}_level{level}", norms[j][i])
    predict.kernel.assign(ours[f"{tower}/predict/kernel"])
    predict.bias.assign(ours[f"{tower}/predict/bias"])


def _assign(ours: dict[str, tf.Variable], unit: str, conv, norm) -> None:
  conv.kernel.assign(ours[f"{unit}/conv/kernel"])
  _assign_norm(ours, f"{unit}/norm", norm)


def _assign_norm(ours: dict[str, tf.Variable], prefix: str, norm) -> None:
  for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
    getattr(norm, leaf).assign(ours[f"{prefix}/{leaf}"])


def randomise(variables: dict[str, tf.Variable], seed: int = 0) -> None:
  """Gives every variable random values of a size that keeps a network's features in range."""
  rng = np.random.default_rng(seed)
  for name, variable in variables.items():
    shape = variable.shape.as_list()
    if name.endswith("kernel"):
      value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
    elif name.endswith(("gamma", "moving_variance")):
      value = rng.uniform(0.5, 1.5, shape)
    else:
      value = rng.normal(scale=0.1, size=shape)
    variable.assign(value.astype(np.float32))
