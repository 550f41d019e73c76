"""One replica's step: gradients, accumulation, precision, what is frozen."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops import recompute
from spinenet_tf.training import setup as setups
from spinenet_tf.training.trainer import Trainer


def trainer_of(ready, dataset=None):
  return Trainer(
    ready.strategy,
    ready.step,
    dataset or (lambda: ready.task.train_on(ready.strategy, ready.inputs, ready.global_step)),
  )


def batches(ready, count):
  iterator = iter(ready.task.train_on(ready.strategy, ready.inputs, 0))
  return [next(iterator) for _ in range(count)]


def test_a_step_learns_and_is_traced_once(experiment, tmp_path):
  ready = setups.build(experiment(), tmp_path / "run")
  trainer = trainer_of(ready)
  first = trainer.train(tf.constant(1))
  for count in (1, 3):
    last = trainer.train(tf.constant(count))
  assert ready.global_step == 5
  assert last["total"] < first["total"]
  assert trainer._loop.experimental_get_tracing_count() == 1
  assert first["data_wait"] >= 0
  assert first["total"] == pytest.approx(first["cls"] + 50 * first["box"] + first["l2"], rel=1e-5)


def test_the_update_is_sgd_of_loss_and_decay_clipped(experiment, tmp_path):
  ready = setups.build(experiment(train={"clip_norm": 0.5, "weight_decay": 0.1}), tmp_path / "run")
  (batch,) = batches(ready, 1)
  step = ready.step
  before = [v.numpy() for v in step.variables]

  gradients, losses = ready.strategy.run(step.gradients, args=(batch, 0))
  gradients = [
    g.numpy() + (0.1 * b if v.name.endswith("kernel:0") else 0) for g, b, v in zip(gradients, before, step.variables)
  ]
  norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
  metrics = ready.strategy.run(step.update, args=(ready.strategy.run(step.gradients, args=(batch, 0))[0], losses))
  assert norm > 0.5
  assert float(metrics[-1]) == pytest.approx(norm, rel=1e-3)
  for variable, old, gradient in zip(step.variables, before, gradients):
    np.testing.assert_allclose(variable.numpy(), old - 0.01 * gradient * 0.5 / norm, rtol=1e-2, atol=1e-6)


def test_accumulated_gradients_are_the_mean_of_the_batches(experiment, tmp_path):
  one = setups.build(experiment(train={"clip_norm": 0.0, "weight_decay": 0.0}), tmp_path / "one")
  first, second = batches(one, 2)
  start = [v.numpy() for v in one.step.variables]
  means = []
  for batch in (first, second):
    gradients, _ = one.strategy.run(one.step.gradients, args=(batch, 0))
    means.append([g.numpy() for g in gradients])

  two = setups.build(experiment(train={"clip_norm": 0.0, "weight_decay": 0.0, "accumulation": 2}), tmp_path / "two")
  for variable, value in zip(two.step.variables, start):
    variable.assign(value)
  trainer = trainer_of(two)
  for steps in (1, 1):
    old = [v.numpy() for v in two.step.variables]
    metrics = trainer.train(tf.constant(steps))
    if two.global_step == 1:
      for variable, was, g1, g2 in zip(two.step.variables, old, *means):
        np.testing.assert_allclose(variable.numpy(), was - 0.01 * (g1 + g2) / 2, rtol=2e-2, atol=2e-6)
  assert two.global_step == 2
  assert np.isfinite(metrics["total"])
  assert two.plan.batch == 8


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(experiment, tmp_path, precision):
  ready = setups.build(experiment(train={"precision": precision}), tmp_path / "run")
  assert all(v.dtype == tf.float32 for v in ready.model.trainable_variables)
  losses = [trainer_of(ready).train(tf.constant(2))["total"] for _ in range(2)]
  assert np.isfinite(losses).all()
  assert ready.global_step == 4
  assert ready.model(tf.zeros([1, 128, 128, 3]))["cls_logits"]["3"].dtype == tf.float32


def test_random_layers_repeat_by_step(experiment, tmp_path):
  noisy = {"dropblock_keep": 0.7, "dropblock_size": 3, "stochastic_depth": 0.5}
  ready = setups.build(experiment(model=noisy, schedule={"learning_rate": 1e-9}), tmp_path / "run")
  (batch,) = batches(ready, 1)

  def norm(step):
    ready.step.global_step.assign(step)
    return float(tf.linalg.global_norm(ready.strategy.run(ready.step.gradients, args=(batch, 0))[0]))

  assert norm(2) == pytest.approx(norm(2), rel=1e-4)
  assert abs(norm(2) / norm(3) - 1) > 1e-3


def test_a_loss_that_is_not_finite_stops_at_once(experiment, tmp_path):
  ready = setups.build(experiment(), tmp_path / "run")
  batch = next(iter(ready.task.train_on(ready.strategy, ready.inputs, 0)))
  good = {key: value.numpy() for key, value in batch.items()}
  bad = {**good, "image": np.full_like(good["image"], np.nan)}
  stream = [good, good, bad, good, good]

  def dataset():
    slices = {key: np.stack([b[key] for b in stream]) for key in good}
    return ready.strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices(slices).repeat())

  with pytest.raises(UserError, match="not finite at step 3: .*gradient_norm"):
    trainer_of(ready, dataset).train(tf.constant(5))
  assert ready.global_step == 3


def test_frozen_variables_do_not_change(experiment, tmp_path):
  ready = setups.build(experiment(train={"freeze": ("^stem", "^block")}), tmp_path / "run")
  before = {v.name: v.numpy() for v in ready.model.variables}
  trainer_of(ready).train(tf.constant(2))
  changed = {v.name.split("/")[0] for v in ready.model.variables if (v.numpy() != before[v.name]).any()}
  assert {"class_tower", "box_tower"} <= changed
  assert not any(name.startswith(("stem", "block")) for name in changed)


def test_other_optimizers(experiment, tmp_path):
  from spinenet_tf.training.optimizers import adam

  made = experiment()
  made = dataclasses.replace(made, train=dataclasses.replace(made.train, optimizer=adam))
  ready = setups.build(made, tmp_path / "run")
  assert np.isfinite(trainer_of(ready).train(tf.constant(2))["total"])


@pytest.mark.parametrize(
  ("model", "precision"),
  [({}, "float32"), ({"stochastic_depth": 0.5, "dropblock_keep": 0.8}, "float32"), ({}, "mixed_bfloat16")],
)
def test_recomputed_activations_give_the_same_gradients(experiment, tmp_path, monkeypatch, model, precision):
  monkeypatch.setattr(recompute, "SMALL", 256)
  found = []
  for wanted in (False, True):
    train = {"precision": precision, "recompute": wanted}
    ready = setups.build(experiment(model=model, train=train), tmp_path / str(wanted))
    (batch,) = batches(ready, 1)
    run = functools.partial(ready.strategy.run, ready.step.gradients, (batch, 0))
    graph = tf.function(run, autograph=False).get_concrete_function()
    gradients, losses = graph()
    names = [op.name.split("/")[-1] for op in graph.graph.get_operations()]
    found.append((gradients, losses, sum(name.startswith("again") for name in names)))
  (plain, losses, none), (ours, same_losses, copies) = found
  assert none == 0 and copies > 10
  np.testing.assert_array_equal(losses, same_losses)
  scale = max(float(tf.reduce_max(abs(g))) for g in plain)
  for expected, actual in zip(plain, ours):
    np.testing.assert_allclose(actual, expected, atol=scale * (1e-6 if precision == "float32" else 1e-2))
