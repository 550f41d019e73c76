"""Architectures as data: frozen, validated, serialisable.  [SpineNet section 3, figure 4]

`Architecture.stem` is a plain chain; `Architecture.blocks` are the scale-permuted blocks after it. Features are numbered
from the stem on: with a stem of two blocks, `parents=(0, 2)` joins the first stem block and the first permuted block.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import BLOCKS, block_channels

MIN_LEVEL, MAX_LEVEL = 1, 7
STEM_FILTERS = 64  # of the first convolution, whatever the filter scale [authors' spinenet.py]
LEVEL_FILTERS = {1: 32, 2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """One block: at level l its features are 1/2^l of the image's height and width.

  Attributes:
    level: 1 to 7.
    block: "bottleneck" or "residual".
    parents: indices of the features it reads, earlier ones, each once. Empty in a stem, which is a chain.
    is_output: its features become the pyramid's at its level.
  """

  level: int
  block: str
  parents: tuple[int, ...] = ()
  is_output: bool = False

  def __post_init__(self):
    object.__setattr__(self, "parents", tuple(self.parents))


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A backbone, and the heads that the paper puts on it.

  Attributes:
    name: for messages, files and pictures.
    stem: blocks of the stem, a chain; features 0, 1, ... of the network.
    blocks: the scale-permuted blocks, in the order they are built.
    filter_scale: multiplies the widths of all blocks; products are truncated.
    resample_alpha: width of a connection's first convolution, as a share of its parent's filters.
    block_repeats: how many copies of every block stand in a row, stem included.
    endpoint_filters: channels of every level of the pyramid.
    connect_unused: the out-degree-0 rule, see `unused_inputs`.
    head_convs, head_filters: depth and width of the RetinaNet towers that belong to it.
    anchor_size: RetinaNet's base anchor, in strides of its level.
  """

  name: str
  stem: tuple[BlockSpec, ...]
  blocks: tuple[BlockSpec, ...]
  filter_scale: float = 1.0
  resample_alpha: float = 0.5
  block_repeats: int = 1
  endpoint_filters: int = 256
  connect_unused: bool = True
  head_convs: int = 4
  head_filters: int = 256
  anchor_size: float = 3.0

  def __post_init__(self):
    for field in ("stem", "blocks"):
      specs = tuple(BlockSpec(**b) if isinstance(b, dict) else b for b in getattr(self, field))
      object.__setattr__(self, field, specs)
    _validate(self)

  @property
  def features(self) -> tuple[BlockSpec, ...]:
    """Stem and permuted blocks, indexed as `parents` are."""
    return self.stem + self.blocks

  @property
  def output_levels(self) -> tuple[int, ...]:
    """Levels of the pyramid, ascending."""
    return tuple(sorted(b.level for b in self.blocks if b.is_output))

  def filters(self, level: int) -> int:
    """Returns the width of the 3x3 convolutions at a level."""
    return int(LEVEL_FILTERS[level] * self.filter_scale)

  def channels(self, index: int) -> int:
    """Returns the channels of feature `index`."""
    spec = self.features[index]
    return block_channels(spec.block, self.filters(spec.level))

  def squeeze_filters(self, parent: int) -> int:
    """Returns the width of the first convolution of connections that leave feature `parent`."""
    return int(self.filters(self.features[parent].level) * self.resample_alpha)

  def unused_inputs(self, index: int) -> tuple[int, ...]:
    """Returns the features that the out-degree-0 rule adds, without weights, to feature `index`.

    When an output block is built, every earlier feature that nothing has read so far, of the same level and with the
    same channels, is added to its input.  [section 3.3; decided from the spec, so the image size plays no role]
    """
    return self._unused_inputs().get(index, ())

  def _unused_inputs(self) -> dict[int, tuple[int, ...]]:
    used = set(range(len(self.stem) - 1))  # a chain: each stem block but the last has a reader
    added: dict[int, tuple[int, ...]] = {}
    for i in range(len(self.stem), len(self.features)):
      spec = self.features[i]
      used.update(spec.parents)
      if not (spec.is_output and self.connect_unused):
        continue
      added[i] = tuple(
        j
        for j in range(i)
        if j not in used and self.features[j].level == spec.level and self.channels(j) == self.channels(i)
      )
      used.update(added[i])
    return added

  def to_dict(self) -> dict:
    """Returns a dictionary of plain values."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: dict) -> Architecture:
    """Inverse of `to_dict`.

    Raises: UserError naming the key that is missing or unknown, or the block that breaks a rule.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
      raise UserError(f"unknown key(s) {unknown} in an architecture; known: {sorted(known)}")
    if missing := sorted({"name", "stem", "blocks"} - set(values)):
      raise UserError(f"key(s) {missing} missing in an architecture")
    try:
      return cls(**values)
    except TypeError as error:
      raise UserError(f"not an architecture: {error}; a block has level, block, parents, is_output") from error

  def to_json(self, path: str | pathlib.Path | None = None) -> str:
    """Returns JSON text, and writes it to `path` when given."""
    text = json.dumps(self.to_dict(), indent=2)
    if path is not None:
      pathlib.Path(path).write_text(text + "\n")
    return text

  @classmethod
  def from_json(cls, source: str | pathlib.Path) -> Architecture:
    """Reads JSON: text that starts with a brace, or a file.

    Raises: UserError when there is no such file, it is not JSON, or it breaks a rule of architectures.
    """
    text = str(source)
    if not text.lstrip().startswith("{"):
      path = pathlib.Path(source)
      if not path.is_file():
        raise UserError(f"no architecture file {str(path)!r}")
      text = path.read_text()
    try:
      values = json.loads(text)
    except json.JSONDecodeError as error:
      raise UserError(f"architecture {str(source)[:80]!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
      raise UserError(f"architecture {str(source)[:80]!r} is a JSON {type(values).__name__}, not an object")
    return cls.from_dict(values)

  def describe(self) -> str:
    """Returns a table: index, level, block, parents, output."""
    rows = [f"{self.name}: scale {self.filter_scale}, alpha {self.resample_alpha}, repeats {self.block_repeats}"]
    for i, spec in enumerate(self.features):
      parents = [str(p) for p in (spec.parents if i >= len(self.stem) else (i - 1,) if i else ())]
      parents += [f"+{p}" for p in self.unused_inputs(i)]
      output = f"P{spec.level}" if spec.is_output else ""
      rows.append(f"{i:3d}  L{spec.level}  {spec.block:<10}  {','.join(parents):<10}  {output}".rstrip())
    return "\n".join(rows)


def _validate(arch: Architecture) -> None:
  """Raises UserError where an architecture breaks a rule; the text names the block."""
  if not arch.name or not isinstance(arch.name, str):
    raise UserError(f"an architecture needs a name, not {arch.name!r}")
  if not arch.stem or not arch.blocks:
    raise UserError(
      f"{arch.name}: stem has {len(arch.stem)} blocks, blocks {len(arch.blocks)}; each needs at least one"
    )
  level = 2
  for i, spec in enumerate(arch.features):
    where = f"{arch.name}, block {i}"
    if isinstance(spec.level, bool) or not isinstance(spec.level, int) or not MIN_LEVEL <= spec.level <= MAX_LEVEL:
      raise UserError(f"{where}: level is {spec.level!r}; it must be a whole number from {MIN_LEVEL} to {MAX_LEVEL}")
    if spec.block not in BLOCKS:
      raise UserError(f"{where}: block is {spec.block!r}; it must be one of {list(BLOCKS)}")
    if i < len(arch.stem):
      if spec.parents or spec.is_output:
        raise UserError(f"{where} is in the stem, a plain chain; it has no parents of its own and is no output")
      if not level <= spec.level <= level + 1:
        raise UserError(f"{where}: stem level is {spec.level} after {level}; it stays or rises by one, from 2 on")
      level = spec.level
    else:
      _validate_parents(where, i, spec)
  levels = [b.level for b in arch.blocks if b.is_output]
  if not levels:
    raise UserError(f"{arch.name}: no block has is_output=true; give one for each level of the pyramid")
  if len(set(levels)) < len(levels):
    twice = sorted({x for x in levels if levels.count(x) > 1})
    blocks = [i for i, b in enumerate(arch.features) if b.is_output and b.level in twice]
    raise UserError(f"{arch.name}: level(s) {twice} have more than one output, blocks {blocks}; keep one each")
  if sorted(levels) != list(range(min(levels), max(levels) + 1)):
    raise UserError(f"{arch.name}: output levels are {sorted(levels)}; they must follow each other without a gap")
  for field, low in (("filter_scale", 0), ("resample_alpha", 0), ("anchor_size", 0)):
    if not getattr(arch, field) > low:
      raise UserError(f"{arch.name}: {field} is {getattr(arch, field)}; it must be above {low}")
  for field in ("block_repeats", "endpoint_filters", "head_convs", "head_filters"):
    if not (isinstance(getattr(arch, field), int) and getattr(arch, field) >= 1):
      raise UserError(f"{arch.name}: {field} is {getattr(arch, field)!r}; it must be a whole number from 1 on")
  for p in sorted({p for b in arch.blocks for p in b.parents}):
    if arch.squeeze_filters(p) < 1:
      raise UserError(
        f"{arch.name}: connections from block {p} have {arch.filters(arch.features[p].level)} x resample_alpha "
        f"{arch.resample_alpha} < 1 channels; raise filter_scale ({arch.filter_scale}) or resample_alpha"
      )


def _validate_parents(where: str, index: int, spec: BlockSpec) -> None:
  if not spec.parents:
    raise UserError(f"{where} has no parents; name at least one earlier block")
  if len(set(spec.parents)) < len(spec.parents):
    raise UserError(f"{where}: parents are {spec.parents}; each may stand once")
  for parent in spec.parents:
    if isinstance(parent, bool) or not isinstance(parent, int) or not 0 <= parent < index:
      raise UserError(f"{where}: parent {parent!r} is not an earlier block; give numbers from 0 to {index - 1}")
