"""The architectures of the paper, as tables.  [SpineNet table 1, figure 4, section 3.4, appendix A; authors' SCALING_MAP]"""

from __future__ import annotations

import dataclasses
import pathlib

from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError


def _blocks(kind: str, *rows: tuple) -> tuple[BlockSpec, ...]:
  """Blocks of one kind from rows of (level, parents) or (level, parents, is_output)."""
  return tuple(BlockSpec(level, kind, *rest) for level, *rest in rows)


def _chain(kind: str, *levels: int) -> tuple[BlockSpec, ...]:
  return tuple(BlockSpec(level, kind) for level in levels)


_STEM_L2_L2 = _chain("bottleneck", 2, 2)

# (level, block, parents, is_output); features 0 and 1 are the stem.  [figure 4d; authors' spinenet.py]
_SPINENET49_BLOCKS = tuple(
  BlockSpec(*row)
  for row in (
    (2, "bottleneck", (0, 1)),  # 2
    (4, "residual", (0, 1)),  # 3
    (3, "bottleneck", (2, 3)),  # 4
    (4, "bottleneck", (2, 4)),  # 5
    (6, "residual", (3, 5)),  # 6
    (4, "bottleneck", (3, 5)),  # 7
    (5, "residual", (6, 7)),  # 8
    (7, "residual", (6, 8)),  # 9
    (5, "bottleneck", (8, 9)),  # 10
    (5, "bottleneck", (8, 10)),  # 11
    (4, "bottleneck", (5, 10), True),  # 12
    (3, "bottleneck", (4, 10), True),  # 13
    (5, "bottleneck", (7, 12), True),  # 14, and 11 by the out-degree-0 rule
    (7, "bottleneck", (5, 14), True),  # 15
    (6, "bottleneck", (12, 14), True),  # 16
  )
)

_SPINENET49 = Architecture("spinenet49", _STEM_L2_L2, _SPINENET49_BLOCKS)

_SPINENETS = (
  # 256-wide endpoints into 128-wide towers: what gives the paper's 33.8B and 11.9M (the authors' later code has 128).
  dataclasses.replace(_SPINENET49, name="spinenet49s", filter_scale=0.65, head_filters=128),
  _SPINENET49,
  dataclasses.replace(_SPINENET49, name="spinenet96", block_repeats=2),
  dataclasses.replace(_SPINENET49, name="spinenet143", block_repeats=3, resample_alpha=1.0, anchor_size=4.0),
  dataclasses.replace(
    _SPINENET49,
    name="spinenet190",
    block_repeats=4,
    resample_alpha=1.0,
    filter_scale=1.3,
    endpoint_filters=512,
    head_convs=7,
    head_filters=512,
    anchor_size=4.0,
  ),
)

_R0_SP53 = Architecture(  # [figure 4c]
  "r0_sp53",
  _STEM_L2_L2,
  _blocks(
    "bottleneck",
    (2, (0, 1)),  # 2
    (3, (0, 1)),  # 3
    (3, (2, 3)),  # 4
    (4, (2, 4)),  # 5
    (4, (3, 5)),  # 6
    (3, (5, 6)),  # 7
    (5, (4, 7)),  # 8
    (4, (4, 8)),  # 9
    (4, (8, 9)),  # 10
    (4, (8, 10)),  # 11
    (3, (4, 10), True),  # 12
    (4, (6, 7), True),  # 13, and 11 by the out-degree-0 rule
    (5, (8, 13), True),  # 14
    (7, (6, 9), True),  # 15
    (6, (7, 9), True),  # 16
  ),
)

_R23_SP30 = Architecture(  # [figure 4b]
  "r23_sp30",
  _chain("bottleneck", 2, 2, 3, 3, 4, 4, 5),
  _blocks(
    "bottleneck",
    (4, (5, 6)),  # 7
    (4, (5, 6)),  # 8
    (4, (7, 8)),  # 9
    (3, (8, 9)),  # 10
    (2, (9, 10)),  # 11
    (4, (5, 9), True),  # 12
    (3, (9, 10), True),  # 13
    (5, (9, 10), True),  # 14
    (7, (11, 13), True),  # 15
    (6, (9, 14), True),  # 16
  ),
)

_FIXED_SHAPE_NOTE = (
  "The order of the blocks is the paper's (table 7); its connections were searched and are not published. Here every "
  "block reads the block before it and the latest earlier block of its own level, else the one two before it; "
  "intermediate blocks look back over five blocks at most, as in the paper's search."
)


def _fixed_shape(name: str, intermediate: tuple[int, ...], outputs: tuple[int, ...]) -> Architecture:
  """An order of blocks with connections by the rule of `_FIXED_SHAPE_NOTE`."""
  levels, rows = [2, 2], []
  for i, level in enumerate((*intermediate, *outputs), 2):
    first = max(0, i - 5) if i - 2 < len(intermediate) else 0
    same = [j for j in range(first, i - 1) if levels[j] == level]
    rows.append((level, (same[-1] if same else i - 2, i - 1), i - 2 >= len(intermediate)))
    levels.append(level)
  return Architecture(name, _STEM_L2_L2, _blocks("bottleneck", *rows), note=_FIXED_SHAPE_NOTE)


def _resnet_fpn(name: str, *counts: int) -> Architecture:
  """ResNet with `counts` blocks at levels 2 to 5, and a feature pyramid network.  [He et al. 2016, Lin et al. 2017]"""
  levels = [level for level, count in zip((2, 3, 4, 5), counts) for _ in range(count)]
  widths = (32, 64, 128, 256, 512, 512, 512)
  return Architecture(name, _chain("bottleneck", *levels), level_filters=widths, pyramid="fpn", anchor_size=4.0)


# SpineNet-49 with everything one feature later: an L2 block more at its start.  [appendix A; authors' spinenet_mbconv.py]
_MOBILE = Architecture(
  "spinenet49_mobile",
  _chain("mbconv", 1, 2),
  _blocks(
    "mbconv",
    (2, (0, 1)),  # 2
    (2, (1, 2)),  # 3
    (4, (1, 2)),  # 4
    (3, (3, 4)),  # 5
    (4, (3, 5)),  # 6
    (6, (4, 6)),  # 7
    (4, (4, 6)),  # 8
    (5, (7, 8)),  # 9
    (7, (7, 9)),  # 10
    (5, (9, 10)),  # 11
    (5, (9, 11)),  # 12
    (4, (6, 11), True),  # 13
    (3, (5, 11), True),  # 14
    (5, (8, 13), True),  # 15, and 12 by the out-degree-0 rule
    (7, (6, 15), True),  # 16
    (6, (13, 15), True),  # 17
  ),
  level_filters=(16, 24, 40, 80, 112, 112, 112),
  stem_filters=8,
  stem_kernel=3,
  stem_pool=False,
  separable=True,
  endpoint_filters=48,
  head_filters=48,
)


def _mobile(name: str, filter_scale: float, width: int) -> Architecture:
  stem = int(_MOBILE.stem_filters * filter_scale)  # scaled as Model Garden's: its counts come closest
  widths = {"stem_filters": stem, "endpoint_filters": width, "head_filters": width}
  return dataclasses.replace(_MOBILE, name=name, filter_scale=filter_scale, **widths)


CATALOG: dict[str, Architecture] = {
  arch.name: arch
  for arch in (
    *_SPINENETS,
    _R0_SP53,
    _R23_SP30,
    _fixed_shape("hourglass", (2, 3, 3, 3, 4, 4, 4, 4, 4, 5), (7, 6, 5, 4, 3)),
    _fixed_shape("fish", (3, 3, 4, 4, 4, 5, 4, 4, 3, 2), (3, 4, 5, 6, 7)),
    _resnet_fpn("r50_fpn", 3, 4, 6, 3),
    _resnet_fpn("r101_fpn", 3, 4, 23, 3),
    _resnet_fpn("r152_fpn", 3, 8, 36, 3),
    _mobile("spinenet49xs_mobile", 0.6, 24),
    _mobile("spinenet49s_mobile", 0.65, 40),
    _MOBILE,
  )
}


@dataclasses.dataclass(frozen=True)
class Allocation:
  """How many blocks of each level a network of the R[N]-SP[M] family has; their order is what the search finds.

  Attributes:
    name: "r35_sp18" and its like.
    stem: blocks at levels 2, 3, 4, 5 of the stem, a prefix of ResNet-50.
    permuted: blocks at levels 2 to 7 after it, the five outputs (one at each of levels 3 to 7) included.
  """

  name: str
  stem: tuple[int, int, int, int]
  permuted: tuple[int, int, int, int, int, int]


# [table 1]
ALLOCATIONS: dict[str, Allocation] = {
  a.name: a
  for a in (
    Allocation("r35_sp18", (2, 3, 5, 1), (1, 1, 1, 1, 1, 1)),
    Allocation("r23_sp30", (2, 2, 2, 1), (1, 2, 4, 1, 1, 1)),
    Allocation("r14_sp39", (1, 1, 1, 1), (2, 3, 5, 1, 1, 1)),
    Allocation("r0_sp53", (2, 0, 0, 0), (1, 4, 6, 2, 1, 1)),
    Allocation("spinenet49", (2, 0, 0, 0), (1, 2, 4, 4, 2, 2)),
  )
}


def names() -> list[str]:
  """Returns the catalog's names."""
  return list(CATALOG)


def architecture(source: str | pathlib.Path | dict | Architecture) -> Architecture:
  """Returns an architecture from whatever names one.

  Args:
    source: a catalog name ("spinenet49", or the authors' "SpineNet-49", "49"), a path to a JSON file, the dictionary of
      an architecture, or an architecture itself.

  Raises: UserError for a name that the catalog lacks, with the names it has, or a broken file.
  """
  if isinstance(source, Architecture):
    return source
  if isinstance(source, dict):
    return Architecture.from_dict(source)
  text = str(source)
  if text.endswith(".json"):
    return Architecture.from_json(text)
  name = text.lower().replace("-", "").replace("_", "")
  for known in (*CATALOG, *ALLOCATIONS):
    if known.replace("_", "") not in (name, f"spinenet{name}"):
      continue
    if known in CATALOG:
      return CATALOG[known]
    raise UserError(
      f"the order and the connections of {known} are not published, only how many blocks each level has: it is a space "
      "to search (`catalog.ALLOCATIONS`), not an architecture"
    )
  raise UserError(f"no architecture named {text!r}; there are {', '.join(CATALOG)}, or give a path that ends in .json")
