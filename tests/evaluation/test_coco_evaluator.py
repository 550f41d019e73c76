"""The COCO metric: against pycocotools itself, and on ground truth fed back."""

import contextlib
import csv
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.coco import CocoEvaluator
from spinenet_tf.evaluation.report import METRICS

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 90, "name": "owl"}]


def record(source_id, boxes=(), classes=(), **more):
  return {
    "source_id": source_id,
    "height": 100,
    "width": 200,
    "boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "class_ids": np.array(classes, np.int64),
    **more,
  }


def detections(rows, depth=4):
  """Rows of [(box, score, class), ...], one list for each picture, padded with plausible rubbish."""
  out = {
    "detection_boxes": np.full((len(rows), depth, 4), [0, 0, 50, 50], np.float32),
    "detection_scores": np.full((len(rows), depth), 0.99, np.float32),
    "detection_classes": np.zeros((len(rows), depth), np.int32),
    "num_detections": np.array([len(r) for r in rows], np.int32),
  }
  for i, row in enumerate(rows):
    for j, (box, score, label) in enumerate(row):
      out["detection_boxes"][i, j] = box
      out["detection_scores"][i, j] = score
      out["detection_classes"][i, j] = label
  return out


def batch(source_ids, scale=(1.0, 1.0), is_real=None):
  n = len(source_ids)
  return {
    "source_id": np.array([str(s).encode() for s in source_ids], object),
    "scale": np.tile(np.array(scale, np.float32), (n, 1)),
    "original_size": np.tile(np.array([100, 200], np.int32), (n, 1)),
    "is_real": np.ones(n, bool) if is_real is None else np.array(is_real),
  }


def official(annotation_file, results_file):
  with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(str(annotation_file))
    evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return evaluation.stats


@pytest.mark.parametrize("split", ["train", "val"])
def test_equals_pycocotools_on_real_annotations(shared_data, tmp_path, split):
  """Perturbed boxes of a set with crowds, pictures without objects and most classes absent."""
  path = shared_data / "coco_sample" / "annotations" / f"instances_{split}.json"
  data = json.loads(path.read_text())
  index = {c["id"]: k for k, c in enumerate(data["categories"])}
  rng = np.random.default_rng(0)
  expected = []
  evaluator = CocoEvaluator(data["categories"], annotation_file=path)
  for image in data["images"]:
    rows, scale = [], np.array([0.5, 0.75])
    for a in (a for a in data["annotations"] if a["image_id"] == image["id"]):
      for _ in range(2):
        x, y, w, h = np.array(a["bbox"]) * rng.uniform(0.93, 1.07, 4)
        x2, y2 = min(x + w, image["width"]), min(y + h, image["height"])
        score = round(float(rng.uniform(0.1, 1)), 2)  # two decimals: with ties, whose order counts
        category = a["category_id"] if rng.uniform() < 0.8 else 1
        rows.append(((y * scale[0], x * scale[1], y2 * scale[0], x2 * scale[1]), score, index[category]))
        expected.append(
          {"image_id": image["id"], "category_id": category, "bbox": [x, y, x2 - x, y2 - y], "score": score}
        )
    one = batch([image["id"]], scale)
    one["original_size"] = np.array([[image["height"], image["width"]]])
    evaluator.update(detections([rows], depth=150), one)

  (tmp_path / "reference.json").write_text(json.dumps(expected))
  stats = official(path, tmp_path / "reference.json")
  result = evaluator.result()
  np.testing.assert_allclose([result[k] for k in METRICS], np.where(stats < 0, np.nan, stats), atol=1e-9)
  assert 0.05 < result["AP"] < 0.9, "a perturbation that tests nothing"

  evaluator.save(tmp_path / "eval")
  saved = official(path, tmp_path / "eval" / "detections.json")
  np.testing.assert_allclose(saved, stats, atol=1e-9)
  per_class = result["per_class"].values()
  assert np.nanmean([row["AP"] for row in per_class]) == pytest.approx(stats[0])
  assert np.nanmean([row["AP50"] for row in per_class]) == pytest.approx(stats[1])
  assert np.nanmean([row["AP75"] for row in per_class]) == pytest.approx(stats[2])
  assert sum(row["objects"] for row in per_class) == sum(not a["iscrowd"] for a in data["annotations"])


def test_ground_truth_fed_back_scores_one():
  truth = [
    record("b.jpg", [[10, 10, 60, 60], [0, 100, 90, 200]], [5, 2], is_crowd=[False, False]),
    record("a.jpg", [[5, 5, 20, 20], [40, 40, 100, 190]], [2, 5], is_crowd=[False, True]),
    record("empty.jpg"),
  ]
  evaluator = CocoEvaluator(CATEGORIES, truth)
  evaluator.update(
    detections(
      [
        [((20, 5, 120, 30), 0.9, 0), ((0, 50, 180, 100), 0.8, 1)],
        # the third lies in the crowd, where detections count neither way
        [((10, 2.5, 40, 10), 0.9, 1), ((100, 40, 160, 60), 0.95, 0)],
        [],
        [((0, 0, 9, 9), 0.9, 1)],
      ]
    ),
    batch(["b.jpg", "a.jpg", "empty.jpg", "b.jpg"], scale=(2.0, 0.5), is_real=[True, True, True, False]),
  )
  result = evaluator.result()
  assert result["AP"] == result["AP50"] == result["AR100"] == pytest.approx(1.0)
  assert result["per_class"]["cat"] == pytest.approx({"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "objects": 1, "images": 1})
  assert result["per_class"]["dog"]["objects"] == 2 and result["per_class"]["dog"]["images"] == 2
  assert math.isnan(result["per_class"]["owl"]["AP"]), "no owl anywhere: no number, and not part of the mean"
  assert evaluator.num_seen == evaluator.num_images == 3


def test_files_are_valid_and_keep_original_ids(tmp_path):
  evaluator = CocoEvaluator(CATEGORIES, [record("00017", [[10, 10, 60, 60]], [90]), record("4", [], [])])
  evaluator.update(detections([[((10, 10, 60, 500), 0.5, 2)]]), batch([17]))
  evaluator.save(tmp_path)
  (row,) = json.loads((tmp_path / "detections.json").read_text())
  assert row["image_id"] == 17 and row["category_id"] == 90 and row["bbox"] == [10, 10, 190, 50]
  metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
  assert metrics["APs"] is None and metrics["per_class"]["cat"]["AP"] is None
  assert metrics["images"] == 2 and metrics["images_evaluated"] == 1
  rows = list(csv.DictReader((tmp_path / "per_class.csv").open()))
  assert [(r["id"], r["name"], r["AP"]) for r in rows] == [
    ("5", "cat", ""),
    ("2", "dog", ""),
    ("90", "owl", "0.000000"),
  ]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["detections.json", "metrics.json", "per_class.csv"]
  assert "owl" in evaluator.table() and "IoU 0.50:0.95" in evaluator.table()


def test_text_source_ids_stay_text(tmp_path):
  evaluator = CocoEvaluator(CATEGORIES, [record("x/1.jpg", [[10, 10, 60, 60]], [5]), record("7")])
  evaluator.update(detections([[((10, 10, 60, 60), 0.5, 0)], []]), batch(["x/1.jpg", "7"]))
  evaluator.save(tmp_path)
  assert json.loads((tmp_path / "detections.json").read_text())[0]["image_id"] == "x/1.jpg"
  assert evaluator.result()["AP"] == pytest.approx(1.0)


def test_no_detections_score_zero(tmp_path, capsys):
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [[10, 10, 60, 60]], [5])])
  evaluator.update(detections([[]]), batch([1]))
  result = evaluator.result()
  assert result["AP"] == result["AP50"] == result["AR100"] == 0.0 and math.isnan(result["APs"])
  evaluator.save(tmp_path)
  assert json.loads((tmp_path / "detections.json").read_text()) == []
  assert capsys.readouterr().out == "", "pycocotools' chatter"


def test_no_objects_at_all_gives_no_number():
  evaluator = CocoEvaluator(CATEGORIES, [record("1")])
  evaluator.update(detections([[((10, 10, 60, 60), 0.5, 0)]]), batch([1]))
  assert all(math.isnan(evaluator.result()[key]) for key in METRICS)
  assert "-" in evaluator.table()


def test_boxes_in_the_padding_are_no_detections(tmp_path):
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [[10, 10, 60, 60]], [5])])
  evaluator.update(detections([[((110, 10, 160, 60), 0.9, 0), ((10, 10, 60, 60), 0.5, 0)]]), batch([1]))
  evaluator.save(tmp_path)
  assert len(json.loads((tmp_path / "detections.json").read_text())) == 1


def test_reset_starts_a_new_pass():
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [[10, 10, 60, 60]], [5])])
  for score in ([], [((10, 10, 60, 60), 0.5, 0)]):
    evaluator.update(detections([score]), batch([1]))
    result = evaluator.result()
    evaluator.reset()
  assert result["AP"] == pytest.approx(1.0) and evaluator.num_seen == 0


def test_class_ids_as_indices():
  """The authors' layout of COCO: output k is category id k, and some ids are no category."""
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [[10, 10, 60, 60]], [5])], class_ids=range(91))
  evaluator.update(detections([[((0, 0, 60, 60), 0.9, 0), ((10, 10, 60, 60), 0.5, 5)]]), batch([1]))
  assert evaluator.result()["AP"] == pytest.approx(1.0)


def test_same_picture_twice():
  evaluator = CocoEvaluator(CATEGORIES, [record("1"), record("2")])
  with pytest.raises(UserError, match="picture 1 came twice"):
    evaluator.update(detections([[], []]), batch([1, 1]))
  evaluator.update(detections([[]]), batch([2]))
  with pytest.raises(UserError, match="picture 2 came twice"):
    evaluator.update(detections([[]]), batch([2]))


def test_class_index_beyond_the_categories():
  evaluator = CocoEvaluator(CATEGORIES, [record("1")])
  with pytest.raises(UserError, match="at least 80 classes, but there are 3 categories"):
    evaluator.update(detections([[((0, 0, 9, 9), 0.5, 79)]]), batch([1]))


def test_non_finite_box():
  evaluator = CocoEvaluator(CATEGORIES, [record("1")])
  with pytest.raises(UserError, match="not finite"):
    evaluator.update(detections([[((0, 0, np.nan, 9), 0.5, 0)]]), batch([1]))


def test_unknown_picture_names_both_sides():
  evaluator = CocoEvaluator(CATEGORIES, [record("12"), record("13")])
  with pytest.raises(UserError, match=r"'a.jpg' .*not in the ground truth.*\[12, 13\]"):
    evaluator.update(detections([[]]), batch(["a.jpg"]))


@pytest.mark.parametrize(
  ("categories", "truth", "text"),
  [
    ([], [record("1")], "no categories"),
    ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], [record("1")], r"\[1\] stand twice"),
    ([{"id": "1", "name": "a"}], [record("1")], "whole number"),
    (CATEGORIES, [], "holds no picture"),
    (CATEGORIES, [record("a"), record("a")], r"\['a'\] twice"),
    (CATEGORIES, [record("1", [[0, 0, 9, 9]], [7])], r"\[7\], which are none of the 3 categories"),
    (CATEGORIES, [record("1", [[0, 0, 9, 9]], [5, 5])], "1 boxes, 2 classes"),
    (CATEGORIES, None, "either groundtruth or annotation_file"),
    (CATEGORIES, "nowhere.json", "no annotation file 'nowhere.json'"),
  ],
)
def test_bad_input_is_named(categories, truth, text):
  with pytest.raises(UserError, match=text):
    CocoEvaluator(categories, truth)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[", "is not JSON"),
    ("[]", "needs the lists"),
    (
      '{"images": [{"id": 1}], "categories": [], "annotations": [{"image_id": 2, "bbox": [0, 0, 1, 1]}]}',
      "lacks",
    ),
  ],
)
def test_bad_annotation_file(tmp_path, text, message):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(UserError, match=message):
    CocoEvaluator(CATEGORIES, tmp_path / "a.json")


def test_equal_names_stay_apart():
  evaluator = CocoEvaluator([{"id": 1, "name": "bat"}, {"id": 2, "name": "bat"}], [record("1")])
  assert list(evaluator.result()["per_class"]) == ["bat (1)", "bat (2)"]
