"""Checkpoints: keeping, the best, partial loading, a file system that refuses."""

import json
import pathlib
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.training import checkpoints
from spinenet_tf.training.optimizers import sgd


@pytest.fixture
def make(tiny, tmp_path):
  def build(folder="run", classes=2, keep=2, **model):
    net = build_retinanet(tiny, classes, (128, 128), **model)
    optimizer = sgd(lambda: tf.constant(0.1))
    optimizer._create_all_weights(net.trainable_variables)
    step = tf.Variable(0, dtype=tf.int64)
    return net, step, checkpoints.Checkpoints(tmp_path / folder, net, optimizer, step, keep=keep)

  return build


def test_the_latest_stay_and_restore(make, tmp_path):
  net, step, saved = make()
  assert saved.restore() is None
  for number in (1, 2, 3):
    step.assign(number)
    net.trainable_variables[0].assign(tf.fill(net.trainable_variables[0].shape, float(number)))
    assert saved.save()
    assert saved.save() is None  # this step is saved
  assert {p.name for p in (tmp_path / "run/checkpoints").glob("*.index")} == {"step-2.index", "step-3.index"}
  other, other_step, again = make()
  assert again.restore().endswith("step-3")
  assert int(other_step) == 3
  assert (other.trainable_variables[0].numpy() == 3).all()


def test_the_best_is_replaced_only_by_a_better_one(make, tmp_path):
  _, step, saved = make()
  for number, ap, kept in ((1, 0.2, True), (2, 0.1, False), (3, float("nan"), False), (4, 0.3, True)):
    step.assign(number)
    assert saved.save_best({"AP": ap, "AP50": ap}) is kept
  assert saved.best() == {"step": 4, "AP": 0.3, "AP50": 0.3}
  assert [p.name for p in (tmp_path / "run/best").glob("*.index")] == ["step-4.index"]
  _, _, resumed = make()
  step.assign(5)
  assert not resumed.save_best({"AP": 0.25})


def test_find(make, tmp_path):
  _, step, saved = make()
  saved.save()
  step.assign(1)
  run = tmp_path / "run"
  assert checkpoints.find(run).endswith("checkpoints/step-0")
  saved.save_best({"AP": 0.5})
  assert checkpoints.find(run).endswith("best/step-1")
  assert checkpoints.find(run, prefer_best=False).endswith("checkpoints/step-0")
  assert checkpoints.find(run / "checkpoints/step-0").endswith("step-0")
  with pytest.raises(UserError, match="no checkpoint at"):
    checkpoints.find(tmp_path / "nothing")


def test_partial_load_reports_what_fits(make, tmp_path):
  old, _, saved = make(classes=2)
  saved.save()
  new, *_ = make("other", classes=3)
  report = checkpoints.load_matching(new, str(tmp_path / "run/checkpoints/step-0"))
  wrong = {name for name, *_ in report.wrong_shape}
  assert wrong == {"class_tower/predict/kernel", "class_tower/predict/bias"}
  assert len(report.matched) == len(named_variables(new)) - 2
  assert not report.missing and not report.unused
  assert "wrong shape      2" in str(report) and "class_tower/predict/bias: model [27], checkpoint [18]" in str(report)
  for name in ("box_tower/predict/kernel", "class_tower/conv1/kernel"):
    np.testing.assert_array_equal(named_variables(old)[name].numpy(), named_variables(new)[name].numpy())
  with pytest.raises(UserError, match="not a checkpoint of this model"):
    checkpoints.restore_weights(new, str(tmp_path / "run/checkpoints/step-0"))


def test_a_checkpoint_of_something_else(make, tmp_path):
  net, *_ = make()
  prefix = tf.train.Checkpoint(model=tf.Variable(1.0)).write(str(tmp_path / "else"))
  with pytest.raises(UserError, match="another architecture"):
    checkpoints.load_matching(net, prefix)


def test_a_file_system_that_refuses_keeps_the_last_good_checkpoint(make, tmp_path):
  _, step, saved = make()
  saved.save()
  step.assign(1)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a full disk does, writing ends half way
  try:
    with pytest.raises(UserError, match=r"cannot save the checkpoint of step 1 .* last good checkpoint is .*step-0"):
      saved.save()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  left = {p.name for p in (tmp_path / "run/checkpoints").iterdir()}
  assert left == {"checkpoint", "step-0.index", "step-0.data-00000-of-00001"}
  _, again_step, again = make()
  again_step.assign(7)
  assert again.restore().endswith("step-0") and int(again_step) == 0


def harm(folder, how):
  """Damages the newer of two checkpoints, of step 2, and leaves what killed saves leave."""
  newest = folder / ("step-2.index" if how == "index" else "step-2.data-00000-of-00001")
  content = bytearray(newest.read_bytes())
  content[len(content) // 3] ^= 16
  if how == "list":
    (folder / "checkpoint").write_text("")  # what a pulled plug makes of a file that was not flushed
  elif how == "gone":
    for path in folder.glob("step-2.*"):
      path.unlink()
  elif how == "no index":
    (folder / "step-2.index").unlink()
  else:
    newest.write_bytes(content[: len(content) // 2] if how == "cut" else content)
  (folder / "step-3.data-00000-of-00001.tempstate12").write_text("a killed save")
  (folder / "step-3_temp").mkdir()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(make, tmp_path):
  net, step, saved = make("whole")
  for number in (1, 2):
    step.assign(number)
    net.trainable_variables[0].assign(tf.fill(net.trainable_variables[0].shape, float(number)))
    saved.save()
  saved.save_best({"AP": 0.5})
  (tmp_path / "whole/best/step-3_temp").mkdir()
  other, other_step, _ = make("other")
  optimizer = sgd(lambda: tf.constant(0.1))
  optimizer._create_all_weights(other.trainable_variables)
  for how in ("bit", "cut", "index", "list", "gone", "no index"):
    shutil.copytree(tmp_path / "whole", tmp_path / how)
    folder = tmp_path / how / "checkpoints"
    harm(folder, how)
    again = checkpoints.Checkpoints(tmp_path / how, other, optimizer, other_step, keep=2)
    expected = 2 if how == "list" else 1
    assert again.restore().endswith(f"step-{expected}") and int(other_step) == expected, how
    assert (other.trainable_variables[0].numpy() == expected).all(), how
    assert bool(again.unreadable) is (how in ("bit", "cut", "index")), how
    assert not list(folder.glob("step-3*")) and not (expected == 1 and list(folder.glob("step-2.*"))), how
    assert {p.name for p in folder.glob("unreadable-*.index")} == set(
      ["unreadable-step-2.index"] * bool(again.unreadable)
    )
    assert not (tmp_path / how / "best/step-3_temp").exists() and (tmp_path / how / "best/step-2.index").exists()
    for number in (2, 3, 4):
      other_step.assign(number)
      again.save()
    assert checkpoints.find(tmp_path / how, prefer_best=False).endswith("step-4"), how
    assert {path.stem for path in folder.glob("step-*.index")} == {"step-3", "step-4"}, how


def test_a_checkpoint_that_was_completed_and_not_named_is_used(make, tmp_path):
  net, step, saved = make()
  folder = tmp_path / "run/checkpoints"
  for number in (1, 2):
    step.assign(number)
    net.trainable_variables[0].assign(tf.fill(net.trainable_variables[0].shape, float(number)))
    saved.save()
    if number == 1:
      state = (folder / "checkpoint").read_bytes()
  (folder / "checkpoint").write_bytes(state)  # killed right before the state file was replaced
  assert checkpoints.find(tmp_path / "run", prefer_best=False).endswith("step-2")
  other, other_step, again = make()
  assert again.restore().endswith("step-2") and int(other_step) == 2 and not again.unreadable
  assert (other.trainable_variables[0].numpy() == 2).all()
  for number in (3, 4):
    other_step.assign(number)
    again.save()
  assert {path.name.split(".")[0] for path in folder.iterdir()} == {"checkpoint", "step-3", "step-4"}


def test_an_earlier_checkpoint_chosen_by_hand_is_used(make, tmp_path):
  _, step, saved = make()
  folder = tmp_path / "run/checkpoints"
  for number in (1, 2):
    step.assign(number)
    saved.save()
  tf.compat.v1.train.update_checkpoint_state(str(folder), "step-1", ["step-1", "step-2"])
  _, other_step, again = make()
  assert again.restore().endswith("step-1") and int(other_step) == 1
  assert (folder / "unreadable-step-2.index").exists()


def test_when_no_checkpoint_can_be_read_nothing_starts_afresh(make, tmp_path):
  _, _, saved = make()
  saved.save()
  for path in (tmp_path / "run/checkpoints").glob("step-0.*"):
    path.write_bytes(path.read_bytes()[:10])
  with pytest.raises(UserError, match=r"step-0 cannot be read .*no checkpoint in .* can be read; copy one back"):
    make()[2].restore()


def test_a_full_disk_at_a_line_of_metrics(tmp_path, monkeypatch):
  from spinenet_tf.training.run_directory import RunDirectory

  monkeypatch.setattr(RunDirectory, "metrics_file", pathlib.Path("/dev/full"))
  with pytest.raises(UserError, match=r"cannot write /dev/full \(No space left on device\); free some space"):
    RunDirectory(tmp_path).append_metrics({"step": 1})


def test_run_directory_differences(tmp_path):
  from spinenet_tf.training.run_directory import RunDirectory

  run = RunDirectory(tmp_path / "run")
  run.prepare()
  model = {
    "format": 1,
    "task": "retinanet",
    "architecture": architecture("49").to_dict(),
    "categories": [{"id": 1, "name": "cat"}],
  }
  model["model"] = {"num_classes": 1, "input_size": [128, 128]}
  run.check_same(model)
  run.write_json("model.json", model)
  run.check_same(model)
  del model["architecture"]["note"]  # a run of before there were notes
  run.write_json("model.json", model)
  run.check_same({**model, "architecture": architecture("49").to_dict()})
  for change, text in (
    ({"architecture": architecture("96").to_dict()}, "architecture is spinenet49, this experiment has spinenet96"),
    ({"model": {"num_classes": 2, "input_size": [128, 128]}}, "num_classes is 1, this experiment has 2"),
    ({"model": {"num_classes": 1, "input_size": [256, 128]}}, r"input_size is \[128, 128\]"),
    ({"categories": [{"id": 1, "name": "dog"}]}, "list of classes"),
  ):
    with pytest.raises(UserError, match=text):
      run.check_same({**model, **change})


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
  from spinenet_tf.training.run_directory import RunDirectory

  run = RunDirectory(tmp_path)
  for step in (1, 2, 3):
    run.append_metrics({"step": step, "kind": "train"})
  with run.metrics_file.open("a") as file:
    file.write('{"step": 4, "ki')  # a kill in the middle of a line
  run.drop_metrics_after(2)
  assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [1, 2]


def test_resuming_comes_before_the_initial_checkpoint(experiment, make, tmp_path):
  from spinenet_tf.training import setup as setups

  _, _, old = make("old", classes=5)
  old.save()
  made = experiment(train={"initial_checkpoint": str(tmp_path / "old")})
  ready = setups.build(made, tmp_path / "run")
  assert "weights from" in ready.notes[0] and "missing          0" in ready.notes[0]
  ready.step.global_step.assign(2)
  ready.checkpoints.save()
  again = setups.build(made, tmp_path / "run")
  assert again.global_step == 2
  assert again.notes[0].startswith("resuming from") and "is not read again" in again.notes[0]
