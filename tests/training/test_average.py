"""The average of the weights: its values, where it is used, and that a run resumes with it."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables
from spinenet_tf.training import checkpoints, evaluation, loop
from spinenet_tf.training import setup as setups
from spinenet_tf.training.average import Average


def test_by_hand():
  model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", input_shape=(1,))])
  average, (kernel,) = Average(model, 0.25), model.variables
  (shadow,) = average._shadows.values()
  kernel.assign([[11.0]])
  average.update(tf.constant(0, tf.int64))  # decay 1 / 10: 0.1 * 1 + 0.9 * 11
  np.testing.assert_allclose(shadow, [[10.0]], rtol=1e-6)
  kernel.assign([[2.0]])
  average.update(tf.constant(98, tf.int64))  # decay 0.25: 0.25 * 10 + 0.75 * 2
  np.testing.assert_allclose(shadow, [[4.0]], rtol=1e-6)
  with pytest.raises(KeyError), average.in_place():
    np.testing.assert_allclose(kernel, [[4.0]], rtol=1e-6)
    raise KeyError
  np.testing.assert_array_equal(kernel, [[2.0]])
  average.reset()
  np.testing.assert_array_equal(shadow, [[2.0]])


def saved(prefix):
  return checkpoints.read_weights(str(prefix))


@pytest.mark.slow
def test_a_run_evaluates_keeps_and_resumes_the_average(experiment, tmp_path):
  """Six steps with two evaluations on the way, in one go and in two."""
  train = {"ema": 0.9, "duration": 6, "checkpoint_interval": 3, "eval_interval": 3}
  made = experiment(train=train)
  metrics = loop.train(setups.build(made, tmp_path / "whole"))

  first = setups.build(made, tmp_path / "parts")
  evaluate = loop.Loop._evaluate

  def evaluate_and_stop(self):
    evaluate(self)
    raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(loop.Loop, "_evaluate", evaluate_and_stop)
    loop.train(first)
  second = setups.build(made, tmp_path / "parts")
  assert second.global_step == 3
  loop.train(second)

  raw = {k: v.numpy() for k, v in named_variables(second.model).items()}
  latest = "checkpoints/step-6"
  whole, parts = saved(tmp_path / "whole" / latest), saved(tmp_path / "parts" / latest)
  assert set(whole) == set(raw)
  for name, value in whole.items():
    np.testing.assert_allclose(value, parts[name], rtol=2e-2, atol=2e-4, err_msg=name)
  kernels = [name for name in raw if name.endswith("kernel")]
  assert all(np.abs(raw[name] - parts[name]).max() > 1e-7 for name in kernels)

  # What was evaluated is the average, and so is what any checkpoint of the run gives.
  again = evaluation.evaluate(made, tmp_path / "whole", checkpoint=str(tmp_path / "whole" / latest)).metrics
  np.testing.assert_equal(again, metrics)
  (best,) = (tmp_path / "parts/best").glob("*.index")
  at_that_step = saved(tmp_path / "parts/checkpoints" / best.stem)
  for name, value in saved(best.with_suffix("")).items():
    np.testing.assert_array_equal(value, at_that_step[name])

  with pytest.raises(UserError, match="train.ema is off, and was set when"):
    setups.build(experiment(train={**train, "ema": 0.0}), tmp_path / "parts")


def test_the_average_begins_at_the_initial_checkpoint(experiment, tmp_path):
  old = setups.build(experiment(), tmp_path / "old")
  old.model.set_weights([w + 0.5 for w in old.model.get_weights()])
  old.checkpoints.save()
  new = setups.build(experiment(train={"ema": 0.99, "initial_checkpoint": str(tmp_path / "old")}), tmp_path / "new")
  with new.step.average.in_place():
    for one, two in zip(new.model.get_weights(), old.model.get_weights()):
      np.testing.assert_array_equal(one, two)
  with pytest.raises(UserError, match="train.ema is set, and was off when"):
    setups.build(experiment(train={"ema": 0.99}), tmp_path / "old")


@pytest.mark.parametrize("ema", [1.0, -0.1, True, "0.9"])
def test_bad_decay(experiment, ema):
  with pytest.raises(UserError, match=r"train.ema is .* decay below 1"):
    experiment(train={"ema": ema})
