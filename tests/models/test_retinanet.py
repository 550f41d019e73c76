"""RetinaNet: outputs, config round trip, names, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.profile import profile
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.models.retinanet import RetinaNet, build_retinanet
from spinenet_tf.ops.anchors import AnchorConfig


@pytest.fixture(scope="module")
def tiny():
  """A thin SpineNet with every edge of the real one."""
  values = architecture("spinenet49s").to_dict() | {"name": "tiny", "filter_scale": 0.125, "endpoint_filters": 16}
  return architecture(values | {"head_convs": 2, "head_filters": 16})


@pytest.fixture(scope="module")
def model(tiny):
  return build_retinanet(tiny, 5, (128, 256))


def test_shapes_of_every_level(model):
  outputs = model(tf.zeros([2, 128, 256, 3]))
  for level in range(3, 8):
    size = (2, 128 // 2**level, -(-256 // 2**level))
    assert outputs["cls_logits"][str(level)].shape == (*size, 9 * 5)
    assert outputs["box_deltas"][str(level)].shape == (*size, 9 * 4)


def test_an_untrained_model_says_background(model):
  logits = model(tf.random.normal([1, 128, 256, 3]))["cls_logits"]["3"]
  np.testing.assert_allclose(tf.sigmoid(logits), 0.01, atol=1e-3)


def test_parameters_equal_the_profile(model, tiny):
  built = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
  assert profile(tiny, "retinanet", 5, (128, 256)).parameters == built


def test_config_round_trip_with_nothing_at_its_default(tiny):
  anchors = AnchorConfig(min_level=3, max_level=6, num_scales=2, aspect_ratios=(1.0, 3.0), anchor_size=5.0)
  model = build_retinanet(
    tiny,
    3,
    (96, 96),
    head_convs=1,
    head_width=8,
    anchors=anchors,
    activation="swish",
    stochastic_depth=0.3,
    dropblock_keep=0.8,
    dropblock_size=3,
    synchronized=True,
    norm_momentum=0.9,
    norm_epsilon=1e-2,
    padding="same",
    prior=0.05,
  )
  config = json.loads(json.dumps(model.get_config()))
  again = RetinaNet.from_config(config)
  assert json.loads(json.dumps(again.get_config())) == config
  assert again.architecture == tiny and again.anchors == anchors
  images = tf.random.normal([1, 96, 96, 3])
  again.set_weights(model.get_weights())
  for a, b in zip(tf.nest.flatten(model(images)), tf.nest.flatten(again(images))):
    np.testing.assert_array_equal(a, b)


def test_sizes_that_do_not_divide(tiny):
  model = build_retinanet(tiny, 2, (100, 72))
  assert model(tf.zeros([1, 100, 72, 3]))["box_deltas"]["7"].shape == (1, 1, 1, 36)


def test_unknown_sizes_give_the_same_network(tiny, model):
  free = build_retinanet(tiny, 5, (None, None))
  free.set_weights(model.get_weights())
  images = tf.random.normal([1, 128, 256, 3])
  for a, b in zip(tf.nest.flatten(free(images)), tf.nest.flatten(model(images))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  assert free(tf.zeros([1, 256, 128, 3]))["cls_logits"]["3"].shape == (1, 32, 16, 45)


def test_checkpoints_are_keyed_by_architecture(model, tmp_path):
  path = tf.train.Checkpoint(model=variable_tree(model)).write(str(tmp_path / "ckpt"))
  keys = {name for name, _ in tf.train.list_variables(path)}
  assert "model/block_07/resample_0/squeeze/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE" in keys
  assert len(keys) == len(model.variables) + 1  # and the object graph


def test_checkpoint_reads_back_into_a_new_model(tiny, model, tmp_path):
  path = tf.train.Checkpoint(model=variable_tree(model)).write(str(tmp_path / "ckpt"))
  other = build_retinanet(tiny, 5, (128, 256))
  tf.train.Checkpoint(model=variable_tree(other)).read(path).assert_consumed()
  for a, b in zip(named_variables(model).values(), named_variables(other).values()):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["spinenet49s", "r50_fpn", "spinenet49_mobile"])
def test_golden_names(root, name):
  """The names are the checkpoint format: a change here breaks every checkpoint that exists."""
  names = sorted(named_variables(build_retinanet(name, 3, (128, 128))))
  golden = (root / "tests" / "models" / f"golden_names_{name}.txt").read_text().split()
  assert names == golden


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_outputs_are_float32_whatever_the_policy(tiny, policy):
  from spinenet_tf.compat import keras

  keras.mixed_precision.set_global_policy(policy)
  try:
    outputs = build_retinanet(tiny, 2, (96, 96))(tf.zeros([1, 96, 96, 3]), training=True)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert {t.dtype for t in tf.nest.flatten(outputs)} == {tf.float32}


def test_keras_save_and_load(model, tmp_path):
  from spinenet_tf.compat import keras

  model.save(tmp_path / "model.keras")
  again = keras.models.load_model(tmp_path / "model.keras")
  images = tf.random.normal([1, 128, 256, 3])
  for a, b in zip(tf.nest.flatten(model(images)), tf.nest.flatten(again(images))):
    np.testing.assert_array_equal(a, b)


def test_saved_model(model, tmp_path):
  serve = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, 128, 256, 3])])
  module = tf.Module()
  module.variables_of_model, module.serve = list(model.variables), serve
  tf.saved_model.save(module, str(tmp_path))
  again = tf.saved_model.load(str(tmp_path))
  images = tf.random.normal([1, 128, 256, 3])
  for a, b in zip(tf.nest.flatten(model(images)), tf.nest.flatten(again.serve(images))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"num_classes": 3, "min_level": 2}, r"levels \[2, 3.*offers \[3, 4, 5, 6, 7\].*\[2\] are missing"),
    ({"num_classes": 3, "prior": 0.0}, "prior is 0.0"),
    ({"num_classes": 3, "activation": "tanh"}, "activation is 'tanh'"),
    ({"num_classes": 3, "stochastic_depth": 1.0}, "stochastic_depth is 1.0"),
  ],
)
def test_what_is_refused(tiny, kwargs, text):
  with pytest.raises(UserError, match=text):
    build_retinanet(tiny, input_size=(96, 96), **kwargs)
