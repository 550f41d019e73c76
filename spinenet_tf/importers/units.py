"""The convolutions of a backbone, each with its batch norm, in the order in which other code bases create them."""

from __future__ import annotations

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.layers.blocks import kernel_sizes


def connections(arch: Architecture) -> list[str]:
  """Returns the units of all connections that lead to an output: block by block, parent by parent."""
  used = arch.used()
  return [
    f"block_{i:02d}/resample_{p}/{role}"
    for i, spec in enumerate(arch.features)
    if i >= len(arch.stem) and i in used
    for p, parent in enumerate(spec.parents)
    for role in connection_roles(arch.separable, spec.level - arch.features[parent].level)
  ]


def connection_roles(separable: bool, levels_down: int) -> list[str]:
  """Returns the units of one connection."""
  if separable:
    return [*(f"down_{n}" for n in range(max(0, levels_down))), "expand"]
  return ["squeeze", *(["down"] if levels_down > 0 else []), "expand"]


def block_repeats(arch: Architecture, kind: str, repeats: int) -> list[str]:
  """Returns the blocks of one kind that lead to an output, each repeat by itself."""
  used = arch.used()
  return [
    f"block_{i:02d}/repeat_{k}"
    for i, spec in enumerate(arch.features)
    if spec.block == kind and i in used
    for k in range(repeats)
  ]


def block_roles(kind: str) -> list[str]:
  """Returns the units of one block with a batch norm each."""
  if kind == "mbconv":
    return ["expand", "depthwise", "project"]
  return [f"conv{j + 1}" for j in range(len(kernel_sizes(kind)))]


def endpoints(arch: Architecture) -> list[str]:
  """Returns the units of the pyramid, finest level first."""
  return [f"endpoint_{level}" for level in arch.output_levels]
