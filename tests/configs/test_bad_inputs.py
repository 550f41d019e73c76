"""Mistakes that are known before the first step: each is one error that names value, rule and remedy."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from spinenet_tf import configs
from spinenet_tf.errors import UserError
from spinenet_tf.training import checks
from spinenet_tf.training import setup as setups


def build(shapes, model_dir, *params):
  configs.parse(["demo.gin", "overlays/tiny_cpu.gin"], [f"DATA_DIR='{shapes}'", *params])
  return setups.build(configs.experiment(), model_dir)


@pytest.mark.parametrize(
  "param, said",
  [
    ("model.image_size=100", r"\(100, 100\).*multiples of 2\^max_level = 128.*\(128, 128\)"),
    ("model.image_size='big'", "image_size is 'big'"),
    ("model.num_classes=80", r"num_classes is 80.* has 5 classes"),
    ("model.architecture='spinenet50'", "spinenet50"),
    ("DATA_DIR='nowhere'", "'nowhere'.*no such folder.*prepare"),
    ("data.train_split='trian'", r"'trian'.*\['train', 'val'\]"),
    ("data.train_pattern='nowhere/*.tfrecord'", "no file matches"),
    ("train.duration='soon'", "'soon'.*steps"),
    ("train.precision='float64'", "float64.*mixed_bfloat16"),
    ("train.strategy='both'", "both.*mirrored"),
    ("train.strategy='multi_worker'", "TF_CONFIG"),
    ("train.initial_checkpoint='nowhere'", "no checkpoint at 'nowhere'"),
    ("train.optimizer='sgd'", "@sgd"),
    ("train.freeze=('encoder',)", "'encoder'.*matches no"),
    ("train.freeze='stem'", "list of patterns"),
    ("train.accumulation=0", "accumulation is 0"),
    ("train.clip_norm=-1", "clip_norm is -1"),
    ("data.batch_size=2.5", "batch_size is 2.5"),
    ("schedule.drops=('50%',)", "1 drops and 2 factors"),
  ],
)
def test_mistakes(shapes, tmp_path, param, said):
  with pytest.raises(UserError, match=said):
    build(shapes, tmp_path / "run", param)
  assert not (tmp_path / "run/checkpoints").exists()


def test_batch_and_replicas():
  checks.check_batch(8, 4)
  with pytest.raises(UserError, match="batch_size is 10 .* 4 replicas.*8 or 12"):
    checks.check_batch(10, 4)


def test_no_meta_and_no_number_of_classes(shapes, tmp_path):
  for file in shapes.glob("*.tfrecord"):
    os.link(file, tmp_path / file.name)
  with pytest.raises(UserError, match="num_classes must be set"):
    build(tmp_path, tmp_path / "run")


def test_a_folder_that_cannot_be_made(shapes, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"--model_dir=.*file/run cannot be written"):
    build(shapes, tmp_path / "file" / "run")


def test_small_objects_are_told(shapes):
  from spinenet_tf.ops.anchors import AnchorConfig

  anchors = AnchorConfig(anchor_size=3)
  pattern = str(shapes / "train-*.tfrecord")
  assert checks.small_object_share(pattern, (1280, 1280), anchors) == 0
  share = checks.small_object_share(pattern, (32, 32), anchors)
  assert share > 0.5
  note = checks.small_object_note(share, (32, 32), anchors)
  assert f"{100 * share:.0f}%" in note and "model.anchor_size" in note and "model.min_level" in note
  assert checks.small_object_note(0.01, (32, 32), anchors) is None


def test_the_commands_end_with_one_line_and_exit_code_2(root, tmp_path):
  for module, arguments, said in (
    ("train", ["--gin_file=experiments/demo.gin"], "--model_dir is missing"),
    ("train", ["--gin_file=experiments/none.gin", f"--model_dir={tmp_path}"], "no gin file"),
    ("evaluate", [f"--model_dir={tmp_path}"], "config.gin does not exist"),
  ):
    done = subprocess.run(
      [sys.executable, "-m", f"spinenet_tf.{module}", *arguments], cwd=root, capture_output=True, text=True, timeout=300
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and said in lines[0], done.stderr
    assert "Traceback" not in done.stderr


def test_tensorflow_finds_no_tpu_here(shapes, tmp_path):
  if tf.config.list_logical_devices("TPU"):
    pytest.skip("there is a TPU")
  with pytest.raises(UserError, match="no TPU found"):
    build(shapes, tmp_path / "run", "train.strategy='tpu'")
