"""Every layer and model against the same list: config round trip, SavedModel, checkpoint, two replicas, precision, size.

Arguments are not the defaults, so that a `get_config` which forgets one is found.
"""

import json
from typing import Any, Callable

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.random_seed import step_seed
from tests.conformance.cases import CASES, MODELS, Case

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())


def _flat(outputs: Any) -> list[np.ndarray]:
  return [t.numpy() for t in tf.nest.flatten(outputs)]


def _same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
  for x, y in zip(_flat(a), _flat(b)):
    assert np.abs(x - y).max() <= tolerance * max(np.abs(x).max(), 1)


def _built(case: Case):
  layer = case.make()
  case.use(layer, case.inputs())
  rng = np.random.default_rng(0)
  for weight in layer.weights:
    value = rng.uniform(0.5, 1.5, weight.shape) if "kernel" not in weight.name else rng.normal(size=weight.shape)
    weight.assign(value * (0.2 if "kernel" in weight.name else 1))
  return layer


@every_case
def test_config_round_trip(case):
  layer = _built(case)
  config = json.loads(json.dumps(layer.get_config()))
  for name, value in case.arguments.items():
    assert json.loads(json.dumps(config[name])) == json.loads(json.dumps(value)), f"{name} is lost"
  again = case.kind.from_config(config)
  case.use(again, case.inputs())
  again.set_weights(layer.get_weights())
  _same(case.use(layer, case.inputs()), case.use(again, case.inputs()))


@every_case
def test_names_of_weights_are_unique(case):
  names = [w.name for w in _built(case).weights]
  assert len(set(names)) == len(names)


@every_case
def test_saved_model(case, tmp_path):
  layer = _built(case)
  signature = tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), case.inputs())
  module = tf.Module()
  module.layer_variables = list(layer.variables)
  module.serve = tf.function(lambda x: case.use(layer, x, training=False), input_signature=[signature])
  tf.saved_model.save(module, str(tmp_path))
  again = tf.saved_model.load(str(tmp_path))
  _same(case.use(layer, case.inputs()), again.serve(case.inputs()))


@every_case
def test_checkpoint(case, tmp_path):
  layer, other = _built(case), case.make()
  case.use(other, case.inputs())
  path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "ckpt"))
  tf.train.Checkpoint(layer=other).read(path).assert_existing_objects_matched()
  _same(case.use(layer, case.inputs()), case.use(other, case.inputs()))


@every_model
@pytest.mark.parametrize("suffix", ["keras", "weights.h5", "h5"])
def test_keras_files(case, suffix, tmp_path):
  """The whole model in Keras's format, and the weights alone in either HDF5 layout."""
  model, path = _built(case), str(tmp_path / f"model.{suffix}")
  if suffix == "keras":
    model.save(path)
    again = keras.models.load_model(path)
    assert type(again) is case.kind and again.get_config() == model.get_config()
  else:
    model.save_weights(path)
    again = case.make()
    again.load_weights(path)
  for a, b in zip(model.weights, again.weights):
    assert a.name == b.name
    np.testing.assert_array_equal(a, b, err_msg=a.name)
  _same(case.use(model, case.inputs()), case.use(again, case.inputs()))


@every_case
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(case, policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    layer = case.make()
    with tf.GradientTape() as tape:
      outputs = tf.nest.flatten(case.use(layer, case.inputs(), training=True))
      total = tf.add_n([tf.reduce_sum(tf.cast(t, tf.float32) ** 2) for t in outputs])
    gradients = tape.gradient(total, layer.trainable_weights)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert all(w.dtype == tf.float32 for w in layer.weights)
  assert all(np.isfinite(g.numpy()).all() for g in gradients)


@every_case
def test_random_draws_repeat_under_a_seed(case):
  layer = _built(case)
  weights = layer.get_weights()
  results = []
  for _ in range(2):
    layer.set_weights(weights)
    with step_seed(tf.constant([1, 2])):
      results.append(case.use(layer, case.inputs(), training=True))
  _same(*results)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.free_size], ids=lambda c: c.kind.__name__)
def test_sizes_that_are_not_known(case):
  layer = _built(case)
  free = tf.nest.map_structure(lambda t: tf.TensorSpec([None, None, None, t.shape[3]], t.dtype), case.inputs())
  traced: Callable = tf.function(lambda x: case.use(layer, x, training=False), input_signature=[free])
  _same(traced(case.inputs(2)), case.use(layer, case.inputs(2)), 1e-4)
