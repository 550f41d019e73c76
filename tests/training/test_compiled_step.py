"""Training steps and evaluation as one XLA program each, which is what a TPU runs, against the same not compiled."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.ops import portable
from spinenet_tf.training.average import Average
from spinenet_tf.training.optimizers import sgd
from spinenet_tf.training.settings import ClassifierSettings, Experiment, ModelSettings, RunSettings
from spinenet_tf.training.solo_settings import SoloSettings
from spinenet_tf.training.step import TrainStep
from spinenet_tf.training.strategy import set_precision
from spinenet_tf.training.tasks import task_of

# Enough cells for all that are wanted: which ones are drawn by chance may differ, as XLA has random numbers of its own.
SOLO = SoloSettings(sources=(3, 4), strides=(8, 16), grids=(6, 3), scales=((1, 40), (20, 256)), cells=24)


def step_of(name, tiny, precision="float32"):
  """A step at 64 pixels of a network with levels 3 and 4; random numbers decide nothing."""
  set_precision(precision)
  network = {**tiny, "blocks": tiny["blocks"][:2]}
  levels = {} if name == "solo" else {"max_level": 4}
  experiment = Experiment(
    model=ModelSettings(network, image_size=64, head_convs=1, head_width=16, **levels),
    classifier=ClassifierSettings(network, image_size=64),
    solo=SOLO,
    train=RunSettings(task=name),
  )
  keras.utils.set_random_seed(0)
  task = task_of(experiment)
  model = task.network.build(3)
  number = tf.Variable(0, dtype=tf.int64, trainable=False)
  options = {"total_steps": 10, "clip_norm": 10.0, "weight_decay": 1e-4, "recompute": False}
  variables = model.trainable_variables
  return TrainStep(model, task.objective(3), sgd(0.01), variables, number, average=Average(model, 0.9), **options)


def batch(name):
  image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
  if name == "classification":
    return {"image": tf.constant(image), "label": tf.constant([0, 2])}
  boxes = np.zeros((2, 4, 4), np.float32)
  boxes[:, :2] = [[4, 4, 36, 28], [30, 25, 60, 62]]
  found = {"image": image, "boxes": boxes, "classes": np.int32([[1, 0, -1, -1], [2, 2, -1, -1]])}
  if name != "retinanet":
    masks = np.zeros((2, 4, 28, 28), np.uint8)
    masks[:, :, 2:20] = 1
    found.update(masks=masks, has_mask=found["classes"] >= 0)
  return tf.nest.map_structure(tf.constant, found)


def run(step, batch, compiled):
  """Two steps. Returns: what they reported, one row for each, and how they changed the variables."""
  before = [v.numpy() for v in step.model.variables]

  @tf.function(jit_compile=compiled, autograph=False)
  def once(batch):
    return step.update(*step.gradients(batch, 0))

  with portable.portable():
    rows = np.array([once(batch) for _ in range(2)])
  assert step.global_step == 2
  return rows, [v.numpy() - old for v, old in zip(step.model.variables, before)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn", "solo", "classification"])
def test_compiled_as_a_whole(tiny, name):
  plain, expected = run(step_of(name, tiny), batch(name), compiled=False)
  compiled, found = run(step_of(name, tiny), batch(name), compiled=True)
  assert np.isfinite(plain).all() and (plain[0] != plain[1]).any()
  # Pixels of a mask's target half covered may fall to either side.
  np.testing.assert_allclose(compiled, plain, rtol=5e-3 if name == "mask_rcnn" else 1e-3)
  apart = [a - b for a, b in zip(found, expected)]
  assert tf.linalg.global_norm(apart) < 0.02 * tf.linalg.global_norm(expected)
  if name != "classification":
    images = batch(name)["image"]
    model = step_of(name, tiny).model
    with portable.portable():
      thresholds = {"score_threshold": 0.0, "max_detections": 20}
      if name == "solo":
        thresholds.update(candidate_threshold=0.0, mask_threshold=0.005)  # fresh masks are near 0.01
      find = functools.partial(model.find, **thresholds)
      eager, found = find(images), tf.function(find, jit_compile=True, autograph=False)(images)
    assert (eager["num_detections"] > 0).numpy().all()
    for key, value in eager.items():
      np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-3, err_msg=key)
  half, _ = run(step_of(name, tiny, "mixed_bfloat16"), batch(name), compiled=True)
  np.testing.assert_allclose(half[0], plain[0], rtol=0.1)
