"""The data of an experiment: files, classes, epochs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from spinenet_tf.data import meta as meta_lib
from spinenet_tf.data import shards
from spinenet_tf.data.pipeline import groundtruth
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.coco import CocoEvaluator
from spinenet_tf.training.settings import DataSettings, NetworkSettings


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Resolved data settings.

  Attributes:
    settings: as given.
    image_size: (height, width) of the network's input in pixels.
    num_classes: of the model, without background.
    meta: of the data set, None where there is none; then class = id - 1.
    train_pattern: files; None for evaluation only.
    eval_pattern: files; None trains without evaluation.
    num_examples: of one epoch.
  """

  settings: DataSettings
  image_size: tuple[int, int]
  num_classes: int
  meta: meta_lib.Meta | None
  train_pattern: Any
  eval_pattern: Any
  num_examples: int

  @property
  def categories(self) -> list[dict[str, Any]]:
    """[{"id", "name"}] of the data set; numbered names where there is no meta.json."""
    if self.meta:
      return [{"id": category.id, "name": category.name} for category in self.meta.categories]
    return [{"id": i + 1, "name": f"class {i + 1}"} for i in range(self.num_classes)]

  @property
  def class_ids(self) -> tuple[int, ...] | None:
    """Original category ids by class index, None where there is no meta.json; some may be ids of no category."""
    if self.meta and self.settings.class_layout != "contiguous":
      first = int(self.settings.class_layout == "from_one")
      return tuple(range(first, first + self.num_classes))
    return self.meta.ids if self.meta else None

  @property
  def class_names(self) -> list[str]:
    """Names by class index."""
    names = {category["id"]: category["name"] for category in self.categories}
    ids = self.class_ids or range(1, self.num_classes + 1)
    return [names.get(number, f"no class {number}") for number in ids]

  def eval_batch_size(self, replicas: int) -> int:
    """Returns the evaluation batch, a multiple of the replicas."""
    batch = self.settings.eval_batch_size or self.settings.batch_size
    return -(-batch // replicas) * replicas

  def evaluator(self, masks: bool = False) -> CocoEvaluator:
    """Returns a new evaluator with the ground truth of the evaluation examples; `masks`: of theirs too."""
    shared = {"class_ids": self.class_ids, "masks": masks}
    if self.settings.annotation_file:
      return CocoEvaluator(self.categories, annotation_file=self.settings.annotation_file, **shared)
    return CocoEvaluator(self.categories, groundtruth=groundtruth(self.eval_pattern, masks=masks), **shared)


def resolve(data: DataSettings, model: NetworkSettings, *, training: bool = True) -> Inputs:
  """Finds files and classes.

  Args:
    data: which files.
    model: `num_classes` and the image size.
    training: False leaves the training files alone.

  Raises: UserError when a pattern matches nothing, a split is not in meta.json, or the numbers of classes differ.
  """
  train = _pattern(data, "train") if training else None
  evaluation = _pattern(data, "eval")
  source = data.directory or train or evaluation
  meta = meta_lib.load(source) if source else None
  for pattern in (train, evaluation):
    if pattern is not None:
      shards.find(pattern)
  if train is None and evaluation is None:
    raise UserError("no evaluation data: set data.eval_split or data.eval_pattern")
  examples = _examples(data, meta, train) if training else 0
  classes = _num_classes(model, meta, source, data.class_layout)
  return Inputs(data, model.size, classes, meta, train, evaluation, examples)


def _pattern(data: DataSettings, which: str) -> Any:
  """The files of the training or evaluation split, None for an evaluation that is not wanted."""
  pattern, split = getattr(data, f"{which}_pattern"), getattr(data, f"{which}_split")
  if pattern:
    return pattern
  if which == "eval" and split is None:
    return None
  if not data.directory:
    raise UserError(
      f"neither data.directory nor data.{which}_pattern is set; give the folder that `prepare` wrote: "
      "--gin_param=\"DATA_DIR='...'\""
    )
  if not os.path.isdir(data.directory) and "://" not in data.directory:
    raise UserError(
      f"data.directory is {data.directory!r} and there is no such folder; make it with `python -m spinenet_tf.prepare`, "
      "or name another one: --gin_param=\"DATA_DIR='...'\""
    )
  meta = meta_lib.load(data.directory)
  if meta and split not in meta.splits:
    raise UserError(
      f"data.{which}_split is {split!r}; {data.directory} has the splits {sorted(meta.splits)}: name one of them"
      + (", or None to train without evaluation" if which == "eval" else "")
    )
  name = meta.splits[split].get("pattern") if meta else None
  return os.path.join(data.directory, name or f"{split}-*.tfrecord")


def _examples(data: DataSettings, meta: meta_lib.Meta | None, pattern: Any) -> int:
  if data.num_train_examples:
    return data.num_train_examples
  if meta and not data.train_pattern and (known := meta.splits[data.train_split].get("num_examples")):
    return int(known)
  return sum(shards.count(shards.find(pattern)))


def _num_classes(model: NetworkSettings, meta: meta_lib.Meta | None, source: Any, layout: str) -> int:
  if meta is None:
    if layout != "contiguous":
      raise UserError(
        f"data.class_layout is {layout!r}, which needs a meta.json beside {source!r}; write it with `prepare`"
      )
    if model.num_classes is None:
      raise UserError(
        f"there is no meta.json beside {source!r}, so {model.scope}.num_classes must be set: the number of classes "
        "without background; ids are then 1 to num_classes"
      )
    return model.num_classes
  if layout != "contiguous":
    expected = max(meta.ids) + (layout == "original")
    what = f"ids up to {max(meta.ids)}, so {expected} outputs"
  else:
    names = f"{', '.join(meta.names[:5])}{', ...' if meta.num_classes > 5 else ''}"
    expected, what = meta.num_classes, f"{meta.num_classes} classes ({names})"
  if model.num_classes not in (None, expected):
    raise UserError(
      f"{model.scope}.num_classes is {model.num_classes}, meta.json of {source!r} has {what}; background does not count: "
      f"leave {model.scope}.num_classes out, and the number is taken from meta.json; the authors' 91 outputs for COCO are "
      "data.class_layout = 'original'"
    )
  return expected
