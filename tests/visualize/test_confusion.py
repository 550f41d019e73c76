"""Confusion pictures: what stands in the cells, which classes are shown, files."""

import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.visualize.confusion import MOST_CLASSES, draw_confusion


def texts(drawing):
  return [t.get_text() for t in drawing.figure.axes[0].texts]


def test_few_classes(tmp_path):
  drawing = draw_confusion([[3, 1, 0], [0, 0, 0], [2, 0, 5]], ["cat", "dog", "$5 owl"])
  assert drawing.rows == drawing.columns == ("cat", "dog", "$5 owl")
  assert texts(drawing) == ["3", "1", "2", "5"]
  shares = drawing.figure.axes[0].images[0].get_array().filled(np.nan)
  np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [np.nan] * 3, [2 / 7, 0, 5 / 7]])
  drawing.save(tmp_path / "a.png")
  assert Image.open(tmp_path / "a.png").size[0] > 300
  drawing.save(tmp_path / "a.svg")
  xml.etree.ElementTree.parse(tmp_path / "a.svg")


def test_of_many_classes_those_with_errors():
  count = MOST_CLASSES + 30
  matrix = np.diag(np.full(count, 10))
  wrong = np.arange(5, 5 + MOST_CLASSES)  # each errs twice: once for a class that is shown, once for one that is not
  matrix[wrong, np.roll(wrong, 1)] = 1
  matrix[wrong, 0] = 1
  matrix[0, 0] = 0
  drawing = draw_confusion(matrix, [f"n{i}" for i in range(count)])
  shown = [0, *range(5, 4 + MOST_CLASSES)]  # class 0 is predicted wrongly for all; of the rest the first ones
  assert drawing.rows == tuple(f"n{i}" for i in shown)
  assert drawing.columns[-1] == "other classes" and drawing.counts.shape == (MOST_CLASSES, MOST_CLASSES + 1)
  np.testing.assert_array_equal(drawing.counts.sum(axis=1), matrix[shown].sum(axis=1))
  assert drawing.counts[:, -1].tolist() == [0, 1] + [0] * (
    MOST_CLASSES - 2
  )  # n5 is taken for the last, which is left out
  assert f"{MOST_CLASSES} of {count} classes" in drawing.figure.axes[0].get_title()
  assert not texts(drawing)


def test_what_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"shape \[2, 2\] does not fit 3 names"):
    draw_confusion(np.eye(2, dtype=int), ["a", "b", "c"])
  with pytest.raises(UserError, match=r"\.png or \.svg"):
    draw_confusion([[1]], ["a"]).save(tmp_path / "a.gif")
