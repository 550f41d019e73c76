"""The paper's search spaces, and a small one.  [SpineNet tables 1 and 7, sections 3.1 and 5.1]"""

from __future__ import annotations

import pathlib

from spinenet_tf.backbones.catalog import ALLOCATIONS, CATALOG
from spinenet_tf.errors import UserError
from spinenet_tf.search.space import SearchSpace

PAPER_OFFSETS = (-1, 0, 1, 2)
PAPER_TYPES = ("bottleneck", "residual")


def _family(name: str) -> SearchSpace:
  """A space of the R[N]-SP[M] family: permutation and connections of the blocks that table 1 allots."""
  allocation = ALLOCATIONS[name]
  stem = tuple(level for level, count in zip(range(2, 6), allocation.stem) for _ in range(count))
  levels = tuple(
    level for level, count in zip(range(2, 8), allocation.permuted) for _ in range(count - (3 <= level <= 7))
  )
  return SearchSpace(name, stem, levels)


def _fixed_shape(name: str) -> SearchSpace:
  """The blocks of a network in their order; connections alone are learned.  [table 7]"""
  arch = CATALOG[name]
  inner = tuple(block.level for block in arch.blocks if not block.is_output)
  outputs = tuple(block.level for block in arch.blocks if block.is_output)
  return SearchSpace(name, arch.stem, inner, outputs, learn_permutation=False)


_R0_SP53 = _family("r0_sp53")

SPACES: dict[str, SearchSpace] = {
  space.name: space
  for space in (
    *(_family(name) for name in ("r35_sp18", "r23_sp30", "r14_sp39")),
    _R0_SP53,
    # Its blocks before adjustment are taken for R0-SP53's, from which the offsets reach what table 1 has.
    SearchSpace("spinenet49", _R0_SP53.stem, _R0_SP53.levels, offsets=PAPER_OFFSETS, types=PAPER_TYPES),
    _fixed_shape("hourglass"),
    _fixed_shape("fish"),
    # For one machine: eight blocks, a pyramid that ends at level 5, so that images of 96 pixels do.
    SearchSpace("tiny", (2, 2), (3, 3, 4, 4, 5), (3, 4, 5), offsets=(-1, 0, 1), types=PAPER_TYPES),
  )
}


def find_space(source: str | pathlib.Path | dict | SearchSpace) -> SearchSpace:
  """Returns a search space from whatever names one.

  Args:
    source: a name in `SPACES` ("spinenet49", or "SpineNet-49"), a path to a JSON file, the dictionary of a space, or a
      space itself.

  Raises: UserError for a name that there is not, with those that there are, or a broken file.
  """
  if isinstance(source, SearchSpace):
    return source
  if isinstance(source, dict):
    return SearchSpace.from_dict(source)
  text = str(source)
  if text.endswith(".json"):
    return SearchSpace.from_json(text)
  name = text.lower().replace("-", "").replace("_", "")
  for known, space in SPACES.items():
    if known.replace("_", "") == name:
      return space
  raise UserError(f"no search space named {text!r}; there are {', '.join(SPACES)}, or give a path that ends in .json")
