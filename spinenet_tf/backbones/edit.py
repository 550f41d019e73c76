"""Architectures made from architectures: scaled ones, damaged ones.  [SpineNet sections 3.4 and 5.5, table 8]"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from spinenet_tf.backbones.catalog import architecture as _architecture
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError

# What a damage leaves of a block with parents (earlier, later), as the name of the new architecture and its note say it.
_DAMAGES = {
  "short": ("no_short", "each block's short-range connection, from the later of its two parents, is removed"),
  "long": ("no_long", "each block's long-range connection, from the earlier of its two parents, is removed"),
  "both": ("sequential", "each block's two connections are removed, and it reads the block just before it"),
}


def scaled(
  architecture: str | pathlib.Path | dict | Architecture,
  *,
  name: str | None = None,
  filter_scale: float | None = None,
  block_repeats: int | Sequence[int] | None = None,
  resample_alpha: float | None = None,
  endpoint_filters: int | None = None,
  head_convs: int | None = None,
  head_filters: int | None = None,
  anchor_size: float | None = None,
) -> Architecture:
  """Returns an architecture of the same blocks in other sizes.  [section 3.4]

  `scaled("spinenet49", name="spinenet96", block_repeats=2)` is SpineNet-96; numbers for each block make what lies between.

  Args:
    architecture: what `catalog.architecture` takes.
    name: of the result; the old one followed by what changed when None.
    filter_scale, block_repeats, resample_alpha, endpoint_filters, head_convs, head_filters, anchor_size: new values, as
      in `Architecture`; not factors. None keeps the old one.

  Raises: UserError for a value that breaks a rule, or `resample_alpha` where connections have no such convolution.
  """
  arch = _architecture(architecture)
  values = {
    "filter_scale": filter_scale,
    "block_repeats": tuple(block_repeats) if isinstance(block_repeats, Sequence) else block_repeats,
    "resample_alpha": resample_alpha,
    "endpoint_filters": endpoint_filters,
    "head_convs": head_convs,
    "head_filters": head_filters,
    "anchor_size": anchor_size,
  }
  changes = {field: value for field, value in values.items() if value is not None and value != getattr(arch, field)}
  if "resample_alpha" in changes and (arch.separable or arch.pyramid == "fpn"):
    kind = "separable" if arch.separable else "those of a feature pyramid network"
    raise UserError(
      f"{arch.name}: resample_alpha is {resample_alpha}, but its connections are {kind} and have no convolution of that "
      "width; leave it out"
    )
  if name is None:
    texts = {field: "mixed" if isinstance(value, tuple) else value for field, value in changes.items()}
    name = "_".join((arch.name, *(f"{field}_{text}" for field, text in texts.items())))
  return dataclasses.replace(arch, name=name, **changes)


def damaged(
  architecture: str | pathlib.Path | dict | Architecture, remove: str, name: str | None = None
) -> Architecture:
  """Returns an architecture that lost connections: every permuted block has one input left.  [section 5.5, table 8]

  Of a block's two parents the later one is taken for the short-range connection, the earlier one for the long-range
  connection; the paper does not say more. The out-degree-0 rule is off, so that no block gets a second input. Blocks that
  no output depends on any more are left out of the network.

  Args:
    architecture: what `catalog.architecture` takes; the paper damages "r0_sp53".
    remove: "short" (damage 1), "long" (damage 2), or "both" (damage 3), after which each block reads the one before it.
    name: of the result; the old one followed by the kind of damage when None.

  Raises: UserError for another `remove`, or a network in which a block has not two parents.
  """
  arch = _architecture(architecture)
  if remove not in _DAMAGES:
    raise UserError(f"remove is {remove!r}; it must be one of {list(_DAMAGES)}, the connections that are taken away")
  if not arch.blocks:
    raise UserError(
      f"{arch.name} is a plain chain without permuted blocks; only connections of such blocks are removed"
    )
  blocks = []
  for i, spec in enumerate(arch.blocks, len(arch.stem)):
    if len(spec.parents) != 2:
      raise UserError(
        f"{arch.name}, block {i}: parents are {spec.parents}; long-range and short-range connections are told apart "
        "where each block has two, the earlier and the later"
      )
    blocks.append(_damaged_block(spec, i, remove))
  suffix, done = _DAMAGES[remove]
  return dataclasses.replace(
    arch,
    name=f"{arch.name}_{suffix}" if name is None else name,
    blocks=tuple(blocks),
    connect_unused=False,
    allow_disconnected=True,
    note=f"{arch.note} Damaged {arch.name}: {done}; the out-degree-0 rule is off.".strip(),
  )


def _damaged_block(spec: BlockSpec, index: int, remove: str) -> BlockSpec:
  long, short = sorted(spec.parents)
  left = {"short": long, "long": short, "both": index - 1}[remove]
  return dataclasses.replace(spec, parents=(left,))
