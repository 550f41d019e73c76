"""What an architecture must fulfil. Each rule's message names the block, the value and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import BLOCKS

if TYPE_CHECKING:
  from spinenet_tf.backbones.spec import Architecture, BlockSpec

MIN_LEVEL, MAX_LEVEL = 1, 7
FPN_LEVELS = (3, 4, 5, 6, 7)
PYRAMIDS = ("endpoints", "fpn")


def check(arch: Architecture) -> None:
  """Raises UserError where an architecture breaks a rule."""
  _check_values(arch)
  if not arch.stem:
    raise UserError(f"{arch.name}: the stem has no blocks; it needs at least one, which reads the first convolution")
  level = 2 if arch.stem_pool else 1
  for i, spec in enumerate(arch.features):
    where = f"{arch.name}, block {i}"
    _check_block(where, spec)
    if i >= len(arch.stem):
      _check_parents(where, i, spec)
      continue
    if spec.parents or spec.is_output:
      raise UserError(f"{where} is in the stem, a plain chain; it has no parents of its own and is no output")
    if not level <= spec.level <= level + 1:
      start = 2 if arch.stem_pool else 1
      raise UserError(f"{where}: stem level is {spec.level} after {level}; it stays or rises by one, from {start} on")
    level = spec.level
  if arch.pyramid == "fpn":
    _check_fpn(arch)
  else:
    _check_outputs(arch)
    _check_connected(arch)
  _check_widths(arch)


def check_size(arch: Architecture, input_size: tuple[int | None, int | None]) -> None:
  """Checks that every level of the pyramid is smaller than the one below it.

  Raises: UserError for an input so small that two levels would have one pixel each.
  """
  top = max(arch.output_levels)
  for side in input_size:
    if side is not None and side <= 2 ** (top - 1):
      raise UserError(
        f"{arch.name}: an input of {input_size[0]} x {input_size[1]} pixels leaves no features at level {top}, which "
        f"has one pixel for {2**top}; each side must exceed {2 ** (top - 1)}"
      )


def _check_values(arch: Architecture) -> None:
  if not arch.name or not isinstance(arch.name, str):
    raise UserError(f"an architecture needs a name, not {arch.name!r}")
  for field in ("filter_scale", "resample_alpha", "anchor_size"):
    value = getattr(arch, field)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
      raise UserError(f"{arch.name}: {field} is {value!r}; it must be above 0")
  for field in ("endpoint_filters", "head_convs", "head_filters", "stem_filters", "stem_kernel"):
    if not _is_count(getattr(arch, field)):
      raise UserError(f"{arch.name}: {field} is {getattr(arch, field)!r}; it must be a whole number from 1 on")
  _check_repeats(arch)
  if arch.stem_kernel % 2 == 0:
    raise UserError(f"{arch.name}: stem_kernel is {arch.stem_kernel}; it must be odd")
  for field in ("connect_unused", "allow_disconnected", "stem_pool", "separable"):
    if not isinstance(getattr(arch, field), bool):
      raise UserError(f"{arch.name}: {field} is {getattr(arch, field)!r}; it must be true or false")
  if len(arch.level_filters) != MAX_LEVEL or not all(map(_is_count, arch.level_filters)):
    raise UserError(
      f"{arch.name}: level_filters is {list(arch.level_filters)}; it must hold {MAX_LEVEL} whole numbers from 1 on, "
      f"the widths of levels {MIN_LEVEL} to {MAX_LEVEL}"
    )
  if arch.pyramid not in PYRAMIDS:
    raise UserError(f"{arch.name}: pyramid is {arch.pyramid!r}; it must be one of {list(PYRAMIDS)}")


def _check_repeats(arch: Architecture) -> None:
  repeats = arch.block_repeats
  if not all(map(_is_count, repeats if isinstance(repeats, tuple) else (repeats,))):
    raise UserError(
      f"{arch.name}: block_repeats is {repeats!r}; it must be a whole number from 1 on, or one for each block"
    )
  if isinstance(repeats, tuple) and len(repeats) != len(arch.features):
    raise UserError(
      f"{arch.name}: block_repeats has {len(repeats)} numbers for {len(arch.features)} blocks; give one for each block, the "
      "stem's first"
    )


def _is_count(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_block(where: str, spec: BlockSpec) -> None:
  if not _is_count(spec.level) or not MIN_LEVEL <= spec.level <= MAX_LEVEL:
    raise UserError(f"{where}: level is {spec.level!r}; it must be a whole number from {MIN_LEVEL} to {MAX_LEVEL}")
  if spec.block not in BLOCKS:
    raise UserError(f"{where}: block is {spec.block!r}; it must be one of {list(BLOCKS)}")
  if not isinstance(spec.is_output, bool):
    raise UserError(f"{where}: is_output is {spec.is_output!r}; it must be true or false")


def _check_parents(where: str, index: int, spec: BlockSpec) -> None:
  if not isinstance(spec.parents, tuple):
    raise UserError(f"{where}: parents is {spec.parents!r}; it must be a list of numbers of earlier blocks")
  if not spec.parents:
    raise UserError(f"{where} has no parents; name at least one earlier block")
  for parent in spec.parents:
    if isinstance(parent, bool) or not isinstance(parent, int) or not 0 <= parent < index:
      raise UserError(f"{where}: parent {parent!r} is not an earlier block; give numbers from 0 to {index - 1}")
  if len(set(spec.parents)) < len(spec.parents):
    raise UserError(f"{where}: parents are {spec.parents}; each may stand once")


def _check_fpn(arch: Architecture) -> None:
  if arch.blocks:
    raise UserError(
      f"{arch.name}: pyramid is 'fpn' and there are {len(arch.blocks)} permuted blocks, the first is block "
      f"{len(arch.stem)}; a feature pyramid network stands on a plain stem: remove them, or set pyramid to 'endpoints'"
    )
  if arch.separable:
    raise UserError(f"{arch.name}: pyramid is 'fpn' and separable is true; there is no separable FPN, set it to false")
  levels = [spec.level for spec in arch.stem]
  if levels[-1] != 5:
    raise UserError(f"{arch.name}: the stem ends at level {levels[-1]}; under pyramid 'fpn' it must end at level 5")


def _check_outputs(arch: Architecture) -> None:
  if not arch.blocks:
    raise UserError(
      f"{arch.name}: there are no permuted blocks; each level of the pyramid needs one with is_output=true"
    )
  outputs = [(spec.level, i) for i, spec in enumerate(arch.features) if spec.is_output]
  levels = sorted(level for level, _ in outputs)
  if not levels:
    raise UserError(f"{arch.name}: no block has is_output=true; give one for each level of the pyramid")
  if twice := sorted({level for level in levels if levels.count(level) > 1}):
    blocks = [i for level, i in outputs if level in twice]
    raise UserError(f"{arch.name}: level(s) {twice} have more than one output, blocks {blocks}; keep one each")
  if missing := sorted(set(range(levels[0], levels[-1] + 1)) - set(levels)):
    raise UserError(
      f"{arch.name}: output levels are {levels}, without a gap they would have {missing}, too; give a block at each "
      "missing level is_output=true"
    )


def _check_connected(arch: Architecture) -> None:
  if arch.allow_disconnected:
    return
  used = arch.used()
  for i in range(len(arch.stem), len(arch.features)):
    if i not in used:
      rule = "" if arch.connect_unused else ", set connect_unused to true"
      raise UserError(
        f"{arch.name}, block {i} (level {arch.features[i].level}, {arch.features[i].block}): no output depends on it; "
        f"make it a parent of a later block{rule}, or set allow_disconnected to true to leave it out"
      )


def _check_widths(arch: Architecture) -> None:
  for i, spec in enumerate(arch.features):
    if arch.filters(spec.level) < 1:
      raise UserError(
        f"{arch.name}, block {i}: level {spec.level} has {arch.level_filters[spec.level - 1]} x filter_scale "
        f"{arch.filter_scale} < 1 channels; raise filter_scale"
      )
  for parent in sorted({p for spec in arch.blocks for p in spec.parents}):
    if not arch.separable and arch.squeeze_filters(parent) < 1:
      raise UserError(
        f"{arch.name}: connections from block {parent} have {arch.filters(arch.features[parent].level)} x "
        f"resample_alpha {arch.resample_alpha} < 1 channels; raise filter_scale ({arch.filter_scale}) or resample_alpha"
      )
