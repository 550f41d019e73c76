"""A TF1 checkpoint of a network of one's own is converted, moved, evaluated, looked at, exported and trained on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf import configs
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.importers import run, tensorflow_files
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.predict import make_report, predict
from spinenet_tf.serving.load import load_run
from spinenet_tf.serving.saved_model import export
from spinenet_tf.training import evaluation, loop, setup

pytestmark = pytest.mark.slow

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
TINY = {
  "name": "own",
  "filter_scale": 0.125,
  "endpoint_filters": 16,
  "head_convs": 1,
  "head_filters": 16,
  "stem": [{"level": 2, "block": "residual"}],
  "blocks": [
    {"level": level, "block": "residual", "parents": [max(0, i - 1), i][i == 0 :], "is_output": True}
    for i, level in enumerate(range(3, 6))
  ],
}


def _tf1_name(ours):
  """The TF1 code's name of a variable of this network."""
  unit, leaf = ours.rsplit("/", 1)
  part, *rest = unit.split("/")
  if part.endswith("_tower"):
    short, kind = ("class", "class_net") if part == "class_tower" else ("box", "box_net")
    called = {"predict": "predict", "conv1": "0"} | {f"norm1_level{level}": f"0-{level}" for level in range(3, 6)}
    return f"retinanet/{kind}/{short}-{called[rest[0]]}/{leaf}"
  order = ["stem", "block_00/repeat_0/shortcut", "block_00/repeat_0/conv1", "block_00/repeat_0/conv2"]
  order += [f"endpoint_{level}" for level in range(3, 6)]
  scope, where = "spinenet", unit.rpartition("/")[0]
  if where not in order:
    position = int(part[-2:]) - 1
    scope = f"spinenet/sub_policy{position}/scale_permuted_block_{position + 1}"
    order = [f"{part}/repeat_0/conv1", f"{part}/repeat_0/conv2"]
    if rest[0].startswith("resample"):
      scope = f"spinenet/sub_policy{position}/resample_with_alpha_resample_{position}_{rest[0][-1]}"
      order = [f"{part}/{rest[0]}/{role}" for role in ("squeeze", "down", "expand")]
  number = f"_{order.index(where)}" if order.index(where) else ""
  return f"{scope}/{'batch_normalization' if leaf in NORM else 'conv2d'}{number}/{leaf}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  prepare_synthetic(folder, train=4, val=2, size=64)
  return folder


@pytest.fixture(scope="module")
def own(data, tmp_path_factory, root):
  """(What the command said, the run, moved away from where it was written, weights under our names)."""
  folder = tmp_path_factory.mktemp("own")
  (folder / "own.json").write_text(json.dumps(Architecture.from_dict(TINY).to_dict()))
  categories = json.loads((data / "meta.json").read_text())["categories"]
  outputs = 1 + max(category["id"] for category in categories)
  model = build_retinanet(Architecture.from_dict(TINY), outputs, (64, 64), max_level=5)
  rng = np.random.default_rng(5)
  weights = {
    name: (rng.uniform(0.5, 1.5, v.shape) if "variance" in name or "gamma" in name else rng.normal(0, 0.1, v.shape))
    for name, v in named_variables(model).items()
  }
  weights = {name: np.float32(value) for name, value in weights.items()}
  tensorflow_files.write(str(folder / "model.ckpt-9"), {_tf1_name(name): value for name, value in weights.items()})
  command = [sys.executable, "-m", "spinenet_tf.convert", "--source=tpu_detection", str(folder / "model.ckpt-9")]
  command += [f"--architecture={folder / 'own.json'}", f"--meta={data}", "--image_size=64", "--activation=swish"]
  made = subprocess.run(
    [*command, f"--output={folder / 'first'}"], capture_output=True, text=True, cwd=root, timeout=300
  )
  assert made.returncode == 0, made.stderr[-2000:]
  os.rename(folder / "first", folder / "moved")
  return made.stdout, folder / "moved", weights


def test_what_is_said_and_written(own, data):
  said, folder, weights = own
  assert f"mapped      {len(weights):5d}" in said and "missing         0" in said
  described = json.loads((folder / "model.json").read_text())
  meta = json.loads((data / "meta.json").read_text())
  assert [c["name"] for c in described["categories"]] == [c["name"] for c in meta["categories"]]
  loaded = load_run(folder, fold=False)
  for name, variable in named_variables(loaded.model).items():
    np.testing.assert_array_equal(variable, weights[name], name)
  assert (loaded.model.style.activation, loaded.model.style.pooling) == ("swish", "single")
  gin = (folder / "config.gin").read_text()
  assert "legacy_plus_one = True" in gin and "train.initial_checkpoint =" not in gin and str(folder.parent) not in gin


def test_evaluated_shown_and_exported(own, data, tmp_path):
  _, folder, _ = own
  configs.parse([str(folder / "config.gin")], [f"DATA_DIR='{data}'"])
  result = evaluation.evaluate(configs.experiment(), folder, output_dir=tmp_path / "eval")
  assert 0 <= result.metrics["AP"] <= 1 and result.step == 0
  picture = np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "a.png")
  assert predict(make_report(folder, score_threshold=0.0), [tmp_path / "a.png"], tmp_path / "seen") == 0
  seen = json.loads((tmp_path / "seen" / "detections.json").read_text())
  assert len(seen["images"][0]["boxes"]) > 10
  made = export(folder, tmp_path / "saved", target="cpu", count=1)  # which compares it with the run
  assert made.info["settings"]["legacy_plus_one"]


def test_trained_on(own, data, tmp_path):
  _, folder, weights = own
  bindings = [f"DATA_DIR='{data}'", f"train.initial_checkpoint='{folder}'", "train.duration=1"]
  bindings += ["data.batch_size=2", "train.strategy='one_device'", "data.eval_split=None", "schedule.warmup=0"]
  configs.parse(
    [str(folder / "config.gin")], [*bindings, "schedule.learning_rate=1e-9", "schedule.drops=()", "schedule.factors=()"]
  )
  ready = setup.build(configs.experiment(), tmp_path / "run")
  started = {name: variable.numpy() for name, variable in named_variables(ready.model).items()}
  assert set(started) == set(weights)
  for name, value in started.items():
    np.testing.assert_array_equal(value, weights[name], name)
  loop.train(ready, config=configs.bound_text(), operative_config=configs.operative_text())
  assert ready.global_step == 1
  assert load_run(tmp_path / "run").model.style.pooling == "single"
  assert tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints"))


def test_connections_of_another_network_are_refused(own):
  _, folder, _ = own
  with pytest.raises(UserError, match="incomplete, or has other blocks|of another network"):
    run.load("tpu_detection", folder.parent / "model.ckpt-9")
