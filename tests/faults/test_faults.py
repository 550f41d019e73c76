"""What a run survives, and what a person is told when it does not. Losses are compared digit by digit."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.training import lock, setup
from tests.faults import kit, rounds, run

pytestmark = pytest.mark.slow
STEPS = 20
SETTINGS = {"save": 5, "evaluate": STEPS}


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
  """The run that nothing happens to."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  kit.finish(kit.start(shapes, folder, STEPS, **SETTINGS))
  return folder


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a file system of its own, and `mount` with which its options are changed."""

  def mount(*options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True)

  if os.geteuid() or (failed := mount("size=2m")).returncode:
    pytest.skip("a small file system cannot be mounted: " + ("not root" if os.geteuid() else failed.stderr.strip()))
  yield tmp_path, lambda *options: mount("remount", *options)
  subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_killed_within_a_step_a_checkpoint_and_an_evaluation(shapes, whole, tmp_path):
  said = []
  made = rounds.Rounds(shapes, tmp_path, whole, seed=5, steps=STEPS, **SETTINGS, say=said.append)
  made.run(3)
  assert not made.failed, said
  assert [made.tallies[place].rounds for place in ("step", "byte", "evaluation")] == [1, 1, 1], said


def test_sigterm_then_nan_in_gradients_then_a_damaged_checkpoint(shapes, whole, tmp_path):
  folder, expected = tmp_path / "run", kit.losses(whole)
  process = kit.start(shapes, folder, STEPS, log=1000, save=1000, term=8)  # steps 2 to 20 are one loop of TensorFlow
  assert "as asked; the same command resumes" in kit.finish(process, run.INTERRUPTED)
  stopped = kit.latest(folder)
  assert stopped in (8, 9) and [step for step, _ in kit.seen(folder)] == list(range(1, stopped + 1))

  process = kit.start(shapes, folder, STEPS, skip=1, nan=2**12 + 2**14, clock=1, **SETTINGS)
  text = kit.finish(process, run.USER_ERROR)
  assert f"step-{stopped}\n" in text
  assert "going back to step 10 and passing over step 12 (1 of train.skip_nonfinite=1)" in text
  assert "not finite at step 14" in text and "checkpoints from before are kept" in text and kit.latest(folder) == 10
  found = kit.losses(folder)
  assert sorted(found) == [1, *range(stopped, 12), 13] and np.isfinite(list(found.values())).all()
  assert [found[step] for step in range(stopped + 1, 12)] == [expected[step] for step in range(stopped + 1, 12)]
  lines = [line for line in kit.lines(folder / "metrics.jsonl") if line["kind"] == "train" and line["step"] > stopped]
  assert not any(line["data_wait_share"] for line in lines)  # the clock ran backwards

  newest = folder / "checkpoints/step-10.data-00000-of-00001"
  content = bytearray(newest.read_bytes())
  content[len(content) // 3] ^= 16
  newest.write_bytes(content)
  text = kit.finish(kit.start(shapes, folder, STEPS, **SETTINGS))
  assert f"step-{stopped}\n" in text and "step-10 cannot be read" in text
  assert (folder / "checkpoints/unreadable-step-10.index").is_file()
  assert kit.wrong(folder, whole) == [f"loss of step {stopped}"]  # that line is of all steps from 2 on
  assert list(kit.losses(folder)) == [1, *range(stopped, STEPS + 1)]
  assert [step for step, _ in kit.seen(folder)][-STEPS + stopped :] == list(range(stopped + 1, STEPS + 1))


def test_a_full_disk_and_then_a_read_only_one(shapes, whole, small_disk):
  folder, remount = small_disk
  folder = folder / "run"
  text = kit.finish(kit.start(shapes, folder, STEPS, **SETTINGS), run.USER_ERROR)
  (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
  assert "cannot save the checkpoint of step 15" in line and "No space left on device" in line
  assert "free some space and start again; the last good checkpoint is" in line and line.endswith("step-10")
  assert "Traceback" not in text and kit.latest(folder) == 10 and not kit.leftovers(folder)
  assert not remount("size=20m").returncode
  assert "step-10\n" in kit.finish(kit.start(shapes, folder, STEPS, **SETTINGS))
  assert not kit.wrong(folder, whole) + kit.unfinished(folder, whole)
  assert not remount("ro").returncode
  with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
    setup.build(run.experiment(shapes, STEPS, SETTINGS), folder)


def test_two_runs_on_one_folder(shapes, tmp_path):
  program = (
    f"import time; from spinenet_tf.training import lock; held = lock.hold({str(tmp_path)!r}); print(); time.sleep(99)"
  )
  other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=kit.SCRIPT.parents[2])
  other.stdout.readline()
  with pytest.raises(UserError, match=f"is in use by process {other.pid} on .*; wait until it ends"):
    setup.build(run.experiment(shapes, STEPS, SETTINGS), tmp_path)
  other.send_signal(signal.SIGKILL)
  other.communicate()
  lock.hold(tmp_path).release()  # the lock went with the process


def test_a_folder_that_cannot_be_written(shapes, tmp_path):
  target = tmp_path / "file"
  target.write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    setup.build(run.experiment(shapes, STEPS, SETTINGS), target / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(shapes, tmp_path):
  (tmp_path / "run").mkdir(mode=0o500)
  with pytest.raises(UserError, match="cannot be written"):
    setup.build(run.experiment(shapes, STEPS, SETTINGS), tmp_path / "run")
