"""Architectures as data: frozen, validated, serialisable.  [SpineNet section 3, figure 4]

`Architecture.stem` is a plain chain; `Architecture.blocks` are the scale-permuted blocks after it. Features are numbered
from the stem on: with a stem of two blocks, `parents=(0, 2)` joins the first stem block and the first permuted block.
A ResNet with a feature pyramid network is an architecture, too: all stem, no permuted blocks, `pyramid="fpn"`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable

from spinenet_tf import json_text
from spinenet_tf.backbones import rules
from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import block_channels

VERSION = 1  # of the JSON format
LEVEL_FILTERS = (32, 64, 128, 256, 256, 256, 256)  # levels 1 to 7  [authors' spinenet.py]


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """One block: at level l its features are 1/2^l of the image's height and width.

  Attributes:
    level: 1 to 7.
    block: "bottleneck", "residual" or "mbconv".
    parents: indices of the features it reads, earlier ones, each once. Empty in a stem, which is a chain.
    is_output: its features become the pyramid's at its level.
  """

  level: int
  block: str
  parents: tuple[int, ...] = ()
  is_output: bool = False

  def __post_init__(self):
    if isinstance(self.parents, (list, tuple)):
      object.__setattr__(self, "parents", tuple(self.parents))


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A backbone, and the heads that the paper puts on it.

  Attributes:
    name: for messages, files and pictures.
    stem: blocks of the stem, a chain; features 0, 1, ... of the network. Any prefix of a ResNet is one.
    blocks: the scale-permuted blocks, in the order they are built; empty under `pyramid="fpn"`.
    filter_scale: multiplies the widths of all blocks; products are truncated.
    resample_alpha: width of a connection's first convolution, as a share of its parent's filters.
    block_repeats: how many copies of every block stand in a row, stem included; or a number for each block, in order.
    endpoint_filters: channels of every level of the pyramid.
    connect_unused: the out-degree-0 rule, see `unused_inputs`.
    allow_disconnected: blocks that lead to no output are allowed; they are left out of the network. Otherwise one is
      taken for a mistake and refused.
    level_filters: width of the 3x3 convolutions at levels 1 to 7, before `filter_scale`.
    stem_filters: channels of the first convolution, whatever `filter_scale`.
    stem_kernel: side of its kernel; its stride is 2.
    stem_pool: a 3x3/2 max-pool follows it, so that the stem's blocks begin at level 2 rather than 1.
    separable: connections and heads are made of depthwise and 1x1 convolutions.  [appendix A]
    pyramid: "endpoints", a 1x1 convolution behind every output block, or "fpn", a feature pyramid network on the last
      stem block of levels 3 to 5.
    head_convs, head_filters: depth and width of the RetinaNet towers that belong to it.
    anchor_size: RetinaNet's base anchor, in strides of its level.
    note: where it comes from, and what in it is not the paper's.
  """

  name: str
  stem: tuple[BlockSpec, ...]
  blocks: tuple[BlockSpec, ...] = ()
  filter_scale: float = 1.0
  resample_alpha: float = 0.5
  block_repeats: int | tuple[int, ...] = 1
  endpoint_filters: int = 256
  connect_unused: bool = True
  allow_disconnected: bool = False
  level_filters: tuple[int, ...] = LEVEL_FILTERS
  stem_filters: int = 64
  stem_kernel: int = 7
  stem_pool: bool = True
  separable: bool = False
  pyramid: str = "endpoints"
  head_convs: int = 4
  head_filters: int = 256
  anchor_size: float = 3.0
  note: str = ""

  def __post_init__(self):
    for field in ("stem", "blocks"):
      specs = tuple(BlockSpec(**b) if isinstance(b, dict) else b for b in getattr(self, field))
      if wrong := [spec for spec in specs if not isinstance(spec, BlockSpec)]:
        raise UserError(
          f"{self.name}: {wrong[0]!r} in {field} is no block; a block has level, block, parents, is_output"
        )
      object.__setattr__(self, field, specs)
    object.__setattr__(self, "level_filters", tuple(self.level_filters))
    if isinstance(self.block_repeats, list):
      object.__setattr__(self, "block_repeats", tuple(self.block_repeats))
    rules.check(self)

  @property
  def features(self) -> tuple[BlockSpec, ...]:
    """Stem and permuted blocks, indexed as `parents` are."""
    return self.stem + self.blocks

  @property
  def outputs(self) -> dict[int, int]:
    """Level -> index of the feature that the pyramid's level is made of, ascending.

    Under "fpn" levels 3 to 5 alone; its levels 6 and 7 are made of level 5.
    """
    if self.pyramid == "fpn":
      return {spec.level: i for i, spec in enumerate(self.stem) if spec.level >= rules.FPN_LEVELS[0]}
    return dict(sorted((spec.level, i) for i, spec in enumerate(self.features) if spec.is_output))

  @property
  def output_levels(self) -> tuple[int, ...]:
    """Levels of the pyramid, ascending."""
    return rules.FPN_LEVELS if self.pyramid == "fpn" else tuple(self.outputs)

  def filters(self, level: int) -> int:
    """Returns the width of the 3x3 convolutions at a level."""
    return int(self.level_filters[level - 1] * self.filter_scale)

  def channels(self, index: int) -> int:
    """Returns the channels of feature `index`."""
    spec = self.features[index]
    return block_channels(spec.block, self.filters(spec.level))

  def repeats(self, index: int) -> int:
    """Returns how many copies of block `index` stand in a row."""
    return self.block_repeats[index] if isinstance(self.block_repeats, tuple) else self.block_repeats

  def squeeze_filters(self, parent: int) -> int:
    """Returns the width of the first convolution of connections that leave feature `parent`; none when separable."""
    return int(self.filters(self.features[parent].level) * self.resample_alpha)

  def unused_inputs(self, index: int) -> tuple[int, ...]:
    """Returns the features that the out-degree-0 rule adds, without weights, to feature `index`.

    When an output block is built, every earlier feature that nothing has read so far, of the same level and with the
    same channels, is added to its input.  [section 3.3; decided from the spec, so the image size plays no role]
    """
    return self._unused_inputs.get(index, ())

  @functools.cached_property
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

  def inputs(self, index: int) -> tuple[int, ...]:
    """Returns all features that feature `index` reads: its parents and unused ones, or its neighbour in the stem."""
    if index < len(self.stem):
      return (index - 1,) if index else ()
    return (*self.features[index].parents, *self.unused_inputs(index))

  def used(self, levels: Iterable[int] | None = None) -> frozenset[int]:
    """Returns the features that the pyramid's `levels` depend on; those of all its levels when None."""
    if self.pyramid == "fpn":
      return frozenset(range(len(self.stem)))  # every level is made of the last block, at least
    wanted = set(self.outputs if levels is None else levels)
    pending = [i for level, i in self.outputs.items() if level in wanted]
    found: set[int] = set()
    while pending:
      i = pending.pop()
      if i not in found:
        found.add(i)
        pending += self.inputs(i)
    return frozenset(found)

  def to_dict(self) -> dict:
    """Returns a dictionary of plain values."""
    return {"version": VERSION, **dataclasses.asdict(self)}

  @classmethod
  def from_dict(cls, values: dict) -> Architecture:
    """Inverse of `to_dict`.

    Raises: UserError naming the key that is missing or unknown, or the block that breaks a rule.
    """
    if not isinstance(values, dict):
      raise UserError(f"an architecture is a {type(values).__name__}, not an object with name, stem and blocks")
    values = dict(values)
    if (version := values.pop("version", VERSION)) != VERSION:
      raise UserError(
        f"the architecture has version {version!r}, this package reads version {VERSION}; write it again with to_json"
      )
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
      raise UserError(f"unknown key(s) {unknown} in an architecture; known: {sorted(known)}")
    if missing := sorted({"name", "stem"} - set(values)):
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
      text = path.read_bytes()
    try:
      values = json_text.parse(text)
    except ValueError as error:
      raise UserError(f"architecture {str(source)[:80]!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
      raise UserError(f"architecture {str(source)[:80]!r} is a JSON {type(values).__name__}, not an object")
    return cls.from_dict(values)

  def describe(self) -> str:
    """Returns a table: index, level, block, parents, output."""
    rows = [f"{self.name}: scale {self.filter_scale}, alpha {self.resample_alpha}, repeats {self.block_repeats}"]
    for i, spec in enumerate(self.features):
      added = self.unused_inputs(i)
      parents = [f"+{p}" if p in added else f"{p}" for p in self.inputs(i)]
      output = f"P{spec.level}" if i in self.outputs.values() else ""
      rows.append(f"{i:3d}  L{spec.level}  {spec.block:<10}  {','.join(parents):<10}  {output}".rstrip())
    return "\n".join(rows)
