"""The command: wrong uses end in one line, and nothing is written."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--source=model_garden", "nothing"], "there is no nothing.index"),
    (["--source=caffe", "nothing"], "'caffe'; it must be one of"),
    (["nothing"], "give --source"),
    (["--source=mmdet", "--to=model_garden", "nothing"], "not both"),
    (["--source=mmdet"], "0 paths are given"),
    (["--source=mmdet", "--average", "nothing"], "keeps no moving averages"),
    (["--source=model_garden", "--image_size=big", "nothing"], "not a list of numbers"),
  ],
)
def test_wrong_use(arguments, words, tmp_path, root):
  output = tmp_path / "run"
  command = [sys.executable, "-m", "spinenet_tf.convert", f"--output={output}", *arguments]
  run = subprocess.run(command, capture_output=True, text=True, cwd=root)
  assert run.returncode == 2 and "Traceback" not in run.stderr
  assert words in run.stderr.splitlines()[-1] and run.stderr.splitlines()[-1].startswith("error: ")
  assert not output.exists()
