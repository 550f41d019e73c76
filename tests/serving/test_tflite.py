"""TFLite files answer in the stock interpreter as the run does, quantised ones nearly."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.load import load
from spinenet_tf.serving.module import ServingModule
from spinenet_tf.serving.tflite import export
from spinenet_tf.serving.tflite_graph import all_anchors, decode_codes, normalize, pixels_of
from spinenet_tf.serving.tflite_runtime import TFLiteModel
from spinenet_tf.serving.tflite_verify import Check

ANCHORS = (8 * 12 + 4 * 6 + 2 * 3) * 9


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folder of four pictures."""
  folder = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for i, size in enumerate(((9, 12), (12, 9), (5, 5), (10, 15))):
    blocks = np.kron(rng.integers(0, 256, (*size, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(blocks).save(folder / f"{i}.png")
  return folder


@pytest.fixture(scope="module")
def exported(tiny_runs, photos, tmp_path_factory):
  """A mobile RetinaNet: (result of the export, its module)."""
  run = tiny_runs("retinanet", mobile=True)
  # Random weights: all that can be asked of whole numbers is that they compute something like it, and scores that are
  # equal but for rounding let different boxes survive the suppression.
  least = {"int8": 0.0, "float16": 0.7, "float32": 0.8}
  result = export(run, tmp_path_factory.mktemp("tflite") / "out", images=[photos], count=3, least=least)
  return result, ServingModule.of(load(run), target="gpu")


def test_pixels_become_the_networks_input(exported):
  _, module = exported
  picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
  pixels = pixels_of(module, picture)
  assert pixels.shape == (64, 96, 3) and 0 <= pixels.min() and pixels.max() <= 255
  np.testing.assert_allclose(normalize(tf.constant(pixels[None]))[0], module.prepare(tf.constant(picture)), atol=1e-5)
  np.testing.assert_allclose(pixels[:, 80:], np.broadcast_to([123.675, 116.28, 103.53], (64, 16, 3)), atol=1e-3)


def test_raw_outputs_and_their_layout(exported):
  result, module = exported
  model = TFLiteModel(result.path / "float32_raw.tflite")
  picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
  found = model(picture)
  assert {key: value.shape for key, value in found.items()} == {
    "raw_scores": (1, ANCHORS, 2),
    "raw_codes": (1, ANCHORS, 4),
  }
  expected = module.raw(module.prepare(tf.constant(picture))[None])
  np.testing.assert_allclose(found["raw_scores"], expected["raw_scores"], atol=1e-5)
  np.testing.assert_allclose(decode_codes(found["raw_codes"][0], module.model), expected["raw_boxes"][0], atol=1e-3)
  # What somebody without this package does with anchors.csv:
  anchors = np.loadtxt(result.path / "anchors.csv", delimiter=",", skiprows=1, dtype=np.float32)
  np.testing.assert_allclose(anchors, all_anchors(module.model), atol=1e-3)
  sides, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
  codes = found["raw_codes"][0]
  middle, half = codes[:, :2] * sides + centre, np.exp(np.minimum(codes[:, 2:], box_ops.MAX_LOG_SCALE)) * sides / 2
  by_hand = np.clip(np.concatenate([middle - half, middle + half], 1), 0, [64, 96, 64, 96])
  np.testing.assert_allclose(by_hand, expected["raw_boxes"][0], atol=0.01)


def test_detections_are_those_of_the_algorithm(exported):
  """Class by class, best first, boxes that overlap a better one by more than the threshold left out."""
  result, module = exported
  picture = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
  raw, found = (TFLiteModel(result.path / f"float32_{form}.tflite")(picture) for form in ("raw", "nms"))
  assert {key: value.shape for key, value in found.items()} == {
    "detection_boxes": (1, 20, 4),
    "detection_classes": (1, 20),
    "detection_scores": (1, 20),
    "num_detections": (1,),
  }
  boxes = box_ops.decode(raw["raw_codes"][0], all_anchors(module.model)).numpy()
  kept = []
  for label in range(2):
    free = raw["raw_scores"][0, :, label].copy()
    for _ in range(20):
      best = int(np.argmax(free))
      if free[best] < 0.001:
        break
      kept.append((free[best], label, *boxes[best]))
      free[np.asarray(box_ops.iou(boxes, boxes[best])) > 0.5] = -1
      free[best] = -1
  kept = np.array(sorted(kept, reverse=True)[:20], np.float32)
  assert found["num_detections"][0] == 20
  np.testing.assert_allclose(found["detection_scores"][0], kept[:, 0], atol=1e-6)
  rows = np.column_stack(
    [
      found["detection_scores"][0] * 1e3,
      found["detection_classes"][0] * 1e3,
      found["detection_boxes"][0] * [64, 96, 64, 96],
    ]
  )
  wanted = kept * [1e3, 1e3, 1, 1, 1, 1]
  nearest = np.abs(rows[:, None] - wanted[None]).max(axis=-1)  # of nearly equal scores the order is left open
  assert nearest.min(axis=1).max() < 0.02 and len(set(nearest.argmin(axis=1))) == 20


def test_smaller_files(exported):
  result, _ = exported
  size = {name: (result.path / name).stat().st_size for name in result.checks}
  assert set(size) == {f"{p}_{f}.tflite" for p in ("float32", "float16", "int8") for f in ("raw", "nms")}
  assert (
    size["int8_raw.tflite"] < size["float32_raw.tflite"] and size["float16_raw.tflite"] < size["float32_raw.tflite"]
  )


def test_whole_numbers_throughout(exported):
  result, _ = exported
  tensors = result.info["files"]["int8_raw.tflite"]["tensors"]
  assert tensors["images"] == {"dtype": "uint8", "shape": [1, 64, 96, 3], "scale": pytest.approx(1), "zero_point": 0}
  assert tensors["raw_scores"]["dtype"] == tensors["raw_codes"]["dtype"] == "int8"
  assert tensors["raw_scores"]["scale"] == pytest.approx(1 / 256) and tensors["raw_scores"]["zero_point"] == -128
  model = TFLiteModel(result.path / "int8_raw.tflite")
  details = model._interpreter.get_tensor_details()
  assert not [detail["name"] for detail in details if detail["dtype"] == np.float32]
  exact = TFLiteModel(result.path / "float32_raw.tflite")
  picture = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
  found, expected = model(picture), exact(picture)
  assert np.abs(found["raw_scores"] - expected["raw_scores"]).max() < 0.02
  spread = expected["raw_codes"].std()
  assert np.abs(found["raw_codes"] - expected["raw_codes"]).mean() < 0.3 * spread
  np.testing.assert_array_equal(model(picture.astype(np.float32))["raw_codes"], found["raw_codes"])


def test_no_operation_beyond_the_stock_interpreters(exported):
  result, _ = exported
  for name in result.checks:
    operations = {d["op_name"] for d in TFLiteModel(result.path / name)._interpreter._get_ops_details()}
    assert not {op for op in operations if op.startswith("Flex")}
    assert ("TFLite_Detection_PostProcess" in operations) == name.endswith("_nms.tflite")


def test_what_the_folder_says(exported):
  result, _ = exported
  info = json.loads((result.path / "export_info.json").read_text())
  assert info["task"] == "retinanet" and info["labels"] == [[2, "cat"], [9, "dog"]]
  verification = info["files"]["float32_raw.tflite"]["verification"]
  assert verification["agreement"]["AP"] >= 0.8 and max(verification["largest"].values()) < 1e-4
  assert (result.path / "labels.txt").read_text() == "2\tcat\n9\tdog\n"


def test_a_classifier(tiny_runs, photos, tmp_path):
  run = tiny_runs("classification", mobile=True)
  result = export(run, tmp_path / "out", images=[photos], count=4, precisions=["float32", "int8"], least={"int8": 0})
  assert set(result.checks) == {"float32_raw.tflite", "int8_raw.tflite"}
  module = ServingModule.of(load(run), target="gpu")
  picture = np.asarray(Image.open(photos / "0.png"))
  found = TFLiteModel(tmp_path / "out" / "float32_raw.tflite")(pixels_of(module, picture))
  expected = module.find(module.prepare(tf.constant(picture))[None])
  for key in ("probabilities", "features"):
    np.testing.assert_allclose(found[key], expected[key], atol=1e-4)


def test_agreement_below_the_least_is_an_error():
  low = Check("4 images", {"AP": 0.31, "AP50": 0.5, "AP75": 0.3, "objects": 12}, 0.5, {}, 1e-3)
  with pytest.raises(
    verification.VerificationError, match=r"int8_nms.tflite answers otherwise.*AP 0.310 .*at least 0.5"
  ):
    low.passed_or_raise("int8_nms.tflite")
  assert not Check("", {"AP": 1.0}, 0.5, {"raw_boxes": float("nan")}, 1e-3).passed
  assert Check("", {"AP": float("nan")}, 0.5, {"raw_boxes": 1e-4}, 1e-3).passed
  assert Check("", {"AP": 0.3}, 0.5, {"raw_boxes": 1e-4}, 1e-3).passed  # the numbers decide where there are any


def test_refused(tiny_runs, photos, tmp_path):
  run = tiny_runs("retinanet", mobile=True)
  with pytest.raises(UserError, match="int8 is calibrated on representative images"):
    export(run, tmp_path / "new")
  with pytest.raises(UserError, match=r"precisions \['int4'\] are not known"):
    export(run, tmp_path / "new", precisions=["int4"])
  for task in ("mask_rcnn", "solo"):
    with pytest.raises(UserError, match=f"a run of {task}, which has no TFLite file"):
      export(tiny_runs(task), tmp_path / "new", precisions=["float32"])
  with pytest.raises(UserError, match="has detection.legacy_plus_one on, and TFLite's operation decodes boxes without"):
    export(run, tmp_path / "new", precisions=["float32"], legacy_plus_one=True)
  with pytest.raises(UserError, match=r"a run of classification has no TFLite file \['nms'\]"):
    export(tiny_runs("classification"), tmp_path / "new", precisions=["float32"], forms=["nms"])
  (tmp_path / "there").mkdir()
  with pytest.raises(UserError, match="exists already"):
    export(run, tmp_path / "there", precisions=["float32"])
  assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_quantised_scores_reach_the_suppression_as_they_are(exported):
  result, _ = exported
  picture = np.random.default_rng(4).integers(0, 256, (64, 96, 3), np.uint8)
  raw, found = (TFLiteModel(result.path / f"int8_{form}.tflite")(picture) for form in ("raw", "nms"))
  count = int(found["num_detections"][0])
  assert (
    count > 0 and np.isin(np.round(found["detection_scores"][0, :count] * 256), np.round(raw["raw_scores"] * 256)).all()
  )
