"""The describe command, run as a person would."""

import json
import subprocess
import sys

import pytest
from absl import flags

from spinenet_tf import describe
from spinenet_tf.backbones.catalog import architecture, names
from spinenet_tf.backbones.profile import profile
from spinenet_tf.errors import UserError


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs the command in this process, with flags of its own; returns what it prints."""

  def command(*args):
    values = flags.FlagValues()
    describe.define_flags(values)
    monkeypatch.setattr(describe, "FLAGS", values)
    assert describe.main(values(["describe", *args])) == 0
    return capsys.readouterr().out

  return command


def _command(*args):
  return subprocess.run([sys.executable, "-m", "spinenet_tf.describe", *args], capture_output=True, text=True)


def test_without_arguments_table_2(run):
  (table,) = json.loads(run("--format=json"))
  assert table["title"].startswith("Table 2") and len(table["rows"]) == 16
  for row in table["rows"]:
    if row["model"] != "R50-NAS-FPN":
      assert abs(row["multiply-adds, %"]) <= 0.5 and abs(row["parameters, %"]) <= 0.5
  assert run().splitlines()[0] == table["title"]


@pytest.mark.parametrize(("number", "rows"), [(1, 6), (3, 6), (5, 8), (6, 14), (8, 4), (9, 9), (10, 14)])
def test_tables_of_the_paper(run, number, rows):
  (table,) = json.loads(run(f"--table={number}", "--format=json"))
  assert table["title"].startswith(f"Table {number}:") and len(table["rows"]) == rows


def test_one_model(run):
  spec, parts, levels, paper = json.loads(run("spinenet49", "--size=896", "--format=json"))
  assert spec["rows"][14]["inputs"] == "7, 12, +11" and spec["rows"][14]["output"] == "P5"
  cost = profile("spinenet49", "retinanet", 91, (896, 896))
  for table in (parts, levels):
    *rows, total = table["rows"]
    assert sum(row["multiply-adds"] for row in rows) == total["multiply-adds"] == cost.multiply_adds
    assert total["activations MiB"] == cost.activation_bytes / 2**20
  assert {row["part"] for row in parts["rows"]} >= {"stem", "blocks", "connections", "class tower"}
  assert [row["published"] for row in paper["rows"]] == [167.4, 28.5]


def test_the_whole_catalog(run):
  text = run("all", "--task=classification", "--format=markdown")
  for name in names():
    assert f"### {name}, classification, 224 x 224, 1001 classes: by part" in text and f"\n| {name} | 224 | " in text


def test_an_architecture_of_ones_own(run, tmp_path):
  path = tmp_path / "mine.json"
  architecture(architecture("49S").to_dict() | {"name": "mine", "filter_scale": 0.25}).to_json(path)
  text = run(str(path), "--size=256", "--num_classes=3")
  assert "filter_scale 0.25" in text and "mine, retinanet, 256 x 256, 3 classes" in text


def test_difference(run):
  text = run("--diff", "spinenet49", "spinenet96")
  assert text.splitlines()[0] == "spinenet49 and spinenet96" and "block_repeats" in text
  assert run("--diff", "49", "spinenet49").splitlines()[2] == "none"


def test_drawing(run, tmp_path):
  path = tmp_path / "arch.svg"
  run("r0_sp53", f"--draw={path}")
  assert "<svg" in path.read_text()


@pytest.mark.parametrize(
  ("args", "text"),
  [
    (["--num_classes=0"], "--num_classes is 0"),
    (["--table=4"], "table is 4; it must be one of 1, 2, 3"),
    (["--task=detect"], "--task is 'detect'; it must be one of backbone"),
    (["--format=html"], "--format is 'html'; it must be one of text"),
    (["--diff", "49"], "--diff compares two architectures, 1 given"),
    (["--draw=a.png"], "--draw draws one architecture, 0 given"),
  ],
)
def test_bad_arguments(run, args, text):
  with pytest.raises(UserError) as error:
    run(*args)
  assert text in str(error.value)


@pytest.mark.slow
def test_an_error_is_one_line():
  result = _command("spinenet48")
  assert result.returncode == 2
  assert result.stderr.strip().splitlines()[-1].startswith("error: no architecture named 'spinenet48'")
