"""The decisions that make an architecture, in the order in which they are made.  [SpineNet section 3.1]

First the permutations of intermediate and of output blocks, then two parents for each block, then the level offset of each
intermediate block and the type of each block.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from spinenet_tf.search.space import SearchSpace

LEVEL, OUTPUT, FIRST, SECOND, OFFSET, TYPE = KINDS = (
  "level",
  "output",
  "first_parent",
  "second_parent",
  "offset",
  "type",
)


@dataclasses.dataclass(frozen=True)
class Decision:
  """One choice.

  Attributes:
    kind: "level" or "output", drawn without replacement from what levels are left; "first_parent" or "second_parent", the
      smaller and the larger index of a pair; "offset"; "type".
    block: index of the feature that it is about, counted from the stem on.
    options: what there is to choose from: levels, indices of features, offsets or types. A choice is an index into it.
      Earlier choices may forbid some, see `SearchSpace.weights`.
  """

  kind: str
  block: int
  options: tuple


def decisions_of(space: SearchSpace) -> tuple[Decision, ...]:
  """Returns the decisions of a space, in order; what is not learned is none."""
  first, last = len(space.stem), len(space.stem) + space.block_count
  outputs = last - len(space.output_levels)
  made = []
  if space.learn_permutation:
    made += [Decision(LEVEL, i, tuple(sorted(set(space.levels)))) for i in range(first, outputs)]
    made += [Decision(OUTPUT, i, tuple(sorted(space.output_levels))) for i in range(outputs, last)]
  if space.learn_connections:
    for i in range(first, last):
      made += [Decision(kind, i, space.candidates(i)) for kind in (FIRST, SECOND)]
  if len(space.offsets) > 1:
    made += [Decision(OFFSET, i, space.offsets) for i in range(first, outputs)]
  if len(space.types) > 1:
    made += [Decision(TYPE, i, space.types) for i in range(first, last)]
  return tuple(made)
