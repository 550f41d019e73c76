"""What `prepare` knows about a data set: `meta.json`, beside the TFRecord shards.

  {"format": 1,
   "categories": [{"id": 1, "name": "cat"}, ...],     sorted by id, original ids
   "splits": {"train": {"pattern": "train-*.tfrecord", "num_examples": 118287, "num_boxes": 849947, "num_masks": 849947,
                        "shards": {"train-00000-of-00256.tfrecord": {"examples": 463, "bytes": 7000}, ...},
                        "report": {...}}, ...}}

and "task": "classification" where the records are of that kind; they have no boxes and masks.

Training, evaluation, export and prediction take class names and ids from here, so they are said once.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Union

from spinenet_tf import json_text
from spinenet_tf.errors import UserError

FORMAT = 1
FILE_NAME = "meta.json"
TASKS = ("detection", "classification")
Pattern = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]]


@dataclasses.dataclass(frozen=True)
class Category:
  """One class: `id` as in the annotations (any integer), `name` as people call it."""

  id: int
  name: str


@dataclasses.dataclass(frozen=True)
class Meta:
  """Classes and splits of a prepared data set.

  Attributes:
    categories: sorted by id; the position is the model's class index, 0 to num_classes - 1.
    splits: name -> {"pattern", "num_examples", "num_boxes", "shards", "report", ...}.
    task: "detection" or "classification", what the records are for.
  """

  categories: tuple[Category, ...]
  splits: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  task: str = "detection"

  def __post_init__(self):
    """Raises UserError for no, repeated or unsorted categories."""
    if self.task not in TASKS:
      raise UserError(f"task {self.task!r} of the data set; known are {', '.join(TASKS)}")
    ids, names = [c.id for c in self.categories], [c.name for c in self.categories]
    if not ids:
      raise UserError("no categories; a data set needs at least one class")
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
      raise UserError(f"category ids {ids} must be integers")
    if len(set(ids)) != len(ids) or len(set(names)) != len(names):
      raise UserError(f"category ids and names must be unique; ids {ids}, names {names}")
    if ids != sorted(ids):
      raise UserError(f"categories must be sorted by id; they are in the order {ids}")

  @property
  def ids(self) -> tuple[int, ...]:
    """Original category ids by class index."""
    return tuple(c.id for c in self.categories)

  @property
  def names(self) -> tuple[str, ...]:
    """Class names by class index."""
    return tuple(c.name for c in self.categories)

  @property
  def num_classes(self) -> int:
    """Number of classes, background not counted."""
    return len(self.categories)

  def share_smaller(self, split: str, side: float, image_side: int) -> float | None:
    """Share of a split's objects smaller than `side` pixels, sqrt(box area), at an input of `image_side`
    pixels.

    With half the smallest anchor as `side` this is the share that a detector will hardly learn.
    Returns: 0 to 1, to about a percent; None where the split has no report or no objects.
    """
    quantiles = self.splits.get(split, {}).get("report", {}).get("size_quantiles")
    if not quantiles:
      return None
    return sum(q * image_side < side for q in quantiles) / len(quantiles)

  def to_dict(self) -> dict[str, Any]:
    """The content of meta.json."""
    categories = [{"id": c.id, "name": c.name} for c in self.categories]
    return {
      "format": FORMAT,
      **({} if self.task == "detection" else {"task": self.task}),
      "categories": categories,
      "splits": {k: dict(v) for k, v in self.splits.items()},
    }

  @classmethod
  def from_dict(cls, content: Any, where: str = FILE_NAME) -> Meta:
    """Reads the content of meta.json; `where` is named in errors."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
      seen = content.get("format") if isinstance(content, dict) else type(content).__name__
      raise UserError(f"{where}: format {seen!r}, expected {FORMAT}; run `prepare` again to rewrite it")
    try:
      categories = tuple(Category(c["id"], str(c["name"])) for c in content["categories"])
      splits = {str(k): dict(v) for k, v in content.get("splits", {}).items()}
      for split in splits.values():
        _check_split(split)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise UserError(f"{where}: malformed ({error!r}); run `prepare` again to rewrite it") from error
    return cls(categories, splits, content.get("task", "detection"))


def _check_split(split: Mapping[str, Any]) -> None:
  """Raises ValueError, KeyError or AttributeError for facts about a split that `prepare` does not write."""
  numbers = [split.get("num_examples", 0)]
  for name, shard in split.get("shards", {}).items():
    if not name or name != os.path.basename(name):
      raise ValueError(f"{name!r} is not the name of a file in this folder")
    numbers += [shard["examples"], shard["bytes"]]
  report = split.get("report", {})
  numbers.append(report.get("max_objects_per_image", 0))
  if bad := [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**62]:
    raise ValueError(f"{bad[0]!r} is not a number of things")
  if not isinstance(split.get("pattern", ""), str) or "\0" in split.get("pattern", ""):
    raise ValueError(f"{split['pattern']!r} is not a pattern of file names")
  if not all(isinstance(side, (int, float)) for side in report.get("size_quantiles") or ()):
    raise ValueError("size_quantiles are not numbers")


def directory(pattern: Pattern) -> str:
  """The folder of a data set, given the folder, a file in it, or a pattern (or a list: its first entry)."""
  if not isinstance(pattern, (str, os.PathLike)):
    pattern = next(iter(pattern), "")
  text = os.fspath(pattern)
  return text if _exists(os.path.join(text, FILE_NAME)) else os.path.dirname(text)


def load(pattern: Pattern) -> Meta | None:
  """Reads meta.json from a folder or from beside the files of a pattern.

  Returns: the Meta, or None where there is no meta.json (TFRecords made by other programs).
  Raises: UserError where the file exists but cannot be used.
  """
  path = os.path.join(directory(pattern), FILE_NAME)
  if not _exists(path):
    return None
  try:
    content = json_text.parse(_read(path))
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error}); run `prepare` again to rewrite it") from error
  return Meta.from_dict(content, path)


def save(meta: Meta, folder: str | os.PathLike) -> str:
  """Writes meta.json in one step (a reader sees the old file or the new one). Returns: its path."""
  path = os.path.join(os.fspath(folder), FILE_NAME)
  text = json.dumps(meta.to_dict(), indent=2) + "\n"
  temporary = path + ".incomplete"
  if "://" in path:
    import tensorflow as tf

    with tf.io.gfile.GFile(temporary, "w") as file:
      file.write(text)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  else:
    with open(temporary, "w", encoding="utf-8") as file:
      file.write(text)
    os.replace(temporary, path)
  return path


def _exists(path: str) -> bool:
  if "://" not in path:
    return os.path.exists(path)
  import tensorflow as tf

  return tf.io.gfile.exists(path)


def _read(path: str) -> str:
  if "://" not in path:
    with open(path, encoding="utf-8") as file:
      return file.read()
  import tensorflow as tf

  with tf.io.gfile.GFile(path, "r") as file:
    return file.read()
