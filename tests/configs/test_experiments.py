"""Every gin file of the project parses, and every experiment takes a step at small size."""

import dataclasses
import math
import pathlib

import pytest
import tensorflow as tf

from spinenet_tf import configs
from spinenet_tf.backbones.counting.solo import SoloHeads
from spinenet_tf.backbones.profile import profile
from spinenet_tf.compat import forgotten
from spinenet_tf.training import setup as setups
from spinenet_tf.training.solo_settings import SoloDetectionSettings, SoloLossSettings, SoloSettings
from spinenet_tf.training.tasks import task_of
from spinenet_tf.training.trainer import Trainer

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
ALL = sorted(str(p.relative_to(EXPERIMENTS)) for p in EXPERIMENTS.rglob("*.gin"))
PARTS = [name for name in ALL if name.startswith(("base/", "overlays/"))]
LEAVES = [name for name in ALL if name not in PARTS and not name.startswith("search/")]  # tests/search has those

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
  task_of(made).network.find_architecture()


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


ABLATIONS = [name for name in LEAVES if name.startswith(("ablation/", "baselines/")) and "/solo_" not in name]


@pytest.mark.parametrize("name", ABLATIONS)
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


# Network: top-1 and top-5 on ImageNet and on iNaturalist-2017, plain, then with the improved recipe.  [tables 6 and 10]
ACCURACY = {
  "spinenet49": ("77.0", "93.3", "59.3", "81.9", "78.1", "94.0", "63.3", "85.1"),
  "spinenet96": ("78.2", "94.0", "61.7", "83.4", "79.4", "94.6", "64.7", "85.9"),
  "spinenet143": ("79.0", "94.4", "63.6", "84.8", "80.1", "95.0", "66.7", "87.1"),
  "spinenet190": (None, None, None, None, "80.8", "95.3", "67.6", "87.4"),
  "r50": ("77.1", "93.6", "54.6", "77.2", None, None, None, None),
}


def test_classifiers_are_those_with_published_numbers():
  expected = {}
  for network, numbers in ACCURACY.items():
    for i, rest in enumerate(("imagenet", "inaturalist", "imagenet_improved", "inaturalist_improved")):
      if numbers[2 * i]:
        expected[f"classification/{network}_{rest}.gin"] = numbers[2 * i : 2 * i + 2]
  assert set(expected) == {name for name in LEAVES if name.startswith("classification/")}
  for name, (top1, top5) in expected.items():
    assert f"# Expected:  top-1 {top1}, top-5 {top5} (paper, table" in (EXPERIMENTS / name).read_text()


@pytest.mark.parametrize("name", [name for name in LEAVES if name.startswith("classification/")])
def test_classifiers_follow_the_recipe(name):
  network, data, *improved = pathlib.Path(name).stem.split("_")
  configs.parse([name])
  made = configs.experiment()
  examples, epoch = {"imagenet": (1_281_167, 313), "inaturalist": (579_184, 142)}[data]
  plan = setups.make_plan(made, examples)
  rate = made.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  assert (plan.batch, plan.epoch, plan.total) == (4096, epoch, 200 * epoch)
  assert (rate.shape, rate.warmup, float(rate(0))) == ("cosine", 5 * epoch, 0.0)
  assert [float(rate(step)) for step in (rate.warmup, plan.total)] == pytest.approx([1.6, 0], abs=1e-6)
  model, train = made.classifier, made.train
  assert (model.size, model.norm_momentum, model.norm_epsilon) == ((224, 224), 0.9, 1e-5)
  assert (train.weight_decay, train.clip_norm) == (1e-4, 0)
  assert train.optimizer(learning_rate=lambda: 0.1).get_config()["momentum"] == 0.9
  recipe = (model.activation, model.stochastic_depth, model.dropblock_keep, made.classifier_loss.label_smoothing)
  assert recipe == (("swish", 0.2, 1, 0.1) if improved else ("relu", 0, 1, 0))
  assert model.find_architecture().name == {"r50": "r50_fpn"}.get(network, network)
  assert (made.data.crop_area, made.data.eval_crop) == ((0.08, 1.0), 0.875)
  assert made.data.crop_ratio == pytest.approx((3 / 4, 4 / 3))


# Network: image size and what table 5 prints.
MASK_RCNN = {
  "spinenet49s": (640, "60.2B", "AP 39.3, mask AP 34.8"),
  "spinenet49": (640, "216.1B", "AP 42.9, mask AP 38.1"),
  "spinenet96": (1024, "315.0B", "AP 47.2, mask AP 41.5"),
  "spinenet143": (1280, "498.8B", "AP 48.8, mask AP 42.7"),
  "spinenet190": (1536, "2076.8B", "AP 52.2, mask AP 46.1"),
  "r50_fpn": (640, "227.7B", "AP 42.7, mask AP 37.8"),
  "r101_fpn": (1024, "375.5B", "AP 46.6, mask AP 41.2"),
  "r152_fpn": (1280, "605.3B", "AP 48.1, mask AP 42.4"),
}


def test_mask_rcnns_are_those_with_published_numbers():
  assert {name for name in LEAVES if name.startswith("mask_rcnn/")} == {f"mask_rcnn/{name}.gin" for name in MASK_RCNN}


@pytest.mark.parametrize("network", MASK_RCNN)
def test_mask_rcnns_follow_the_protocol(network):
  size, cost, published = MASK_RCNN[network]
  name = f"mask_rcnn/{network}.gin"
  text = (EXPERIMENTS / name).read_text()
  assert f"# Cost:      {cost} multiply-adds" in text and f"# Expected:  {published} on val2017" in text
  configs.parse([name])
  made = configs.experiment()
  peer = "spinenet190_protC.gin" if network == "spinenet190" else "spinenet49_protB.gin"
  configs.parse([peer])
  other = configs.experiment()
  model = dataclasses.replace(other.model, architecture=network, image_size=size)
  train = dataclasses.replace(other.train, task="mask_rcnn", clip_norm=0.0)
  assert made == dataclasses.replace(other, model=model, train=train)  # sampling and losses are the defaults
  assert task_of(made).network.anchors().anchor_size == (5 if network == "spinenet190" else 3)
  assert task_of(made).network.anchors().per_location == 3


SOLO = {"spinenet49s": 640, "spinenet49": 640, "spinenet96": 1024, "r50_fpn": 640}
SWITCHES = {
  "box_centre": {"centre": "box"},
  "sigma": {"sigma": 0.4},
  "unaligned": {"aligned": False},
  "negatives": {"negatives": True},
  "one_level": {"multi_level": False},
}


def solo_cost(made):
  """What the header of an experiment with SOLO says of its cost."""
  heads = SoloHeads(levels=made.solo.levels(), aligned=made.solo.aligned)
  cost = profile(made.model.architecture, "solo", 80, made.model.size, solo_heads=heads)
  return (
    f"{cost.multiply_adds / 1e9:.1f}B multiply-adds with all S^2 masks, {cost.multiply_adds_run / 1e9:.1f}B as run, "
    f"{cost.parameters / 1e6:.1f}M parameters (counted)"
  )


@pytest.mark.parametrize("network", SOLO)
def test_solos_follow_the_published_schedule_or_protocol(network):
  name = f"solo/{network}.gin"
  configs.parse([name])
  made = configs.experiment()
  plan = setups.make_plan(made, 118_287)
  rate = made.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  epoch = 7393  # steps, of 16 images
  assert (plan.batch, plan.total, list(rate.drops)) == (16, 36 * epoch, [27 * epoch, 33 * epoch])
  rates = [float(rate(step)) for step in (1000, 28 * epoch, 34 * epoch)]
  assert rates == pytest.approx([0.01, 0.001, 0.0001])
  assert (made.train.task, made.train.weight_decay, made.train.clip_norm) == ("solo", 1e-4, 35)
  assert made.train.optimizer(learning_rate=lambda: 0.1).get_config()["momentum"] == 0.9
  assert (made.model.architecture, made.model.size) == (network, (SOLO[network],) * 2)
  # Levels, targets, losses and suppression are the published ones, which are the defaults.
  assert (made.solo, made.solo_loss, made.solo_detection) == (
    SoloSettings(),
    SoloLossSettings(),
    SoloDetectionSettings(),
  )
  assert f"# Cost:      {solo_cost(made)}" in (EXPERIMENTS / name).read_text()
  configs.parse(["spinenet49_protB.gin"])
  other = configs.experiment()
  configs.parse([f"solo/{network}_protB.gin"])
  protocol = configs.experiment()
  model = dataclasses.replace(other.model, architecture=network, image_size=SOLO[network])
  train = dataclasses.replace(other.train, task="solo", clip_norm=35.0)
  assert protocol == dataclasses.replace(other, model=model, train=train)
  assert f"# Cost:      {solo_cost(protocol)}" in (EXPERIMENTS / f"solo/{network}_protB.gin").read_text()


def test_ablations_of_solo_turn_one_switch_each():
  assert {name for name in LEAVES if name.startswith("ablation/solo_")} == {f"ablation/solo_{x}.gin" for x in SWITCHES}
  configs.parse(["solo/r50_fpn.gin"])
  plain = configs.experiment()
  for name, switch in SWITCHES.items():
    configs.parse([f"ablation/solo_{name}.gin"])
    made = configs.experiment()
    assert made == dataclasses.replace(plain, solo=dataclasses.replace(plain.solo, **switch))
    assert f"# Cost:      {solo_cost(made)}" in (EXPERIMENTS / f"ablation/solo_{name}.gin").read_text()


def test_nuclei_of_both_kinds_have_the_same_data_backbone_and_steps():
  made = []
  for name in ("nuclei", "nuclei_solo"):
    configs.parse([f"custom/{name}.gin"])
    made.append(configs.experiment())
  masks, solo = made
  rates = {"learning_rate": 0.004, "warmup_learning_rate": 0.0004}  # Adam's
  assert solo.data == masks.data and solo.schedule == dataclasses.replace(masks.schedule, **rates)
  train = dataclasses.replace(masks.train, task="solo", clip_norm=35.0)
  assert dataclasses.replace(solo.train, optimizer=train.optimizer) == train
  assert type(solo.train.optimizer(learning_rate=lambda: 0.1)).__name__ == "Adam"
  own = {
    "head_convs": masks.model.head_convs,
    "anchor_size": masks.model.anchor_size,
    "max_level": masks.model.max_level,
    "prior": masks.model.prior,  # Mask R-CNN has none
  }
  assert solo.model.prior == 0.2 and solo.solo.decoupled
  assert dataclasses.replace(solo.model, **own) == masks.model


def narrow(arch):
  """The same connections, few channels; of a ResNet, one block for each level."""
  stem = arch.stem
  if arch.pyramid == "fpn":
    stem = tuple({spec.level: spec for spec in stem}.values())
  changes = {"filter_scale": 0.0625, "endpoint_filters": 8, "stem_filters": 8, "head_filters": 8, "head_convs": 1}
  changes |= {"block_repeats": 1, "resample_alpha": 0.5, "anchor_size": 3.0, "name": "narrow", "note": ""}
  return dataclasses.replace(arch, stem=stem, **changes)


STEPPED: dict[str, float] = {}  # total loss of what is computed differently, by all that tells it from the others
TRACED: set[str] = (
  set()
)  # tasks of which a step was traced; a graph takes five times as long as the same operations run once


def shrunk(made):
  """The experiment with a narrow network of the same connections."""
  (part,) = {"model", "classifier"} & set(task_of(made).uses)
  settings = getattr(made, part)
  settings = dataclasses.replace(settings, architecture=narrow(settings.find_architecture()))
  made = dataclasses.replace(made, train=dataclasses.replace(made.train, initial_checkpoint=None))  # of a run elsewhere
  if made.train.task == "mask_rcnn":
    settings = dataclasses.replace(settings, head_convs=1, head_width=8)
    heads = dataclasses.replace(made.mask_rcnn, dense_width=16, region_samples=16, mask_samples=4)
    made = dataclasses.replace(made, mask_rcnn=heads)
  if made.train.task == "solo":
    settings = dataclasses.replace(settings, head_convs=1, head_width=8)
    made = dataclasses.replace(made, solo=dataclasses.replace(made.solo, cells=8))
  return dataclasses.replace(made, **{part: settings})


def operations(made):
  """What decides which operations a step has. Rates, drop times and jitter are values that other tests look at. SOLO reads
  its pyramid from backbones that step with other tasks, and tests/training/test_solo.py steps with all its switches turned.
  """
  network = made.classifier if made.train.task == "classification" else made.model
  network = dataclasses.replace(network, stochastic_depth=network.stochastic_depth > 0)
  if made.train.task == "solo":
    network = dataclasses.replace(network, architecture="spinenet49")
  train = dataclasses.replace(made.train, weight_decay=float(made.train.weight_decay > 0))
  switches = {name: getattr(SoloSettings(), name) for turned in SWITCHES.values() for name in turned}
  solo = dataclasses.replace(made.solo, **switches)
  return repr((network, made.mask_rcnn, solo, made.loss, made.classifier_loss, train))


def first_loss(made, folder):
  """Takes one training step."""
  ready = setups.build(made, folder)
  configs.check_unused()
  trainer = Trainer(ready.strategy, ready.step, lambda: ready.task.train_on(ready.strategy, ready.inputs, 0))
  tf.config.run_functions_eagerly(made.train.task in TRACED)
  TRACED.add(made.train.task)
  try:
    return trainer.train(tf.constant(1))["total"]
  finally:
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")  # said of tf.data
@pytest.mark.parametrize("name", LEAVES)
def test_a_step_at_small_size(name, shapes, photos, tmp_path):
  configs.parse([name])
  is_classifier = configs.experiment().train.task == "classification"
  overlay, data = ("tiny_cpu_classification", photos) if is_classifier else ("tiny_cpu", shapes)
  configs.parse([name, f"overlays/{overlay}.gin"], [f"DATA_DIR='{data}'"])
  made = shrunk(configs.experiment())
  key = operations(made)
  if key not in STEPPED:
    with forgotten():
      STEPPED[key] = first_loss(made, tmp_path / "run")
  assert math.isfinite(STEPPED[key])
