"""Trains the tiny experiment in a process of its own, which a test kills: resume_run.py DATA MODEL_DIR STEPS [KILL_AT]."""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import conftest

from spinenet_tf.training import loop, setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings


def main(data: str, model_dir: str, steps: str, kill_at: str = "0") -> None:
  experiment = Experiment(
    model=ModelSettings(conftest.TINY, image_size=128, stochastic_depth=0.3, dropblock_keep=0.9, dropblock_size=3),
    data=DataSettings(directory=data, batch_size=2, scale_jitter=(0.8, 1.2), shuffle_buffer=16, eval_split=None),
    schedule=Schedule(learning_rate=0.01, learning_rate_batch=None, warmup=5, drops=("50%",), factors=(0.1,)),
    train=RunSettings(duration=int(steps), strategy="one_device", log_interval=1, checkpoint_interval=5),
  )
  ready = setup.build(experiment, model_dir)
  save = ready.checkpoints.save

  def save_and_die():
    path = save()
    if ready.global_step == int(kill_at):
      os.kill(os.getpid(), signal.SIGKILL)
    return path

  ready.checkpoints.save = save_and_die
  loop.train(ready)


if __name__ == "__main__":
  main(*sys.argv[1:])
