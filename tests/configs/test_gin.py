"""Files and bindings to experiments, and what is said about mistakes in them."""

import os
import subprocess
import sys

import pytest

from spinenet_tf import configs
from spinenet_tf.errors import UserError


def test_values_reach_the_experiment(root, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # includes are found from anywhere
  configs.parse([str(root / "experiments/spinenet49_protB.gin")], ["data.batch_size=64", "DATA_DIR='/coco'"])
  made = configs.experiment()
  assert made.model.architecture == "spinenet49"
  assert made.model.size == (640, 640)
  assert (made.data.batch_size, made.data.directory) == (64, "/coco")
  assert made.data.scale_jitter == (0.5, 2.0)
  assert made.schedule.drops == ("320 epochs", "340 epochs")
  assert made.train.clip_norm == 10
  assert made.train.optimizer(learning_rate=lambda: 0.1).get_config()["momentum"] == 0.9


def test_later_files_win(root):
  names = ["experiments/spinenet49_protB.gin", "experiments/overlays/v100x8.gin", "overlays/bfloat16.gin"]
  configs.parse(names, ["train.precision='float32'"])
  made = configs.experiment()
  assert (made.data.batch_size, made.train.strategy, made.train.precision) == (64, "mirrored", "float32")


def test_the_bound_text_gives_the_same_experiment(tmp_path):
  configs.parse(["spinenet143_protC.gin"])
  first = configs.experiment()
  (tmp_path / "config.gin").write_text(configs.bound_text())
  configs.parse([str(tmp_path / "config.gin")])
  second = configs.experiment()
  for part in ("model", "data", "schedule", "loss", "detection"):
    assert getattr(first, part) == getattr(second, part)
  assert "model.dropblock_size = 7" in configs.operative_text()  # defaults are told as well


def test_unused_bindings_are_errors_unless_optional(tmp_path):
  file = tmp_path / "a.gin"
  file.write_text("BATCHSIZE = 8\nadam.beta_1 = 0.5\ndata.batch_size = 4\n")
  configs.parse([str(file)])
  configs.experiment()
  assert configs.unused_bindings() == ["BATCHSIZE", "adam.beta_1"]
  with pytest.raises(UserError, match=r"BATCHSIZE, adam.beta_1.*optional_bindings"):
    configs.check_unused()
  configs.check_unused(["BATCHSIZE", "adam.beta_1"])


@pytest.mark.parametrize(
  "text, said",
  [
    ("trian.duration = 3\n", r"a.gin, line 2.*No configurable matching 'trian.*known: classifier, classifier_loss"),
    ("train.duratoin = 3\n", r"a.gin, line 2.*duratoin.*train has: task, duration"),
    ("include 'base/nothing.gin'\n", r"a.gin, line 2: there is no file 'base/nothing.gin'"),
    ("data.batch_size = = 3\n", r"a.gin, line 2"),
    ("data.batch_size = 0\n", "batch_size is 0"),
    ("train.optimizer = @tfa.NoSuch\n", "No configurable matching"),
  ],
)
def test_mistakes_in_files_are_told_on_one_line(tmp_path, text, said):
  file = tmp_path / "a.gin"
  file.write_text("# a file\n" + text)
  with pytest.raises(UserError, match=said) as caught:
    configs.parse([str(file)])
    configs.experiment()
  assert "\n" not in str(caught.value)


def test_a_file_in_folders_below_the_working_directory(tmp_path, monkeypatch):
  """Python takes runs/mine for a package without a file; gin must not look into it."""
  folder = tmp_path / "runs" / "mine"
  folder.mkdir(parents=True)
  (folder / "best.gin").write_text("include 'demo.gin'\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  configs.parse(["runs/mine/best.gin"])
  assert configs.experiment().model.image_size == 128


def test_a_missing_file():
  with pytest.raises(UserError, match=r"no gin file 'experiments/nothing.gin'"):
    configs.parse(["experiments/nothing.gin"])


def test_a_mistyped_parameter_on_the_command_line():
  with pytest.raises(UserError, match="bacth"):
    configs.parse(["demo.gin"], ["data.bacth=3"])


@pytest.mark.slow
def test_lars_binds(root):
  """In a process of its own, where nothing has imported Model Garden before."""
  code = """
from spinenet_tf import configs
configs.parse(["classification/spinenet49_imagenet.gin"], ["train.optimizer=@lars", "lars.eeta=0.002"])
optimizer = configs.experiment().train.optimizer(learning_rate=lambda: 0.1)
configs.check_unused()
print(type(optimizer).__name__, optimizer.eeta, optimizer.momentum)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
  assert done.stdout.split() == ["LARS", "0.002", "0.9"], done.stderr


@pytest.mark.skipif(not configs._HAS_ADDONS, reason="tensorflow-addons does not import here: it needs TensorFlow 2.15")
def test_optimizers_of_addons_bind():
  configs.parse(["demo.gin"], ["train.optimizer=@tfa.LAMB", "tfa.LAMB.weight_decay=0.01"])
  optimizer = configs.experiment().train.optimizer(learning_rate=lambda: 0.1)
  assert type(optimizer).__name__ == "LAMB"
  configs.parse(["demo.gin"], ["train.optimizer=@tfa.Lookahead", "Lookahead.inner=@adam"])
  assert type(configs.experiment().train.optimizer(learning_rate=lambda: 0.1)).__name__ == "Lookahead"


def test_gin_is_imported_in_one_module_only(root):
  users = [
    os.path.relpath(path, root)
    for path in (root / "spinenet_tf").rglob("*.py")
    if any(line.startswith(("import gin", "from gin")) for line in path.read_text().splitlines())
  ]
  assert users == ["spinenet_tf/configs.py"]
