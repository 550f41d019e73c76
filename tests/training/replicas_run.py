"""Trains a tiny network at 64 pixels on replicas and prints its losses, one JSON line for each number of replicas.

replicas_run.py DATA MODEL_DIR STEPS 1 2 2:float16   logical CPUs of this process: 1 and one other number; with ":float16" two
                                                     batches a step in mixed precision
replicas_run.py DATA MODEL_DIR STEPS workers         this process is one of TF_CONFIG's workers
"""

import copy
import functools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import conftest
import tensorflow as tf

from spinenet_tf.training import setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, DetectionSettings, Experiment, ModelSettings, RunSettings
from spinenet_tf.training.strategy import make_strategy
from spinenet_tf.training.trainer import Trainer

NETWORK = copy.deepcopy(conftest.TINY)
NETWORK["blocks"] = NETWORK["blocks"][:1]  # level 3: replicas are traced one by one


def main(data: str, model_dir: str, steps: str, *devices: str) -> None:
  """Runs the program."""
  if devices != ("workers",):
    most = max(int(count.split(":")[0]) for count in devices)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * most)
  for spec in devices:
    count, *half = spec.split(":")
    name = "multi_worker" if count == "workers" else "one_device"
    chosen = strategy_of(count)
    setup.strategy.make_strategy = lambda *_, chosen=chosen: chosen
    print(json.dumps(run(experiment(data, int(steps), name, bool(half)), f"{model_dir}/{spec}")), flush=True)


@functools.cache  # two of the same devices in one process would mix up their sums
def strategy_of(count: str) -> tf.distribute.Strategy:
  """Returns the strategy of "workers", or of a number of logical devices."""
  if count in ("workers", "1"):
    return make_strategy("multi_worker" if count == "workers" else "one_device")
  return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(count))])


def experiment(data: str, steps: int, name: str, half: bool) -> Experiment:
  """Returns the settings; `half` is mixed precision and two batches a step."""
  return Experiment(
    model=ModelSettings(NETWORK, image_size=64, max_level=3, synchronized=True),
    data=DataSettings(
      directory=data, batch_size=4, eval_split="train", eval_batch_size=8, scale_jitter=(0.8, 1.2), shuffle_buffer=16
    ),
    detection=DetectionSettings(score_threshold=0.0),
    schedule=Schedule(learning_rate=0.001, learning_rate_batch=None, warmup=0, drops=(), factors=()),
    train=RunSettings(
      duration=steps,
      strategy=name,
      accumulation=2 if half else 1,
      precision="mixed_float16" if half else "float32",
      weight_decay=0.01,
      ema=0.9,
      recompute=False,
    ),
  )


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
