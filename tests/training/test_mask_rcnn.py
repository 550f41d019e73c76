"""Mask R-CNN through the training loop: losses, odd images, evaluation, eight images by heart."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.layers.random_seed import step_seed
from spinenet_tf.training import evaluation, loop
from spinenet_tf.training import setup as setups
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import (
  DataSettings,
  Experiment,
  MaskRCNNSettings,
  ModelSettings,
  RunSettings,
)
from spinenet_tf.training.tasks import task_of

HEADS = MaskRCNNSettings(dense_width=32, region_samples=32, mask_samples=8)
PARTS = ("rpn_cls", "rpn_box", "cls", "box", "mask")


@pytest.fixture
def masks(experiment):
  """Returns an experiment of a few steps with Mask R-CNN."""

  def make(**changes) -> Experiment:
    base = {"train": {"task": "mask_rcnn", "clip_norm": 0.0}, "data": {"mask_size": 28}}
    parts = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
    made = experiment(**{name: values for name, values in parts.items() if name != "mask_rcnn"})
    return Experiment(**{**vars(made), "mask_rcnn": HEADS})

  return make


@pytest.fixture(scope="module")
def built(tiny):
  """A narrow Mask R-CNN of three classes and the losses of its task."""
  task = task_of(
    Experiment(
      model=ModelSettings(tiny, image_size=128, head_width=16, head_convs=1),
      mask_rcnn=HEADS,
      train=RunSettings(task="mask_rcnn"),
    )
  )
  return task.network.build(3), task.objective(3)


def batch(has_mask=True, objects=2):
  boxes = np.zeros((2, 4, 4), np.float32)
  boxes[:, :2] = [[8, 8, 72, 56], [60, 50, 120, 124]]
  classes = np.full((2, 4), -1, np.int32)
  classes[:, :objects] = 1
  masks = np.zeros((2, 4, 28, 28), np.uint8)
  masks[:, :, :14] = 1
  image = np.random.default_rng(0).normal(size=(2, 128, 128, 3)).astype(np.float32)
  return {
    "image": image,
    "boxes": boxes * (classes >= 0)[..., None],
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
  assert set(found) == {*PARTS, "total"}
  assert all(np.isfinite(value) and value > 0 for value in found.values())
  assert found["total"] == pytest.approx(sum(found[name] for name in PARTS), rel=1e-5)
  for gradient, variable in zip(gradients, variables):
    assert gradient is not None and np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.name
  # Fresh scores are nearly equal: ln 2 for an anchor and ln 4 for a region.
  assert found["rpn_cls"] == pytest.approx(np.log(2), rel=0.1)
  assert found["cls"] == pytest.approx(np.log(4), rel=0.1)


def test_the_seed_decides_the_samples(built):
  first, again, other = (losses(built, batch(), seed)[0]["rpn_cls"] for seed in (3, 3, 4))
  assert first == again != other


def test_no_objects(built):
  found, gradients, _ = losses(built, batch(objects=0))
  assert found["rpn_box"] == found["box"] == found["mask"] == 0
  assert found["rpn_cls"] > 0 and found["cls"] > 0
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


def test_objects_without_masks_train_boxes(built):
  found, _, _ = losses(built, batch(has_mask=False))
  assert found["mask"] == 0 and found["box"] > 0


def test_run_resumes_and_is_evaluated(masks, tmp_path):
  made = masks(train={"duration": 2})
  metrics = loop.train(setups.build(made, tmp_path / "run"))
  assert {"AP", "mask_AP", "mask_AP50", "mask_APs"} <= set(metrics)
  longer = masks(train={"duration": 3})
  ready = setups.build(longer, tmp_path / "run")
  assert ready.global_step == 2
  loop.train(ready)
  result = evaluation.evaluate(longer, tmp_path / "run", output_dir=tmp_path / "out")
  assert result.step in (2, 3) and "mask" in result.table.lower()
  written = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert sum(name.startswith("mask_A") for name in written) == 12


def test_accumulated_steps(masks, tmp_path):
  metrics = loop.train(setups.build(masks(train={"duration": 1, "accumulation": 2, "eval_interval": 1}), tmp_path))
  assert np.isfinite(metrics["AP"]) or metrics["AP"] != metrics["AP"]


@pytest.mark.parametrize(
  ("wrong", "text"),
  [
    ({"rpn_samples": 0}, "rpn_samples is 0"),
    ({"region_positive_share": 0}, "region_positive_share is 0"),
    ({"rpn_negative_iou": 0.8}, "rpn_negative_iou is 0.8"),
    ({"mask_samples": 600}, "mask_samples is 600"),
  ],
)
def test_refuses(wrong, text):
  with pytest.raises(UserError, match=text):
    MaskRCNNSettings(**wrong)


@pytest.mark.slow
def test_eight_images_by_heart(tiny, tmp_path):
  """Box AP and mask AP above 0.85 on the training images."""
  prepare_synthetic(tmp_path / "data", train=8, val=1, size=128)
  experiment = Experiment(
    model=ModelSettings(
      {**tiny, "filter_scale": 0.25, "endpoint_filters": 48},
      image_size=128,
      head_width=48,
      head_convs=2,
      anchor_size=3.0,
    ),
    mask_rcnn=MaskRCNNSettings(dense_width=128, region_samples=64, region_positive_share=0.5, mask_samples=24),
    data=DataSettings(
      directory=str(tmp_path / "data"),
      eval_split="train",
      batch_size=8,
      scale_jitter=(1.0, 1.0),
      flip=False,
      cache=True,
    ),
    schedule=Schedule(
      learning_rate=0.04,
      learning_rate_batch=None,
      warmup=40,
      warmup_learning_rate=0.004,
      drops=("75%",),
      factors=(0.1,),
    ),
    train=RunSettings(
      task="mask_rcnn",
      duration=600,
      strategy="one_device",
      log_interval=50,
      checkpoint_interval=600,
      eval_interval=600,
    ),
  )
  metrics = loop.train(setups.build(experiment, tmp_path / "run"))
  assert metrics["AP"] > 0.85 and metrics["mask_AP"] >= 0.85
