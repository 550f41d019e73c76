"""Measuring artefacts: every kind, in a process of its own; the tables hold what was measured."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data.preprocess import normalize, preprocess_image
from spinenet_tf.errors import UserError
from spinenet_tf.serving import latency, latency_report, onnx, saved_model, tflite
from spinenet_tf.serving.latency_backends import decode, letterbox
from spinenet_tf.serving.latency_backends import normalize as normalize_here

QUICK = latency.Settings(batches=(1, 2), threads=1, warmup=1, calls=2, rounds=2, picture_size=(48, 64))


@pytest.fixture(scope="module")
def artefacts(tiny_runs, tmp_path_factory):
  """SavedModel, ONNX file and TFLite file of one run."""
  folder, run = tmp_path_factory.mktemp("artefacts"), tiny_runs("retinanet")
  saved_model.export(run, folder / "saved", count=1)
  onnx.export(run, folder / "onnx", count=1)
  tflite.export(run, folder / "tflite", precisions=["float32"], count=1, least={"float32": 0.0})
  return [folder / "saved", folder / "onnx" / "images.onnx", folder / "tflite" / "float32_nms.tflite"]


@pytest.fixture(scope="module")
def measured(artefacts):
  return latency.measure(artefacts, (), QUICK)


@pytest.mark.slow
def test_every_kind_is_measured_end_to_end_and_in_parts(measured, artefacts):
  kinds = [one["kind"] for one in measured["artefacts"]]
  assert kinds == ["SavedModel", "ONNX", "TFLite float32"]
  for one, path in zip(measured["artefacts"], artefacts):
    assert one["path"] == str(path) and one["about"]["input_size"] == [64, 96]
    assert one["about"]["architecture"]["name"] == "tiny"
    assert set(one["batches"]) == {"1", "2"}
    for stages in one["batches"].values():
      assert {len(seconds) for seconds in stages.values()} == {QUICK.calls * QUICK.rounds}
      assert all(second > 0 for seconds in stages.values() for second in seconds)
    assert set(latency.parts(one, 1)) == set(latency.STAGES)
    assert one["peak"] > one["before"] > 1e6 and one["bytes"] > 1000


def test_processes_hold_their_own_runtime_only(measured):
  with_tensorflow, onnx_runtime, lite = (one["peak"] for one in measured["artefacts"])
  assert max(onnx_runtime, lite) < with_tensorflow, "neither imports TensorFlow"
  assert [one["runtime"].split()[0] for one in measured["artefacts"]] == ["TensorFlow", "ONNX", "LiteRT"]


def test_the_table(measured):
  text = latency_report.markdown(measured)
  lines = text.splitlines()
  head = [cell.strip() for cell in lines[0].strip("|").split("|")]
  rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:8]]
  assert head[:8] == ["model", "input", "format", "batch", "p50", "p90", "p95", "p99"]
  assert [(row[2], row[3]) for row in rows] == [
    (kind, batch) for kind in ("SavedModel", "ONNX", "TFLite float32") for batch in ("1", "2")
  ]
  seconds = measured["artefacts"][1]["batches"]["2"]["end_to_end"]
  assert rows[3][head.index("p50")] == f"{np.median(seconds) * 1000:.1f}"
  assert rows[3][head.index("images/s")] == f"{2 / np.mean(seconds):.1f}"
  assert "1 calls to warm up" in text and "threads: 1" in text and "48 x 64" in text


def test_parts_by_subtraction():
  result = {
    "batches": {"1": {"end_to_end": [9.0, 10.0, 11.0], "run": [7.0], "run_nms": [6.0, 6.0], "network": [6.5]}},
    "differences": {"preprocess": ["run", "run_nms"], "nms": ["run_nms", "network"], "decode": ["end_to_end", "gone"]},
  }
  assert latency.parts(result, 1) == {"preprocess": 1.0, "network": 6.5, "nms": 0.0}
  found = latency.percentiles(list(range(101)))
  assert found == {"mean": 50, "p50": 50, "p90": 90, "p95": 95, "p99": 99}


def test_the_papers_layout():
  def artefact(name, side, kind, median):
    batches = {"1": {"end_to_end": [median]}}
    return {
      "path": name,
      "kind": kind,
      "runtime": "R 1",
      "about": {"architecture": {"name": name}, "input_size": [side, side]},
      "batches": batches,
    }

  result = {
    "machine": {"cpu": "a CPU", "cores": 2},
    "settings": {"threads": 0, "warmup": 1, "calls": 1, "rounds": 1, "picture_size": [480, 640]},
    "artefacts": [
      artefact("spinenet49", 640, "SavedModel", 0.5),
      artefact("spinenet49", 640, "ONNX", 0.25),
      artefact("spinenet49xs_mobile", 256, "ONNX", 0.01),
    ],
  }
  rows = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in latency_report.paper_layout(result).splitlines()
  ]
  assert rows[2] == ["spinenet49s", "640", "39.9", "11.7 ms", "", ""]
  assert rows[3] == ["spinenet49", "640", "42.8", "15.3 ms", "500.0 ms", "250.0 ms"]
  assert rows[4][:4] == ["spinenet49", "896", "45.3", "34.3 ms"]
  assert rows[5] == ["spinenet49xs_mobile", "256", "", "", "", "10.0 ms"]


def test_preprocessing_without_tensorflow_is_that_of_the_package():
  rng = np.random.default_rng(0)
  for size in ((50, 60), (96, 64), (64, 96), (300, 200)):
    picture = np.kron(rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
    expected = preprocess_image(tf.constant(picture), (64, 96))[0].numpy()
    pixels = letterbox(picture, (64, 96))
    np.testing.assert_allclose(normalize_here(pixels), normalize(pixels), atol=1e-6)
    # Rounded to whole pixels, of which one is 0.0175 after normalisation.
    assert np.abs(normalize_here(pixels) - expected).max() < 0.04, size


def test_pictures_are_of_one_size(tmp_path):
  (file,) = latency.pictures((), (30, 50))
  assert decode(file).shape == (30, 50, 3)


def test_refused(tmp_path):
  with pytest.raises(UserError, match="is no artefact"):
    latency.measure([tmp_path / "nothing.onnx"], (), QUICK)
  (tmp_path / "bad.onnx").write_text("no")
  with pytest.raises(UserError, match="cannot be read by ONNX Runtime"):
    latency.measure([tmp_path / "bad.onnx"], (), QUICK)
  (tmp_path / "bad.tflite").write_text("no")
  with pytest.raises(UserError, match="cannot be read as a TFLite file"):
    latency.measure([tmp_path / "bad.tflite"], (), QUICK)
  with pytest.raises(UserError, match="warmup is 0"):
    latency.Settings(warmup=0)
  with pytest.raises(UserError, match=r"batches are \[0\]"):
    latency.Settings(batches=(0,))


@pytest.mark.slow
def test_the_command(artefacts, root, tmp_path):
  command = [sys.executable, "export/benchmark.py", "--batches=1", "--warmup=1", "--calls=1", "--rounds=1", "--table=4"]
  run = subprocess.run(
    [*command, f"--output={tmp_path / 'out'}", str(artefacts[1])], cwd=root, capture_output=True, text=True, check=False
  )
  assert run.returncode == 0, run.stderr[-2000:]
  assert "11.7 ms" in run.stdout and (tmp_path / "out.md").read_text() == run.stdout
  assert json.loads((tmp_path / "out.json").read_text())["artefacts"][0]["kind"] == "ONNX"
  for arguments, text in (([], "no artefacts were given"), ([str(artefacts[1])], "exists already")):
    again = subprocess.run(
      [*command, f"--output={tmp_path / 'out'}", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2 and text in again.stderr and "Traceback" not in again.stderr
