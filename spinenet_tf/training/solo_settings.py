"""What a SOLO has beside the settings that all detectors share, as plain values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from spinenet_tf.errors import UserError
from spinenet_tf.ops.matrix_nms import KERNELS
from spinenet_tf.ops.solo_levels import SoloLevels
from spinenet_tf.ops.solo_targets import CENTRES


@dataclasses.dataclass(frozen=True)
class SoloSettings:
  """Levels, head and targets. The five switches of the published ablation are `centre`, `sigma`, `aligned`, `negatives` and
  `multi_level`.

  Attributes:
    sources: pyramid level whose features each of SOLO's levels reads.
    strides: of these levels' features in input pixels, powers of two; features are resized where they have another.
    grids: S of each level: an image is divided into S x S cells.
    scales: sqrt(width * height) in input pixels of the objects of each level, from and to.
    decoupled: masks as products of S rows and S columns instead of S^2 maps.
    aligned: features are resized to the S x S grid before the category tower; False does so after it.
    endpoint_width: channels of the pyramid; None takes the architecture's.
    centre: of an object, the one of its mask's mass, or of its box: "mass" or "box".
    sigma: share of a box's side in which cells are its object's, around the centre.
    multi_level: an object belongs to each level whose range holds its size; False: to one.
    cells: of each level and image whose masks are computed in a training step, at most.
    negatives: as many background cells as positive ones train masks too, towards nothing.
  """

  sources: tuple[int, ...] = (3, 3, 4, 5, 6)
  strides: tuple[int, ...] = (8, 8, 16, 32, 32)
  grids: tuple[int, ...] = (40, 36, 24, 16, 12)
  scales: tuple[tuple[float, float], ...] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
  decoupled: bool = False
  aligned: bool = True
  endpoint_width: int | None = None
  centre: str = "mass"
  sigma: float = 0.2
  multi_level: bool = True
  cells: int = 128
  negatives: bool = False

  def __post_init__(self):
    if self.centre not in CENTRES:
      raise UserError(f"solo.centre is {self.centre!r}; it must be one of {list(CENTRES)}")
    if isinstance(self.cells, bool) or not isinstance(self.cells, int) or self.cells < 1:
      raise UserError(f"solo.cells is {self.cells!r}; it must be a whole number from 1 on")
    if isinstance(self.sigma, bool) or not isinstance(self.sigma, (int, float)) or not 0 < self.sigma <= 1:
      raise UserError(f"solo.sigma is {self.sigma!r}; it must be a share above 0 and at most 1, usually 0.2")
    self.levels()

  def levels(self) -> SoloLevels:
    """Returns the levels.

    Raises: UserError for levels that do not fit together.
    """
    scales = tuple(tuple(pair) for pair in self.scales)
    return SoloLevels(tuple(self.sources), tuple(self.strides), tuple(self.grids), scales)


@dataclasses.dataclass(frozen=True)
class SoloLossSettings:
  """The losses of SOLO; fields are those of `losses.solo.SoloLoss`."""

  alpha: float = 0.25
  gamma: float = 2.0
  mask_weight: float = 3.0
  normalizer: str = "global"


@dataclasses.dataclass(frozen=True)
class SoloDetectionSettings:
  """From predictions to objects; fields are those of `models.solo.Solo.find`."""

  score_threshold: float = 0.05
  max_detections: int = 100
  pre_nms_top_k: int = 500
  candidate_threshold: float = 0.1
  suppression: str = "gaussian"
  suppression_sigma: float = 2.0

  def __post_init__(self):
    for name in ("score_threshold", "candidate_threshold"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"solo_detection.{name} is {value!r}; it must be from 0 to below 1")
    for name in ("max_detections", "pre_nms_top_k"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"solo_detection.{name} is {value!r}; it must be a whole number from 1 on")
    if self.suppression not in KERNELS:
      raise UserError(f"solo_detection.suppression is {self.suppression!r}; it must be one of {list(KERNELS)}")
    if not (isinstance(self.suppression_sigma, (int, float)) and 0 < self.suppression_sigma < math.inf):
      raise UserError(
        f"solo_detection.suppression_sigma is {self.suppression_sigma!r}; it must be above 0, usually 2.0"
      )

  def arguments(self) -> dict[str, Any]:
    """Returns keyword arguments of the model's `find`, as plain values."""
    return dataclasses.asdict(self)
