"""Whether what was exported answers as the model does that it was made of.

Objects are matched one to one within their class, so that two of nearly equal score may change places. Only objects at the
edge of the answer may be missing from one side: those whose scores lie within the tolerance of the threshold, or of the last
place of a full list.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from spinenet_tf.data.image_io import read_image
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.serving.classifier import Classes
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.image_files import find_images

BOX_TOLERANCE, SCORE_TOLERANCE = 0.01, 1e-5  # pixels of the image as given; of a SavedModel
MASK_TOLERANCE = 0.02  # 1 - IoU of masks of equal boxes: pixels at the threshold may fall on either side


class VerificationError(UserError):
  """An artefact answers otherwise than its model."""


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Images to compare on.

  Attributes:
    arrays: uint8[H, W, 3] each.
    origin: what they are, for people.
  """

  arrays: tuple[np.ndarray, ...]
  origin: str


@dataclasses.dataclass(frozen=True)
class Verification:
  """How far two answers to the same pictures lie apart.

  Attributes:
    pictures: how many, and of what origin.
    compared: objects (or pictures, of a classifier) that both answers have.
    missing: objects that only one of them has.
    largest: the largest difference by name: "boxes" in pixels of the image as given, "scores", "masks" as 1 - IoU.
    tolerance: what `largest` may be, by the same names.
  """

  pictures: str
  compared: int
  missing: int
  largest: dict[str, float]
  tolerance: dict[str, float]

  @property
  def passed(self) -> bool:
    """Whether all lies within the tolerance; NaN does not."""
    return not self.missing and all(value <= self.tolerance[name] for name, value in self.largest.items())

  def check(self, what: str) -> Verification:
    """Returns itself.

    Raises: VerificationError that names the largest differences when something lies outside of the tolerance.
    """
    if not self.passed:
      raise VerificationError(
        f"{what} answers otherwise than the run that it was made of: {self}; nothing was kept. This is a fault of the export "
        "and no setting cures it, unless the tolerance was set too small"
      )
    return self

  def to_dict(self) -> dict[str, Any]:
    """Returns plain values, ready for JSON."""
    return {**dataclasses.asdict(self), "passed": self.passed}

  def __str__(self) -> str:
    if not self.compared and not self.missing:
      return f"{self.pictures}, on which the run finds nothing, so nothing was compared; give pictures on which it does"
    parts = [f"{name} differ by {value:.2g} (at most {self.tolerance[name]:g})" for name, value in self.largest.items()]
    lost = f"{self.missing} are in one answer only, " if self.missing else ""
    return f"{self.pictures}, {self.compared} answers compared: {lost}{', '.join(parts)}"


def worst(results: Iterable[Verification]) -> Verification:
  """Returns the largest differences of all, and the most answers that one of them compared."""
  results = list(results)
  largest = {name: float(np.max([r.largest[name] for r in results])) for name in results[0].largest}  # NaN stays
  compared, missing = (max(getattr(r, name) for r in results) for name in ("compared", "missing"))
  return dataclasses.replace(results[0], compared=compared, missing=missing, largest=largest)


def pictures(paths: Sequence[str | os.PathLike] = (), count: int = 8) -> Pictures:
  """Reads images to compare on, or makes some.

  Args:
    paths: image files or folders; without any, pictures are generated.
    count: the most that are taken, spread evenly over all.

  Raises: UserError when a path does not exist or is no image, or count is below 1.
  """
  if count < 1:
    raise UserError(f"{count} images to verify on; give 1 or more")
  if not paths:
    return Pictures(tuple(_generated(i) for i in range(min(count, 4))), f"{min(count, 4)} generated pictures")
  files = find_images(paths, pathlib.Path(os.devnull))
  chosen = [files[i * len(files) // min(count, len(files))] for i in range(min(count, len(files)))]
  where = ", ".join(str(path) for path in list(paths)[:3])
  return Pictures(tuple(read_image(path) for path in chosen), f"{len(chosen)} of {len(files)} images of {where}")


def as_files(images: Pictures) -> list[bytes]:
  """Returns each picture as a PNG file, which holds its very pixels."""
  files = []
  for array in images.arrays:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=1)
    files.append(stream.getvalue())
  return files


def _generated(number: int) -> np.ndarray:
  """Returns uint8[H, W, 3]: rectangles on a smooth ground, with noise; landscape, portrait and small in turn."""
  rng = np.random.default_rng(number)
  height, width = ((240, 320), (320, 240), (100, 90), (427, 640))[number % 4]
  rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
  image = 128 + 100 * np.sin(
    6 * rows[..., None] * rng.uniform(0.2, 1, 3) + 5 * columns[..., None] * rng.uniform(0.2, 1, 3)
  )
  for _ in range(6):
    y, x = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
    image[y : y + rng.integers(8, height // 3), x : x + rng.integers(8, width // 3)] = rng.integers(0, 256, 3)
  return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def compare(
  expected: Sequence[Detections | Classes],
  found: Sequence[Detections | Classes],
  origin: str,
  *,
  settings: dict[str, Any],
  boxes: float = BOX_TOLERANCE,
  scores: float = SCORE_TOLERANCE,
) -> Verification:
  """Compares answers to the same pictures.

  Args:
    expected: of the model, `Detections` or `Classes`, one for each picture.
    found: of the artefact.
    origin: of the pictures.
    settings: "score_threshold" and "max_detections" that both detectors used; of a classifier anything.
    boxes: tolerance in pixels of the image as given.
    scores: tolerance of scores.
  """
  if expected and isinstance(expected[0], Classes):
    differences = [_class_difference(one, other) for one, other in zip(expected, found)]
    return Verification(origin, len(differences), 0, {"scores": max(differences)}, {"scores": scores})
  compared = missing = 0
  largest = {"boxes": 0.0, "scores": 0.0}
  tolerance = {"boxes": boxes, "scores": scores}
  if expected and expected[0].masks is not None:
    largest["masks"], tolerance["masks"] = 0.0, MASK_TOLERANCE
  for one, other in zip(expected, found):
    pairs, lost = _match(one, other, boxes, scores, settings)
    compared, missing = compared + len(pairs), missing + lost
    for i, j in pairs:
      differences = {
        "boxes": np.abs(one.boxes[i] - other.boxes[j]).max(),
        "scores": abs(one.scores[i] - other.scores[j]),
      }
      if "masks" in largest:
        differences["masks"] = _mask_difference(one.masks[i], other.masks[j])
      for name, value in differences.items():
        largest[name] = float(np.maximum(largest[name], value))  # NaN stays
  return Verification(origin, compared, missing, largest, tolerance)


def _match(
  one: Detections, other: Detections, boxes: float, scores: float, settings: dict[str, Any]
) -> tuple[list[tuple[int, int]], int]:
  """Returns pairs of rows, and how many rows of either have no partner without being at the edge of the answer."""

  def at_edge(side: Detections) -> np.ndarray:
    limits = [settings.get("score_threshold", 0.0)]
    if len(side) >= settings.get("max_detections", 100):
      limits.append(side.scores[-1])
    return side.scores <= max(limits) + scores

  free, pairs, lost = np.ones(len(other), bool), [], 0
  for i, edge in enumerate(at_edge(one)):
    cost = np.maximum(
      np.abs(other.boxes - one.boxes[i]).max(axis=-1, initial=0) / boxes, np.abs(other.scores - one.scores[i]) / scores
    )
    cost = np.where(free & (other.classes == one.classes[i]), np.nan_to_num(cost, nan=1e30), np.inf)
    j = int(np.argmin(cost)) if len(cost) else -1
    if j < 0 or np.isinf(cost[j]) or (edge and cost[j] > 1):
      lost += not edge
      continue
    free[j] = False
    pairs.append((i, j))
  return pairs, lost + int(np.sum(free & ~at_edge(other)))


def _mask_difference(one: mask_lib.RLE, other: mask_lib.RLE) -> float:
  first, second = mask_lib.decode(one), mask_lib.decode(other)
  union = np.sum(first | second)
  return float(1 - np.sum(first & second) / union) if union else 0.0


def _class_difference(one: Classes, other: Classes) -> float:
  """Returns the largest difference of a class's score; of a class that only one of them tells, to the other's last."""
  first, second = (dict(zip(side.classes.tolist(), side.scores.tolist())) for side in (one, other))
  last = [min(side.values(), default=0.0) for side in (first, second)]
  return max(abs(first.get(key, last[0]) - second.get(key, last[1])) for key in first | second)
