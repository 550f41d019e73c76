"""Composite layers say what `call` does: shapes, dtypes, which variables; and variables are named as Keras names them."""

import subprocess
import sys

import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.layers.composite import Composite
from spinenet_tf.layers.conv_norm import ConvNorm
from tests.conformance.cases import CASES

COMPOSITES = {name: case for name, case in CASES.items() if issubclass(case.kind, Composite)}
every_composite = pytest.mark.parametrize("case", COMPOSITES.values(), ids=COMPOSITES.keys())


def _symbolic(case):
  return tf.nest.map_structure(lambda t: keras.Input(t.shape[1:], batch_size=t.shape[0]), case.inputs())


@every_composite
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_symbolic_outputs_are_those_of_call(case, policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    layer = case.make()
    symbolic = layer(_symbolic(case))
    names = [w.name for w in layer.weights]
    outputs = layer(case.inputs())
  finally:
    keras.mixed_precision.set_global_policy("float32")
  tf.nest.assert_same_structure(symbolic, outputs)
  for a, b in zip(tf.nest.flatten(symbolic), tf.nest.flatten(outputs)):
    assert a.shape == b.shape and a.dtype == b.dtype
  assert [w.name for w in layer.weights] == names  # `call` found nothing to build
  assert all(part.built for part in layer.submodules if isinstance(part, keras.layers.Layer))


@every_composite
def test_calling_and_building_make_the_same_variables(case):
  called, built, symbolic = case.make(), case.make(), case.make()
  called(case.inputs())
  with tf.name_scope(built.name):
    built.build(tf.nest.map_structure(lambda t: t.shape, case.inputs()))
  symbolic(_symbolic(case))
  for a, b, c in zip(called.weights, built.weights, symbolic.weights, strict=True):
    strip = [w.name.split("/", 1)[1] for w in (a, b, c)]  # layers made one after another are numbered
    assert strip[0] == strip[1] == strip[2] and a.shape == b.shape == c.shape


def test_variables_are_named_by_their_layers():
  layer = ConvNorm(4, name="unit")
  layer(tf.zeros([1, 2, 2, 3]))
  names = ["unit/conv/kernel:0", *(f"unit/norm/{x}:0" for x in ("gamma", "beta", "moving_mean", "moving_variance"))]
  assert [w.name for w in layer.weights] == names
  assert len({w._unique_id for w in layer.weights}) == 5
  optimizer = keras.optimizers.legacy.SGD(0.1, momentum=0.9)
  optimizer._create_all_weights(layer.trainable_weights)
  assert [v.name for v in optimizer.variables()] == ["iter:0", *(f"{name[:-2]}/momentum:0" for name in names[:3])]


def test_a_layer_built_in_a_traced_function_is_built_outside_of_it():
  layer = ConvNorm(4, 3, 2, name="unit")

  @tf.function
  def run(x):
    return layer(x)

  assert run(tf.zeros([1, 5, 6, 3])).shape == (1, 3, 3, 4)
  assert layer.weights[0].name == "unit/conv/kernel:0" and layer.weights[0].numpy().shape == (3, 3, 3, 4)


def test_a_layer_that_does_not_say_how_it_is_built():
  class Silent(Composite):
    def call(self, inputs):
      return inputs

  with pytest.raises(TypeError, match="Silent does not say how its parts are built"):
    Silent()(tf.zeros([1, 2]))


PROGRAM = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from spinenet_tf.compat import keras
from spinenet_tf.layers.conv_norm import ConvNorm
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
  layer = ConvNorm(4, name="unit")
  layer(keras.Input([2, 2, 3]))
for weight in layer.weights:
  print(weight.name, *(v.name for v in weight.values))
"""


@pytest.mark.slow
def test_names_of_replicas(root):
  result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=root)
  assert result.returncode == 0, result.stderr[-3000:]
  first, *others = (line.split() for line in result.stdout.strip().splitlines()[-5:])
  assert first == ["unit/conv/kernel:0", "unit/conv/kernel:0", "unit/conv/kernel/replica_1:0"]
  assert len(others) == 4
