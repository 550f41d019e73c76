"""The PyTorch port's checkpoints (SpineNet-Pytorch on mmdetection 1.1): RetinaNet.

Its anchors are ordered by aspect ratio first and boxes are coded (x, y, width, height): predictions are permuted here.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers import torch_files
from spinenet_tf.importers.found import Found, renamed
from spinenet_tf.importers.wiring import SPINENET

_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_NORM = r"(weight|bias|running_mean|running_var)"

# Blocks after the stem are counted from 0, ours from 2. In the heads the level comes first, counted from 0, ours from 3.
_CONVS = (
  (r"backbone\.conv1\.conv\.weight", "stem/conv/kernel"),
  (r"backbone\.init_block1\.(\d+)\.conv([123])\.weight", "block_00/repeat_{1}/conv{2}/conv/kernel"),
  (r"backbone\.init_block2\.(\d+)\.conv([123])\.weight", "block_01/repeat_{1}/conv{2}/conv/kernel"),
  (r"backbone\.init_block1\.0\.downsample\.0\.weight", "block_00/repeat_0/shortcut/conv/kernel"),
  (
    r"backbone\.merge_ops\.(\d+)\.resample_ops\.(\d)\.(squeeze|expand)_conv\.conv\.weight",
    "block_{1+2}/resample_{2}/{3}/conv/kernel",
  ),
  (
    r"backbone\.merge_ops\.(\d+)\.resample_ops\.(\d)\.downsample_conv\.conv\.weight",
    "block_{1+2}/resample_{2}/down/conv/kernel",
  ),
  (
    r"backbone\.scale_permuted_blocks\.(\d+)\.(\d+)\.conv([123])\.weight",
    "block_{1+2}/repeat_{2}/conv{3}/conv/kernel",
  ),
  (r"backbone\.endpoint_convs\.(\d)\.conv\.weight", "endpoint_{1}/conv/kernel"),
  (r"bbox_head\.cls_convs\.0\.(\d+)\.conv\.weight", "class_tower/conv{1+1}/kernel"),
  (r"bbox_head\.reg_convs\.0\.(\d+)\.conv\.weight", "box_tower/conv{1+1}/kernel"),
  (r"bbox_head\.retina_cls\.weight", "class_tower/predict/kernel"),
  (r"bbox_head\.retina_reg\.weight", "box_tower/predict/kernel"),
)
_NORMS = (
  (rf"backbone\.conv1\.bn\.{_NORM}", "stem/norm/{1}"),
  (rf"backbone\.init_block1\.(\d+)\.bn([123])\.{_NORM}", "block_00/repeat_{1}/conv{2}/norm/{3}"),
  (rf"backbone\.init_block2\.(\d+)\.bn([123])\.{_NORM}", "block_01/repeat_{1}/conv{2}/norm/{3}"),
  (rf"backbone\.init_block1\.0\.downsample\.1\.{_NORM}", "block_00/repeat_0/shortcut/norm/{1}"),
  (
    rf"backbone\.merge_ops\.(\d+)\.resample_ops\.(\d)\.(squeeze|expand)_conv\.bn\.{_NORM}",
    "block_{1+2}/resample_{2}/{3}/norm/{4}",
  ),
  (
    rf"backbone\.merge_ops\.(\d+)\.resample_ops\.(\d)\.downsample_conv\.bn\.{_NORM}",
    "block_{1+2}/resample_{2}/down/norm/{3}",
  ),
  (
    rf"backbone\.scale_permuted_blocks\.(\d+)\.(\d+)\.bn([123])\.{_NORM}",
    "block_{1+2}/repeat_{2}/conv{3}/norm/{4}",
  ),
  (rf"backbone\.endpoint_convs\.(\d)\.bn\.{_NORM}", "endpoint_{1}/norm/{2}"),
  (rf"bbox_head\.cls_convs\.(\d)\.(\d+)\.bn\.{_NORM}", "class_tower/norm{2+1}_level{1+3}/{3}"),
  (rf"bbox_head\.reg_convs\.(\d)\.(\d+)\.bn\.{_NORM}", "box_tower/norm{2+1}_level{1+3}/{3}"),
)
_BIASES = (
  (r"bbox_head\.retina_cls\.bias", "class_tower/predict/bias"),
  (r"bbox_head\.retina_reg\.bias", "box_tower/predict/bias"),
)
_SHARED = re.compile(r"bbox_head\.(cls|reg)_convs\.[1-9]\.(\d+)\.conv\.weight")

SCALES, RATIOS = 3, 3
# Theirs by ours: ours is scale * 3 + ratio, width / height 1, 2, 1/2; theirs ratio * 3 + scale, height / width 1/2, 1, 2.
ANCHORS = tuple(ratio * SCALES + scale for scale in range(SCALES) for ratio in (1, 0, 2))
CODES = (1, 0, 3, 2)  # dy, dx, dh, dw out of dx, dy, dw, dh


def read(path: str, wiring: Architecture | None = None) -> Found:
  """Reads a checkpoint.

  Args:
    path: of a .pth file.
    wiring: blocks and connections; SpineNet-49's when None.

  Raises: UserError for a file that cannot be read, that asks for code to be run, or that is of another network.
  """
  state = _state(torch_files.read(path), path)
  if not any(key.startswith("backbone.scale_permuted_blocks.") for key in state):
    raise UserError(
      f"{path} has no backbone.scale_permuted_blocks..., so it holds no SpineNet of this port; its first are "
      f"{sorted(state)[:3]}"
    )
  if any(key.startswith(("rpn_head.", "mask_head.")) for key in state):
    raise UserError(
      f"{path} is a Mask R-CNN; its heads are mmdetection's own, without batch norms, and crop regions in their own way, "
      "which no model here does: of this port RetinaNets are read"
    )
  found = Found("mmdet", wiring or SPINENET)
  for key, tensor in state.items():
    if key.endswith(".num_batches_tracked"):
      found.skipped[key] = "counter of a batch norm"
    elif match := _SHARED.fullmatch(key):
      first = re.sub(r"_convs\.\d\.", "_convs.0.", key)
      if first not in state or not np.array_equal(tensor.numpy(), state[first].numpy()):
        raise UserError(
          f"{path}: {key} differs from {first}; towers of this port share their kernels: {match[1]} does not"
        )
      found.skipped[key] = "the same kernel as level 3's, which all levels share"
    elif name := renamed(key, _CONVS):
      found.add(_padded(name), tensor.numpy().transpose(2, 3, 1, 0), key)
    elif name := renamed(key, _NORMS):
      scope, leaf = _padded(name).rsplit("/", 1)
      found.add(f"{scope}/{_LEAVES[leaf]}", tensor.numpy(), key)
    elif name := renamed(key, _BIASES):
      found.add(name, tensor.numpy(), key)
    else:
      found.skipped[key] = "not part of any network that is known here"
  _permute(found, path)
  return found


def _state(content: Any, path: str) -> dict[str, torch_files.Tensor]:
  """Returns the tensors by name, without the prefix that training on several devices leaves."""
  state = content.get("state_dict", content) if isinstance(content, dict) else None
  if not isinstance(state, dict) or not all(isinstance(v, torch_files.Tensor) for v in state.values()):
    raise UserError(f"{path} holds no state_dict, a dictionary of tensors by name; it is no checkpoint of a model")
  if not state:
    raise UserError(f"{path} has an empty state_dict")
  return {key.removeprefix("module."): value for key, value in state.items()}


def _padded(name: str) -> str:
  """Writes a block's number with two digits."""
  return re.sub(r"^block_(\d)/", r"block_0\1/", name)


def _permute(found: Found, path: str) -> None:
  """Brings anchors, and the codes of boxes, into our order."""
  per_location = SCALES * RATIOS
  for tower, codes in (("class_tower", None), ("box_tower", CODES)):
    for leaf in ("kernel", "bias"):
      name = f"{tower}/predict/{leaf}"
      if (value := found.weights.get(name)) is None:
        continue
      if value.shape[-1] % per_location or (codes and value.shape[-1] != 4 * per_location):
        raise UserError(
          f"{path}: {found.origin[name]} has {value.shape[-1]} outputs, not those of {per_location} anchors"
        )
      split = value.reshape(*value.shape[:-1], per_location, -1)[..., ANCHORS, :]
      split = split[..., codes] if codes else split
      found.weights[name] = np.ascontiguousarray(split.reshape(value.shape))
