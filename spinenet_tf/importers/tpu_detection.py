"""The authors' TF1 checkpoints (`tensorflow/tpu`, models/official/detection): RetinaNet, Mask R-CNN, classifiers; mobile, too.

The backbone's layers are numbered within each scope (`conv2d`, `conv2d_1`, ...), in order of creation; heads have names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers import tensorflow_files, units
from spinenet_tf.importers.found import Found, renamed
from spinenet_tf.importers.wiring import MOBILE, SPINENET

_NORM = r"(gamma|beta|moving_mean|moving_variance)"
_CONV = r"(kernel|depthwise_kernel|pointwise_kernel|bias)"

_HEADS = (
  (rf"retinanet/class_net/class-(\d+)/{_CONV}", "class_tower/conv{1+1}/{2}"),
  (rf"retinanet/class_net/class-(\d+)-(\d+)/{_NORM}", "class_tower/norm{1+1}_level{2}/{3}"),
  (rf"retinanet/class_net/class-predict/{_CONV}", "class_tower/predict/{1}"),
  (rf"retinanet/box_net/box-(\d+)/{_CONV}", "box_tower/conv{1+1}/{2}"),
  (rf"retinanet/box_net/box-(\d+)-(\d+)/{_NORM}", "box_tower/norm{1+1}_level{2}/{3}"),
  (rf"retinanet/box_net/box-predict/{_CONV}", "box_tower/predict/{1}"),
  (rf"classification_head/dense/{_CONV}", "classifier/predict/{1}"),
  (rf"rpn_head/rpn/{_CONV}", "rpn/conv1/{1}"),
  (rf"rpn_head/rpn-(\d+)/{_CONV}", "rpn/conv{1+1}/{2}"),
  (rf"rpn_head/rpn-l(\d+)-bn/{_NORM}", "rpn/norm1_level{1}/{2}"),
  (rf"rpn_head/rpn-l(\d+)-bn-(\d+)/{_NORM}", "rpn/norm{2+1}_level{1}/{3}"),
  (rf"rpn_head/rpn-class/{_CONV}", "rpn/scores/{1}"),
  (rf"rpn_head/rpn-box/{_CONV}", "rpn/deltas/{1}"),
  (rf"fast_rcnn_head/fc6/{_CONV}", "box_head/dense/{1}"),
  (rf"fast_rcnn_head/class-predict/{_CONV}", "box_head/classes/{1}"),
  (rf"fast_rcnn_head/box-predict/{_CONV}", "box_head/boxes/{1}"),
  (rf"mask_head/conv5-mask/{_CONV}", "mask_head/double/{1}"),
  (rf"mask_head/mask_fcn_logits/{_CONV}", "mask_head/predict/{1}"),
)

_SKIPPED = (
  (r".*/(Momentum|Adam|Adam_1|RMSProp|RMSProp_1)", "optimizer slot"),
  (r"beta[12]_power", "optimizer"),
  (r"global_step", "counter"),
  (r"(.*/)?moving_normalizer", "average of the loss' normaliser"),
  (r".*/ExponentialMovingAverage", "moving average of a weight"),
)
_LAYER = re.compile(
  r"(?P<scope>.*)/(?P<kind>conv2d|depthwise_conv2d|batch_normalization|sync_batch_normalization)(?:_(?P<number>\d+))?/"
  r"(?P<leaf>[a-z_]+)"
)


def read(prefix: str, wiring: Architecture | None = None) -> Found:
  """Reads a checkpoint.

  Args:
    prefix: of the checkpoint.
    wiring: blocks and connections; SpineNet-49's, or SpineNet-49 mobile's, when None.

  Raises: UserError for a file that cannot be read, or that is of another network.
  """
  tensors = tensorflow_files.read(prefix)
  mobile = any(key.startswith("spinenet_mbconv/") for key in tensors.shapes)
  if not mobile and not any(key.startswith("spinenet/") for key in tensors.shapes):
    raise UserError(
      f"{prefix} has no variable under spinenet/ or spinenet_mbconv/, so it holds no SpineNet of the authors' TF1 code; "
      f"its first are {sorted(tensors.shapes)[:3]}"
    )
  found = Found("tpu_detection", wiring or (MOBILE if mobile else SPINENET))
  scopes: dict[str, dict[str, dict[int, dict[str, str]]]] = {}  # scope, kind, number, leaf -> key
  places: dict[str, str] = {}
  for key in tensors.shapes:
    if reason := next((why for pattern, why in _SKIPPED if re.fullmatch(pattern, key)), None):
      found.skipped[key] = reason
    elif match := _LAYER.fullmatch(key):
      kind = match["kind"].removeprefix("sync_")
      layers = scopes.setdefault(match["scope"], {}).setdefault(kind, {})
      layers.setdefault(int(match["number"] or 0), {})[match["leaf"]] = key
    elif name := renamed(key, _HEADS):
      places[key] = name
  places |= _backbone(scopes, found.wiring, "spinenet_mbconv" if mobile else "spinenet", prefix)
  for scope, head, last in (("fast_rcnn_head", "box_head", "dense_norm"), ("mask_head", "mask_head", "double_norm")):
    places |= _region_head(tensors.shapes, scopes, scope, head, last)
  for key in tensors.shapes:
    if key in places:
      found.add(places[key], tensors.get(key), key)
    else:
      found.skipped.setdefault(key, "not part of any network that is known here")
  found.lay_out_mask_head()
  return found


def _backbone(scopes: dict, arch: Architecture, root: str, where: str) -> dict[str, str]:
  """Returns our name of every key of the backbone."""
  places: dict[str, str] = {}
  used = arch.used()
  stem = len(arch.stem)
  repeats = 1
  for i in range(stem, len(arch.features)):
    spec, scope = arch.features[i], f"{root}/sub_policy{i - stem}"
    block = scopes.get(f"{scope}/scale_permuted_block_{i:02d}") or scopes.get(f"{scope}/scale_permuted_block_{i}")
    if block is None and i not in used:
      continue
    if block is None:
      raise UserError(f"{where} has no {scope}/scale_permuted_block_{i}: it is incomplete, or has other blocks")
    edge = "sepconv" if arch.separable else "alpha"
    for p, parent in enumerate(spec.parents):
      roles = units.connection_roles(arch.separable, spec.level - arch.features[parent].level)
      layers = scopes.get(f"{scope}/resample_with_{edge}_resample_{i - stem}_{p}", {})
      places |= _numbered(
        layers, [f"block_{i:02d}/resample_{p}/{role}" for role in roles], f"{scope}, input {p}", where
      )
    convs = len(block.get("depthwise_conv2d" if arch.separable else "conv2d", {}))
    repeats, rest = divmod(convs, 1 if arch.separable else len(units.block_roles(spec.block)))
    if rest or not repeats:
      raise UserError(f"{where}: block {i} has {convs} convolutions, no multiple of those of a {spec.block} block")
    order = [unit for k in range(repeats) for unit in _block(spec.block, f"block_{i:02d}/repeat_{k}")]
    places |= _numbered(block, order, f"block {i}", where)
  top = scopes.get(root, {})
  order = ["stem"]
  inner = [
    unit
    for i in range(stem)
    for k in range(repeats)
    for unit in _block(arch.stem[i].block, f"block_{i:02d}/repeat_{k}")
  ]
  ends = units.endpoints(arch)
  if not arch.separable and len(top.get("conv2d", {})) == 1 + 1 + len(inner) + len(ends):
    order.append("block_00/repeat_0/shortcut")  # comes first in its block; there is none at scale 0.25
  return places | _numbered(top, [*order, *inner, *ends], "the stem and the endpoints", where)


def _block(kind: str, name: str) -> Iterable[str]:
  """Returns the convolutions of a block in order of creation; those without a batch norm with a bar in front."""
  if kind == "mbconv":
    excitation = [f"|{name}/squeeze_excitation/{role}" for role in ("reduce", "expand")]
    return [f"{name}/expand", f"{name}/depthwise", *excitation, f"{name}/project"]
  return [f"{name}/{role}" for role in units.block_roles(kind)]


def _numbered(layers: dict[str, dict[int, dict[str, str]]], order: list[str], what: str, where: str) -> dict[str, str]:
  """Returns our names of a scope's layers, which are numbered by kind in the order of `order`."""
  places: dict[str, str] = {}
  counts = {"conv2d": 0, "depthwise_conv2d": 0, "batch_normalization": 0}
  for entry in order:
    unit = entry.lstrip("|")
    is_depthwise = re.search(r"/(down_\d+|depthwise)$", unit)
    kinds = ["depthwise_conv2d" if is_depthwise else "conv2d", *([] if entry[0] == "|" else ["batch_normalization"])]
    for kind, part in zip(kinds, ("conv", "norm")):
      number = counts[kind]
      counts[kind] += 1
      if number not in layers.get(kind, {}):
        raise UserError(f"{where}: {what} has no {kind} number {number}: the checkpoint is of another network")
      places |= {key: f"{unit}/{part}/{leaf}" for leaf, key in layers[kind][number].items()}
  for kind, count in counts.items():
    if len(layers.get(kind, {})) != count:
      raise UserError(
        f"{where}: {what} has {len(layers[kind])} {kind} layers, expected {count}: the checkpoint is of another network"
      )
  return places


def _region_head(shapes: Iterable[str], scopes: dict, scope: str, head: str, last: str) -> dict[str, str]:
  """Returns our names of a second stage's convolutions and of its batch norms, which are numbered: convolutions' first."""
  pattern = re.compile(rf"{scope}/(?:conv_|mask-conv-l)(\d+)/{_CONV}")
  convs = [(int(m[1]), key, m[2]) for key in shapes if (m := pattern.fullmatch(key))]
  ranks = {number: rank for rank, number in enumerate(sorted({number for number, *_ in convs}), 1)}
  places = {key: f"{head}/conv{ranks[number]}/{leaf}" for number, key, leaf in convs}
  norms = scopes.get(scope, {}).get("batch_normalization", {})
  for rank, number in enumerate(sorted(norms), 1):
    name = f"norm{rank}" if rank <= len(ranks) else last
    places |= {key: f"{head}/{name}/{leaf}" for leaf, key in norms[number].items()}
  return places
