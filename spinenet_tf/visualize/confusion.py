"""Confusion matrices: which classes a classifier takes for which."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from spinenet_tf.errors import UserError

MOST_CLASSES = 40  # that a picture shows
_NUMBERED = 30  # classes up to which cells have numbers
_NOTHING = "#e8e4da"  # rows without examples
_BLUES = ListedColormap(np.linspace((0.87, 0.92, 0.98), (0.02, 0.16, 0.38), 256)).with_extremes(
  under="white", bad=_NOTHING
)
_OTHER = "other classes"
_LETTERS = 28  # of a name
_SUFFIXES = (".png", ".svg")


class ConfusionDrawing:
  """A drawing of a confusion matrix, and what stands in it.

  Attributes:
    rows: names of the classes shown, from the top.
    columns: names of the predictions shown; the last one stands for all others where classes are left out.
    counts: int64[R, C], examples of each cell.
    figure: matplotlib's.
  """

  def __init__(self, matrix: np.ndarray, names: Sequence[str]):
    shown = _shown(matrix)
    self.rows = tuple(names[i] for i in shown)
    self.columns, self.counts = self.rows, matrix[np.ix_(shown, shown)]
    if len(shown) < len(names):
      others = matrix[shown].sum(axis=1) - self.counts.sum(axis=1)
      self.columns = (*self.rows, _OTHER)
      self.counts = np.concatenate([self.counts, others[:, None]], axis=1)
    self.figure = _paint(self, len(names))

  def save(self, path: str | pathlib.Path, dpi: int = 130) -> None:
    """Writes the drawing.

    Args:
      path: ends in .png or .svg.
      dpi: pixels per inch of a PNG.

    Raises: UserError for another ending.
    """
    if pathlib.Path(path).suffix.lower() not in _SUFFIXES:
      raise UserError(f"{str(path)!r}: a drawing is written as .png or .svg; give a name that ends so")
    self.figure.savefig(path, dpi=dpi)


def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> ConfusionDrawing:
  """Draws a confusion matrix: colours are shares of each class's examples, numbers are examples.

  Of more than `MOST_CLASSES` classes those with the most wrong predictions are shown.

  Args:
    matrix: int[K, K], examples by class (row) and by predicted class (column).
    names: of the K classes.

  Returns: a drawing; `.save("confusion.png")` writes it.

  Raises: UserError when matrix and names do not fit.
  """
  matrix = np.asarray(matrix)
  if matrix.shape != (len(names), len(names)) or not len(names) or matrix.min() < 0:
    raise UserError(
      f"a confusion matrix of shape {list(matrix.shape)} does not fit {len(names)} names; it has counts [K, K]"
    )
  return ConfusionDrawing(matrix, [str(name) for name in names])


def _shown(matrix: np.ndarray) -> np.ndarray:
  """Returns the indices of the classes to draw, ascending."""
  if len(matrix) <= MOST_CLASSES:
    return np.arange(len(matrix))
  wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diagonal(matrix)
  return np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])


def _paint(drawing: ConfusionDrawing, num_classes: int) -> Figure:
  counts = drawing.counts
  totals = counts.sum(axis=1, keepdims=True)
  shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
  numbered = len(counts) <= _NUMBERED
  side = (0.38 if numbered else 0.2) * max(len(counts), 6)
  figure = Figure(figsize=(side + 3.2, side + 2.6), layout="constrained")
  axes = figure.add_subplot()
  image = axes.imshow(shares, cmap=_BLUES, vmin=1e-9, vmax=1)
  size = 8 if numbered else 6
  axes.set_xticks(range(len(drawing.columns)), map(_short, drawing.columns), rotation=90, fontsize=size)
  axes.set_yticks(range(len(drawing.rows)), map(_short, drawing.rows), fontsize=size)
  axes.set_xticks(np.arange(0.5, len(drawing.columns) - 1), minor=True)
  axes.set_yticks(np.arange(0.5, len(drawing.rows) - 1), minor=True)
  axes.grid(which="minor", color="#dddddd", linewidth=0.5)
  axes.tick_params(which="both", length=0)
  axes.set_xlabel("predicted")
  axes.set_ylabel("class")
  title = f"{int(counts.sum())} examples"
  if len(counts) < num_classes:
    title = f"the {len(counts)} of {num_classes} classes with the most errors\n{title}"
  axes.set_title(title, fontsize=10)
  figure.colorbar(image, label="share of the class's examples", shrink=0.6)
  if numbered:
    for row, column in zip(*np.nonzero(counts)):
      color = "white" if shares[row, column] > 0.5 else "black"
      axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
  return figure


def _short(name: str) -> str:
  return name.replace("$", r"\$") if len(name) <= _LETTERS else name[: _LETTERS - 1].replace("$", r"\$") + "…"
