"""Two workers, two processes over loopback: one is lost, one is told to end, all are told to end."""

import signal

import pytest

from tests.faults import kit, run

pytestmark = pytest.mark.slow
STEPS, SAVE = 20, 10


def test_two_workers(shapes, tmp_path):
  folder = tmp_path / "run"
  processes = kit.start_workers(shapes, folder, STEPS, {}, {"step": 18, "after": 0}, save=SAVE)
  said, _ = kit.finish_all(processes, [run.WORKER_LOST, -signal.SIGKILL])
  assert "another worker of this run is gone" in said and "start all workers again" in said
  before = kit.losses(folder)
  assert list(before) == list(range(1, 18)) and kit.latest(folder) == 10

  processes = kit.start_workers(shapes, folder, STEPS, {}, {"term": 13}, save=SAVE)
  said = kit.finish_all(processes, [run.INTERRUPTED] * 2)
  assert "step-10\n" in said[0] and "as asked; the same command resumes" in said[0]
  stopped = kit.latest(folder)
  assert stopped in (13, 14)

  processes = kit.start_workers(shapes, folder, STEPS, {"term": 16}, {"term": 16}, save=SAVE)
  said = kit.finish_all(processes, [run.INTERRUPTED] * 2)
  assert f"step-{stopped}\n" in said[0] and kit.latest(folder) in (16, 17) and not kit.leftovers(folder)

  after = kit.losses(folder)
  assert list(after) == list(range(1, kit.latest(folder) + 1))
  assert [after[step] for step in after] == pytest.approx([before[step] for step in after], rel=1e-6)
  for worker in (0, 1):
    images = {}
    for step, ids in kit.seen(folder, worker):
      assert images.setdefault(step, ids) == ids, f"worker {worker} saw other images at step {step} after a resumption"
    assert sorted(images) == list(range(1, 19))
  mine, others = ({ids[0] for _, ids in kit.seen(folder, worker)} for worker in (0, 1))
  assert mine != others
