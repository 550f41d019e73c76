"""A run that is killed and started again is the run that was not."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

STEPS, KILLED_AT = 20, 10


def run(root, *arguments):
  script = str(root / "tests/training/resume_run.py")
  return subprocess.run(
    [sys.executable, script, *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=600
  )


@pytest.mark.slow
def test_kill_and_resume_equals_one_run(root, shapes, tmp_path):
  whole = run(root, shapes, tmp_path / "whole", STEPS)
  assert whole.returncode == 0, whole.stderr
  killed = run(root, shapes, tmp_path / "parts", STEPS, KILLED_AT)
  assert killed.returncode == -signal.SIGKILL
  resumed = run(root, shapes, tmp_path / "parts", STEPS)
  assert resumed.returncode == 0, resumed.stderr
  assert f"resuming from {tmp_path}/parts/checkpoints/step-{KILLED_AT}" in resumed.stdout

  lines = [
    {line["step"]: line["total"] for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open())}
    for name in ("whole", "parts")
  ]
  assert list(lines[0]) == list(lines[1]) == list(range(1, STEPS + 1))
  np.testing.assert_allclose(list(lines[0].values()), list(lines[1].values()), rtol=2e-4)

  one, two = (
    tf.train.load_checkpoint(str(tmp_path / name / f"checkpoints/step-{STEPS}")) for name in ("whole", "parts")
  )
  keys = [key for key in one.get_variable_to_shape_map() if "VARIABLE_VALUE" in key]
  assert any("OPTIMIZER_SLOT" in key for key in keys)
  for key in keys:
    np.testing.assert_allclose(one.get_tensor(key), two.get_tensor(key), rtol=2e-2, atol=2e-4, err_msg=key)

  finished = run(root, shapes, tmp_path / "parts", STEPS)
  assert finished.returncode == 0 and "done: 20 steps" in finished.stdout
