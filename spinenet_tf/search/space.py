"""Search spaces as data: what may be decided about a network, and points as tuples of choices.  [SpineNet sections 3.1, 5.1]

A space holds a stem that stays as it is, a multiset of levels for the intermediate blocks, one level for each output block,
and what is learned: the order of the levels, two parents for each block, level offsets and types. A point is one choice for
each decision (see `decisions`); every valid point decodes to a valid `Architecture`.

Facts that the paper leaves open, as they are here:

- The window: an intermediate block chooses its parents among the last `window` features built before it, those of the stem
  included; output blocks choose among all features before them. All drawn networks of the paper (SpineNet-49, R0-SP53,
  R23-SP30) lie within it, and need all five.
- A pair of parents is written in ascending order, so that an unordered pair has one point. Without offsets points and
  architectures are one to one. With offsets several base levels may lead to the same final levels; `canonical` is the one of
  least change, and `encode` gives that one.
- Offsets that would leave `lowest_level`..7 are forbidden (masked, never clipped). No base level of the paper's spaces has
  one: level 1, which an L2 block reaches by -1, has a width.  [authors' spinenet.py; spinenet.md 3.3]
- Unused blocks: the out-degree-0 rule adds them to the output of their level where channels agree, as in every
  `Architecture`. What is still unused afterwards is left out of the network: `decode` sets `allow_disconnected` for such
  points alone. Of random points, about half have such a block in SpineNet-49's space (other types, levels without output),
  one in eight in R0-SP53's.
- SpineNet-49's base levels are R0-SP53's; the paper does not list them.  [spinenet.md 3.2]
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from spinenet_tf import json_text
from spinenet_tf.backbones.rules import MAX_LEVEL, MIN_LEVEL
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError
from spinenet_tf.search import encoding, moves, space_rules
from spinenet_tf.search.decisions import FIRST, LEVEL, OFFSET, OUTPUT, SECOND, Decision, decisions_of
from spinenet_tf.search.network_key import network_key

Point = tuple[int, ...]
VERSION = 1  # of the dictionary and JSON form


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """What may be decided about a network.

  Attributes:
    name: for messages and files.
    stem: blocks before the scale-permuted ones, a chain; level numbers alone mean bottleneck blocks.
    levels: base level of each intermediate block, a multiset; the order counts where `learn_permutation` is false.
    output_levels: level of each output block, each once and without a gap; the order counts where it is not learned.
    window: intermediate blocks choose parents among that many features before them.
    learn_permutation: the order of `levels` and the order of `output_levels` are decided.
    learn_connections: two parents of each block are decided; otherwise `parents` has them.
    parents: pairs of feature indices, one for each block after the stem; empty where connections are learned.
    offsets: what may be added to an intermediate block's level; more than one are decided.
    types: kinds of blocks, "bottleneck", "residual" or "mbconv"; more than one are decided.
    lowest_level: no block gets a level below it; the highest is 7.
    settings: further fields of the architectures, such as {"filter_scale": 0.65}; kept as sorted pairs.
  """

  name: str
  stem: tuple[BlockSpec, ...]
  levels: tuple[int, ...]
  output_levels: tuple[int, ...] = (3, 4, 5, 6, 7)
  window: int = 5
  learn_permutation: bool = True
  learn_connections: bool = True
  parents: tuple[tuple[int, int], ...] = ()
  offsets: tuple[int, ...] = (0,)
  types: tuple[str, ...] = ("bottleneck",)
  lowest_level: int = MIN_LEVEL
  settings: tuple[tuple[str, object], ...] = ()

  def __post_init__(self):
    def set_(field, value):
      object.__setattr__(self, field, value)

    set_("stem", tuple(_stem_block(block) for block in self.stem))
    for field in ("levels", "output_levels", "offsets", "types"):
      set_(field, tuple(getattr(self, field)))
    set_("parents", tuple(tuple(sorted(pair)) for pair in self.parents))
    set_("settings", tuple(sorted((key, _frozen(value)) for key, value in dict(self.settings).items())))
    space_rules.check(self)
    if self.learn_permutation:
      set_("levels", tuple(sorted(self.levels)))
      set_("output_levels", tuple(sorted(self.output_levels)))
    if not self.decisions:
      raise UserError(
        f"{self.name}: there is nothing to decide; set learn_permutation or learn_connections to true, or give several "
        "offsets or types"
      )
    try:
      self.decode(next(self.points()))  # the rules of architectures: the stem, and what `settings` has
    except TypeError as error:
      raise UserError(f"{self.name}: settings do not fit an architecture: {error}") from error

  # What there is.

  @property
  def block_count(self) -> int:
    """Blocks after the stem, outputs included: N of the paper."""
    return len(self.levels) + len(self.output_levels)

  @functools.cached_property
  def decisions(self) -> tuple[Decision, ...]:
    """All decisions, in order."""
    return decisions_of(self)

  def candidates(self, index: int) -> tuple[int, ...]:
    """Returns the features that feature `index` may read: the last `window` before an intermediate block, else all."""
    is_intermediate = index < len(self.stem) + len(self.levels)
    return tuple(range(max(0, index - self.window) if is_intermediate else 0, index))

  def allowed_offsets(self, level: int) -> tuple[int, ...]:
    """Returns the offsets that keep a base level between `lowest_level` and 7."""
    return tuple(offset for offset in self.offsets if self.lowest_level <= level + offset <= MAX_LEVEL)

  def sizes(self) -> dict[str, int]:
    """Returns how many points there are, by closed formulas; see `encoding.sizes`."""
    return encoding.sizes(self)

  # Points.

  def weights(self, prefix: Sequence[int]) -> tuple[int, ...]:
    """Returns, for each option of the next decision, a whole number that is 0 where earlier choices forbid it.

    Drawing every decision in proportion to its weights draws all points alike: a level's weight is how many blocks of it
    are left, a first parent's how many candidates come after it, everything else's 1.

    Args:
      prefix: the choices made so far.
    """
    decision = self.decisions[len(prefix)]
    count = len(decision.options)
    if decision.kind in (LEVEL, OUTPUT):
      left = collections.Counter(self.levels if decision.kind == LEVEL else self.output_levels)
      made = (c for d, c in zip(self.decisions, prefix) if d.kind == decision.kind)
      left.subtract(decision.options[c] for c in made)
      return tuple(left[level] for level in decision.options)
    if decision.kind == FIRST:
      return tuple(range(count - 1, -1, -1))
    if decision.kind == SECOND:
      return tuple(int(c > prefix[-1]) for c in range(count))
    if decision.kind == OFFSET:
      allowed = self.allowed_offsets(encoding.base_level(self, prefix, decision.block))
      return tuple(int(offset in allowed) for offset in decision.options)
    return (1,) * count

  def is_valid(self, point: Sequence[int]) -> bool:
    """Returns whether `point` has one allowed choice for each decision."""
    if len(point) != len(self.decisions):
      return False
    for t, choice in enumerate(point):
      weights = self.weights(point[:t])
      if not 0 <= choice < len(weights) or not weights[choice]:
        return False
    return True

  def points(self) -> Iterator[Point]:
    """Yields all points in lexicographic order; for small spaces."""
    pending: list[Point] = [()]
    while pending:
      prefix = pending.pop()
      if len(prefix) == len(self.decisions):
        yield prefix
        continue
      weights = self.weights(prefix)
      pending += [(*prefix, c) for c in reversed(range(len(weights))) if weights[c]]

  def random_point(self, rng: np.random.Generator) -> Point:
    """Returns a point; all are drawn alike."""
    return moves.random_point(self, rng)

  def mutate(self, point: Point, rng: np.random.Generator) -> Point:
    """Returns a point that differs from `point` in one decision, or by a swap of two levels; see `moves.mutate`."""
    return moves.mutate(self, point, rng)

  def decode(self, point: Point) -> Architecture:
    """Returns the architecture of a point.

    Raises: UserError for a point that is not of this space, with the decision that breaks a rule.
    """
    return encoding.decode(self, point)

  def encode(self, architecture: str | pathlib.Path | dict | Architecture) -> Point:
    """Returns the canonical point of an architecture; inverse of `decode`.

    Names, widths and repeats do not count.

    Args:
      architecture: what `catalog.architecture` takes.

    Raises: UserError for an architecture outside the space, with the block and the rule.
    """
    return encoding.encode(self, architecture)

  def canonical(self, point: Point) -> Point:
    """Returns the point that stands for all that decode to the same architecture; without offsets `point` itself."""
    return encoding.canonical(self, point)

  def key(self, point: Point) -> str:
    """Returns a text that is equal for points of the same network, however its blocks are numbered: `network_key`."""
    return network_key(self.decode(point))

  def text(self, point: Point) -> str:
    """Returns a point in words: levels, outputs, parents, offsets and types in the order of the blocks."""
    return encoding.text(self, point)

  # Dictionaries and files.

  def to_dict(self) -> dict:
    """Returns a dictionary of plain values."""
    values = dataclasses.asdict(self)
    values["stem"] = [{"level": block.level, "block": block.block} for block in self.stem]
    values["settings"] = dict(self.settings)
    return {"version": VERSION, **json.loads(json.dumps(values))}

  @classmethod
  def from_dict(cls, values: dict) -> SearchSpace:
    """Inverse of `to_dict`; fields with defaults may be left out.

    Raises: UserError naming the key that is missing or unknown, or the value that breaks a rule.
    """
    values = dict(values)
    if (version := values.pop("version", VERSION)) != VERSION:
      raise UserError(f"the search space has version {version!r}, this package reads version {VERSION}")
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
      raise UserError(f"unknown key(s) {unknown} in a search space; known: {sorted(known)}")
    if missing := sorted({"name", "stem", "levels"} - set(values)):
      raise UserError(f"key(s) {missing} missing in a search space")
    try:
      return cls(**values)
    except TypeError as error:
      raise UserError(f"not a search space: {error}; lists of numbers are written as [3, 4, 5]") from error

  def to_json(self, path: str | pathlib.Path | None = None) -> str:
    """Returns JSON text, and writes it to `path` when given."""
    text = json.dumps(self.to_dict(), indent=2)
    if path is not None:
      pathlib.Path(path).write_text(text + "\n")
    return text

  @classmethod
  def from_json(cls, source: str | pathlib.Path) -> SearchSpace:
    """Reads JSON: text that starts with a brace, or a file.

    Raises: UserError when there is no such file, it is not JSON, or it breaks a rule of search spaces.
    """
    text = str(source)
    if not text.lstrip().startswith("{"):
      path = pathlib.Path(source)
      if not path.is_file():
        raise UserError(f"no search space file {str(path)!r}")
      text = path.read_bytes()
    try:
      values = json_text.parse(text)
    except ValueError as error:
      raise UserError(f"search space {str(source)[:80]!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
      raise UserError(f"search space {str(source)[:80]!r} is a JSON {type(values).__name__}, not an object")
    return cls.from_dict(values)

  def fingerprint(self) -> str:
    """Returns the SHA-256 of all that makes the space but its name, 64 hexadecimal digits."""
    values = self.to_dict()
    del values["name"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _stem_block(block: object) -> object:
  if isinstance(block, int):
    return BlockSpec(block, "bottleneck")
  return BlockSpec(**block) if isinstance(block, dict) else block


def _frozen(value: object) -> object:
  return tuple(value) if isinstance(value, list) else value
