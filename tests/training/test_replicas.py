"""Two replicas compute what one computes at the same global batch."""

import json
import subprocess
import sys

import pytest


def run(root, *arguments):
  script = str(root / "tests/training/mirrored_run.py")
  done = subprocess.run(
    [sys.executable, script, *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=600
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_one_and_two_replicas_agree(root, shapes, tmp_path):
  one = run(root, shapes, tmp_path / "one", 1)
  two = run(root, shapes, tmp_path / "two", 2)
  assert one["seen"] == two["seen"] == 4
  for ours, theirs in zip(one["losses"], two["losses"]):
    for key in ("cls", "box", "l2", "total", "gradient_norm"):
      assert theirs[key] == pytest.approx(ours[key], rel=5e-3), key
  assert two["average_behind"] == pytest.approx(one["average_behind"], rel=0.05) and one["average_behind"] > 1e-3


@pytest.mark.slow
def test_accumulation_and_float16_on_two_replicas(root, shapes, tmp_path):
  losses = run(root, shapes, tmp_path / "both", 2, 2, "mixed_float16")["losses"]
  assert all(0 < line["total"] < 10 for line in losses)
