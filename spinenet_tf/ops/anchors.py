"""Anchor boxes of a dense detector [Lin et al. 2017, section 4; SpineNet section 5.1].

Shorthand: l level, H, W rows and columns of the feature map of a level, A anchors per location. Anchors
  depend on
the configuration and the image size only, so they are numpy constants.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from spinenet_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
  """Which anchors lie at every location of every level.

  Attributes:
    min_level: first level, stride 2^min_level pixels.
    max_level: last level, included.
    num_scales: anchors of different size in one octave: side * 2^(s / num_scales), s = 0 ... num_scales - 1.
    aspect_ratios: width / height of the anchors of one scale. They share one area.
    anchor_size: side of the smallest square anchor of a level, in units of 2^level pixels. The authors have
      3 for SpineNet-49S, 49 and 96, and 4 for 143 and 190.

  Raises:
    UserError: a value is out of range.
  """

  min_level: int = 3
  max_level: int = 7
  num_scales: int = 3
  aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
  anchor_size: float = 3.0

  def __post_init__(self):
    object.__setattr__(self, "aspect_ratios", tuple(float(ratio) for ratio in self.aspect_ratios))
    if not 0 <= self.min_level <= self.max_level:
      raise UserError(
        f"anchor levels are {self.min_level} to {self.max_level}; they must rise from 0 or more: "
        "change min_level or max_level"
      )
    if self.num_scales < 1:
      raise UserError(f"num_scales is {self.num_scales}; a location needs at least 1")
    if not self.aspect_ratios or not all(0 < ratio < math.inf for ratio in self.aspect_ratios):
      raise UserError(f"aspect_ratios is {self.aspect_ratios}; give one or more positive numbers (width / height)")
    if not 0 < self.anchor_size < math.inf:
      raise UserError(f"anchor_size is {self.anchor_size}; it must be positive (the authors have 3 or 4)")

  @property
  def per_location(self) -> int:
    """Anchors at one location, A."""
    return self.num_scales * len(self.aspect_ratios)

  @property
  def levels(self) -> tuple[int, ...]:
    """Levels from the finest to the coarsest."""
    return tuple(range(self.min_level, self.max_level + 1))


class LevelGrid(NamedTuple):
  """The anchors of one level in factored form: every centre carries every shape.

  Attributes:
    level: pyramid level.
    y: float64[H], centres of the rows in pixels.
    x: float64[W], centres of the columns in pixels.
    heights: float64[A] in pixels.
    widths: float64[A] in pixels.
  """

  level: int
  y: np.ndarray
  x: np.ndarray
  heights: np.ndarray
  widths: np.ndarray

  @property
  def count(self) -> int:
    """Anchors of the level, H * W * A."""
    return len(self.y) * len(self.x) * len(self.heights)


def feature_size(image_size: tuple[int, int], level: int) -> tuple[int, int]:
  """(rows, columns) of the feature map of `level` for an image of `image_size` (height, width): ceil(size / 2^l)."""
  height, width = (int(side) for side in image_size)
  if height < 1 or width < 1:
    raise UserError(f"image_size is {tuple(image_size)}; (height, width) must be positive pixels")
  return -(-height // 2**level), -(-width // 2**level)


def grids(config: AnchorConfig, image_size: tuple[int, int]) -> list[LevelGrid]:
  """Centres and shapes of the anchors of each level, finest first.

  Centres are (i + 1/2) * image side / feature side. Where the side divides by 2^level this is the stride;
  elsewhere the centres are spread evenly over the image, as in Model Garden 2.20 (2.15 leaves cells without anchors there).

  Args:
    config: which anchors.
    image_size: (height, width) of the network's input in pixels.

  Returns: one `LevelGrid` per level; shape index a = scale * len(aspect_ratios) + ratio.
  """
  result = []
  for level in config.levels:
    rows, columns = feature_size(image_size, level)
    sides = config.anchor_size * 2.0**level * 2.0 ** (np.arange(config.num_scales) / config.num_scales)
    root = np.sqrt(np.asarray(config.aspect_ratios, np.float64))
    result.append(
      LevelGrid(
        level=level,
        y=(np.arange(rows) + 0.5) * (image_size[0] / rows),
        x=(np.arange(columns) + 0.5) * (image_size[1] / columns),
        heights=(sides[:, None] / root).reshape(-1),
        widths=(sides[:, None] * root).reshape(-1),
      )
    )
  return result


def anchors(config: AnchorConfig, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Anchor boxes of each level; they may reach beyond the image.

  Args:
    config: which anchors.
    image_size: (height, width) of the network's input in pixels.

  Returns: level ("3") -> float32[H*W*A, 4], (ymin, xmin, ymax, xmax) in pixels, ordered by row, column,
    shape with shape a = scale * len(aspect_ratios) + ratio: the order of the channels of the prediction
    heads.
  """
  result = {}
  for grid in grids(config, image_size):
    y, x = grid.y[:, None, None], grid.x[None, :, None]
    half_h, half_w = grid.heights / 2, grid.widths / 2
    corners = np.broadcast_arrays(y - half_h, x - half_w, y + half_h, x + half_w)
    result[str(grid.level)] = np.stack(corners, axis=-1).reshape(-1, 4).astype(np.float32)
  return result
