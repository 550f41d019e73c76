"""Trains a tiny network at 64 pixels on replicas and prints its losses, one JSON line for each number of replicas.

replicas_run.py DATA MODEL_DIR "1 2" [STEPS ACCUMULATION PRECISION]    logical CPUs of this process; 1 and one other number
replicas_run.py DATA MODEL_DIR workers ...                               this process is one of TF_CONFIG's workers
"""

import copy
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import conftest
import tensorflow as tf

from spinenet_tf.training import setup, strategy
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, DetectionSettings, Experiment, ModelSettings, RunSettings
from spinenet_tf.training.trainer import Trainer

NETWORK = copy.deepcopy(conftest.TINY)
NETWORK["blocks"] = NETWORK["blocks"][:1]  # level 3: replicas are traced one by one


def main(data: str, model_dir: str, devices: str, steps="20", accumulation="1", precision="float32") -> None:
  """Runs the program."""
  counts = [] if devices == "workers" else [int(count) for count in devices.split()]
  if counts:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(counts))
  experiment = Experiment(
    model=ModelSettings(NETWORK, image_size=64, max_level=3, synchronized=True),
    data=DataSettings(
      directory=data, batch_size=4, eval_split="train", eval_batch_size=8, scale_jitter=(0.8, 1.2), shuffle_buffer=16
    ),
    detection=DetectionSettings(score_threshold=0.0),
    schedule=Schedule(learning_rate=0.001, learning_rate_batch=None, warmup=0, drops=(), factors=()),
    train=RunSettings(
      duration=int(steps),
      strategy="one_device" if counts else "multi_worker",
      accumulation=int(accumulation),
      precision=precision,
      weight_decay=0.01,
      ema=0.9,
      recompute=False,
    ),
  )
  made = None if counts else strategy.make_strategy("multi_worker")
  for count in counts or [0]:
    chosen = made or (
      tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)]) if count > 1 else strategy.make_strategy()
    )
    setup.strategy.make_strategy = lambda *_, chosen=chosen: chosen
    print(json.dumps(run(experiment, f"{model_dir}/{count}")), flush=True)


def run(experiment: Experiment, model_dir: str) -> dict:
  """Trains, evaluates the averaged weights, saves. Returns: what it saw."""
  ready = setup.build(experiment, model_dir)
  trainer = Trainer(ready.strategy, ready.step, lambda: batches(ready))
  lines = [trainer.train(tf.constant(1)) for _ in range(ready.plan.total)]
  own = ready.model.get_weights()
  with ready.step.average.in_place():
    metrics = ready.evaluator.evaluate(tf.constant(-1))
    behind = float(tf.linalg.global_norm([a - b for a, b in zip(own, ready.model.get_weights())]))
  ready.checkpoints.save()
  return {
    "replicas": ready.strategy.num_replicas_in_sync,
    "losses": lines,
    "images": ready.evaluator.scores.num_seen,
    "AR": metrics["AR100"],
    "average_behind": behind,
  }


def batches(ready):
  """The training data; of several workers each takes its part of every batch that one worker alone would see."""
  if ready.worker.count == 1:
    return ready.task.train_on(ready.strategy, ready.inputs, 0)
  settings = ready.inputs.settings

  def pipeline(context):
    part = context.get_per_replica_batch_size(settings.batch_size)
    first = context.input_pipeline_id * part
    data = ready.task.training_data(
      ready.inputs, batch_size=settings.batch_size, seed=0, shuffle_buffer=settings.shuffle_buffer
    )
    return data.map(lambda batch: {key: value[first : first + part] for key, value in batch.items()})

  return ready.strategy.distribute_datasets_from_function(pipeline)


if __name__ == "__main__":
  main(*sys.argv[1:])
