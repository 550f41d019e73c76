"""It learns: eight images by heart."""

import pytest
import tensorflow as tf

from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.training import loop, setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings


@pytest.mark.slow
def test_eight_images_by_heart(tiny, tmp_path):
  """AP above 0.9 on the training images; the run directory, its files and the pictures on the way."""
  prepare_synthetic(tmp_path / "data", train=8, val=1, size=128)
  experiment = Experiment(
    model=ModelSettings({**tiny, "filter_scale": 0.25, "endpoint_filters": 48, "head_filters": 48}, image_size=128),
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
    train=RunSettings(duration=500, strategy="one_device", log_interval=50, checkpoint_interval=500, eval_interval=500),
  )
  metrics = loop.train(setup.build(experiment, tmp_path / "run"))
  assert metrics["AP"] > 0.9
  run = tmp_path / "run"
  for name in (
    "model.json",
    "environment.json",
    "metrics.jsonl",
    "eval/metrics.json",
    "eval/per_class.csv",
    "best/metrics.json",
  ):
    assert (run / name).is_file(), name
  (events,) = (run / "tensorboard/validation").glob("events*")
  tags = {v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) for v in e.summary.value}
  assert {"AP", "validation/0", "validation/3"} <= tags
