"""Between points and architectures, and how many points there are.  [SpineNet section 3.1; spinenet.md 3.2]"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError
from spinenet_tf.search.decisions import FIRST, LEVEL, OFFSET, OUTPUT, SECOND, TYPE

if TYPE_CHECKING:
  from spinenet_tf.search.space import Point, SearchSpace


def sizes(space: SearchSpace) -> dict[str, int]:
  """Returns how many possibilities there are.

  With N blocks after a stem of m, of which O are outputs:

  - "labelled_permutations": (N - O)! O!, every block told apart.
  - "permutations": those of them that differ in levels.
  - "all_connections": product of C(i, 2) for i = m .. N + m - 1, no window.
  - "connections": the same with C(min(i, window), 2) for intermediate blocks.
  - "adjustments": offsets^(N - O) types^N; where a base level forbids an offset, one less for that block.
  - "points": permutations x connections x adjustments, what `SearchSpace.points` yields.

  What is not learned counts 1.
  """
  count, outputs, stem = space.block_count, len(space.output_levels), len(space.stem)
  indices = range(stem, stem + count)
  labelled = permutations = 1
  if space.learn_permutation:
    labelled = math.factorial(count - outputs) * math.factorial(outputs)
    permutations = labelled // math.prod(math.factorial(n) for n in collections.Counter(space.levels).values())
  everything = connections = 1
  if space.learn_connections:
    everything = math.prod(math.comb(i, 2) for i in indices)
    connections = math.prod(math.comb(len(space.candidates(i)), 2) for i in indices)
  adjustments = math.prod(len(space.allowed_offsets(level)) for level in space.levels) * len(space.types) ** count
  return {
    "labelled_permutations": labelled,
    "permutations": permutations,
    "all_connections": everything,
    "connections": connections,
    "adjustments": adjustments,
    "points": permutations * connections * adjustments,
  }


def base_level(space: SearchSpace, prefix: Sequence[int], block: int) -> int:
  """Returns the level of an intermediate block before its offset, from the choices made so far."""
  position = block - len(space.stem)
  if not space.learn_permutation:
    return space.levels[position]
  return space.decisions[position].options[prefix[position]]


@dataclasses.dataclass
class _Choices:
  """A point by kind: base levels of all blocks, pairs of parents, offsets of intermediate blocks, types."""

  levels: list[int]
  parents: list[tuple[int, int]]
  offsets: list[int]
  types: list[str]


def _choices(space: SearchSpace, point: Point) -> _Choices:
  chosen = collections.defaultdict(list)
  for decision, choice in zip(space.decisions, point):
    chosen[decision.kind].append(decision.options[choice])
  first, second = chosen[FIRST], chosen[SECOND]
  return _Choices(
    levels=chosen[LEVEL] + chosen[OUTPUT] if space.learn_permutation else [*space.levels, *space.output_levels],
    parents=list(zip(first, second)) if space.learn_connections else list(space.parents),
    offsets=chosen[OFFSET] or [space.offsets[0]] * len(space.levels),
    types=chosen[TYPE] or [space.types[0]] * space.block_count,
  )


def _point(space: SearchSpace, choices: _Choices) -> Point:
  """Inverse of `_choices`."""
  split = len(space.levels)
  first, second = zip(*choices.parents)
  of = {LEVEL: choices.levels[:split], OUTPUT: choices.levels[split:], FIRST: first, SECOND: second}
  of |= {OFFSET: choices.offsets, TYPE: choices.types}
  waiting = {kind: iter(values) for kind, values in of.items()}
  return tuple(decision.options.index(next(waiting[decision.kind])) for decision in space.decisions)


def _require_valid(space: SearchSpace, point: Point) -> None:
  if len(point) != len(space.decisions):
    raise UserError(
      f"{space.name}: a point has {len(space.decisions)} choices, this one has {len(point)}; it is of another space"
    )
  for t, (decision, choice) in enumerate(zip(space.decisions, point)):
    weights = space.weights(point[:t])
    allowed = [c for c, weight in enumerate(weights) if weight]
    if choice not in allowed:
      raise UserError(
        f"{space.name}: choice {t} of a point ({decision.kind} of block {decision.block}) is {choice!r}; after those before "
        f"it, it must be one of {allowed}"
      )


def decode(space: SearchSpace, point: Point) -> Architecture:
  """See `SearchSpace.decode`. The name of the architecture is the space's and eight digits that follow from its point."""
  point = canonical(space, tuple(point))
  choices = _choices(space, point)
  levels = [level + offset for level, offset in zip(choices.levels, choices.offsets)] + list(space.output_levels)
  levels[len(space.levels) :] = choices.levels[len(space.levels) :]
  blocks = tuple(
    BlockSpec(level, kind, pair, n >= len(space.levels))
    for n, (level, kind, pair) in enumerate(zip(levels, choices.types, choices.parents))
  )
  digits = hashlib.sha256(repr(point).encode()).hexdigest()[:8]
  values = {"name": f"{space.name}_{digits}", **dict(space.settings)}
  arch = Architecture(stem=space.stem, blocks=blocks, **{**values, "allow_disconnected": True})
  if arch.used() >= set(range(len(space.stem), len(arch.features))):
    return dataclasses.replace(arch, allow_disconnected=False)
  return arch


def canonical(space: SearchSpace, point: Point) -> Point:
  """See `SearchSpace.canonical`."""
  _require_valid(space, point)
  if not space.learn_permutation or len(space.offsets) == 1:
    return point
  choices = _choices(space, point)
  final = [level + offset for level, offset in zip(choices.levels, choices.offsets)]
  return _point(space, _with_bases(space, choices, final))


def _with_bases(space: SearchSpace, choices: _Choices, final: Sequence[int]) -> _Choices:
  """Choices with the base levels and offsets of least change that give the `final` levels of the intermediate blocks."""
  bases = _bases(space, tuple(final))
  offsets = [level - base for level, base in zip(final, bases)]
  return dataclasses.replace(choices, levels=[*bases, *choices.levels[len(final) :]], offsets=offsets)


@functools.lru_cache(maxsize=4096)
def _bases(space: SearchSpace, final: tuple[int, ...]) -> tuple[int, ...] | None:
  """Returns the arrangement of `space.levels` from which the offsets reach the `final` levels, None if there is none.

  Of several the one with the least sum of |offset|, then the first in lexicographic order.
  """
  if not space.learn_permutation:
    reached = all(level - base in space.offsets for level, base in zip(final, space.levels))
    return space.levels if reached else None

  kinds = sorted(set(space.levels))

  @functools.cache
  def best(position: int, left: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    if position == len(final):
      return (0, ())
    found = []
    for n, base in enumerate(kinds):
      offset = final[position] - base
      if not left[n] or offset not in space.offsets:
        continue
      if rest := best(position + 1, (*left[:n], left[n] - 1, *left[n + 1 :])):
        found.append((abs(offset) + rest[0], (base, *rest[1])))
    return min(found, default=None)

  result = best(0, tuple(space.levels.count(level) for level in kinds))
  return result and result[1]


def encode(space: SearchSpace, architecture: object) -> Point:
  """See `SearchSpace.encode`."""
  arch = find_architecture(architecture)
  where = f"{arch.name} is no point of the space {space.name}"
  if [(b.level, b.block) for b in arch.stem] != [(b.level, b.block) for b in space.stem]:
    raise UserError(
      f"{where}: its stem has levels {[b.level for b in arch.stem]}, the space's {[b.level for b in space.stem]}, of blocks "
      f"{sorted({b.block for b in space.stem})}"
    )
  split = len(space.levels)
  inner, outputs = arch.blocks[:split], arch.blocks[split:]
  if len(arch.blocks) != space.block_count or not all(b.is_output for b in outputs) or any(b.is_output for b in inner):
    raise UserError(
      f"{where}: it needs {split} intermediate blocks and {len(space.output_levels)} outputs after them, and has outputs at "
      f"{[n for n, b in enumerate(arch.blocks) if b.is_output]} of {len(arch.blocks)} blocks"
    )
  final, ends = [b.level for b in inner], [b.level for b in outputs]
  wanted = sorted(ends) if space.learn_permutation else ends
  if wanted != list(space.output_levels):
    raise UserError(f"{where}: its outputs have levels {ends}, the space's {list(space.output_levels)}")
  if _bases(space, tuple(final)) is None:
    raise UserError(
      f"{where}: its intermediate blocks have levels {final}; offsets {list(space.offsets)} do not lead there from "
      f"{list(space.levels)}{', in any order' if space.learn_permutation else ''}"
    )
  for i, block in enumerate(arch.blocks, len(space.stem)):
    _check_block(space, f"{where}: block {i}", i, block)
  choices = _Choices(
    levels=[*final, *ends],
    parents=[tuple(sorted(block.parents)) for block in arch.blocks],
    offsets=[0] * split,
    types=[block.block for block in arch.blocks],
  )
  return _point(space, _with_bases(space, choices, final))


def _check_block(space: SearchSpace, where: str, index: int, block: BlockSpec) -> None:
  if block.block not in space.types:
    raise UserError(f"{where} is {block.block}; the space has {list(space.types)}")
  known = space.candidates(index)
  if len(block.parents) != 2 or not set(block.parents) <= set(known):
    raise UserError(f"{where} reads {list(block.parents)}; it must be two of {list(known)}")
  fixed = () if space.learn_connections else space.parents[index - len(space.stem)]
  if fixed and tuple(sorted(block.parents)) != fixed:
    raise UserError(f"{where} reads {list(block.parents)}; connections are not learned, it must read {list(fixed)}")


def text(space: SearchSpace, point: Point) -> str:
  """See `SearchSpace.text`."""
  _require_valid(space, tuple(point))
  choices, split = _choices(space, point), len(space.levels)
  lines = [
    f"levels   {' '.join(map(str, choices.levels[:split]))}",
    f"outputs  {' '.join(map(str, choices.levels[split:]))}",
    f"parents  {' '.join(f'{a},{b}' for a, b in choices.parents)}",
  ]
  if len(space.offsets) > 1:
    lines.append(f"offsets  {' '.join(f'{offset:+d}' if offset else '0' for offset in choices.offsets)}")
  if len(space.types) > 1:
    lines.append(f"types    {' '.join(choices.types)}")
  return "\n".join(lines)
