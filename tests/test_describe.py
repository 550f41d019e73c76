"""The describe command, run as a person would."""

import subprocess
import sys

import pytest

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.describe import table


def _run(*args):
  return subprocess.run([sys.executable, "-m", "spinenet_tf.describe", *args], capture_output=True, text=True)


def test_table_shows_every_published_row_with_its_difference():
  rows = table().splitlines()[1:7]
  assert [row.split()[0] for row in rows] == [
    *("spinenet49s", "spinenet49", "spinenet49", "spinenet96", "spinenet143", "spinenet190")
  ]
  for row in rows:
    assert all(abs(float(word[:-1])) <= 0.5 for word in row.split() if word.endswith("%"))


@pytest.mark.slow
def test_an_architecture_of_ones_own(tmp_path):
  path = tmp_path / "mine.json"
  architecture(architecture("49S").to_dict() | {"name": "mine", "filter_scale": 0.25}).to_json(path)
  result = _run(str(path), "--size=256", "--num_classes=3")
  assert result.returncode == 0
  assert "mine: scale 0.25" in result.stdout and "256 x 256" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ("args", "text"),
  [(["spinenet48"], "no architecture named 'spinenet48'"), (["--num_classes=0"], "--num_classes is 0")],
)
def test_bad_arguments_are_one_line(args, text):
  result = _run(*args)
  assert result.returncode == 2
  assert result.stderr.strip().splitlines()[-1].startswith("error: ") and text in result.stderr
