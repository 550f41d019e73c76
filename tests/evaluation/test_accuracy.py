"""Accuracy: counted by hand, fillers, ids, files, refusals."""

import csv
import json

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.accuracy import AccuracyEvaluator
from spinenet_tf.visualize.confusion import draw_confusion

CATEGORIES = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate("abcdefg")]  # ids 10 to 70


def batch(labels, first=0, real=None):
  ids = np.array([f"p{first + i}".encode() for i in range(len(labels))], object)
  out = {"source_id": ids, "label": np.array(labels, np.int32)}
  return out if real is None else {**out, "is_real": np.array(real)}


def ranked(*orders):
  """Logits that rank the classes in these orders; classes that are not named follow."""
  logits = np.full((len(orders), 7), -9.0, np.float32)
  for row, order in zip(logits, orders):
    for place, index in enumerate(order):
      row[index] = -place
  return logits


@pytest.fixture
def four():
  """Of class a one first and one fifth, of class b one second and one sixth."""
  evaluator = AccuracyEvaluator(CATEGORIES, draw=draw_confusion)
  evaluator.update(ranked([0, 1], [1, 2, 3, 4, 0, 5]), batch([0, 0]))
  evaluator.update(ranked([0, 1], [2, 3, 4, 5, 6, 1], [3]), batch([1, 1, -1], 2, [True, True, False]))
  return evaluator


def test_by_hand(four):
  result = four.result()
  assert (result["top1"], result["top5"], four.num_seen) == (0.25, 0.75, 4)
  assert result["per_class"]["a"] == {"top1": 0.5, "top5": 1.0, "examples": 2}
  assert result["per_class"]["b"] == {"top1": 0.0, "top5": 0.5, "examples": 2}
  assert np.isnan(result["per_class"]["c"]["top1"]) and result["per_class"]["c"]["examples"] == 0


def test_confusion(four):
  expected = np.zeros((7, 7), int)
  expected[0, 0] = expected[0, 1] = expected[1, 0] = expected[1, 2] = 1
  np.testing.assert_array_equal(four.confusion(), expected)


def test_table(four):
  lines = four.table().splitlines()
  assert lines[0].split() == ["top1", "0.250"] and lines[1].split() == ["top5", "0.750"]
  assert [line.split() for line in lines[4:]] == [["a", "0.500", "1.000", "2"], ["b", "0.000", "0.500", "2"]]


def test_files(four, tmp_path):
  four.save(tmp_path)
  predictions = json.loads((tmp_path / "predictions.json").read_text())
  assert [row["image_id"] for row in predictions] == ["p0", "p1", "p2", "p3"]
  assert predictions[1]["category_id"] == 10 and predictions[1]["predicted_ids"] == [20, 30, 40, 50, 10]
  scores = np.exp(ranked([0, 1]))[0]
  np.testing.assert_allclose(predictions[0]["probabilities"][:2], (scores / scores.sum())[:2], atol=1e-6)
  metrics = json.loads((tmp_path / "metrics.json").read_text())
  assert metrics["top5"] == 0.75 and metrics["examples"] == 4 and metrics["per_class"]["c"]["top1"] is None
  rows = list(csv.reader((tmp_path / "per_class.csv").open()))
  assert rows[1] == ["10", "a", "0.500000", "1.000000", "2"] and rows[3] == ["30", "c", "", "", "0"]
  pairs = list(csv.reader((tmp_path / "confusion.csv").open()))
  assert len(pairs) == 5 and ["20", "b", "30", "c", "1"] in pairs
  assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_reset_and_nothing_seen(four, tmp_path):
  four.reset()
  assert np.isnan(four.result()["top1"]) and four.num_seen == 0
  assert "-" in four.table()
  four.save(tmp_path)
  assert json.loads((tmp_path / "predictions.json").read_text()) == []
  four.update(ranked([0]), batch([0]))
  assert four.result()["top1"] == 1.0


def test_fewer_than_five_classes_and_equal_scores():
  evaluator = AccuracyEvaluator(CATEGORIES[:2])
  evaluator.update(np.zeros([2, 2]), batch([0, 1]))
  assert (evaluator.result()["top1"], evaluator.result()["top5"]) == (0.5, 1.0)


def test_outputs_that_are_no_category():
  """The authors' layout: index 0 is no class. Labels are indices of outputs."""
  evaluator = AccuracyEvaluator([{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}], class_ids=range(4))
  evaluator.update(np.eye(4)[[1, 0]], batch([1, 3]))
  assert evaluator.names == ("0", "cat", "2", "dog")
  result = evaluator.result()
  assert (
    result["top1"] == 0.5 and result["per_class"]["cat"]["top1"] == 1.0 and list(result["per_class"]) == ["cat", "dog"]
  )


def test_what_is_refused(four):
  with pytest.raises(UserError, match="'p1' came twice"):
    four.update(ranked([0]), batch([0], 1))
  with pytest.raises(UserError, match="'p9' came twice"):
    four.update(ranked([0], [0]), {"source_id": ["p9", "p9"], "label": [0, 0]})
  with pytest.raises(UserError, match="class index 7, but the model's 7 classes"):
    four.update(ranked([0]), batch([7], 9))
  with pytest.raises(UserError, match=r"shape \[1, 3\], but there are 7 classes"):
    four.update(np.zeros([1, 3]), batch([0], 9))
  with pytest.raises(UserError, match="not finite"):
    four.update(np.full([1, 7], np.nan), batch([0], 9))
  assert four.num_seen == 4
