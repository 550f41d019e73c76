"""Top-1 and top-5 accuracy, over all examples and by class, and which classes are taken for which."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Protocol

import numpy as np
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import report
from spinenet_tf.evaluation.categories import category_names, output_ids

TOP = 5


class Picture(Protocol):
  """Something that can be written to a file."""

  def save(self, path: str) -> None:
    """Writes it."""


class AccuracyEvaluator:
  """Gathers predictions and counts the right ones, as often as wanted.

  An example counts for top-5 when its class is among the five with the highest scores, all of them where there are fewer
  than five classes. Of equal scores the lower class index ranks first.

  Args:
    categories: `data.meta.Meta`, or things with `id` and `name`, in the order of the model's outputs.
    class_ids: original id of each model output, where they are not simply the categories in their order.
    draw: from the confusion matrix int64[K, K] and the K names of the classes to a picture, which `save` writes;
      `visualize.confusion.draw_confusion` is one.

  Raises: UserError when categories and class ids do not fit.
  """

  def __init__(
    self,
    categories: Iterable[Any],
    class_ids: Sequence[int] | None = None,
    draw: Callable[[np.ndarray, Sequence[str]], Picture] | None = None,
  ):
    self._categories = category_names(categories)
    self._ids = output_ids(self._categories, class_ids)
    self._draw = draw
    self.reset()

  def reset(self) -> None:
    """Forgets the predictions."""
    self._ids_seen: set[str] = set()
    self._parts: list[tuple[np.ndarray, ...]] = []  # source id, label, top classes, their probabilities

  @property
  def num_seen(self) -> int:
    """Examples that `update` has received since the last `reset`."""
    return len(self._ids_seen)

  @property
  def names(self) -> tuple[str, ...]:
    """Of the model's outputs; an output that is no category has its id."""
    return tuple(self._categories.get(i, str(i)) for i in self._ids)

  def update(self, logits: Any, batch: Mapping[str, Any]) -> None:
    """Adds the predictions of one batch.

    Args:
      logits: float[B, K], scores before the softmax.
      batch: as `data.classification.classification_dataset` yields it: `source_id` string[B], `label` int[B] class
        indices, `is_real` bool[B] (all, when it is missing).

    Raises: UserError for an example that came before, a label that is no model output, another number of outputs, and
      scores that are not finite.
    """
    real = np.asarray(batch.get("is_real", np.ones(len(batch["source_id"]), bool)), bool)
    logits = np.asarray(logits, np.float64)[real]
    labels = np.asarray(batch["label"], np.int64)[real]
    source = np.array([_text(source_id) for source_id in np.asarray(batch["source_id"], object)[real]], object)
    self._check(logits, labels, source)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    top = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    self._parts.append((source, labels, top, np.take_along_axis(probabilities, top, axis=1)))
    self._ids_seen.update(source)

  def _check(self, logits: np.ndarray, labels: np.ndarray, source: np.ndarray) -> None:
    outputs = len(self._ids)
    if logits.ndim != 2 or logits.shape[1] != outputs:
      raise UserError(
        f"the model gives scores of shape {list(logits.shape)}, but there are {outputs} classes; num_classes must be the "
        "number of categories in meta.json"
      )
    if not np.isfinite(logits).all():
      raise UserError("a score is not finite; the model's weights or outputs hold NaN or infinity")
    if (wrong := labels[(labels < 0) | (labels >= outputs)]).size:
      raise UserError(f"an example has class index {wrong[0]}, but the model's {outputs} classes count from 0")
    names, counts = np.unique(source.astype(str), return_counts=True)
    if again := [name for name, count in zip(names.tolist(), counts) if count > 1 or name in self._ids_seen]:
      raise UserError(
        f"example {again[0]!r} came twice; an evaluation pass goes over its data once, without repeat; call reset() "
        "between passes"
      )

  def result(self) -> dict[str, Any]:
    """Returns "top1" and "top5", floats in [0, 1], NaN without examples; and `per_class`.

    `per_class` is {name: {"top1", "top5": floats, "examples": int}}, in the order of the categories.
    """
    _, labels, top, _ = self._predictions()
    hits = np.stack([top[:, 0] == labels, (top == labels[:, None]).any(axis=1)]).astype(np.float64)  # [2, N]
    examples = np.bincount(labels, minlength=len(self._ids))
    with np.errstate(invalid="ignore"):
      by_class = np.stack([np.bincount(labels, row, len(self._ids)) for row in hits]) / examples
    index = {category: i for i, category in enumerate(self._ids)}
    rows = {}
    for category, name in self._categories.items():
      i = index.get(category)  # None: the model has no output for it, and no example can have it
      values = [float("nan")] * 2 if i is None else by_class[:, i].tolist()
      rows[name] = {"top1": values[0], "top5": values[1], "examples": 0 if i is None else int(examples[i])}
    overall = hits.mean(axis=1).tolist() if hits.size else [float("nan")] * 2
    return {"top1": overall[0], "top5": overall[1], "per_class": rows}

  def confusion(self) -> np.ndarray:
    """Returns int64[K, K]: examples by class (row) and by the class that was predicted (column), model outputs."""
    _, labels, top, _ = self._predictions()
    count = len(self._ids)
    return np.bincount(labels * count + top[:, 0], minlength=count * count).reshape(count, count)

  def table(self) -> str:
    """Returns the result as text to read: overall, then one line for each class with examples, best first."""
    result = self.result()
    rows = {name: row for name, row in result["per_class"].items() if row["examples"]}
    width = max([5, *map(len, rows)])
    overall = [f"{key:<5} {report.number(result[key]):>6}" for key in ("top1", "top5")]
    lines = [*overall, "", f"{'class':<{width}} {'top1':>6} {'top5':>6} {'examples':>8}"]
    for name, row in sorted(rows.items(), key=lambda x: -x[1]["top1"]):
      numbers = " ".join(f"{report.number(row[key]):>6}" for key in ("top1", "top5"))
      lines.append(f"{name:<{width}} {numbers} {row['examples']:>8}")
    return "\n".join(lines)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes `predictions.json`, `metrics.json`, `per_class.csv`, `confusion.csv` and, where there is `draw`,
    `confusion.png`.

    Ids are the original ones. `predictions.json` has the five best classes of each example with their probabilities;
    `confusion.csv` has a row for each pair of a class and a prediction that occurs, most frequent first.
    """
    directory = os.fspath(directory)
    tf.io.gfile.makedirs(directory)
    metrics = {**self.result(), "examples": self.num_seen}
    per_class = metrics.pop("per_class")
    matrix = self.confusion()
    files = {
      "predictions.json": self._predictions_json(),
      "metrics.json": [report.to_json({**metrics, "per_class": per_class})],
      "per_class.csv": [self._per_class_csv(per_class)],
      "confusion.csv": [self._confusion_csv(matrix)],
    }
    for name, chunks in files.items():
      report.write(os.path.join(directory, name), chunks)
    if self._draw:
      self._draw(matrix, self.names).save(os.path.join(directory, "confusion.png"))

  def _predictions(self) -> tuple[np.ndarray, ...]:
    """Source id object[N], label int64[N], classes int64[N, T] by falling score, their probabilities float64[N, T]."""
    if not self._parts:
      return np.zeros(0, object), np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros((0, 1))
    return tuple(np.concatenate(column) for column in zip(*self._parts))

  def _predictions_json(self) -> Iterator[str]:
    separator = "["
    for source, label, top, probabilities in zip(*self._predictions()):
      row = {
        "image_id": source,
        "category_id": self._ids[label],
        "predicted_ids": [self._ids[i] for i in top],
        "probabilities": np.round(probabilities, 6).tolist(),
      }
      yield separator + json.dumps(row, ensure_ascii=False)
      separator = ",\n"
    yield "[]\n" if separator == "[" else "]\n"

  def _per_class_csv(self, per_class: Mapping[str, Mapping[str, Any]]) -> str:
    def cells():
      for category, (name, row) in zip(self._categories, per_class.items()):
        numbers = [f"{row[key]:.6f}" if row["examples"] else "" for key in ("top1", "top5")]
        yield [category, name, *numbers, row["examples"]]

    return _csv(["id", "name", "top1", "top5", "examples"], cells())

  def _confusion_csv(self, matrix: np.ndarray) -> str:
    labels, predicted = np.nonzero(matrix)
    counts = matrix[labels, predicted]
    order = np.argsort(-counts, kind="stable")
    pairs = zip(labels[order], predicted[order], counts[order])
    names = self.names
    rows = ([self._ids[a], names[a], self._ids[b], names[b], count] for a, b, count in pairs)
    return _csv(["id", "name", "predicted_id", "predicted_name", "examples"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(header)
  writer.writerows(rows)
  return text.getvalue()


def _text(source_id: Any) -> str:
  return source_id.decode("utf-8", "replace") if isinstance(source_id, bytes) else str(source_id)
