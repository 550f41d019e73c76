"""A network of six small blocks, a few synthetic images, and experiments made of them."""

import dataclasses

import pytest

from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings

TINY = {
  "name": "tiny",
  "filter_scale": 0.125,
  "endpoint_filters": 16,
  "head_convs": 1,
  "head_filters": 16,
  "stem": [{"level": 2, "block": "residual"}],
  "blocks": [
    {"level": 3, "block": "residual", "parents": [0], "is_output": True},
    {"level": 4, "block": "residual", "parents": [0, 1], "is_output": True},
    {"level": 5, "block": "residual", "parents": [1, 2], "is_output": True},
    {"level": 6, "block": "residual", "parents": [2, 3], "is_output": True},
    {"level": 7, "block": "residual", "parents": [3, 4], "is_output": True},
  ],
}


@pytest.fixture(scope="session")
def tiny() -> dict:
  """An architecture that builds in a second."""
  return TINY


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
  """Folder with 12 training and 4 validation images of 128 pixels."""
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=12, val=4, size=128)
  return folder


@pytest.fixture
def experiment(shapes):
  """Returns an experiment of a few steps; fields can be replaced: experiment(train={"duration": 3})."""

  def make(**changes) -> Experiment:
    base = Experiment(
      model=ModelSettings(architecture=TINY, image_size=128),
      data=DataSettings(directory=str(shapes), batch_size=4, scale_jitter=(0.8, 1.2), shuffle_buffer=16),
      schedule=Schedule(learning_rate=0.01, learning_rate_batch=None, warmup=0, drops=(), factors=()),
      train=RunSettings(
        duration=4, strategy="one_device", log_interval=1, checkpoint_interval=2, eval_interval=4, pictures=1
      ),
    )
    parts = {name: dataclasses.replace(getattr(base, name), **values) for name, values in changes.items()}
    return dataclasses.replace(base, **parts)

  return make


@pytest.fixture(autouse=True)
def float32():
  """Leaves no precision policy behind."""
  yield
  from spinenet_tf.compat import keras

  keras.mixed_precision.set_global_policy("float32")
