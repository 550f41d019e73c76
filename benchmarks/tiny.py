"""A small run on drawn shapes, for benchmarks of the machinery around the network."""

from __future__ import annotations

import pathlib

from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings

NETWORK = {
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
  ],
}


def data(folder: str, size: int, train: int = 16, val: int = 6) -> str:
  """Draws a data set of square images. Returns: its folder."""
  prepare_synthetic(pathlib.Path(folder), train=train, val=val, size=size)
  return folder


def experiment(directory: str, size: int, batch: int, widen: float = 1.0, **train: object) -> Experiment:
  """Returns an experiment.

  Args:
    directory: of `data`.
    size: side of the images in pixels.
    batch: examples of a step.
    widen: factor on the network's widths.
    train: fields of `RunSettings`.
  """
  wide = {name: int(NETWORK[name] * widen) for name in ("endpoint_filters", "head_filters")}
  network = {**NETWORK, **wide, "filter_scale": NETWORK["filter_scale"] * widen}
  return Experiment(
    model=ModelSettings(network, image_size=size, max_level=5),
    data=DataSettings(directory=directory, batch_size=batch, eval_batch_size=4, scale_jitter=(0.8, 1.2), cache=True),
    schedule=Schedule(learning_rate=0.001, learning_rate_batch=None, warmup=0, drops=(), factors=()),
    train=RunSettings(**{"strategy": "one_device", **train}),
  )
