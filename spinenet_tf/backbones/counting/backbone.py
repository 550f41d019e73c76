"""Cost of a backbone: stem, blocks, connections, pyramid.  Mirrors `backbones.builder` step by step."""

from __future__ import annotations

from spinenet_tf.backbones.builder import level_size
from spinenet_tf.backbones.counting.counter import Counter
from spinenet_tf.backbones.fpn import NORM_BEHIND
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.layers.blocks import block_channels, kernel_sizes
from spinenet_tf.layers.mbconv import EXPANSION, squeeze_width


def count_block(
  counter: Counter, part: str, kind: str, level: int, filters: int, inputs: int, input_level: int
) -> None:
  """Adds one block that reads `inputs` channels at `input_level` and writes at `level`."""
  if kind == "mbconv":
    return _count_mbconv(counter, part, level, filters, inputs, input_level)
  outputs, sizes = block_channels(kind, filters), kernel_sizes(kind)
  channels, at = inputs, input_level
  for i, kernel in enumerate(sizes):
    at = level if kernel == 3 else at
    last = i == len(sizes) - 1
    counter.conv(part, at, kernel, channels, outputs if last else filters, then="add" if last else "activate")
    channels = filters
  if inputs != outputs or input_level != level:
    counter.conv(part, level, 1, inputs, outputs, then="add")
  counter.map(part, level, outputs, then="activate")


def _count_mbconv(counter: Counter, part: str, level: int, filters: int, inputs: int, input_level: int) -> None:
  """Expand, depthwise, squeeze-and-excite, project; a sum where the shape stays."""
  wide, squeezed = inputs * EXPANSION, squeeze_width(inputs)
  adds = inputs == filters and input_level == level
  counter.conv(part, input_level, 1, inputs, wide)
  counter.conv(part, level, 3, wide, wide, depthwise=True)
  counter.map(part, level, wide, pixels=1)
  counter.conv(part, level, 1, wide, squeezed, norm=False, bias=True, pixels=1)
  counter.conv(part, level, 1, squeezed, wide, norm=False, bias=True, pixels=1)
  counter.map(part, level, wide)
  counter.conv(part, level, 1, wide, filters, then="add" if adds else "read")
  if adds:
    counter.map(part, level, filters)


def count_connection(counter: Counter, arch: Architecture, parent: int, index: int) -> None:
  """Adds one cross-scale connection."""
  part, source, target = "connections", arch.features[parent].level, arch.features[index].level
  channels = arch.channels(parent)
  if arch.separable:
    for level in range(source + 1, target + 1):
      counter.conv(part, level, 3, channels, channels, depthwise=True)
  else:
    squeezed = arch.squeeze_filters(parent)
    counter.conv(part, source, 1, channels, squeezed)
    channels = squeezed
    if target > source:
      counter.conv(part, source + 1, 3, squeezed, squeezed)
    for level in range(source + 2, target + 1):
      counter.map(part, level, squeezed)
  outputs = arch.channels(index)
  if target >= source:
    counter.conv(part, target, 1, channels, outputs, then="add")
  elif commutes(counter.input_size, source, target):
    counter.conv(part, target, 1, channels, outputs, then="add", run_level=source)
    counter.map(part, target, outputs, then="add")
  else:
    counter.map(part, target, channels)
    counter.conv(part, target, 1, channels, outputs, then="add")


def commutes(input_size: tuple[int, int], source: int, target: int) -> bool:
  """Tells whether up-sampling from level `source` to `target` repeats every pixel equally often."""
  height, width = level_size(input_size, source)
  factor = 2 ** (source - target)
  return (height * factor, width * factor) == level_size(input_size, target)


def count_features(counter: Counter, arch: Architecture, used: frozenset[int]) -> None:
  """Adds the stem, and the permuted blocks in `used` with their connections."""
  level, channels = 1, arch.stem_filters
  counter.conv("stem", level, arch.stem_kernel, 3, channels)
  if arch.stem_pool:
    level = 2
    counter.map("stem", level, channels)
  for i, spec in enumerate(arch.features):
    if i not in used:
      continue
    part = "stem" if i < len(arch.stem) else "blocks"
    if i >= len(arch.stem):
      for parent in spec.parents:
        count_connection(counter, arch, parent, i)
      level, channels = spec.level, arch.channels(i)
      counter.map("connections", level, channels, then="activate")
    for _ in range(arch.repeats(i)):
      count_block(counter, part, spec.block, spec.level, arch.filters(spec.level), channels, level)
      level, channels = spec.level, arch.channels(i)


def count_pyramid(counter: Counter, arch: Architecture, levels: tuple[int, ...]) -> None:
  """Adds the pyramid's `levels`: endpoints, or a feature pyramid network."""
  if arch.pyramid == "fpn":
    return _count_fpn(counter, arch, levels)
  for level, i in arch.outputs.items():
    if level in levels:
      counter.conv("endpoints", level, 1, arch.channels(i), arch.endpoint_filters)


def _count_fpn(counter: Counter, arch: Architecture, levels: tuple[int, ...]) -> None:
  """Laterals and top-down sums down to the lowest level that is asked for, then 3x3 convolutions and normalisations."""
  part, width, top = "fpn", arch.endpoint_filters, max(arch.outputs)
  for level in range(top, min(*levels, top) - 1, -1):
    plain = {"norm": False, "bias": True, "then": "read" if level == top else "add"}
    counter.conv(part, level, 1, arch.channels(arch.outputs[level]), width, **plain)
    if level < top:
      counter.map(part, level, width, then="add")
      counter.map(part, level, width)
  for level in arch.output_levels:
    read_on = level in NORM_BEHIND and level < max(levels)
    if level in levels or read_on:
      counter.conv(part, level, 3, width, width, norm=level in levels, bias=level in NORM_BEHIND, then="read")
    if level > top and read_on:
      counter.map(part, level, width)  # activated, before level 7
