"""SOLO through the training loop: losses, counts, odd images, evaluation, a few images by heart."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.ops import solo_targets
from spinenet_tf.training import evaluation, loop
from spinenet_tf.training import setup as setups
from spinenet_tf.training.optimizers import adam
from spinenet_tf.training.progress import Progress
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings
from spinenet_tf.training.solo_settings import SoloDetectionSettings, SoloSettings
from spinenet_tf.training.tasks import task_of

LEVELS = {"sources": (3, 4), "strides": (8, 16), "grids": (8, 4), "scales": ((1, 64), (32, 256)), "cells": 24}
SETTINGS = SoloSettings(**LEVELS)
PARTS = ("cls", "mask")
COUNTS = ("cells_lost", "objects_without_cell")


@pytest.fixture
def solo(experiment):
  """Returns an experiment of a few steps with SOLO."""

  def make(settings=SETTINGS, **changes) -> Experiment:
    base = {"train": {"task": "solo"}, "data": {"mask_size": 28}, "model": {"head_width": 16, "head_convs": 1}}
    parts = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
    return Experiment(**{**vars(experiment(**parts)), "solo": settings})

  return make


@pytest.fixture(scope="module")
def built(tiny):
  """A narrow SOLO of three classes and the losses of its task."""
  model = ModelSettings(tiny, image_size=128, head_width=16, head_convs=1)
  task = task_of(Experiment(model=model, solo=SETTINGS, train=RunSettings(task="solo")))
  return task.network.build(3), task.objective(3)


def batch(has_mask=True, objects=2, boxes=((8, 8, 72, 56), (60, 50, 120, 124))):
  boxes_of = np.zeros((2, 4, 4), np.float32)
  boxes_of[:, :2] = boxes
  classes = np.full((2, 4), -1, np.int32)
  classes[:, :objects] = 1
  masks = np.zeros((2, 4, 28, 28), np.uint8)
  masks[:, :, 3:25, 3:25] = 1
  image = np.random.default_rng(0).normal(size=(2, 128, 128, 3)).astype(np.float32)
  return {
    "image": image,
    "boxes": boxes_of * (classes >= 0)[..., None],
    "classes": classes,
    "masks": masks,
    "has_mask": np.full((2, 4), has_mask),
  }


def losses(built, example, seed=3):
  model, objective = built
  with step_seed(tf.constant([seed, 0])), tf.GradientTape() as tape:
    found = objective(model, tf.nest.map_structure(tf.constant, example))
  gradients = tape.gradient(found["total"], model.trainable_variables)
  return {name: float(value) for name, value in found.items()}, gradients, model.trainable_variables


def test_all_losses_and_gradients(built):
  found, gradients, variables = losses(built, batch())
  assert set(found) == {*PARTS, *COUNTS, "total"}
  assert all(np.isfinite(found[name]) and found[name] > 0 for name in PARTS)
  assert found["total"] == pytest.approx(found["cls"] + 3 * found["mask"], rel=1e-5)
  assert found["cells_lost"] == found["objects_without_cell"] == 0
  for gradient, variable in zip(gradients, variables):
    assert gradient is not None and np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.name
  # A fresh mask is 0.01 all over: with n of N pixels wanted, dice is 1 - 2 * 0.01 n / (0.0001 N + n), near 1.
  assert 0.9 < found["mask"] < 1


def test_the_smaller_of_two_objects_in_one_cell_wins_and_it_is_counted(built):
  # Both are 24 px or less, of the first level alone, and in the cell (2, 2) of 16 px: the second is smaller.
  found, _, _ = losses(built, batch(boxes=((32, 32, 48, 48), (35, 35, 45, 45))))
  assert (found["cells_lost"], found["objects_without_cell"]) == (2, 2)  # one in each of two images
  model, _ = built
  example = batch(boxes=((32, 32, 48, 48), (35, 35, 45, 45)))
  truth = (example[key] for key in ("boxes", "classes", "masks", "has_mask"))
  assigned = solo_targets.assign(model.solo_levels, model.input_size, *truth)
  assert assigned.objects["0"].numpy().reshape(2, 8, 8)[:, 2, 2].tolist() == [1, 1]


def test_counts_are_shown_where_they_are_not_0():
  lines, written = [], []
  run = types.SimpleNamespace(writes=True, append_metrics=written.append)
  progress = Progress(
    run, total=9, batch=2, rate=lambda step: 0.1, parts=PARTS, counts=COUNTS, headline=(), say=lines.append
  )
  found = dict.fromkeys((*PARTS, "total", "l2", "gradient_norm"), 1.0)
  progress.report(1, 1, {**found, "cells_lost": 2.5, "objects_without_cell": 0.0})
  assert "cells lost 2.5" in lines[0] and "objects without" not in lines[0]
  assert (written[0]["cells_lost"], written[0]["objects_without_cell"]) == (2.5, 0)


def test_no_objects(built):
  found, gradients, _ = losses(built, batch(objects=0))
  assert found["mask"] == 0 and found["cls"] > 0
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


def test_objects_without_masks_train_categories(built):
  found, _, _ = losses(built, batch(has_mask=False))
  assert found["mask"] == 0 and found["cls"] > 0


def test_all_switches_turned(tiny):
  # Two cells for each side of 128 px: both objects of an image meet in one.
  switches = {"centre": "box", "sigma": 0.4, "aligned": False, "negatives": True, "multi_level": False}
  turned = SoloSettings(**{**LEVELS, "grids": (2, 1), **switches})
  model = ModelSettings(tiny, image_size=128, head_width=16, head_convs=1)
  task = task_of(Experiment(model=model, solo=turned, train=RunSettings(task="solo")))
  together = batch(boxes=((8, 8, 48, 48), (10, 10, 40, 40)))
  found, gradients, _ = losses((task.network.build(3), task.objective(3)), together)
  assert (found["cells_lost"], found["objects_without_cell"]) == (2, 2)
  assert all(np.isfinite(value) for value in found.values())
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


@pytest.mark.parametrize(
  ("wrong", "text"),
  [
    ({"cells": 0}, "solo.cells is 0"),
    ({"centre": "corner"}, "solo.centre is 'corner'"),
    ({"sigma": 0}, "solo.sigma is 0"),
    ({"grids": (40,)}, "'grids': 1"),
    ({"strides": (8, 12, 16, 32, 32)}, "strides is"),
  ],
)
def test_refuses(wrong, text):
  with pytest.raises(UserError, match=text):
    SoloSettings(**wrong)


@pytest.mark.parametrize(
  ("wrong", "text"),
  [
    ({"score_threshold": 1}, "score_threshold is 1"),
    ({"max_detections": 0}, "max_detections is 0"),
    ({"suppression": "hard"}, "suppression is 'hard'"),
    ({"suppression_sigma": 0}, "suppression_sigma is 0"),
  ],
)
def test_refuses_thresholds(wrong, text):
  with pytest.raises(UserError, match=text):
    SoloDetectionSettings(**wrong)


@pytest.mark.parametrize(
  ("model", "text"),
  [
    ({"image_size": (128, 100)}, r"\(128, 100\); height and width must be multiples of 16, .* \(128, 96\) or"),
    ({"anchor_size": 3.0}, "SOLO has no anchors"),
    ({"max_level": 6}, "solo.sources"),
  ],
)
def test_refuses_models(solo, tmp_path, model, text):
  with pytest.raises(UserError, match=text):
    setups.build(solo(model=model), tmp_path / "run")


def test_four_images_by_heart(tiny, tmp_path):
  """Mask AP on the training images; what is missing lies half behind other objects, or is 10 pixels wide."""
  prepare_synthetic(tmp_path / "data", train=4, val=1, size=64)
  experiment = Experiment(
    model=ModelSettings(
      {**tiny, "blocks": tiny["blocks"][:2], "filter_scale": 0.25, "endpoint_filters": 48},
      image_size=64,
      head_width=48,
      head_convs=2,
      norm_momentum=0.97,
    ),
    solo=SoloSettings(
      **{**LEVELS, "sources": (3, 3), "strides": (4, 8), "grids": (12, 6), "scales": ((1, 24), (16, 64))}
    ),
    data=DataSettings(
      directory=str(tmp_path / "data"),
      eval_split="train",
      batch_size=4,
      scale_jitter=(1.0, 1.0),
      flip=False,
      cache=True,
      mask_size=28,
    ),
    schedule=Schedule(learning_rate=0.002, learning_rate_batch=None, warmup=20, drops=("75%",), factors=(0.1,)),
    train=RunSettings(
      task="solo",
      duration=160,
      strategy="one_device",
      optimizer=adam,
      log_interval=40,
      checkpoint_interval=160,
      eval_interval=160,
      clip_norm=35.0,
    ),
  )
  metrics = loop.train(setups.build(experiment, tmp_path / "run"))
  assert metrics["mask_AP"] >= 0.6 and metrics["mask_AP50"] >= 0.75
  assert sum(name.startswith("mask_A") for name in metrics) == 12
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert all(set(COUNTS) <= set(line) for line in lines if line["kind"] == "train")

  again = evaluation.evaluate(experiment, tmp_path / "run", output_dir=tmp_path / "out")
  assert again.step == 160 and again.metrics == pytest.approx(metrics, abs=1e-6, nan_ok=True)
  written = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert written["mask_AP"] == pytest.approx(metrics["mask_AP"]) and "mask" in again.table.lower()
