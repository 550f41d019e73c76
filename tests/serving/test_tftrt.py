"""TF-TRT: what can be known without a GPU. The converter is a stand-in that keeps the graph and runs what it is fed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.ops import nms
from spinenet_tf.serving import tftrt
from spinenet_tf.serving.combined_nms import MOST_BOXES, suppress
from spinenet_tf.serving.load import load
from spinenet_tf.serving.module import ServingModule
from spinenet_tf.serving.verify import VerificationError


class Converter:
  """TF-TRT's interface; the engines' numbers are the network's plus `noise`."""

  made: list

  def __init__(self, **arguments):
    self.arguments, self.calibration, self.fed = arguments, [], []
    self.loaded = tf.saved_model.load(arguments["input_saved_model_dir"])
    self.function = self.loaded.signatures[arguments["input_saved_model_signature_key"]]
    type(self).made.append(self)

  def convert(self, calibration_input_fn=None):
    assert (calibration_input_fn is not None) == (self.arguments["precision_mode"] == "INT8")
    self.calibration = [{k: v.shape for k, v in one.items()} for one in (calibration_input_fn or list)()]

  def build(self, input_fn):
    for inputs in input_fn():
      self.fed.append(next(iter(inputs.values())).shape.as_list())
      self.function(**inputs)

  def save(self, folder):
    module = tf.Module()
    module.kept = self.loaded
    tf.saved_model.save(module, folder, signatures={self.arguments["input_saved_model_signature_key"]: self.function})


@pytest.fixture
def converter(monkeypatch):
  Converter.made = []
  monkeypatch.setattr(tftrt, "check_machine", lambda: None)
  monkeypatch.setattr(tftrt, "_converter", lambda: Converter)
  return Converter


def test_one_message_before_any_work(tmp_path, root):
  with pytest.raises(UserError, match=r"TF-TRT|TensorRT|GPU"):
    tftrt.export(tmp_path / "no run", tmp_path / "out")
  command = [sys.executable, "export/tftrt.py", f"--model_dir={tmp_path}/none", f"--output={tmp_path}/out"]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
  (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert "export/onnx.py" in message
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("version", "build", "gpus", "text"),
  [
    ((2, 18), {}, [], "TF-TRT is part of TensorFlow 2.15 to 2.17"),
    ((2, 15), {"is_tensorrt_build": False}, [], "built without TensorRT: install the GPU build"),
  ],
)
def test_what_is_missing_is_named(monkeypatch, version, build, gpus, text):
  monkeypatch.setattr(tftrt, "TF_VERSION", version)
  monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
  with pytest.raises(UserError, match=text):
    tftrt.check_machine()


@pytest.mark.slow
def test_a_detector_of_eight_bits(runs, tmp_path, converter):
  photos = tmp_path / "photos"
  photos.mkdir()
  rng = np.random.default_rng(0)
  for i in range(5):
    Image.fromarray(rng.integers(0, 256, (50 + i, 70, 3), np.uint8)).save(photos / f"{i}.png")
  out = tmp_path / "out"
  result = tftrt.export(
    runs("retinanet"), out, precision="INT8", batches=(3, 1), images=[photos], calibration=4, suppression="combined"
  )
  (made,) = converter.made
  assert made.arguments["precision_mode"] == "INT8" and made.arguments["use_calibration"]
  assert made.arguments["use_dynamic_shape"] and not made.arguments["allow_build_at_runtime"]
  assert made.calibration == [{"images": (3, 96, 128, 3)}] * 2, "4 images in batches of 3, all of one shape"
  assert made.fed == [[1, 96, 128, 3], [3, 96, 128, 3]]
  info = json.loads((out / "export_info.json").read_text())
  assert info["tensorrt"]["batches"] == [1, 3] and info["tensorrt"]["compared"]["AP"] > 0.8
  assert list(info["signatures"]) == ["serving_default"] and (out / "assets" / "labels.txt").is_file()
  assert "INT8, engines for batches of 1 to 3" in str(result)
  picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
  found, expected = load(out)(picture), load(runs("retinanet"))(picture)
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_raw_and_disagreement(runs, tmp_path, converter, monkeypatch):
  result = tftrt.export(runs("classification"), tmp_path / "raw", precision="FP32", signature="raw")
  assert converter.made[0].fed == [[1, 96, 128, 3], [8, 96, 128, 3]]
  assert result.info["tensorrt"]["compared"]["largest difference of logits"] < 1e-3
  honest = ServingModule.raw
  monkeypatch.setattr(ServingModule, "raw", lambda self, images: {k: v + 1 for k, v in honest(self, images).items()})
  folder, feed = tmp_path / "raw", tftrt.Feed(ServingModule.of(load(runs("classification"))), "raw")
  with pytest.raises(VerificationError, match="logits of the engines differ from the run's by 1"):
    tftrt.compare_raw(folder, feed, [np.zeros((9, 9, 3), np.uint8)], 0.05)


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ({"precision": "FP8"}, "precision is 'FP8'; it must be one of FP32, FP16, INT8"),
    ({"precision": "INT8"}, "INT8 is calibrated on images"),
    ({"batches": (0, 8)}, r"batches are \[0, 8\]"),
    ({"signature": "tf_example"}, "signature is 'tf_example'"),
    ({"suppression": "soft"}, "suppression is 'soft'"),
  ],
)
def test_bad_arguments(tmp_path, converter, arguments, text):
  with pytest.raises(UserError, match=text):
    tftrt.export(tmp_path, tmp_path / "out", **arguments)
  assert not list(tmp_path.iterdir())


def test_combined_suppression_equals_the_loop():
  rng = np.random.default_rng(0)
  count, classes = MOST_BOXES + 500, 3
  corner, side = rng.uniform(0, 80, (2, count, 2)), rng.uniform(5, 30, (2, count, 2))
  boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
  scores = rng.permutation(np.linspace(0, 0.9, 2 * count * classes, dtype=np.float32)).reshape(2, count, classes)
  scores *= rng.uniform(size=(2, count, 1)) < 0.3  # fewer than the limit count
  found = suppress(tf.constant(scores), tf.constant(boxes), score_threshold=0.2, max_detections=50)
  flat = scores.reshape(2, -1)
  order = np.argsort(-flat, axis=1, kind="stable")[:, :6000]
  best = np.take_along_axis(flat, order, 1)
  expected = nms.suppress(
    tf.gather(boxes, order // classes, batch_dims=1),
    tf.constant(np.where(best > 0.2, best, -1)),
    tf.constant(order % classes, tf.int32),
    iou_threshold=0.5,
    max_detections=50,
  )
  for key in expected:
    np.testing.assert_array_equal(found[key], expected[key], key)
