"""What cannot be exported, or loaded again: one message each, and nothing left behind."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.serving.load import load
from spinenet_tf.serving.saved_model import export, replacing


def saved_model(folder, text="old"):
  folder.mkdir()
  (folder / "saved_model.pb").write_text(text)
  return folder


def test_nothing_is_replaced_without_being_asked(tmp_path):
  place = saved_model(tmp_path / "out")
  with pytest.raises(UserError, match="exists already; give another --output, or --overwrite"):
    export(tmp_path, place)
  run = tmp_path / "run"
  run.mkdir()
  (run / "model.json").write_text("{}")
  with pytest.raises(UserError, match="is no SavedModel, and is not overwritten"):
    export(tmp_path, run, overwrite=True)
  with replacing(place, overwrite=True) as folder:
    saved_model(folder / "sub")
    assert (place / "saved_model.pb").read_text() == "old", "until the end"
  assert [path.name for path in place.iterdir()] == ["sub"]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_an_export_that_fails_or_is_killed_leaves_nothing_at_its_place(tmp_path):
  with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "out", overwrite=False) as folder:
    (folder / "half").write_text("")
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())
  code = f"""
import os
from spinenet_tf.serving.saved_model import replacing
with replacing({str(tmp_path / "out")!r}, False) as folder:
  (folder / "half").write_text("")
  os._exit(9)
"""
  subprocess.run([sys.executable, "-c", code], check=False)
  assert not (tmp_path / "out").exists()
  with replacing(tmp_path / "out", overwrite=False) as folder:
    (folder / "whole").write_text("")
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_place_that_cannot_be_written(runs, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    export(runs("classification"), tmp_path / "file" / "out")
  with pytest.raises(UserError, match="cannot be written"):
    export(runs("classification"), "/proc/none/out")


def test_runs_that_cannot_be_exported(runs, tmp_path):
  out = tmp_path / "out"
  with pytest.raises(UserError, match="does not exist"):
    export(tmp_path / "nowhere", out)
  bare = tmp_path / "bare"
  bare.mkdir()
  shutil.copy(runs("classification") / "model.json", bare)
  with pytest.raises(UserError, match="has no checkpoint .* yet"):
    export(bare, out)
  about = json.loads((runs("classification") / "model.json").read_text())
  about["model"]["num_classes"] = 3
  (bare / "model.json").write_text(json.dumps(about))
  (bare / "checkpoints").symlink_to(runs("classification") / "checkpoints")
  with pytest.raises(UserError, match="is not a checkpoint of this model"):
    export(bare, out)
  with pytest.raises(UserError, match="is a SavedModel; give the run"):
    export(saved_model(tmp_path / "exported"), out)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "exported"]


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ({"target": "tpu"}, "target is 'tpu'; it must be one of"),
    ({"max_pixels": 0}, "max_pixels is 0"),
    ({"input_size": (0, 128)}, "an input of 0 x 128 pixels .* each side must exceed 64"),
    ({"input_size": (128, 64)}, "an input of 128 x 64 pixels .* each side must exceed 64"),
    ({"top": 0}, "top is 0"),
    ({"score_threshold": 0.3}, "cannot be loaded with .*score_threshold"),
    ({"count": 0}, "0 images to verify on"),
    ({"images": ["nowhere.jpg"]}, "'nowhere.jpg' does not exist"),
  ],
)
def test_arguments_out_of_range(runs, tmp_path, arguments, text):
  with pytest.raises(UserError, match=text):
    export(runs("classification"), tmp_path / "out", **arguments)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command(runs, root, tmp_path):
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}

  def run(*flags):
    command = [sys.executable, str(root / "export" / "saved_model.py"), *map(str, flags)]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

  done = run(f"--model_dir={runs('classification')}", "--output=out/1", "--input_size=80,72", "--top=1", "--target=gpu")
  assert done.returncode == 0, done.stderr
  assert "at 80 x 72, 2 classes, for gpu" in done.stdout and "verified on 4 generated pictures" in done.stdout
  assert json.loads((tmp_path / "out/1/export_info.json").read_text())["settings"] == {"top": 1, "crop": 0.9}
  done = run(f"--model_dir={runs('classification')}", "--output=out/1")
  assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: out/1 exists already")
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_saved_models_that_cannot_be_loaded(exported, tmp_path):
  foreign = saved_model(tmp_path / "foreign")
  with pytest.raises(UserError, match=r"is a SavedModel without export_info.json, so its classes are not known"):
    load(foreign)
  path = exported("retinanet")[0].path
  shutil.copy(path / "export_info.json", foreign)
  with pytest.raises(UserError, match="cannot be loaded as a SavedModel"):
    load(foreign)
  (foreign / "export_info.json").write_text("{}")
  with pytest.raises(UserError, match=r"export_info.json cannot be read \(KeyError: 'labels'\)"):
    load(foreign)
  with pytest.raises(UserError, match=r"score_threshold is 0.0005; .* was exported with 0.001"):
    load(path, score_threshold=0.0005)
  with pytest.raises(UserError, match=r"cannot be loaded with \['top'\]"):
    load(path, top=3)
  with pytest.raises(UserError, match="batch_size is 0"):
    load(path, batch_size=0)
  with pytest.raises(UserError, match="top is 3; .* was exported with 2"):
    load(exported("classification")[0].path, top=3)


def test_predict_from_a_saved_model(exported, runs, tmp_path):
  from spinenet_tf.predict import make_report, predict

  images = []
  for i, size in enumerate(((70, 90, 3), (120, 80, 3))):
    from PIL import Image

    images.append(tmp_path / f"{i}.png")
    Image.fromarray(np.random.default_rng(i).integers(0, 256, size, np.uint8)).save(images[-1])
  said = []
  for model_dir in (runs("retinanet"), exported("retinanet")[0].path):
    output = tmp_path / pathlib.Path(model_dir).parent.name
    assert predict(make_report(model_dir, score_threshold=0.0015), images, output) == 0
    said.append(json.loads((output / "detections.json").read_text())["images"])
  for one, other in zip(*said):
    assert one["names"] == other["names"] and one["names"]
    np.testing.assert_allclose(one["boxes"], other["boxes"], atol=0.02)
    np.testing.assert_allclose(one["scores"], other["scores"], atol=2e-5)
