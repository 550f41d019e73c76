"""Cost of SOLO's heads.  [Wang et al. 2020, sections 3.1 and 4]

`multiply_adds` are those of the head as published: the mask tower on every level, and all S^2 masks (2 S maps of the
decoupled head) on features that were enlarged before. `multiply_adds_run` are those executed: the tower once for levels that
read the same features, and before the enlarging the masks of the candidates alone.
"""

from __future__ import annotations

import dataclasses

from spinenet_tf.backbones.counting.counter import Counter, Op
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.ops.solo_levels import SoloLevels

CANDIDATES = 500  # masks made of an image; counted as if all were of the finest level
TRAINED = 128  # masks of each level made in a training step


@dataclasses.dataclass(frozen=True)
class SoloHeads:
  """Sizes of SOLO's heads.

  Attributes:
    convs: 3x3 convolutions of each tower.
    filters: their channels; when None the architecture's, at most 256.
    levels: what is read, and the grids.
    decoupled: masks are products of rows and columns.
    aligned: features are resized to the grid before the category tower.

  Raises: UserError for a size that is no whole number from 1 on.
  """

  convs: int = 7
  filters: int | None = None
  levels: SoloLevels = dataclasses.field(default_factory=SoloLevels)
  decoupled: bool = False
  aligned: bool = True

  def __post_init__(self):
    for name in ("convs", "filters"):
      value = getattr(self, name)
      if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"{name} of SOLO's heads is {value!r}; it is a whole number from 1 on")


def count_solo(counter: Counter, arch: Architecture, heads: SoloHeads, classes: int) -> None:
  """Adds the category tower, the mask tower and the masks."""
  levels, width = heads.levels, heads.filters or min(256, arch.head_filters)
  channels, seen = arch.endpoint_filters, set()
  sizes = [levels.feature_size(i, counter.input_size) for i in range(len(levels.grids))]
  for i, (source, grid, (height, breadth)) in enumerate(zip(levels.sources, levels.grids, sizes)):
    pixels, key = height * breadth, levels.features[i]
    if key not in seen and levels.strides[i] != 2**source:
      counter.map("resized", source, channels, pixels=pixels)
    cells = grid * grid if heads.aligned else pixels
    if heads.aligned:
      counter.map("category tower", source, channels, pixels=cells)
    _tower(counter, "category tower", source, channels, width, heads.convs, cells, shared=i > 0)
    if not heads.aligned:
      counter.map("category tower", source, width, pixels=grid * grid)
    counter.conv(
      "category tower", source, 3, width, classes, norm=False, bias=True, then="read", shared=i > 0, pixels=grid * grid
    )
    first = len(counter.ops)
    counter.map("mask tower", source, channels + 2, pixels=pixels)  # with x and y
    _tower(counter, "mask tower", source, channels + 2, width, heads.convs, pixels, shared=i > 0)
    if key in seen:
      counter.ops[first:] = [
        dataclasses.replace(op, multiply_adds_run=0, written=0, kept=0) for op in counter.ops[first:]
      ]
    seen.add(key)
    counter.ops.append(_masks(source, grid, pixels, width, heads.decoupled, finest=i == 0))


def _tower(
  counter: Counter, part: str, level: int, channels: int, width: int, convs: int, pixels: int, shared: bool
) -> None:
  for _ in range(convs):
    counter.conv(part, level, 3, channels, width, shared=shared, shared_norm=shared, pixels=pixels)
    channels = width


def _masks(level: int, grid: int, pixels: int, width: int, decoupled: bool, finest: bool) -> Op:
  """The last convolution of a level: maps of h x w, enlarged twofold, and their sigmoids."""
  outputs, factors = (2 * grid, 2) if decoupled else (grid * grid, 1)
  made = CANDIDATES if finest else 0
  trained = min(TRAINED, grid * grid)
  return Op(
    "masks",
    level,
    parameters=(width + 1) * outputs,
    multiply_adds=4 * pixels * width * outputs,
    multiply_adds_run=factors * pixels * width * made,
    written=5 * factors * pixels * made,
    kept=4 * (factors + decoupled) * pixels * trained,
  )
