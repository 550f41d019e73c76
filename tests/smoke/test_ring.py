"""The whole road in a few steps, on whichever TensorFlow this is: prepare, train, evaluate, and addons' optimizers."""

import json
import os
import subprocess
import sys

import pytest

from spinenet_tf.compat import TF_VERSION

pytestmark = pytest.mark.slow


def _run(*args):
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
  result = subprocess.run([sys.executable, "-m", *args], capture_output=True, text=True, env=environment, timeout=900)
  assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
  return result.stdout + result.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  _run("spinenet_tf.prepare", "synthetic", f"--output={folder}", "--train=8", "--val=4", "--size=128")
  return folder


def _train(data, run, root, *bindings):
  params = [f"DATA_DIR='{data}'", *bindings]
  return _run(
    "spinenet_tf.train",
    f"--gin_file={root}/experiments/demo.gin",
    f"--gin_file={root}/experiments/overlays/tiny_cpu.gin",
    *(f"--gin_param={p}" for p in params),
    f"--model_dir={run}",
  )


def test_train_and_evaluate(data, root, tmp_path):
  _train(data, tmp_path, root)
  _run("spinenet_tf.evaluate", f"--model_dir={tmp_path}")
  metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
  assert 0 <= metrics["AP"] <= 1


@pytest.mark.skipif(TF_VERSION > (2, 15), reason="tensorflow-addons imports on TensorFlow 2.15 and below only")
def test_an_optimizer_of_tensorflow_addons_from_gin(data, root, tmp_path):
  _train(data, tmp_path, root, "train.optimizer=@tfa.LAMB")
  assert "LAMB" in (tmp_path / "config.gin").read_text()


@pytest.mark.skipif(TF_VERSION <= (2, 15), reason="here tensorflow-addons can be used")
def test_tensorflow_addons_is_refused_with_the_reason(data, root, tmp_path):
  command = [sys.executable, "-m", "spinenet_tf.train", f"--gin_file={root}/experiments/demo.gin"]
  command += ["--gin_param=train.optimizer=@tfa.LAMB", f"--model_dir={tmp_path}"]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 2
  assert "tensorflow-addons cannot be used here: it needs TensorFlow 2.15" in result.stderr
