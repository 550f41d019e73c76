"""What a run survives, and what a person is told when it does not: one process for each fault."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow
STEPS = 20
SCRIPT = pathlib.Path(__file__).with_name("run.py")


def start(*arguments, **options):
  return subprocess.Popen(
    [sys.executable, str(SCRIPT), *map(str, arguments), *(f"{k}={v}" for k, v in options.items())],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=SCRIPT.parents[2],
  )


def finish(process, code=0):
  out, error = process.communicate(timeout=300)
  assert process.returncode == code, out[-1500:] + error[-3000:]
  return out + error


def losses(folder):
  """Step -> loss, of complete lines."""
  lines = []
  for text in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines():
    try:
      lines.append(json.loads(text))
    except json.JSONDecodeError:
      continue
  return {line["step"]: line["total"] for line in lines if line["kind"] == "train"}


def wait_for(folder, step):
  """Waits until a run has written the line of a step."""
  for _ in range(3000):
    if (pathlib.Path(folder) / "metrics.jsonl").is_file() and max(losses(folder), default=0) >= step:
      return
    time.sleep(0.1)
  raise AssertionError(f"no line of step {step} in {folder}")


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
  """The run that nothing happens to."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  finish(start(shapes, folder, STEPS))
  return losses(folder)


def same(found, expected):
  assert list(found) == list(expected)
  np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-4)


def test_killed_at_a_step_and_inside_a_checkpoint_write(shapes, whole, tmp_path):
  run = tmp_path / "run"
  process = start(shapes, run, STEPS)
  wait_for(run, 7)
  process.kill()
  process.communicate()
  process = start(shapes, run, STEPS, slow=60)  # the files are written, what follows a save is not reached
  wait_for(run, 10)
  for _ in range(300):
    if (run / "checkpoints/step-10.index").is_file():
      break
    time.sleep(0.1)
  process.kill()
  process.communicate()
  (run / "checkpoints/step-11.data-00000-of-00001.tempstate123").write_text("left by a kill")
  (run / "checkpoints/step-11_temp").mkdir()
  finish(start(shapes, run, STEPS))
  same(losses(run), whole)
  assert {p.name.split(".")[0] for p in (run / "checkpoints").iterdir()} == {
    "checkpoint",
    "step-10",
    "step-15",
    "step-20",
  }


def test_sigterm_saves_within_a_step_and_resumes(shapes, whole, tmp_path):
  run = tmp_path / "run"
  process = start(shapes, run, STEPS, log=1000, save=1000)
  wait_for(run, 1)  # the first line comes after one step, then all others are one loop of TensorFlow
  process.send_signal(signal.SIGTERM)
  assert "as asked; the same command resumes" in finish(process, 143)
  (saved,) = (run / "checkpoints").glob("*.index")
  stopped = int(saved.stem.split("-")[1])
  assert 1 <= stopped < STEPS
  finish(start(shapes, run, STEPS))
  after = {step: loss for step, loss in losses(run).items() if step > stopped}
  same(after, {step: loss for step, loss in whole.items() if step > stopped})


def test_two_runs_on_one_folder(shapes, tmp_path):
  run = tmp_path / "run"
  first = start(shapes, run, 2000)
  wait_for(run, 1)
  text = finish(start(shapes, run, 2000), 2)
  assert f"is in use by process {first.pid} on" in text
  first.kill()
  first.communicate()
  steps = max(losses(run))
  finish(start(shapes, run, max(steps + 1, STEPS)))  # the lock went with the process


def test_nan_in_a_gradient(shapes, whole, tmp_path):
  text = finish(start(shapes, tmp_path / "stop", STEPS, nan=8), 2)
  assert "not finite at step 8" in text and "checkpoints from before are kept" in text
  assert {p.name for p in (tmp_path / "stop/checkpoints").glob("*.index")} == {"step-5.index"}
  text = finish(start(shapes, tmp_path / "skip", STEPS, nan=8, skip=1))
  assert "going back to step 5 and passing over step 8 (1 of train.skip_nonfinite=1)" in text
  found = losses(tmp_path / "skip")
  assert sorted(found) == [step for step in range(1, STEPS + 1) if step != 8]
  same({k: v for k, v in found.items() if k < 8}, {k: v for k, v in whole.items() if k < 8})
  assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("harm", ["bit", "cut", "state"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(shapes, whole, tmp_path, harm):
  run = tmp_path / "run"
  finish(start(shapes, run, 15))
  newest = run / "checkpoints/step-15.data-00000-of-00001"
  content = bytearray(newest.read_bytes())
  if harm == "bit":
    content[len(content) // 3] ^= 16
    newest.write_bytes(content)
  elif harm == "cut":
    newest.write_bytes(content[: len(content) // 2])
  else:
    (run / "checkpoints/checkpoint").write_text("")  # what a pulled plug makes of a file that was not flushed
  text = finish(start(shapes, run, STEPS))
  if harm == "state":
    assert "resuming from" in text and "step-15" in text
  else:
    assert "resuming from" in text and "step-10\n" in text and "step-15 cannot be read" in text
    assert (run / "checkpoints/unreadable-step-15.index").is_file()
  same(losses(run), whole)


def test_a_folder_that_cannot_be_written(shapes, tmp_path):
  target = tmp_path / "file"
  target.write_text("")
  assert "cannot be written" in finish(start(shapes, target / "run", STEPS), 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(shapes, tmp_path):
  (tmp_path / "run").mkdir(mode=0o500)
  assert "cannot be written" in finish(start(shapes, tmp_path / "run", STEPS), 2)
