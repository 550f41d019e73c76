"""SavedModels that `serving.saved_model` wrote, used from Python in the same way as the runs they come from."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import tensorflow as tf

from spinenet_tf import json_text
from spinenet_tf.data.image_io import decode_image
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.serving.classifier import Classes
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.pictures import Picture, as_array, is_single

INFO = "export_info.json"
LABELS = "labels.txt"


def is_saved_model(path: str | os.PathLike) -> bool:
  """Tells whether a folder holds a SavedModel, and is no run directory."""
  folder = pathlib.Path(path)
  return (folder / "saved_model.pb").is_file() and not (folder / "model.json").exists()


def read_export_info(path: str | os.PathLike) -> dict[str, Any]:
  """Returns the content of a SavedModel's export_info.json.

  Raises: UserError when it has none, or one that cannot be read.
  """
  place = pathlib.Path(path) / INFO
  try:
    info = json_text.parse(place.read_bytes())
    return {**info, "labels": [(int(number), str(name)) for number, name in info["labels"]]}
  except FileNotFoundError as error:
    raise UserError(
      f"{str(path)!r} is a SavedModel without {INFO}, so its classes are not known; give one that export/saved_model.py "
      "wrote, or a run directory"
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{place} cannot be read ({type(error).__name__}: {error}); export the run again") from error


class _Exported:
  """What both kinds share: one call of the SavedModel for pictures of one size."""

  def __init__(self, path: str | os.PathLike, info: dict[str, Any], batch_size: int):
    if batch_size < 1:
      raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    try:
      self._loaded = tf.saved_model.load(os.fspath(path))  # kept, as its functions need its variables
      self._function = self._loaded.signatures["serving_default"]
    except Exception as error:  # TensorFlow raises many kinds for a damaged folder
      reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
      raise UserError(f"{str(path)!r} cannot be loaded as a SavedModel: {reason}; export the run again") from error
    self._info, self._batch_size = info, batch_size
    self._names = dict(info["labels"])

  @property
  def info(self) -> dict[str, Any]:
    """Content of export_info.json."""
    return dict(self._info)

  @property
  def categories(self) -> dict[int, str]:
    """Original id -> name."""
    return dict(self._names)

  def _run(self, arrays: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns the outputs for each of several uint8[H, W, 3]; those of one size go together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
      groups.setdefault(array.shape, []).append(i)
    found: list[dict[str, np.ndarray]] = [{} for _ in arrays]
    for members in groups.values():
      for first in range(0, len(members), self._batch_size):
        part = members[first : first + self._batch_size]
        rows = _rows(self._function(images=tf.constant(np.stack([arrays[i] for i in part]))))
        for i, row in zip(part, rows):
          found[i] = row
    return found

  def _run_files(self, files: Sequence[bytes]) -> list[dict[str, np.ndarray]]:
    """Returns the outputs for each of several image files.

    Raises: UserError for the first that could not be read.
    """
    rows: list[dict[str, np.ndarray]] = []
    for first in range(0, len(files), self._batch_size):
      part = tf.constant(list(files[first : first + self._batch_size]))
      rows += _rows(self._loaded.signatures["image_bytes"](image_bytes=part))
    for i, row in enumerate(rows):
      if row["image_error"]:
        raise UserError(f"image {i}: {row['image_error'].decode()}")
    return rows


def _rows(outputs: dict[str, tf.Tensor]) -> list[dict[str, np.ndarray]]:
  """Returns the outputs of each image of a batch."""
  columns = {key: value.numpy() for key, value in outputs.items()}
  return [dict(zip(columns, values)) for values in zip(*columns.values())]


class ExportedDetector(_Exported):
  """A SavedModel that finds objects; called as `Detector` is.

  Args:
    path: of the SavedModel.
    info: content of its export_info.json.
    score_threshold: objects with lower scores are left out; the exported one when None.
    batch_size: pictures of one size that go through the network together when several are given.

  Raises: UserError when it cannot be loaded, or the threshold is below the one it was exported with.
  """

  def __init__(
    self, path: str | os.PathLike, info: dict[str, Any], *, score_threshold: float | None = None, batch_size: int = 8
  ):
    exported = info["settings"]["score_threshold"]
    if score_threshold is not None and not exported <= score_threshold < 1:
      raise UserError(
        f"score_threshold is {score_threshold}; {str(path)!r} was exported with {exported}, and lower scores are not in it: "
        "give that or more, below 1, or export the run again"
      )
    super().__init__(path, info, batch_size)
    self._threshold = score_threshold

  def __call__(self, images: Picture | Sequence[Picture]) -> Detections | list[Detections]:
    """Finds objects, as `Detector` does: the same arguments, the same answer."""
    arrays = [as_array(picture) for picture in ([images] if is_single(images) else images)]
    found = [self._detections(outputs, array.shape[:2]) for outputs, array in zip(self._run(arrays), arrays)]
    return found[0] if is_single(images) else found

  def of_files(self, files: Sequence[bytes]) -> list[Detections]:
    """Finds objects in image files, which the SavedModel itself decodes.

    Raises: UserError for the first that could not be read.
    """
    sizes = [decode_image(data).shape[:2] for data in files]
    return [self._detections(outputs, size) for outputs, size in zip(self._run_files(files), sizes)]

  def _detections(self, outputs: dict[str, np.ndarray], size: tuple[int, int]) -> Detections:
    return as_detections(outputs, size, self._names, self._threshold)


class ExportedClassifier(_Exported):
  """A SavedModel that classifies; called as `ImageClassifier` is.

  Args:
    path: of the SavedModel.
    info: content of its export_info.json.
    top: classes that are told of each picture; those it was exported with when None.
    batch_size: pictures of one size that go through the network together when several are given.

  Raises: UserError when it cannot be loaded, or was exported with fewer classes than `top`.
  """

  def __init__(self, path: str | os.PathLike, info: dict[str, Any], *, top: int | None = None, batch_size: int = 8):
    exported = info["settings"]["top"]
    if top is not None and not 1 <= top <= exported:
      raise UserError(
        f"top is {top}; {str(path)!r} was exported with {exported}, the most that it tells: give that or less, from 1 on, or "
        "export the run again"
      )
    super().__init__(path, info, batch_size)
    self._top = top or exported

  def __call__(self, images: Picture | Sequence[Picture]) -> Classes | list[Classes]:
    """Tells what pictures show, as `ImageClassifier` does."""
    found = self.classes_and_features([images] if is_single(images) else images)[0]
    return found[0] if is_single(images) else found

  def of_files(self, files: Sequence[bytes]) -> list[Classes]:
    """Tells what image files show, which the SavedModel itself decodes.

    Raises: UserError for the first that could not be read.
    """
    return [self._classes(outputs) for outputs in self._run_files(files)]

  def features(self, images: Picture | Sequence[Picture]) -> np.ndarray:
    """Returns float32[N, C], the pooled features of each of N pictures."""
    return self.classes_and_features([images] if is_single(images) else images)[1]

  def classes_and_features(self, images: Sequence[Picture]) -> tuple[list[Classes], np.ndarray]:
    """Returns what a call and `features` do, N of each, from one pass through the network."""
    rows = self._run([as_array(picture) for picture in images])
    width = self._function.structured_outputs["features"].shape[-1]
    return [self._classes(row) for row in rows], np.array([row["features"] for row in rows]).reshape(-1, width)

  def _classes(self, outputs: dict[str, np.ndarray]) -> Classes:
    return as_classes(outputs, self._names, self._top)


def as_detections(
  outputs: dict[str, np.ndarray], size: tuple[int, int], names: dict[int, str], threshold: float | None = None
) -> Detections:
  """Returns what the outputs for one image say, named as those of `ServingModule.signatures`, without the batch.

  Args:
    outputs: of one image.
    size: its (height, width) in pixels.
    names: by original id.
    threshold: lower scores are left out.
  """
  keep = np.arange(len(outputs["detection_scores"])) < outputs["num_detections"]
  if threshold is not None:
    keep &= outputs["detection_scores"] > threshold
  classes, masks = outputs["detection_classes"][keep], None
  if "detection_masks" in outputs:
    found = (outputs[key][keep] for key in ("detection_masks", "detection_boxes", "detection_mask_boxes"))
    masks = tuple(mask_lib.paste_found(*found, size))
  return Detections(
    boxes=outputs["detection_boxes"][keep],
    scores=outputs["detection_scores"][keep],
    classes=classes,
    names=tuple(names.get(c, str(c)) for c in classes.tolist()),
    masks=masks,
  )


def as_classes(outputs: dict[str, np.ndarray], names: dict[int, str], top: int | None = None) -> Classes:
  """Returns what the outputs for one image say, likewise: the first `top` classes, or all that are told."""
  classes = outputs["classes"][:top]
  return Classes(classes, outputs["scores"][:top], tuple(names.get(c, str(c)) for c in classes.tolist()))


Exported = Union[ExportedDetector, ExportedClassifier]


def load_exported(path: str | os.PathLike, **settings: Any) -> Exported:
  """Loads a SavedModel that was exported from a run.

  Args:
    path: of its folder.
    **settings: arguments of `ExportedDetector` or `ExportedClassifier`; None is as good as left out.

  Raises: UserError when it is of another origin or damaged, or a setting does not belong to its task.
  """
  info = read_export_info(path)
  kind = ExportedClassifier if info["task"] == "classification" else ExportedDetector
  given = {key: value for key, value in settings.items() if value is not None}
  try:
    return kind(path, info, **given)
  except TypeError as error:
    raise UserError(
      f"a SavedModel of {info['task']} cannot be loaded with {sorted(given)}: {error}; give the run to change more"
    ) from error
