"""Before and during a run: `--dry_run` and `--profile`."""

import pathlib

import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.training import dry_run, loop, setup
from spinenet_tf.training import profile as profiles
from spinenet_tf.training.profile import Profile, StepRange


@pytest.fixture
def small(experiment, tiny):
  """Returns a run of four steps of a network of one block at 64 pixels, which builds in a few seconds."""
  model = {"architecture": {**tiny, "blocks": tiny["blocks"][:1]}, "image_size": 64, "max_level": 3}
  return experiment(model=model, train={"log_interval": 4, "recompute": False})


def tree(folder: pathlib.Path) -> dict:
  return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.slow
def test_a_profile_of_two_steps_then_a_dry_run_that_changes_nothing(small, tmp_path, capsys):
  loop.train(setup.build(small, tmp_path / "run"), profile=StepRange(2, 3))
  (trace,) = (tmp_path / "run/tensorboard").glob("plugins/profile/*/*.xplane.pb")
  content = trace.read_bytes()
  assert b"train" in content and b"step_num" in content
  steps = [
    (line["step"], line["steps"])
    for line in setup.RunDirectory(tmp_path / "run").read_metrics()
    if line["kind"] == "train"
  ]
  assert steps == [(1, 1), (2, 1), (3, 1), (4, 1)]  # those of the profile each by itself

  before = tree(tmp_path / "run")
  capsys.readouterr()
  measured = dry_run.dry_run(setup.build(small, tmp_path / "run", writes=False))
  assert tree(tmp_path / "run") == before
  said = capsys.readouterr().out
  for text in ("images/s", "data wait", "peak memory of the process", "expected for 4 steps", "1 evaluation(s)"):
    assert text in said
  assert "step 4 is done, the rest takes 0 " in said
  assert measured.eval_batches == 1 and measured.step > 0 and measured.batch > 0 and measured.eval_batch > 0
  assert 0 <= measured.wait_share <= 1


def test_a_trial_makes_no_folder(small, tmp_path):
  setup.build(small, tmp_path / "a/run", writes=False)
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"file/run cannot be used \(.*file is not a folder\)"):
    setup.RunDirectory(tmp_path / "file/run").check_place()


def test_hours_by_hand():
  measured = dry_run.Rehearsal(60.0, 2.0, 0.1, 1.0, 0.5, 100, 1.0)
  assert measured.hours(3600, 36) == (2.0, 0.5)
  assert measured._replace(batch=4.0).hours(3600, 0) == (4.0, 0.0)  # the input is the bound
  assert measured._replace(eval_batch=None, eval_batches=0).hours(1800, 0) == (1.0, 0.0)
  assert [dry_run.evaluations(*run) for run in ((10, 5), (10, 4), (10, 10), (1, 1))] == [2, 3, 1, 1]


def test_time_input_stops_at_either_bound():
  def numbers():
    for number in range(100):
      drawn.append(number)
      yield number

  drawn = []
  assert dry_run.time_input(numbers(), most_batches=5) > 0
  assert drawn == [0, 1, 2, 3, 4, 5]
  drawn = []
  dry_run.time_input(numbers(), most_seconds=0)
  assert drawn == [0, 1]


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "a:b", "5-6", "1:2:3", "1.5:2", "-1:2", "1" * 19 + ":2", "٣:٤"])
def test_a_profile_that_is_no_range(text):
  with pytest.raises(UserError, match=r"--profile=.*; give the first and the last step, FROM:TO"):
    StepRange.parse(text)


def test_a_profile_of_no_steps_or_of_steps_that_do_not_come():
  assert StepRange.parse(" 20 : 24 ") == StepRange(20, 24)
  for text in ("0:3", "5:4"):
    with pytest.raises(UserError, match="1 <= FROM <= TO"):
      StepRange.parse(text)
  StepRange(3, 4).check(4)
  with pytest.raises(UserError, match=r"--profile=3:5; the run has 4 steps: give some of 1 to 4"):
    StepRange(3, 5).check(4)


def test_when_a_profile_begins_and_ends(monkeypatch):
  calls = []
  monkeypatch.setattr(profiles.tf.profiler.experimental, "start", lambda folder: calls.append(folder))
  monkeypatch.setattr(profiles.tf.profiler.experimental, "stop", lambda: calls.append("stop"))
  profile = Profile(StepRange(20, 22), "folder")
  assert [profile.most_steps(step) for step in (0, 15, 18, 19, 20, 21, 22, 30)] == [19, 4, 1, 1, 1, 1, None, None]
  seen = {}
  for step in (0, 18, 19, 20, 21, 22, 30):
    profile.at(step)
    seen[step] = list(calls)
  started = ["folder"]
  assert seen == {0: [], 18: [], 19: started, 20: started, 21: started, 22: [*started, "stop"], 30: [*started, "stop"]}
  profile.at(20)  # the run has gone back
  profile.close()
  assert calls[2:] == ["folder", "stop"]
  silent = Profile(StepRange(1, 2), None)  # not the first worker
  silent.at(0)
  silent.close()
  assert len(calls) == 4
