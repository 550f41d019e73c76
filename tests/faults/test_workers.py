"""Two workers, two processes over loopback: one is lost, one is told to end; by `make faults` all are told, too."""

import os
import signal

import pytest

from tests.faults import kit, run

pytestmark = pytest.mark.slow
STEPS, SAVE = 12, 5
ALL_TOLD = bool(os.environ.get("SPINENET_TF_FAULTS"))


def test_two_workers(shapes, tmp_path):
  folder = tmp_path / "run"
  processes = kit.start_workers(shapes, folder, STEPS, {}, {"step": 10, "after": 0}, save=SAVE)
  said, _ = kit.finish_all(processes, [run.WORKER_LOST, -signal.SIGKILL])
  assert "another worker of this run is gone" in said and "start all workers again" in said
  before = kit.losses(folder)
  assert list(before) == list(range(1, 10)) and kit.latest(folder) == 5

  processes = kit.start_workers(shapes, folder, STEPS, {}, {"term": 7}, save=SAVE)
  said = kit.finish_all(processes, [run.INTERRUPTED] * 2)
  assert "step-5\n" in said[0] and "as asked; the same command resumes" in said[0]
  stopped = kit.latest(folder)
  assert stopped in (7, 8) and not kit.leftovers(folder)

  if ALL_TOLD:
    processes = kit.start_workers(shapes, folder, STEPS, {"term": 9}, {"term": 9}, save=SAVE)
    said = kit.finish_all(processes, [run.INTERRUPTED] * 2)
    assert f"step-{stopped}\n" in said[0] and kit.latest(folder) in (9, 10) and not kit.leftovers(folder)

  after = kit.losses(folder)
  assert list(after) == list(range(1, kit.latest(folder) + 1))
  assert [after[step] for step in after if step < 10] == [before[step] for step in before if step in after]
  for worker in (0, 1):
    images = {}
    for step, ids in kit.seen(folder, worker):
      assert images.setdefault(step, ids) == ids, f"worker {worker} saw other images at step {step} after a resumption"
    assert sorted(images) == list(range(1, 11))
  mine, others = ({ids[0] for _, ids in kit.seen(folder, worker)} for worker in (0, 1))
  assert mine != others
