"""Architectures in gin: edited ones, and one's own in a JSON file, from the file to a trained run."""

import json
import re

import pytest

from spinenet_tf import configs
from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import damaged, scaled
from spinenet_tf.errors import UserError
from spinenet_tf.serving.load import load
from spinenet_tf.training import evaluation, loop
from spinenet_tf.training import setup as setups

OWN = {
  "name": "own",
  "filter_scale": 0.0625,
  "endpoint_filters": 8,
  "head_convs": 1,
  "head_filters": 8,
  "stem": [{"level": 2, "block": "residual"}, {"level": 2, "block": "residual"}],
  "blocks": [
    {"level": 3, "block": "residual", "parents": [0, 1], "is_output": True},
    {"level": 4, "block": "residual", "parents": [0, 2], "is_output": True},
    {"level": 5, "block": "residual", "parents": [2, 3], "is_output": True},
    {"level": 6, "block": "residual", "parents": [3, 4], "is_output": True},
    {"level": 7, "block": "residual", "parents": [4, 5], "is_output": True},
  ],
}


@pytest.fixture
def own(tmp_path):
  """Folder with own.json and own.gin, which names it."""
  folder = tmp_path / "own"
  folder.mkdir()
  (folder / "own.json").write_text(json.dumps(OWN))
  (folder / "own.gin").write_text("include 'demo.gin'\nmodel.architecture = 'own.json'\n")
  return folder


def parsed(*bindings, files=()):
  configs.parse(["demo.gin", *files], bindings)
  made = configs.experiment().model.find_architecture()
  configs.check_unused(["sgd.momentum"])
  return made


def test_scaled():
  got = parsed(
    "model.architecture = @scaled()",
    "scaled.architecture = 'spinenet49'",
    "scaled.block_repeats = 3",
    "scaled.filter_scale = 0.8",
    "scaled.name = 'mine'",
  )
  assert got == scaled("spinenet49", block_repeats=3, filter_scale=0.8, name="mine")
  assert "scaled.filter_scale = 0.8" in configs.operative_text()


def test_damaged():
  got = parsed("model.architecture = @damaged()", "damaged.architecture = 'r0_sp53'", "damaged.remove = 'long'")
  assert got == damaged("r0_sp53", "long")


def test_edits_of_edits_and_of_files(own):
  got = parsed(
    "model.architecture = @damaged()",
    "damaged.architecture = @scaled()",
    "damaged.remove = 'both'",
    "scaled.architecture = 'own.json'",
    "scaled.block_repeats = 2",
    files=[str(own / "own.gin")],
  )
  assert got == damaged(scaled(OWN, block_repeats=2), "both")


def test_a_file_beside_the_gin_file_is_found_from_anywhere_and_kept(own, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  configs.parse([str(own / "own.gin")])
  made = configs.experiment()
  assert made.model.find_architecture() == architecture(OWN)
  (tmp_path / "config.gin").write_text(configs.bound_text())
  (own / "own.json").unlink()
  configs.parse([str(tmp_path / "config.gin")])
  assert configs.experiment().model == made.model
  with pytest.raises(UserError, match=r"no architecture file 'own.json'.*beside the files"):
    configs.parse([str(own / "own.gin")])


@pytest.mark.parametrize(
  "bindings, said",
  [
    (["model.architecture = @damaged()", "damaged.architecture = 'r0_sp53'"], "required.*remove"),
    (
      ["model.architecture = @damaged()", "damaged.architecture = 'r50_fpn'", "damaged.remove = 'long'"],
      "r50_fpn",
    ),
    (["model.architecture = @scaled()", "scaled.architecture = '49'", "scaled.filter_scale = 0"], "filter_scale is 0"),
    (["model.architecture = @scaled()", "scaled.depth = 3"], r"depth.*scaled has: architecture, name, filter_scale"),
    (["scaled.architecture = '49'"], "nothing used the binding.s. scaled.architecture"),
    (["model.architecture = @scaled"], r"architecture is <function.*parentheses, such as @scaled\(\)"),
  ],
)
def test_mistakes_in_edits(bindings, said):
  with pytest.raises(UserError, match=said) as caught:
    parsed(*bindings)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change, said",
  [
    (lambda a: a["blocks"][1].update(parents=[0, 9]), r"own.json: own, block 3: parent 9 is not an earlier block"),
    (
      lambda a: a["blocks"][1].update(level=3),
      r"own.json: own: level.s. \[3\] have more than one output, blocks \[2, 3\]",
    ),
    (lambda a: a["blocks"][2].update(block="dense"), r"own.json: own, block 4: block is 'dense'"),
    (lambda a: a.update(version=7), r"own.json: the architecture has version 7"),
    (lambda a: a.update(widht=2), r"own.json: unknown key.s. \['widht'\]"),
  ],
)
def test_mistakes_in_files_name_file_and_block(own, change, said):
  broken = json.loads(json.dumps(OWN))
  change(broken)
  (own / "own.json").write_text(json.dumps(broken))
  with pytest.raises(UserError, match=said):
    configs.parse([str(own / "own.gin")])


def test_the_example_of_the_docs_is_an_architecture(root):
  text = (root / "docs/train.md").read_text()
  example = architecture(json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1]))
  assert example.output_levels == (3, 4, 5, 6, 7) and len(example.features) == 10
  whole = architecture(root / "experiments/custom/own_architecture.json")
  assert whole.stem == example.stem and whole.blocks[:3] == example.blocks[:3]
  with pytest.raises(UserError) as caught:
    architecture({**OWN, "blocks": [*OWN["blocks"][:1], {**OWN["blocks"][1], "parents": [0, 9]}, *OWN["blocks"][2:]]})
  assert f"`{caught.value}`" in text


@pytest.mark.slow
def test_from_json_to_a_trained_run(own, shapes, tmp_path):
  files, run = [str(own / "own.gin"), "overlays/tiny_cpu.gin"], tmp_path / "run"

  def train(duration):
    configs.parse(files, [f"DATA_DIR='{shapes}'", f"train.duration='{duration} steps'"])
    ready = setups.build(configs.experiment(), run)
    configs.check_unused()
    loop.train(ready, config=configs.bound_text(), operative_config=configs.operative_text())
    return ready

  assert train(2).global_step == 2
  resumed = train(4)
  assert resumed.global_step == 4 and any("resuming" in note for note in resumed.notes)
  assert resumed.model.architecture == architecture(OWN)
  assert json.loads((run / "model.json").read_text())["architecture"]["blocks"][1]["parents"] == [0, 2]

  changed = json.loads(json.dumps(OWN))
  changed["blocks"][1]["parents"] = [1, 2]
  (own / "own.json").write_text(json.dumps(changed))
  with pytest.raises(UserError, match="architecture is another own, this experiment has a changed own"):
    train(8)

  configs.parse([str(run / "config.gin")])  # as `evaluate` does
  assert 0 <= evaluation.evaluate(configs.experiment(), str(run), output_dir=str(tmp_path / "eval")).metrics["AP"] <= 1
  assert load(run).model.architecture == architecture(OWN)
