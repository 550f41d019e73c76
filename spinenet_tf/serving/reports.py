"""What is said, written and drawn about one picture: found objects, or its class."""

from __future__ import annotations

import abc
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Callable, ClassVar

import numpy as np
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.serving.classifier import Classes, ImageClassifier
from spinenet_tf.serving.detector import Detections
from spinenet_tf.visualize.boxes import draw
from spinenet_tf.visualize.captions import caption, percentage
from spinenet_tf.visualize.picture import as_picture, fit

SMALLEST = 320  # pixels; smaller pictures are enlarged before names are written on them,
_SMALLEST_WITH_MASKS = 640  # and before contours are drawn


class Report(abc.ABC):
  """Uses a model on one picture after the other, and knows how to tell what it says.

  Attributes:
    file_name: of the JSON.
    head: what that says before the list of images.
  """

  file_name: ClassVar[str]
  head: dict[str, str]

  @abc.abstractmethod
  def look(self, pixels: np.ndarray) -> Any:
    """Returns what the model says about uint8[H, W, 3]; it has `to_dict`."""

  @abc.abstractmethod
  def draw(self, pixels: np.ndarray, said: Any) -> Image.Image:
    """Returns the picture to keep."""

  @abc.abstractmethod
  def summary(self, said: Any) -> str:
    """Returns the line to print."""

  def thumbnail(self, pixels: np.ndarray, said: Any, picture: Image.Image) -> Image.Image:
    """Returns the picture for the overview."""
    return fit(picture, SMALLEST, SMALLEST)

  def finish(self, files: Sequence[str]) -> list[str]:
    """Writes what else is to be written, about the files that could be read. Returns: lines that say so."""
    return []


class FoundObjects(Report):
  """Pictures with boxes, or with masks.

  Args:
    detector: from uint8[H, W, 3] to `Detections`.
    labels: write names and scores; unless there are too many when None.
  """

  file_name = "detections.json"

  def __init__(self, detector: Callable[[np.ndarray], Detections], labels: bool | None = None):
    self._detector, self._labels = detector, labels
    self.head = {"boxes": "(ymin, xmin, ymax, xmax) in pixels of the file"}

  def look(self, pixels: np.ndarray) -> Detections:
    """Returns the objects."""
    found = self._detector(pixels)
    if found.masks is not None:
      self.head["segmentations"] = "masks of the file's size, COCO's RLE; pycocotools.mask.decode gives pixels"
    return found

  def draw(self, pixels: np.ndarray, said: Detections) -> Image.Image:
    """Returns the picture with boxes, and masks where there are any."""
    smallest = SMALLEST if said.masks is None else _SMALLEST_WITH_MASKS
    return draw(pixels, said, min_size=smallest, labels=self._labels)

  def summary(self, said: Detections) -> str:
    """Returns the number of objects, and of those of each class."""
    counts = ", ".join(f"{n} {name}" for name, n in Counter(said.names).most_common())
    return f"{len(said)} object{'' if len(said) == 1 else 's'}" + (f" ({counts})" if counts else "")


class LikelyClasses(Report):
  """Pictures with the likeliest classes below.

  Args:
    classifier: of pictures.
    features: file for the feature vectors, .npy; the names of the pictures go into a JSON beside it.

  Raises: UserError for a file of another kind, or in a folder that cannot be made.
  """

  file_name = "classes.json"
  head: ClassVar = {"scores": "probabilities, of all classes of the model together 1"}

  def __init__(self, classifier: ImageClassifier, features: str | os.PathLike | None = None):
    self._classifier = classifier
    self._path = _check_features(features) if features else None
    self._rows: list[np.ndarray] = [classifier.features([])]  # float32[0, C]

  def look(self, pixels: np.ndarray) -> Classes:
    """Returns the classes, and keeps the features where they are asked for."""
    (classes,), features = self._classifier.classes_and_features([pixels])
    if self._path:
      self._rows.append(features)
    return classes

  def draw(self, pixels: np.ndarray, said: Classes) -> Image.Image:
    """Returns the picture with a caption."""
    return caption(pixels, said.names, said.scores, min_size=SMALLEST)

  def thumbnail(self, pixels: np.ndarray, said: Classes, picture: Image.Image) -> Image.Image:
    """Returns the picture with the likeliest class alone, which stays legible when small."""
    return caption(fit(as_picture(pixels), SMALLEST - 40, SMALLEST), said.names[:1], said.scores[:1])

  def summary(self, said: Classes) -> str:
    """Returns names and probabilities."""
    return ", ".join(f"{name} {percentage(score)}" for name, score in zip(said.names, said.scores))

  def finish(self, files: Sequence[str]) -> list[str]:
    """Writes the features, where they are asked for."""
    if not self._path:
      return []
    features = np.concatenate(self._rows).astype(np.float32)
    temporary = self._path.with_name(f".{self._path.name}.incomplete")
    with open(temporary, "wb") as file:
      np.save(file, features)
    os.replace(temporary, self._path)
    beside = self._path.with_suffix(".json")
    write_json(beside, {"features": self._path.name, "shape": list(features.shape), "files": list(files)})
    return [f"float32{list(features.shape)} features are in {self._path}, the names of their pictures in {beside}"]


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file in one step."""
  temporary = path.with_name(f".{path.name}.incomplete")
  temporary.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(temporary, path)


def _check_features(features: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(features)
  if path.suffix != ".npy" or path.stem == "classes":
    raise UserError(f"--features={path} must end in .npy, and may not be called classes.npy; give features.npy")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"the folder of --features={path} cannot be made ({error.strerror}); give another file") from error
  if path.is_dir():
    raise UserError(f"--features={path} is a folder; give another file")
  return path
