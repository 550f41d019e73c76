"""Every gin file of the project parses, and every experiment takes a step at small size."""

import dataclasses
import math
import pathlib

import pytest
import tensorflow as tf

from spinenet_tf import configs
from spinenet_tf.training import setup as setups
from spinenet_tf.training.trainer import Trainer

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
LEAVES = sorted(p.name for p in EXPERIMENTS.glob("*.gin")) + sorted(
  f"custom/{p.name}" for p in EXPERIMENTS.glob("custom/*.gin")
)
PARTS = sorted(
  str(p.relative_to(EXPERIMENTS)) for folder in ("base", "overlays") for p in EXPERIMENTS.glob(f"{folder}/*.gin")
)

# Steps of the authors' configs, or derived by their rule; learning rate after warm-up; largest jitter.
PUBLISHED = {
  "A": (115_750, 0.28, (0.8, 1.2)),
  "B": (162_050, 0.28, (0.5, 2.0)),
  "C": (231_500, 0.28, (0.5, 2.0)),
}


def test_there_are_fifteen_networks_and_protocols():
  assert {f"spinenet{s}_prot{p}.gin" for s in ("49s", "49", "96", "143", "190") for p in "ABC"} <= set(LEAVES)


@pytest.mark.parametrize("name", PARTS)
def test_parts_parse(name):
  configs.parse([name])
  configs.experiment()


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_are_lab_notes_with_everything_used(name):
  text = (EXPERIMENTS / name).read_text()
  head = text.split("\n\n")[0]
  assert head.startswith("# ") and "# Command:" in head and "# Status:" in head
  configs.parse([name])
  made = configs.experiment()
  made.train.optimizer(learning_rate=lambda: 0.1)
  configs.check_unused()
  made.model.find_architecture()


@pytest.mark.parametrize("protocol", PUBLISHED)
@pytest.mark.parametrize("network", ["49s", "49", "96", "143", "190"])
def test_protocols_are_the_published_ones(network, protocol):
  configs.parse([f"spinenet{network}_prot{protocol}.gin"])
  made = configs.experiment()
  plan = setups.make_plan(made, 118_287)
  total, rate, jitter = PUBLISHED[protocol]
  model = made.model
  if protocol == "C":
    assert (model.activation, model.stochastic_depth) == ("swish", 0.16 if network == "143" else 0.2)
    jitter = (0.1, 2.0) if network in ("143", "190") else jitter
    total, rate = (185_200, 0.30) if network == "190" else (total, rate)
  else:
    assert (model.activation, model.stochastic_depth) == ("relu", 0.0)
  assert model.dropblock_keep == (0.9 if protocol == "A" else 1.0)
  assert (plan.total, made.schedule.learning_rate, tuple(made.data.scale_jitter)) == (total, rate, jitter)
  assert model.anchors().anchor_size == (4 if network in ("143", "190") else 3)
  resolved = made.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  assert [total - drop for drop in resolved.drops] == [30 * 463, 10 * 463]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVES)
def test_a_step_at_small_size(name, shapes, tmp_path):
  configs.parse([name, "overlays/tiny_cpu.gin"], [f"DATA_DIR='{shapes}'"])
  made = configs.experiment()
  narrow = dataclasses.replace(
    made.model.find_architecture(),
    name="narrow",
    filter_scale=0.0625,
    block_repeats=1,
    endpoint_filters=8,
    head_filters=8,
    head_convs=1,
  )
  made = dataclasses.replace(made, model=dataclasses.replace(made.model, architecture=narrow.to_dict()))
  ready = setups.build(made, tmp_path / "run")
  configs.check_unused()
  trainer = Trainer(ready.strategy, ready.step, lambda: ready.inputs.training(ready.strategy, 0, 0, 1))
  assert math.isfinite(trainer.train(tf.constant(1))["total"])
