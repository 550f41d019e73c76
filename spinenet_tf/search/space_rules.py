"""What a search space must fulfil. Each rule's message names the value, the rule and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spinenet_tf.backbones.rules import MAX_LEVEL, MIN_LEVEL
from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import BLOCKS

if TYPE_CHECKING:
  from spinenet_tf.search.space import SearchSpace


def check(space: SearchSpace) -> None:
  """Raises UserError where a space breaks a rule."""
  if not space.name or not isinstance(space.name, str):
    raise UserError(f"a search space needs a name, not {space.name!r}")
  for field in ("learn_permutation", "learn_connections"):
    if not isinstance(getattr(space, field), bool):
      raise UserError(f"{space.name}: {field} is {getattr(space, field)!r}; it must be true or false")
  _check_outputs(space)
  _check_window(space)
  _check_levels(space)
  _check_types(space)
  _check_parents(space)


def _check_outputs(space: SearchSpace) -> None:
  levels = space.output_levels
  if not levels:
    raise UserError(
      f"{space.name}: output_levels is empty; a pyramid needs at least one output level, the paper has [3, 4, 5, 6, 7]"
    )
  _check_range(space, "output_levels", levels, MIN_LEVEL)
  if twice := sorted({level for level in levels if levels.count(level) > 1}):
    raise UserError(
      f"{space.name}: {len(levels)} output blocks for {len(set(levels))} levels, output_levels is {list(levels)}; every "
      f"level has one output: keep level(s) {twice} once, and put further blocks into levels, the intermediate ones"
    )
  if missing := sorted(set(range(min(levels), max(levels) + 1)) - set(levels)):
    raise UserError(f"{space.name}: output_levels is {list(levels)}, with a gap; add level(s) {missing}")


def _check_window(space: SearchSpace) -> None:
  if not _is_whole(space.window) or space.window < 2:
    raise UserError(
      f"{space.name}: window is {space.window!r}; an intermediate block chooses two parents among the last `window` blocks "
      "built, so that it must be a whole number from 2 on (the paper's is 5)"
    )
  if len(space.stem) < 2:
    raise UserError(
      f"{space.name}: the stem has {len(space.stem)} block(s), and the first block after it chooses two parents among them; "
      "give the stem two blocks or more"
    )


def _check_levels(space: SearchSpace) -> None:
  lowest = space.lowest_level
  if not _is_whole(lowest) or not MIN_LEVEL <= lowest <= MAX_LEVEL:
    raise UserError(
      f"{space.name}: lowest_level is {lowest!r}; it must be a whole number from {MIN_LEVEL} to {MAX_LEVEL}"
    )
  _check_range(space, "levels", space.levels, MIN_LEVEL)
  offsets = space.offsets
  if not offsets or not all(map(_is_whole, offsets)) or len(set(offsets)) < len(offsets):
    raise UserError(
      f"{space.name}: offsets is {list(offsets)}; it must hold different whole numbers, [0] for levels that stay as they are"
    )
  for level in space.levels:
    if not space.allowed_offsets(level):
      raise UserError(
        f"{space.name}: levels has {level}, which no offset of {list(offsets)} leaves between lowest_level {lowest} and "
        f"{MAX_LEVEL}, the highest with a width; change that level, offsets or lowest_level"
      )


def _check_range(space: SearchSpace, field: str, levels: Sequence[int], lowest: int) -> None:
  if wrong := [level for level in levels if not _is_whole(level) or not lowest <= level <= MAX_LEVEL]:
    raise UserError(
      f"{space.name}: {field} has {wrong[0]!r}; levels are whole numbers from {lowest} to {MAX_LEVEL}, which have widths"
    )


def _check_types(space: SearchSpace) -> None:
  types = space.types
  if not types or len(set(types)) < len(types) or any(kind not in BLOCKS for kind in types):
    raise UserError(f"{space.name}: types is {list(types)}; it must hold different ones of {list(BLOCKS)}")


def _check_parents(space: SearchSpace) -> None:
  if space.learn_connections:
    if space.parents:
      raise UserError(
        f"{space.name}: parents are given and learn_connections is true; leave parents out, or set learn_connections to false"
      )
    return
  if len(space.parents) != space.block_count:
    raise UserError(
      f"{space.name}: learn_connections is false, and parents has {len(space.parents)} entries for {space.block_count} "
      "blocks; give a pair of parents for each block after the stem, or set learn_connections to true"
    )
  for index, pair in enumerate(space.parents, len(space.stem)):
    known = space.candidates(index)
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(known):
      raise UserError(
        f"{space.name}, block {index}: parents are {list(pair)}; they must be two different ones of {list(known)}"
      )


def _is_whole(value: object) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)
