"""ONNX files of every task answer in ONNX Runtime as the run does, whatever the batch and the pictures' sizes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops import nms
from spinenet_tf.serving import packages
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.exported import as_detections
from spinenet_tf.serving.load import load
from spinenet_tf.serving.onnx import OPSET, convert, export
from spinenet_tf.serving.onnx_runtime import OnnxModel

SIZES = ((60, 50), (96, 128), (33, 128))


NAMES = {2: "cat", 9: "dog"}


def same(expected, found):
  """Of equal scores the order is left open."""
  settings = {"score_threshold": 0.001, "max_detections": 20}
  return verification.compare(expected, found, "pictures", settings=settings, boxes=2e-3, scores=1e-4).check("it")


def pictures(seed=3):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def exported(tiny_runs, tmp_path_factory):
  """Task -> result of the export."""
  folder, made = tmp_path_factory.mktemp("onnx"), {}

  def get(task):
    if task not in made:
      made[task] = export(tiny_runs(task), folder / task, count=2)
    return made[task]

  return get


def test_detections_in_pixels_of_the_pictures(tiny_runs, exported):
  model = OnnxModel(exported("retinanet").path / "images.onnx")
  for picture, one in zip(pictures(), load(tiny_runs("retinanet"))(pictures())):
    found = model(np.stack([picture] * 3))
    for row in range(3):
      outputs = {key: value[row] for key, value in found.items()}
      count = outputs["num_detections"]
      assert same([one], [as_detections(outputs, picture.shape[:2], NAMES)]).compared == count > 0
      assert (outputs["detection_classes"][count:] == -1).all() and not outputs["detection_scores"][count:].any()


def test_a_batch_is_as_many_single_pictures(exported):
  inputs = np.random.default_rng(1).normal(size=(5, 64, 96, 3)).astype(np.float32)
  for flavour in ("nms", "raw"):
    model = OnnxModel(exported("retinanet").path / f"{flavour}.onnx")
    together = model(inputs)
    for i in range(5):
      for key, value in model(inputs[i : i + 1]).items():
        np.testing.assert_allclose(value[0], together[key][i], atol=1e-4, err_msg=f"{flavour} {key}")
  assert together["raw_boxes"].shape == (5, (8 * 12 + 4 * 6 + 2 * 3) * 9, 4)
  assert together["raw_scores"].shape == (5, (8 * 12 + 4 * 6 + 2 * 3) * 9, 2)


def test_suppression_is_one_operation_of_the_standard_and_the_file_says_what_it_is(exported):
  import onnx

  result = exported("retinanet")
  assert set(result.verifications) == {"images", "nms", "raw"} and all(v.passed for v in result.verifications.values())
  for flavour in ("images", "nms", "raw"):
    file = onnx.load(result.path / f"{flavour}.onnx")
    operations = [node.op_type for node in file.graph.node]
    assert operations.count("NonMaxSuppression") == (flavour != "raw") and "Loop" not in operations
    assert [(opset.domain, opset.version) for opset in file.opset_import if opset.domain == ""] == [("", OPSET)]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in (*file.graph.input, *file.graph.output)} == {
      "batch"
    }
    about = OnnxModel(result.path / f"{flavour}.onnx").info
    assert about["labels"] == [[2, "cat"], [9, "dog"]] and about["input_size"] == [64, 96]
    assert about["flavour"] == flavour and about["opset"] == OPSET and len(about["weights_sha256"]) == 64
  info = json.loads((result.path / "export_info.json").read_text())
  assert info["versions"]["tf2onnx"] and info["verification"]["raw"]["passed"]
  assert (result.path / "labels.txt").read_text() == "2\tcat\n9\tdog\n"


@pytest.mark.slow
def test_masks(tiny_runs, exported):
  result = exported("mask_rcnn")
  picture = pictures()[1]
  expected = load(tiny_runs("mask_rcnn"))(picture)
  outputs = {key: value[0] for key, value in OnnxModel(result.path / "images.onnx")(picture[None]).items()}
  found = as_detections(outputs, picture.shape[:2], NAMES)
  assert same([expected], [found]).compared > 5 and "masks" in same([expected], [found]).largest


def test_a_classifier_has_no_suppression(tiny_runs, exported, tmp_path):
  result = exported("classification")
  assert set(result.verifications) == {"images", "raw"}
  found = OnnxModel(result.path / "images.onnx")(pictures()[0][None])
  expected = load(tiny_runs("classification"))(pictures()[0])
  np.testing.assert_array_equal(found["classes"][0], expected.classes)
  np.testing.assert_allclose(found["scores"][0], expected.scores, atol=1e-5)
  with pytest.raises(UserError, match=r"classification has no ONNX file \['nms'\]"):
    export(tiny_runs("classification"), tmp_path / "new", flavours=["nms"])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("candidates", [3, 400])
def test_converted_suppression_is_the_loop(candidates):
  """Many overlaps, equal scores, classes apart, images without any candidate, fewer candidates than places."""
  rng = np.random.default_rng(0)
  corner, side = rng.uniform(0, 40, (3, candidates, 2)), rng.uniform(5, 30, (3, candidates, 2))
  boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
  scores = np.sort(np.round(rng.uniform(0.1, 1, (3, candidates)), 2), axis=1)[:, ::-1].astype(np.float32)
  scores[1] = -1
  scores[2, candidates // 2 :] = -1
  classes = rng.integers(0, 4, (3, candidates)).astype(np.int32)
  packed = np.concatenate([boxes, scores[..., None], classes[..., None]], -1).astype(np.float32)
  limits = {"iou_threshold": 0.4, "max_detections": 25}

  def one_op(values):
    return nms.suppress_by_one_op(values[..., :4], values[..., 4], tf.cast(values[..., 5], tf.int32), 4, **limits)

  import onnxruntime

  file = convert(one_op, tf.TensorSpec([None, candidates, 6], tf.float32, "images"))
  session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
  names = [output.name for output in session.get_outputs()]
  expected = nms.suppress(boxes, scores, classes, **limits)
  found = dict(zip(names, session.run(None, {"images": packed})))
  assert set(found) == set(expected)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value.numpy(), err_msg=key)
  # TensorFlow's own operation leaves open how equal scores are ordered.
  for key in ("detection_scores", "num_detections"):
    np.testing.assert_array_equal(one_op(tf.constant(packed))[key], expected[key], err_msg=key)


def test_a_file_that_answers_otherwise_is_not_kept(tiny_runs, tmp_path, monkeypatch):
  from spinenet_tf.serving import onnx as module

  original = module.convert

  def wrong(function, spec):
    return original(lambda images: {k: v + tf.cast(0.01, v.dtype) for k, v in function(images).items()}, spec)

  monkeypatch.setattr(module, "convert", wrong)
  with pytest.raises(verification.VerificationError, match=r"raw\.onnx answers otherwise"):
    export(tiny_runs("classification"), tmp_path / "new", flavours=["raw"], count=1)
  assert not list(tmp_path.iterdir())


def test_refused_before_any_work(tiny_runs, tmp_path, monkeypatch):
  run = tiny_runs("retinanet")
  with pytest.raises(UserError, match=r"flavours \['tensorrt'\] of ONNX files are not known"):
    export(run, tmp_path / "new", flavours=["tensorrt"])
  (tmp_path / "there").mkdir()
  (tmp_path / "there" / "thesis.tex").write_text("all of it")
  with pytest.raises(UserError, match="exists already"):
    export(run, tmp_path / "there")
  with pytest.raises(UserError, match="no folder of ONNX files, and is not overwritten"):
    export(run, tmp_path / "there", overwrite=True)
  assert (tmp_path / "there" / "thesis.tex").read_text() == "all of it"
  monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"tf2onnx, onnx, onnxruntime is not installed; run: pip install"):
    export(run, tmp_path / "new")
  with pytest.raises(UserError, match="tf2onnx"):
    export(tmp_path / "no_such_run", tmp_path / "new")


@pytest.mark.slow
def test_the_command_is_not_in_the_way_of_the_package(tiny_runs, root, tmp_path):
  """export/onnx.py stands first on the path where `import onnx` looks."""
  command = [sys.executable, "export/onnx.py", f"--model_dir={tiny_runs('classification')}", "--flavours=raw"]
  run = subprocess.run([*command, f"--output={tmp_path / 'o'}"], cwd=root, capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stderr[-2000:]
  assert "opset 17" in run.stdout and (tmp_path / "o" / "raw.onnx").is_file()
  again = subprocess.run(
    [*command, f"--output={tmp_path / 'o'}"], cwd=root, capture_output=True, text=True, check=False
  )
  assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr
