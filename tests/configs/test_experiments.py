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
ALL = sorted(str(p.relative_to(EXPERIMENTS)) for p in EXPERIMENTS.rglob("*.gin"))
PARTS = [name for name in ALL if name.startswith(("base/", "overlays/"))]
LEAVES = [name for name in ALL if name not in PARTS]

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


@pytest.mark.parametrize("name", [name for name in LEAVES if name.startswith(("ablation/", "baselines/"))])
def test_comparisons_differ_in_the_architecture_alone(name):
  protocol = "A" if name.startswith("ablation/") else "B"
  configs.parse([name])
  made = configs.experiment()
  network = made.model.find_architecture().name
  stem = pathlib.Path(name).stem.removesuffix("_protB")
  assert network == stem
  size = {"r101_fpn": 1024, "r152_fpn": 1280}.get(network, 640)
  configs.parse([f"spinenet49_prot{protocol}.gin"])
  other = configs.experiment()
  same = dataclasses.replace(other.model, architecture=made.model.architecture, image_size=size)
  assert made == dataclasses.replace(other, model=same)


@pytest.mark.parametrize(
  "name, network, size, width",
  [
    ("spinenet49xs", "spinenet49xs_mobile", 256, 24),
    ("spinenet49s", "spinenet49s_mobile", 384, 40),
    ("spinenet49", "spinenet49_mobile", 384, 48),
  ],
)
def test_mobile_networks_are_the_published_ones(name, network, size, width):
  configs.parse([f"mobile/{name}.gin"])
  made = configs.experiment()
  plan = setups.make_plan(made, 118_287)
  resolved = made.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  assert (plan.total, list(resolved.drops), resolved.warmup) == (277_800, [263_910, 273_170], 500)
  assert (made.train.weight_decay, made.train.clip_norm, made.model.activation) == (3e-5, 0, "swish")
  assert (made.data.scale_jitter, made.model.dropblock_keep, made.model.stochastic_depth) == ((0.5, 2.0), 1, 0)
  arch = made.model.find_architecture()
  assert (arch.name, made.model.size, arch.head_filters) == (network, (size, size), width)


def narrow(arch):
  """The same connections, few channels; of a ResNet, one block for each level."""
  stem = arch.stem
  if arch.pyramid == "fpn":
    stem = tuple({spec.level: spec for spec in stem}.values())
  changes = {"filter_scale": 0.0625, "endpoint_filters": 8, "stem_filters": 8, "head_filters": 8, "head_convs": 1}
  changes |= {"block_repeats": 1, "resample_alpha": 0.5, "anchor_size": 3.0, "name": "narrow", "note": ""}
  return dataclasses.replace(arch, stem=stem, **changes)


STEPPED: dict[str, float] = {}  # total loss of what is traced differently, by all that tells it from the others


def traced(made):
  """What decides which operations a step has. Rates, drop times and jitter are values that other tests look at."""
  return repr(
    (dataclasses.replace(made.model, stochastic_depth=made.model.stochastic_depth > 0), made.loss, made.train)
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAVES)
def test_a_step_at_small_size(name, shapes, tmp_path):
  configs.parse([name, "overlays/tiny_cpu.gin"], [f"DATA_DIR='{shapes}'"])
  made = configs.experiment()
  made = dataclasses.replace(
    made, model=dataclasses.replace(made.model, architecture=narrow(made.model.find_architecture()))
  )
  key = traced(made)
  if key not in STEPPED:
    ready = setups.build(made, tmp_path / "run")
    configs.check_unused()
    trainer = Trainer(ready.strategy, ready.step, lambda: ready.task.train_on(ready.strategy, ready.inputs, 0))
    STEPPED[key] = trainer.train(tf.constant(1))["total"]
  assert math.isfinite(STEPPED[key])
