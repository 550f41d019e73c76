"""The proxy task: children, their data, rewards, failures; one small child is really trained."""

import dataclasses
import gc
import math

import pytest

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.profile import profile
from spinenet_tf.compat import forgotten
from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.search.proxy import Proxy, _stretches, budgeted
from spinenet_tf.search.settings import ProxySettings
from spinenet_tf.search.trials import attempt
from spinenet_tf.training import setup as setups
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, DetectionSettings, Experiment, ModelSettings, RunSettings

ARCH = {
  "name": "small",
  "stem": [{"level": 2, "block": "residual"}],
  "blocks": [
    {"level": 3, "block": "residual", "parents": [0], "is_output": True},
    {"level": 4, "block": "residual", "parents": [0, 1], "is_output": True},
    {"level": 5, "block": "residual", "parents": [1, 2], "is_output": True},
  ],
}
SMALL = ProxySettings(
  filter_scale=0.125, endpoint_filters=16, head_filters=16, head_convs=1, held_out=0.25, cost_size=128
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=12, val=4, size=64)
  return str(folder)


@pytest.fixture
def experiment(shapes):
  return Experiment(
    model=ModelSettings("spinenet49", image_size=64, max_level=5),
    data=DataSettings(directory=shapes, batch_size=4, scale_jitter=(1.0, 1.0), cache=True, max_boxes=8),
    schedule=Schedule(learning_rate=0.01, learning_rate_batch=None, warmup=0, drops=(), factors=()),
    detection=DetectionSettings(pre_nms_top_k=50, max_detections=10),
    train=RunSettings(duration=3, strategy="one_device"),
  )


@pytest.fixture
def proxy(experiment):
  return Proxy(experiment, SMALL)


def test_children_are_the_papers(experiment):
  child = Proxy(experiment, dataclasses.replace(ProxySettings(), held_out=0.25)).child(architecture("spinenet49"))
  assert (child.filter_scale, child.resample_alpha, child.head_filters, child.endpoint_filters) == (0.25, 0.25, 64, 64)
  assert child.blocks == architecture("spinenet49").blocks
  assert child.filters(5) == 64  # a quarter of 256


def test_held_out_images_come_from_training_alone(proxy, shapes):
  made = proxy.experiment_of(architecture(ARCH))
  assert (proxy.split.num_train, proxy.split.num_held_out) == (9, 3)
  assert made.data.num_train_examples == 9 and made.data.directory == shapes
  assert made.data.train_pattern == list(proxy.split.train) and made.data.eval_pattern == list(proxy.split.held_out)
  assert not any("val" in file.rsplit("/", 1)[-1] for file in made.data.train_pattern + made.data.eval_pattern)
  assert made.model.architecture.name == "small_child" and made.train.pictures == 0
  assert dataclasses.replace(made, model=proxy.experiment.model, data=proxy.experiment.data) == dataclasses.replace(
    proxy.experiment, train=made.train
  )


def test_the_soft_budget():
  free = ProxySettings()
  assert budgeted(0.3, 1e12, free) == 0.3
  tight = dataclasses.replace(free, target_multiply_adds=100e9, budget_exponent=-0.5)
  assert budgeted(0.3, 400e9, tight) == pytest.approx(0.15)  # 4 ** -0.5
  assert budgeted(0.3, 100e9, tight) == pytest.approx(0.3)
  assert budgeted(0.3, 25e9, tight) == pytest.approx(0.6)


def test_what_is_evaluated_when():
  assert list(_stretches(None, 10, 60)) == [(60, True)]
  assert list(_stretches("40%", 10, 60)) == [(24, False), (36, True)]
  assert list(_stretches("2 epochs", 10, 60)) == [(20, False), (40, True)]
  assert list(_stretches("9 epochs", 10, 60)) == [(60, True)]


def test_bad_settings(experiment, shapes):
  def made(**changes):
    return Proxy(experiment, dataclasses.replace(SMALL, **changes))

  with pytest.raises(UserError, match=r"no held-out images among the 12"):
    made(held_out=0)
  with pytest.raises(UserError, match=r"proxy.metric is 'mAP'; this task has AP, AP50, AP75"):
    made(metric="mAP")
  with pytest.raises(UserError, match=r"target_multiply_adds is 0"):
    made(target_multiply_adds=0)
  empty = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, directory="/nowhere"))
  with pytest.raises(UserError, match=r"data.directory is '/nowhere'"):
    Proxy(empty, SMALL)


def _graphs() -> list:
  return [o for o in gc.get_objects() if type(o).__name__ == "FuncGraph" and len(o.get_operations()) > 100]


@pytest.mark.slow
def test_a_child_is_trained_and_scored(proxy, monkeypatch):
  arch = architecture(ARCH)
  before = _graphs()  # those that other tests of this process keep
  result = proxy(arch)
  assert 0 <= result.reward <= 1 and result.reward == result.metrics["AP"]
  assert result.metrics["steps"] == 3 and math.isfinite(result.metrics["loss"])
  cost = profile(arch, num_classes=5, input_size=(128, 128), max_level=5)
  assert result.metrics["multiply_adds"] == cost.multiply_adds and result.metrics["parameters"] == cost.parameters
  assert {"seconds_build", "seconds_train", "seconds_evaluate"} < set(result.metrics)

  # Nothing of the child is left: TensorFlow would keep its graphs for good.
  gc.collect()
  assert not [graph for graph in _graphs() if not any(graph is old for old in before)]

  # Children that fail have a reason; the next one is trained all the same.
  diverging = dataclasses.replace(
    proxy.experiment,
    schedule=dataclasses.replace(proxy.experiment.schedule, learning_rate=1e30),
    train=dataclasses.replace(proxy.experiment.train, clip_norm=0.0),
  )
  monkeypatch.setattr(proxy, "experiment", diverging)
  outcome = attempt(proxy, arch)
  assert outcome.reward is None and "not finite at step" in outcome.reason
  monkeypatch.setattr(setups, "build", lambda *arguments: bytearray(1 << 62))
  assert attempt(proxy, arch).reason.startswith("MemoryError")


@pytest.mark.slow
def test_a_hopeless_child_is_stopped(experiment):
  stopped = Proxy(experiment, dataclasses.replace(SMALL, stop_at="1 steps", stop_below=2.0))
  assert stopped(architecture(ARCH)).metrics["steps"] == 1


def test_only_what_was_built_in_it_is_forgotten():
  import tensorflow as tf

  @tf.custom_gradient
  def twice(x):
    return 2 * x, lambda g: 2 * g

  def traced():
    @tf.function
    def call(x):
      return twice(x)

    call.get_concrete_function(tf.TensorSpec([], tf.float32))
    return call

  from tensorflow.python.framework import ops

  registry = ops.gradient_registry._registry
  kept = traced()
  before = set(registry)
  with forgotten():
    traced()
    assert set(registry) > before
  assert set(registry) == before
  with tf.GradientTape() as tape:
    x = tf.constant(3.0)
    tape.watch(x)
    y = kept(x)
  assert float(tape.gradient(y, x)) == 2.0
