"""Replicas and workers compute what one device computes at the same global batch: some steps, and an evaluation.

Two devices and two workers over four steps; `make replicas` takes 20 steps, and four devices as well.
"""

import json
import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("SPINENET_TF_REPLICAS", "4"))
FOUR = STEPS >= 20


def start(root, *arguments, **environment):
  script = str(root / "tests/training/replicas_run.py")
  return subprocess.Popen(
    [sys.executable, script, *map(str, arguments)],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
  )


def results(*processes):
  """What each of some processes printed."""
  try:
    outputs = [process.communicate(timeout=900) for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs):
    assert process.returncode == 0, errors[-3000:]
  return [[json.loads(line) for line in out.splitlines() if line.startswith("{")] for out, _ in outputs]


def workers(root, data, folder, count=2):
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(("127.0.0.1", 0))
  addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
  for s in sockets:
    s.close()
  cluster = {"worker": addresses}
  return [
    start(
      root,
      data,
      folder,
      STEPS,
      "workers",
      TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
    )
    for index in range(count)
  ]


def differences(ours, theirs):
  """Largest relative difference of each loss over the steps."""
  return {
    key: max(abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(ours["losses"], theirs["losses"]))
    for key in ("cls", "box", "l2", "total", "gradient_norm")
  }


def test_replicas_and_workers_agree_with_one_device(root, shapes, tmp_path):
  (one, two, half), (first,), (second,), *four = results(
    start(root, shapes, tmp_path / "devices", STEPS, "1", "2", "2:float16"),
    *workers(root, shapes, tmp_path / "workers"),
    *([start(root, shapes, tmp_path / "devices", STEPS, "4")] if FOUR else []),
  )
  assert [run["replicas"] for run in (one, two, half, first, second)] == [1, 2, 2, 2, 2]
  assert not any(differences(first, second).values())
  runs = {"2 devices": two, "2 workers": first}
  if four:
    runs["4 devices"] = four[0][0]
    assert runs["4 devices"]["replicas"] == 4
  found = {}
  for name, run in runs.items():
    assert len(run["losses"]) == len(one["losses"]) == STEPS
    found[name] = differences(one, run)
    # Every image once, though the last batch of 8 has 4: on 4 devices the last two get none.
    assert run["images"] == one["images"] == 12
    assert run["AR"] == pytest.approx(one["AR"], abs=0.02)
    assert run["average_behind"] == pytest.approx(one["average_behind"], rel=1e-3)
  print(json.dumps(found, indent=1))
  assert one["losses"][-1]["total"] < one["losses"][0]["total"]  # the steps did something
  assert one["average_behind"] > 1e-3
  for name, values in found.items():
    for key, value in values.items():
      assert value < 1e-4, (name, key, value)
  assert all(0 < line["total"] < 10 for line in half["losses"])
