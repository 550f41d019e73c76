"""What README and docs say is true: commands exist with those flags, files are there, Python blocks run."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import spinenet_tf as st
from spinenet_tf.backbones.profile import profile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page: pathlib.Path, language: str) -> list[str]:
  return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def _commands() -> list[tuple[str, str]]:
  """Returns (page, command) for each `python -m spinenet_tf.NAME ...` line, continuation lines joined."""
  found = []
  for page in PAGES:
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for line in text.splitlines():
      if match := re.match(r"^\s*(?:\$ )?((?:[A-Z_]+=\S+ )*python -m spinenet_tf\.\w+.*)$", line):
        found.append((page.name, match[1].strip("` ")))
  return found


COMMANDS = _commands()


def test_commands_were_found():
  assert len(COMMANDS) >= 8


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}-{i}" for i, (p, _) in enumerate(COMMANDS)])
def test_commands_exist_with_their_flags(page, command):
  words = shlex.split(command, comments=True)
  words = words[words.index("-m") + 1 :]
  file = pathlib.Path(importlib.import_module(words[0]).__file__)
  if file.stem == "__init__":
    file = file.with_name("__main__.py")
  known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', file.read_text()))
  for word in words[1:]:
    if word.startswith("--"):
      assert word[2:].split("=")[0] in known, f"{page}: {word} is not a flag of {words[0]}"
    if (match := re.match(r"--gin_file=(experiments/\S+)", word)) and "..." not in word:
      assert (ROOT / match[1]).is_file(), f"{page} names {match[1]}"


def test_links_lead_somewhere():
  for page in PAGES:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # in code such a pair is an index and a call
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
      assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_cost_table_is_what_is_counted():
  rows = re.findall(
    r"\| SpineNet-(\w+) \| (\d+) \| ([\d.]+)B \| [\d.]+B \| ([\d.]+)M", (ROOT / "README.md").read_text()
  )
  assert len(rows) == 6
  for name, size, multiply_adds, parameters in rows:
    cost = profile(name, num_classes=91, input_size=(int(size), int(size)))
    assert f"{cost.multiply_adds / 1e9:.2f}" == multiply_adds and f"{cost.parameters / 1e6:.2f}" == parameters


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
  from spinenet_tf.serving.detector import Detector

  build, use = _blocks(ROOT / "README.md", "python")
  names: dict = {}
  exec(build, names)
  assert capsys.readouterr().out.split() == [str(names["cost"].parameters), str(names["cost"].multiply_adds)]

  model = st.build_retinanet("49S", num_classes=2, input_size=(128, 128))
  categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("spinenet_tf.serving.load.load", lambda path: Detector(model, categories))
  Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save("picture.jpg")
  exec(use, {"st": st})
  assert Image.open("out.png").size == (90, 60)


@pytest.mark.slow
@pytest.mark.commands
def test_the_demo_in_small(tmp_path):
  """`make demo`, line by line, on few pictures and for a few steps."""
  lines = re.search(r"^demo: \.venv/installed\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
  small = {"prepare": ["--train=8", "--val=4"], "train": [f"--gin_file={ROOT}/experiments/overlays/tiny_cpu.gin"]}
  names = []
  for line in lines.splitlines():
    if line.startswith("\t@echo"):
      continue
    words = shlex.split(line.strip().replace("$(DEMO)", str(tmp_path)))
    name = words[2].split(".")[1]
    names.append(name)
    result = subprocess.run(
      [sys.executable, *words[1:], *small.get(name, [])], capture_output=True, text=True, cwd=ROOT, timeout=900
    )
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]
  assert names == ["prepare", "train", "evaluate", "predict"]
  assert (tmp_path / "pictures" / "overview.jpg").is_file()


@pytest.mark.slow
def test_python_block_of_classification_runs(tmp_path, monkeypatch, capsys):
  from spinenet_tf.serving.classifier import ImageClassifier

  (use,) = _blocks(ROOT / "docs" / "classify.md", "python")
  model = st.build_classifier("49S", num_classes=2, input_size=(96, 96))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    "spinenet_tf.serving.load.load",
    lambda path: ImageClassifier(model, [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]),
  )
  Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save("picture.jpg")
  names: dict = {}
  exec(use, names)
  assert sorted(line.split(":")[0] for line in capsys.readouterr().out.splitlines()) == ["a", "b"]
  assert names["vectors"].shape[0] == 1


@pytest.mark.slow
@pytest.mark.commands
def test_the_classification_walk_through_in_small(tmp_path):
  """The commands of docs/classify.md from photos to predictions, on few photos and for a few steps."""
  for split in ("train", "val"):
    for i, name in enumerate(("apple", "plum")):
      folder = tmp_path / "photos" / split / name
      folder.mkdir(parents=True)
      for number in range(2):
        Image.new("RGB", (60, 50), (200 - 120 * i, 40, 60 + 100 * number)).save(folder / f"{number}.jpg")
  small = {"train": [f"--gin_file={ROOT}/experiments/overlays/tiny_cpu_classification.gin"]}
  commands = [command for page, command in COMMANDS if page == "classify.md" and "/imagenet" not in command]
  done = []
  for command in commands:
    words = shlex.split(command)
    done.append(words[2].split(".")[1])
    words = [word.replace("--gin_file=experiments/", f"--gin_file={ROOT}/experiments/") for word in words[1:]]
    result = subprocess.run(
      [sys.executable, *words, *small.get(done[-1], [])], capture_output=True, text=True, cwd=tmp_path, timeout=900
    )
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]
  assert done == ["prepare", "prepare", "train", "evaluate", "predict", "predict"]
  assert np.load(tmp_path / "pictures" / "features.npy").shape[0] == 4
  assert (tmp_path / "runs/fruit/eval/confusion.png").is_file()
