"""Trains three steps on 1 or 2 logical CPUs and prints the losses: mirrored_run.py DATA MODEL_DIR REPLICAS."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import conftest
import tensorflow as tf

from spinenet_tf.training import setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings
from spinenet_tf.training.trainer import Trainer


def main(data: str, model_dir: str, replicas: str, accumulation: str = "1", precision: str = "float32") -> None:
  cpu = tf.config.list_physical_devices("CPU")[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(replicas))
  experiment = Experiment(
    model=ModelSettings(conftest.TINY, image_size=128, synchronized=True),
    data=DataSettings(directory=data, batch_size=4, eval_batch_size=4, scale_jitter=(0.8, 1.2), shuffle_buffer=16),
    schedule=Schedule(learning_rate=0.02, learning_rate_batch=None, warmup=0, drops=(), factors=()),
    train=RunSettings(
      duration=3,
      strategy="mirrored" if int(replicas) > 1 else "one_device",
      accumulation=int(accumulation),
      precision=precision,
      weight_decay=0.01,
      ema=0.9,
    ),
  )
  ready = setup.build(experiment, model_dir)
  assert ready.strategy.num_replicas_in_sync == int(replicas)
  trainer = Trainer(ready.strategy, ready.step, lambda: ready.task.train_on(ready.strategy, ready.inputs, 0))
  lines = [trainer.train(tf.constant(1)) for _ in range(3)]
  own = ready.model.get_weights()
  with ready.step.average.in_place():
    ready.evaluator.evaluate(tf.constant(-1))
    behind = float(tf.linalg.global_norm([a - b for a, b in zip(own, ready.model.get_weights())]))
  ready.checkpoints.save()
  print(json.dumps({"losses": lines, "seen": ready.evaluator.scores.num_seen, "average_behind": behind}))


if __name__ == "__main__":
  main(*sys.argv[1:])
