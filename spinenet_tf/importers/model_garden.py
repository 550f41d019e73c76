"""TensorFlow Model Garden's TF2 checkpoints: backbones, RetinaNet, Mask R-CNN, classifiers; SpineNet and SpineNet-Mobile.

Keys number a backbone's layers by Keras's order of the graph, which depends on more than the architecture. The object graph
in the checkpoint has the layers' names, which count in order of creation; only their order is used, as the numbers have gaps.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from tensorflow.core.protobuf import trackable_object_graph_pb2

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers import tensorflow_files, units
from spinenet_tf.importers.found import Found, renamed
from spinenet_tf.importers.wiring import MOBILE, SPINENET

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Blocks, by the name of their class.
_BLOCKS = {"bottleneck_block": "bottleneck", "residual_block": "residual", "inverted_bottleneck_block": "mbconv"}

# Within a block's entry.
_IN_BLOCK = (
  (r"_conv([123])/kernel", "{block}/conv{1}/conv/kernel"),
  (r"_norm([123])/(\w+)", "{block}/conv{1}/norm/{2}"),
  (r"_shortcut/kernel", "{block}/shortcut/conv/kernel"),
  (r"_norm0/(\w+)", "{block}/shortcut/norm/{1}"),
)
_IN_MOBILE_BLOCK = (
  (r"_conv0/kernel", "{block}/expand/conv/kernel"),
  (r"_norm0/(\w+)", "{block}/expand/norm/{1}"),
  (r"_conv1/depthwise_kernel", "{block}/depthwise/conv/depthwise_kernel"),
  (r"_norm1/(\w+)", "{block}/depthwise/norm/{1}"),
  (r"_squeeze_excitation/_se_(reduce|expand)/(kernel|bias)", "{block}/squeeze_excitation/{1}/conv/{2}"),
  (r"_conv2/kernel", "{block}/project/conv/kernel"),
  (r"_norm2/(\w+)", "{block}/project/norm/{1}"),
)

# Heads. Levels are counted from the lowest on, which is 3; convolutions from 0.
_HEADS = (
  (r"_?head/_cls_convs/(\d+)/(\w+)", "class_tower/conv{1+1}/{2}"),
  (r"_?head/_cls_norms/(\d+)/(\d+)/(\w+)", "class_tower/norm{2+1}_level{1+3}/{3}"),
  (r"_?head/_classifier/(\w+)", "class_tower/predict/{1}"),
  (r"_?head/_box_convs/(\d+)/(\w+)", "box_tower/conv{1+1}/{2}"),
  (r"_?head/_box_norms/(\d+)/(\d+)/(\w+)", "box_tower/norm{2+1}_level{1+3}/{3}"),
  (r"_?head/_box_regressor/(\w+)", "box_tower/predict/{1}"),
  (r"_?rpn_head/_convs/(\d+)/(\w+)", "rpn/conv{1+1}/{2}"),
  (r"_?rpn_head/_norms/(\d+)/(\d+)/(\w+)", "rpn/norm{2+1}_level{1+3}/{3}"),
  (r"_?rpn_head/_classifier/(\w+)", "rpn/scores/{1}"),
  (r"_?rpn_head/_box_regressor/(\w+)", "rpn/deltas/{1}"),
  (r"_?detection_head/(?:0/)?_convs/(\d+)/(\w+)", "box_head/conv{1+1}/{2}"),
  (r"_?detection_head/(?:0/)?_conv_norms/(\d+)/(\w+)", "box_head/norm{1+1}/{2}"),
  (r"_?detection_head/(?:0/)?_fcs/0/(\w+)", "box_head/dense/{1}"),
  (r"_?detection_head/(?:0/)?_fc_norms/0/(\w+)", "box_head/dense_norm/{1}"),
  (r"_?detection_head/(?:0/)?_classifier/(\w+)", "box_head/classes/{1}"),
  (r"_?detection_head/(?:0/)?_box_regressor/(\w+)", "box_head/boxes/{1}"),
  (r"_?mask_head/_convs/(\d+)/(\w+)", "mask_head/conv{1+1}/{2}"),
  (r"_?mask_head/_conv_norms/(\d+)/(\w+)", "mask_head/norm{1+1}/{2}"),
  (r"_?mask_head/_deconv/(\w+)", "mask_head/double/{1}"),
  (r"_?mask_head/_deconv_bn/(\w+)", "mask_head/double_norm/{1}"),
  (r"_?mask_head/_mask_regressor/(\w+)", "mask_head/predict/{1}"),
  (r"layer_with_weights-\d+/(kernel|bias)", "classifier/predict/{1}"),
)

# Never weights of the network.
_SKIPPED = (
  (r".*/\.OPTIMIZER_SLOT/.*average", "moving average of a weight: give --average to take those"),
  (r".*/\.OPTIMIZER_SLOT/.*", "optimizer slot"),
  (r"(.*/)?optimizer/.*", "optimizer"),
  (r"(.*/)?(global_step|save_counter)", "counter"),
)


def read(prefix: str, wiring: Architecture | None = None, average: bool = False) -> Found:
  """Reads a checkpoint.

  Args:
    prefix: of the checkpoint.
    wiring: blocks and connections; SpineNet-49's, or SpineNet-49 mobile's, when None.
    average: take the weights' moving averages where there are any.

  Raises: UserError for a file that cannot be read, or that is of another network.
  """
  tensors = tensorflow_files.read(prefix)
  keys = [k[: -len(SUFFIX)] for k in tensors.shapes if k.endswith(SUFFIX)]
  if GRAPH not in tensors.shapes:
    raise UserError(
      f"{prefix} has no object graph, so it is no TF2 checkpoint of Model Garden; a TF1 one is read with "
      "--source=tpu_detection"
    )
  places, found = names(keys, full_names(tensors.get(GRAPH)), prefix, wiring)
  for key, why in list(found.skipped.items()):
    if average and why.startswith("moving average"):
      weight = key.split("/.OPTIMIZER_SLOT/")[0]
      if weight in places:
        found.add(places.pop(weight), tensors.get(key + SUFFIX), key)
        found.skipped[weight] = "its moving average is taken"
        found.skipped[key] = "taken"
  taken = [key for key, why in found.skipped.items() if why == "taken"]
  for key in taken:
    del found.skipped[key]
  if average and not taken:
    raise UserError(f"--average was given, and {prefix} holds no moving averages of weights; leave it out")
  for key, name in places.items():
    found.add(name, tensors.get(key + SUFFIX), key)
  found.lay_out_mask_head()
  return found


def names(
  keys: list[str], full_names: Mapping[str, str], where: str, wiring: Architecture | None = None
) -> tuple[dict[str, str], Found]:
  """Returns our name of every key that has one, and a `Found` with the others and the reasons.

  Args:
    keys: without their suffix.
    full_names: key -> name of the variable, from the object graph.
    where: named in errors.
    wiring: as in `read`.

  Raises: UserError when the backbone is not of that wiring.
  """
  places: dict[str, str] = {}
  skipped: dict[str, str] = {}
  entries: dict[int, dict[str, str]] = {}  # number of the backbone's layer -> rest of the key -> key
  for key in keys:
    if reason := next((why for pattern, why in _SKIPPED if re.fullmatch(pattern, key)), None):
      skipped[key] = reason
    elif match := re.fullmatch(_backbone_keys(keys), key):
      entries.setdefault(int(match[1]), {})[match[2]] = key
    elif name := renamed(_without_root(key), _HEADS):
      places[key] = name
    else:
      skipped[key] = "not part of any network that is known here"
  if not entries:
    raise UserError(
      f"{where} has no backbone of Model Garden: no key is .../backbone/layer_with_weights-0/...; its first are "
      f"{sorted(keys)[:3]}"
    )
  layers = {kind: _ranked(entries, full_names, kind) for kind in (*_BLOCKS, "conv2d", "depthwise_conv2d", "batch_norm")}
  base = _matching(wiring, layers, where)
  repeats = _repeats(base, layers)
  for kind, block in _BLOCKS.items():
    for entry, name in zip(layers[kind], units.block_repeats(base, block, repeats), strict=True):
      for rest, key in entry.items():
        rules = _IN_MOBILE_BLOCK if block == "mbconv" else _IN_BLOCK
        if inner := renamed(rest, rules, block=name):
          places[key] = inner
        else:
          skipped[key] = "not part of any block that is known here"
  convs = {kind: iter(layers[kind]) for kind in ("conv2d", "depthwise_conv2d")}
  order = ["stem", *units.connections(base), *units.endpoints(base)]
  for unit, norm in zip(order, layers["batch_norm"], strict=True):
    kind = "depthwise_conv2d" if "/down_" in unit else "conv2d"
    places |= {key: f"{unit}/conv/{rest}" for rest, key in next(convs[kind]).items()}
    places |= {key: f"{unit}/norm/{rest}" for rest, key in norm.items()}
  return places, Found("model_garden", base, skipped=skipped)


def _backbone_keys(keys: list[str]) -> str:
  """Returns a pattern of the backbone's keys with the number of the layer and what follows.

  A functional classifier alone holds its backbone as its first layer.
  """
  if any(re.match(r"(.*/)?_?backbone/layer_with_weights-", key) for key in keys):
    return r"(?:.*/)?_?backbone/layer_with_weights-(\d+)/(.*)"
  return r"(?:model/)?layer_with_weights-0/layer_with_weights-(\d+)/(.*)"


def _without_root(key: str) -> str:
  return key.removeprefix("model/")


def full_names(serialized: bytes) -> dict[str, str]:
  """Returns key -> name of the variable, without the keys' suffix, of a serialised object graph.

  Raises: UserError when it cannot be parsed.
  """
  graph = trackable_object_graph_pb2.TrackableObjectGraph()
  try:
    graph.ParseFromString(serialized)
  except Exception as error:  # protobuf's own error class differs between its versions
    raise UserError(f"the checkpoint's object graph cannot be parsed ({error}); the file is damaged") from error
  attributes = [a for node in graph.nodes for a in node.attributes]
  return {a.checkpoint_key.removesuffix(SUFFIX): a.full_name for a in attributes}


def _ranked(entries: dict[int, dict[str, str]], full_names: Mapping[str, str], kind: str) -> list[dict[str, str]]:
  """Returns the entries of layers of one kind in order of creation."""
  prefix = "(?:sync_)?batch_normalization" if kind == "batch_norm" else kind
  found = []
  for entry in entries.values():
    name = full_names.get(next(iter(entry.values())), "")
    if match := re.match(rf"(?:.*?/)?{prefix}(?:_(\d+))?/", name):
      if kind in _BLOCKS or not re.search(r"_block(_\d+)?/", name):
        found.append((int(match[1] or 0), entry))
  return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _repeats(base: Architecture, layers: Mapping[str, list]) -> int:
  kind = "mbconv" if base.separable else "bottleneck"
  name = next(name for name, block in _BLOCKS.items() if block == kind)
  return len(layers[name]) // max(1, len(units.block_repeats(base, kind, 1)))


def _matching(wiring: Architecture | None, layers: Mapping[str, list], where: str) -> Architecture:
  """Returns the wiring whose numbers of layers are the checkpoint's.

  Model Garden loses the out-degree-0 connection, and the block behind it, where it is built without a size.
  """
  given = wiring or (MOBILE if layers["inverted_bottleneck_block"] else SPINENET)
  cut = dataclasses.replace(given, connect_unused=False, allow_disconnected=True)
  expected = []
  for arch in (given, cut):
    repeats = _repeats(arch, layers)
    order = ["stem", *units.connections(arch), *units.endpoints(arch)]
    counts = {kind: len(units.block_repeats(arch, block, repeats)) for kind, block in _BLOCKS.items()}
    depthwise = sum("/down_" in unit for unit in order)
    counts |= {"conv2d": len(order) - depthwise, "depthwise_conv2d": depthwise, "batch_norm": len(order)}
    if repeats and all(len(layers[kind]) == count for kind, count in counts.items()):
      return arch
    expected.append(counts)
  seen = {kind: len(found) for kind, found in layers.items()}
  raise UserError(
    f"the backbone in {where} is not that of {given.name}: it has {_listed(seen)}, expected {_listed(expected[0])}; give "
    "--architecture=FILE.json for other connections"
  )


def _listed(counts: Mapping[str, int]) -> str:
  return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
