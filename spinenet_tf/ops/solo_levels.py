"""SOLO's levels: which features each reads, its grid, and the objects it is for.  [Wang et al. 2020, section 4.1]"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from spinenet_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class SoloLevels:
  """L levels, from the finest to the coarsest. One entry of each attribute is a level.

  The authors read P2 to P6 at strides 8, 8, 16, 32, 32. SpineNet's pyramid starts at P3, which serves the two finest
  levels, and P6 is enlarged to the size of P5, as theirs is.

  Attributes:
    sources: pyramid levels whose features are read.
    strides: in input pixels, of the features as they are used; where that is not 2^source they are resized.
    grids: S, cells along each side of the grid of objects.
    scales: (least, largest) sqrt(width * height) of the objects, input pixels, both included; an object may be of two levels.

  Raises: UserError when a value is out of range.
  """

  sources: tuple[int, ...] = (3, 3, 4, 5, 6)
  strides: tuple[int, ...] = (8, 8, 16, 32, 32)
  grids: tuple[int, ...] = (40, 36, 24, 16, 12)
  scales: tuple[tuple[float, float], ...] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))

  def __post_init__(self):
    for name in ("sources", "strides", "grids"):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    object.__setattr__(self, "scales", tuple(tuple(float(end) for end in pair) for pair in self.scales))
    counts = {name: len(getattr(self, name)) for name in ("sources", "strides", "grids", "scales")}
    if len(set(counts.values())) > 1 or not self.sources:
      raise UserError(f"SOLO's levels have {counts}; give one of each for every level, and at least one level")
    if not all(_whole(source) and 0 <= source <= 12 for source in self.sources):
      raise UserError(f"sources is {self.sources}; give levels of the pyramid, such as (3, 3, 4, 5, 6)")
    fine = all(_whole(stride) and stride > 1 and stride & (stride - 1) == 0 for stride in self.strides)
    if not fine or list(self.strides) != sorted(self.strides):
      raise UserError(
        f"strides is {self.strides}; give powers of two from 2 on that do not fall, as (8, 8, 16, 32, 32)"
      )
    if not all(_whole(grid) and grid >= 1 for grid in self.grids):
      raise UserError(f"grids is {self.grids}; give whole numbers from 1 on, such as (40, 36, 24, 16, 12)")
    if not all(len(pair) == 2 and 0 <= pair[0] < pair[1] < math.inf for pair in self.scales):
      raise UserError(f"scales is {self.scales}; give (least, largest) in pixels for each level")
    for below, above in zip(self.scales, self.scales[1:]):
      if not (below[0] < above[0] <= below[1] < above[1]):
        raise UserError(f"scales {below} and {above} follow each other; the next must begin within and end above")

  @property
  def names(self) -> tuple[str, ...]:
    """Keys of the levels."""
    return tuple(str(i) for i in range(len(self.grids)))

  @property
  def features(self) -> tuple[str, ...]:
    """Keys of the mask features that the levels read: equal where source and stride are."""
    return tuple(f"{source}_{stride}" for source, stride in zip(self.sources, self.strides))

  @property
  def pyramid(self) -> tuple[int, ...]:
    """Pyramid levels that are read, ascending."""
    return tuple(sorted(set(self.sources)))

  def ranges(self, multi_level: bool = True) -> tuple[tuple[float, float], ...]:
    """Returns (least, largest) object size of each level in pixels.

    Args:
      multi_level: as `scales` has it; otherwise every object is of one level: where two levels overlap they are cut at the
        geometric mean of the overlap, which belongs to the upper one alone.
    """
    if multi_level:
      return self.scales
    cuts = [math.sqrt(above[0] * below[1]) for below, above in zip(self.scales, self.scales[1:])]
    return tuple(zip((self.scales[0][0], *cuts), (*cuts, self.scales[-1][1])))

  def feature_size(self, level: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of the features of level `level`, 0 ... L-1, for an image of (height, width) pixels."""
    height, width = (-(-side // self.strides[level]) for side in image_size)
    return height, width

  def mask_size(self, level: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of the masks of a level: pixels of half its stride from the upper left corner on."""
    height, width = self.feature_size(level, image_size)
    return 2 * height, 2 * width

  def extent(self, level: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) in input pixels of what grid and masks of a level cover: the image, rounded up to strides."""
    height, width = self.feature_size(level, image_size)
    return height * self.strides[level], width * self.strides[level]


def solo_levels(value: SoloLevels | dict[str, Any] | None) -> SoloLevels:
  """Returns `value` as levels: itself, made from its dictionary, or the default for None."""
  if value is None:
    return SoloLevels()
  return value if isinstance(value, SoloLevels) else SoloLevels(**value)


def _whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)
