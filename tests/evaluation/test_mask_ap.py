"""The COCO metric of masks: by hand, on ground truth fed back, against pycocotools itself."""

import contextlib
import csv
import io
import json
import math

import numpy as np
import pytest
from absl import logging
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.evaluation.coco import CocoEvaluator
from spinenet_tf.evaluation.report import METRICS

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}]
SIZE = (20, 40)


def rectangle(top, left, bottom, right):
  mask = np.zeros(SIZE, bool)
  mask[top:bottom, left:right] = True
  return mask_lib.encode(mask[None])[0]


def record(source_id, boxes=(), classes=(), masks=None, **more):
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  out = {
    "source_id": source_id,
    "height": SIZE[0],
    "width": SIZE[1],
    "boxes": boxes,
    "class_ids": list(classes),
    **more,
  }
  return out if masks is None else {**out, "masks": masks}


def batch(source_ids, sizes=None, scale=(1.0, 1.0)):
  return {
    "source_id": [str(s) for s in source_ids],
    "scale": np.tile(np.array(scale), (len(source_ids), 1)),
    "original_size": np.array([SIZE] * len(source_ids) if sizes is None else sizes),
  }


def found(boxes, scores, classes, **masks):
  """Detections of one picture."""
  return {
    "detection_boxes": np.reshape(boxes, (1, -1, 4)),
    "detection_scores": np.reshape(scores, (1, -1)),
    "detection_classes": np.reshape(classes, (1, -1)),
    "num_detections": [len(scores)],
    **masks,
  }


def test_masks_count_by_their_own_overlap():
  box = [4, 10, 12, 18]  # 8 x 8; the object fills it, three quarters are found: IoU 0.75
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [box], [5], [rectangle(*box)])], masks=True)
  mask = np.ones((1, 1, 4, 4), np.float32)
  mask[..., 3, :] = 0  # bins of 2 pixels: 0.75 at y = 9.5, 0.25 at 10.5
  evaluator.update(found(box, [0.9], [0], detection_masks=mask), batch([1]))
  result = evaluator.result()
  assert result["AP"] == pytest.approx(1.0)
  assert result["mask_AP50"] == pytest.approx(1.0) and result["mask_AP75"] == pytest.approx(1.0)
  assert result["mask_AP"] == pytest.approx(0.6)  # 0.50, 0.55 ... 0.75 of ten
  assert result["per_class"]["cat"]["mask_AP"] == pytest.approx(0.6)
  assert math.isnan(result["per_class"]["dog"]["mask_AP"])


def test_input_pixels_and_the_border_of_the_picture():
  """A box that goes on into the padding: its mask is cut, not squeezed."""
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [[10, 30, 20, 40]], [5], [rectangle(10, 30, 20, 40)])], masks=True)
  mask = np.ones((1, 1, 2, 2), np.float32)
  mask[0, 0, 1] = 0  # of rows 10 to 30 the lower half
  evaluator.update(found([5, 60, 15, 80], [0.9], [0], detection_masks=mask), batch([1], scale=(0.5, 2.0)))
  assert evaluator.result()["mask_AP"] == pytest.approx(1.0)


def read(path):
  data = json.loads(path.read_text())
  coco = COCO()
  coco.dataset = data
  with contextlib.redirect_stdout(io.StringIO()):
    coco.createIndex()
  return data, coco


@pytest.fixture(scope="module", params=["coco_sample", "nuclei"])
def annotations(request, shared_data):
  return shared_data / request.param / "annotations" / "instances_val.json"


@pytest.fixture(scope="module")
def few(annotations, tmp_path_factory):
  """The annotations of pictures with at most 100 objects, the most that the metric looks at."""
  data, coco = read(annotations)
  data["images"] = [image for image in data["images"] if len(coco.getAnnIds(image["id"])) <= 100]
  kept = {image["id"] for image in data["images"]}
  data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
  path = tmp_path_factory.mktemp("few") / "instances.json"
  path.write_text(json.dumps(data))
  return path


@pytest.mark.parametrize("form", ["rles", "pixels"])
def test_ground_truth_fed_back_scores_one(few, form):
  data, coco = read(few)
  outputs = {category["id"]: k for k, category in enumerate(data["categories"])}
  evaluator = CocoEvaluator(data["categories"], annotation_file=few, masks=True)
  scale = np.array([0.75, 0.5, 0.75, 0.5])
  for image in data["images"]:
    objects = coco.loadAnns(coco.getAnnIds(image["id"]))
    rles = [coco.annToRLE(a) for a in objects]
    boxes = np.reshape([a["bbox"] for a in objects], (-1, 4))
    masks = {"detection_rles": [rles]}
    if form == "pixels":  # masks of one value for each pixel, in boxes of whole pixels
      boxes = np.reshape([mask_util.toBbox(rle) for rle in rles], (-1, 4))
      whole = boxes.astype(int).tolist()
      masks = [mask_lib.decode(rle)[y : y + h, x : x + w] for rle, (x, y, w, h) in zip(rles, whole)]
      masks = {"detection_masks": [masks]}
    x, y, w, h = boxes.T
    corners = np.stack([y, x, y + h, x + w], axis=1) * scale
    classes = [outputs[a["category_id"]] for a in objects]
    sizes = [[image["height"], image["width"]]]
    evaluator.update(
      found(corners, np.full(len(objects), 0.9), classes, **masks), batch([image["id"]], sizes, scale[:2])
    )
  result = evaluator.result()
  assert result["mask_AP"] == pytest.approx(1.0) and result["mask_AR100"] == pytest.approx(1.0)
  by_class = [row["mask_AP"] for row in result["per_class"].values()]
  assert np.nanmin(by_class) == pytest.approx(1.0)
  if form == "rles":
    assert result["AP"] == pytest.approx(1.0)


def test_equals_pycocotools(annotations, tmp_path):
  """Masks of 28 x 28 in disturbed boxes: the file that is written scores the same with the annotations."""
  data, coco = read(annotations)
  outputs = {category["id"]: k for k, category in enumerate(data["categories"])}
  evaluator = CocoEvaluator(data["categories"], annotation_file=annotations, masks=True)
  rng = np.random.default_rng(0)
  yy, xx = np.mgrid[-1:1:28j, -1:1:28j]
  for image in data["images"]:
    objects = coco.loadAnns(coco.getAnnIds(image["id"]))[:60]
    x, y, w, h = np.reshape([a["bbox"] for a in objects for _ in range(2)], (-1, 4)).T
    corners = np.stack([y, x, y + h, x + w], axis=1) + rng.normal(0, 0.03, (len(x), 4)) * np.stack([h, w, h, w], axis=1)
    masks = [np.exp(-(yy**2 + xx**2) * rng.uniform(0.1, 0.8)) for _ in x]
    scores = np.round(rng.uniform(0.1, 1, len(x)), 2)  # two decimals: with ties, whose order counts
    classes = [outputs[a["category_id"]] for a in objects for _ in range(2)]
    masks = np.reshape(masks, (1, -1, 28, 28))
    sizes = [[image["height"], image["width"]]]
    evaluator.update(found(corners, scores, classes, detection_masks=masks), batch([image["id"]], sizes))
  evaluator.save(tmp_path)
  rows = json.loads((tmp_path / "detections.json").read_text())
  result = evaluator.result()
  for kind, prefix in (("segm", "mask_"), ("bbox", "")):
    unused = "segmentation" if kind == "bbox" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
      truth = COCO(str(annotations))
      results = truth.loadRes([{key: value for key, value in row.items() if key != unused} for row in rows])
      evaluation = COCOeval(truth, results, kind)
      evaluation.evaluate()
      evaluation.accumulate()
      evaluation.summarize()
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    np.testing.assert_allclose([result[prefix + key] for key in METRICS], stats, atol=1e-9)
  assert 0.05 < result["mask_AP"] < 0.9, "a disturbance that tests nothing"
  assert np.nanmean([row["mask_AP"] for row in result["per_class"].values()]) == pytest.approx(result["mask_AP"])


def test_objects_without_a_mask_are_said_and_count_for_boxes_only(monkeypatch):
  said = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
  boxes = [[2, 2, 10, 10], [2, 20, 10, 30], [12, 2, 18, 10]]
  truth = [record("a", boxes[:2], [5, 5], [rectangle(*boxes[0]), None]), record("b", boxes[2:], [2])]
  evaluator = CocoEvaluator(CATEGORIES, truth, masks=True)
  assert said == ["2 of 3 objects of the ground truth have no mask and count for boxes only, in pictures a, b"]
  # What is found at the object without a mask is no error, what is found elsewhere is.
  masks = [[rectangle(*boxes[0]), rectangle(3, 22, 9, 28)]]
  evaluator.update(found(boxes[:2], [0.8, 0.9], [0, 0], detection_rles=masks), batch("a"))
  evaluator.update(found([], [], [], detection_rles=[[]]), batch("b"))
  result = evaluator.result()
  assert result["mask_AP"] == pytest.approx(1.0) and math.isnan(result["per_class"]["dog"]["mask_AP"])
  assert result["per_class"]["cat"]["AP"] == pytest.approx(1.0) and result["per_class"]["dog"]["AP"] == 0.0
  evaluator.reset()
  masks = [[rectangle(*boxes[0]), rectangle(12, 32, 18, 38)]]
  evaluator.update(found(boxes[:2], [0.8, 0.9], [0, 0], detection_rles=masks), batch("a"))
  assert evaluator.result()["mask_AP"] == pytest.approx(0.5)


def test_crowds_count_neither_way():
  boxes = [[2, 2, 10, 10], [2, 20, 18, 38]]
  truth = record("1", boxes, [5, 5], [rectangle(*box) for box in boxes], is_crowd=[False, True])
  evaluator = CocoEvaluator(CATEGORIES, [truth], masks=True)
  inside = rectangle(4, 22, 8, 26)
  masks = [[rectangle(*boxes[0]), inside, inside]]
  evaluator.update(
    found([boxes[0], [4, 22, 8, 26], [4, 22, 8, 26]], [0.5, 0.9, 0.8], [0] * 3, detection_rles=masks), batch([1])
  )
  assert evaluator.result()["mask_AP"] == pytest.approx(1.0)


def test_files_and_table(tmp_path):
  box = [4, 10, 12, 18]
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [box], [5], [rectangle(*box)])], masks=True)
  evaluator.update(found(box, [0.9], [0], detection_masks=np.ones((1, 1, 3, 3))), batch([1]))
  evaluator.save(tmp_path)
  (row,) = json.loads((tmp_path / "detections.json").read_text())
  assert row["segmentation"] == mask_lib.to_json(rectangle(*box)) and row["bbox"] == [10, 4, 8, 8]
  metrics = json.loads((tmp_path / "metrics.json").read_text())
  assert {f"mask_{key}" for key in METRICS} < set(metrics) and metrics["mask_APl"] is None
  assert metrics["per_class"]["cat"]["mask_AP"] == pytest.approx(1.0)
  cat, dog = csv.DictReader((tmp_path / "per_class.csv").open())
  assert (cat["mask_AP"], dog["mask_AP"], cat["objects"]) == ("1.000000", "", "1")
  lines = evaluator.table().splitlines()
  assert lines[0].split() == ["box", "mask"] and lines[1].startswith("AP      1.000  1.000  IoU")
  assert any(line.split() == ["cat", "1.000", "1.000", "1.000", "1.000", "1", "1"] for line in lines)


def test_boxes_alone_ignore_masks(tmp_path):
  box = [4, 10, 12, 18]
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [box], [5], [rectangle(*box)])])
  evaluator.update(found(box, [0.9], [0], detection_masks=np.zeros((1, 1, 3, 3))), batch([1]))
  evaluator.save(tmp_path)
  assert "mask_AP" not in evaluator.result() and "mask" not in evaluator.table()
  assert "segmentation" not in (tmp_path / "detections.json").read_text()


def test_no_objects_and_no_detections():
  evaluator = CocoEvaluator(CATEGORIES, [record("1"), record("2")], masks=True)
  evaluator.update(found([], [], [], detection_masks=np.zeros((1, 0, 28, 28))), batch([1]))
  assert math.isnan(evaluator.result()["mask_AP"]) and "-" in evaluator.table()


@pytest.mark.parametrize(
  ("masks", "text"),
  [
    ({}, "have no detection_masks"),
    ({"detection_masks": np.full((1, 1, 2, 2), np.nan)}, "mask is not finite"),
    ({"detection_rles": [[{"size": [9, 9], "counts": b"i"}]]}, r"has size \[9, 9\], its picture \[20, 40\]"),
  ],
)
def test_bad_detections(masks, text):
  box = [4, 10, 12, 18]
  evaluator = CocoEvaluator(CATEGORIES, [record("1", [box], [5], [rectangle(*box)])], masks=True)
  with pytest.raises(UserError, match=text):
    evaluator.update(found(box, [0.9], [0], **masks), batch([1]))


def test_pictures_of_another_size():
  evaluator = CocoEvaluator(CATEGORIES, [record("1")], masks=True)
  with pytest.raises(UserError, match=r"evaluated with \[9, 9\] pixels .* has it with \[20, 40\]"):
    evaluator.update(found([0, 0, 5, 5], [0.9], [0], detection_masks=np.ones((1, 1, 2, 2))), batch([1], [[9, 9]]))


@pytest.mark.parametrize(
  ("masks", "text"),
  [
    ([None], "none of the 1 objects of the ground truth has one"),
    (None, "none of the 1 objects of the ground truth has one"),
    ([], "1 boxes and 0 masks"),
    ([{"size": [9, 9], "counts": b"i"}], r"is \(20, 40\) \(height, width\), a mask of it \(9, 9\)"),
  ],
)
def test_bad_ground_truth(masks, text):
  with pytest.raises(UserError, match=text):
    CocoEvaluator(CATEGORIES, [record("1", [[0, 0, 9, 9]], [5], masks)], masks=True)


def test_annotation_file_without_sizes(tmp_path):
  one = {"image_id": 1, "category_id": 5, "bbox": [0, 0, 3, 3], "segmentation": [[0, 0, 3, 0, 3, 3]]}
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"images": [{"id": 1}], "categories": CATEGORIES, "annotations": [one]}))
  CocoEvaluator(CATEGORIES, path)
  with pytest.raises(UserError, match="image 1 needs height and width"):
    CocoEvaluator(CATEGORIES, path, masks=True)
