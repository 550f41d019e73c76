"""A tiny run in a process of its own, which tests harm: run.py DATA MODEL_DIR STEPS [NAME=VALUE ...].

Names: skip (train.skip_nonfinite), share (data.max_unreadable), nan (step whose gradient is made NaN), log, save (intervals
in steps), slow (seconds that each save takes longer, between its files and the state file), evaluate.
"""

import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "training"))

import conftest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.training import leftovers, loop, setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings

INTERRUPTED, USER_ERROR = 143, 2


def experiment(data, steps, options):
  return Experiment(
    model=ModelSettings(conftest.TINY, image_size=128, stochastic_depth=0.3),
    data=DataSettings(
      directory=data,
      batch_size=2,
      scale_jitter=(0.8, 1.2),
      shuffle_buffer=16,
      eval_split="val" if options.get("evaluate") else None,
      max_unreadable=options.get("share", 0.01),
    ),
    schedule=Schedule(learning_rate=0.01, learning_rate_batch=None, warmup=1, drops=(10,), factors=(0.1,)),
    train=RunSettings(
      duration=steps,
      strategy="one_device",
      ema=0.9,
      log_interval=int(options.get("log", 1)),
      checkpoint_interval=int(options.get("save", 5)),
      eval_interval=int(options.get("evaluate", steps)),
      skip_nonfinite=int(options.get("skip", 0)),
      pictures=0,
    ),
  )


def inject(ready, step):
  """Makes the gradient of one step NaN."""
  gradients = ready.step.gradients

  def broken(batch, part):
    found, losses = gradients(batch, part)
    bad = tf.where(ready.step.global_step + 1 == step, float("nan"), 1.0)
    return [found[0] * bad, *found[1:]], losses

  ready.step.gradients = broken


def main(data, model_dir, steps, *pairs):
  options = {name: float(value) for name, value in (pair.split("=") for pair in pairs)}
  tf.config.threading.set_inter_op_parallelism_threads(2)
  try:
    ready = setup.build(experiment(data, int(steps), options), model_dir)
    if options.get("nan"):
      inject(ready, int(options["nan"]))
    if options.get("slow"):
      to_disk = leftovers.to_disk
      leftovers.to_disk = lambda prefix: (time.sleep(options["slow"]), to_disk(prefix))
    loop.train(ready)
  except loop.Interrupted as error:
    print(error)
    return INTERRUPTED
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR
  print(json.dumps({"unreadable": sum(counter.total for counter in ready.task.unreadable)}))
  return 0


if __name__ == "__main__":
  code = main(*sys.argv[1:])
  sys.stdout.flush()
  os._exit(code)
