"""A tiny run in a process of its own, which tests harm: run.py DATA MODEL_DIR STEPS [NAME=VALUE ...].

Names, of the run: skip (train.skip_nonfinite), log, save, evaluate (intervals in steps; 0 never evaluates), workers=1
(several, by TF_CONFIG). Of the harm:

  step=S, checkpoint=K, evaluation=K  SIGKILL `after` seconds after that step, the K-th checkpoint or evaluation of the
                                      process began
  checkpoint=K byte=B  a signal that nothing catches too (SIGXFSZ), when byte B of a file of that checkpoint is written
  term=S               SIGTERM at step S
  nan=N                where bit i of N is set, the gradient of step i is made NaN
  clock=1              every reading of the clock in the training loop is an hour before the last one

It leaves `seen-WORKER.jsonl` in MODEL_DIR: a line for each step that began, with the ids of its images, and for each
checkpoint that was complete; and `killed.json`, what it was doing when it killed itself.
"""

import itertools
import json
import os
import resource
import signal
import sys
import threading
import traceback

import numpy as np
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.training import loop, setup
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings

INTERRUPTED, USER_ERROR, WORKER_LOST = 143, 2, 75
BLOCKS = [{"level": 3, "block": "residual", "parents": [0]}, {"level": 4, "block": "residual", "parents": [0, 1]}]
NETWORK = {
  "name": "two_blocks",
  "filter_scale": 0.125,
  "endpoint_filters": 16,
  "head_convs": 1,
  "head_filters": 16,
  "stem": [{"level": 2, "block": "residual"}],
  "blocks": [{**block, "is_output": True} for block in BLOCKS],
}


def experiment(data, steps, options):
  evaluate = int(options.get("evaluate", 0))
  return Experiment(
    model=ModelSettings(NETWORK, image_size=64, min_level=3, max_level=4, stochastic_depth=0.3),
    data=DataSettings(
      directory=str(data),
      batch_size=2,
      scale_jitter=(0.8, 1.2),
      shuffle_buffer=16,
      eval_split="val" if evaluate else None,
    ),
    schedule=Schedule(learning_rate=0.01, learning_rate_batch=None, warmup=1, drops=(10,), factors=(0.1,)),
    train=RunSettings(
      duration=steps,
      strategy="multi_worker" if options.get("workers") else "one_device",
      ema=0.9,
      log_interval=int(options.get("log", 1)),
      checkpoint_interval=int(options.get("save", 5)),
      eval_interval=evaluate or steps,
      skip_nonfinite=int(options.get("skip", 0)),
      pictures=0,
      recompute=False,  # half the time to build the step
    ),
  )


class Harm:
  """Writes down what a run does, and ends it where the options say."""

  def __init__(self, ready, options):
    self._ready, self._options, self._doing = ready, options, "start-up"
    self._folder, self._counts = ready.run.path, {"checkpoint": 0, "evaluation": 0}
    self._folder.mkdir(parents=True, exist_ok=True)
    self._seen = (self._folder / f"seen-{ready.worker.index}.jsonl").open("a")
    ready.task.trained_on = (*ready.task.trained_on, "source_id")
    gradients = ready.step.gradients

    def watched(batch, part):
      step = ready.step.global_step + 1
      tf.numpy_function(self._step, (step, batch["source_id"]), [])
      found, losses = gradients(batch, part)
      bits = tf.bitwise.right_shift(tf.constant(int(options.get("nan", 0)), tf.int64), step)
      return [tf.where(bits % 2 == 1, float("nan"), 1.0) * found[0], *found[1:]], losses

    ready.step.gradients = watched
    if options.get("clock"):
      hours = itertools.count(2e9, -3600.0)
      tf.timestamp = lambda: tf.ensure_shape(tf.numpy_function(lambda: next(hours), (), tf.float64), [])
    ready.checkpoints._write = self._during("checkpoint", ready.checkpoints._write)
    if ready.evaluator:
      ready.evaluator.evaluate = self._during("evaluation", ready.evaluator.evaluate)

  def _step(self, step, ids):
    self._doing = f"step {step}"
    self._note({"step": int(step), "ids": [text.decode() for text in np.ravel(ids)]})
    if step == self._options.get("step"):
      self._kill()
    if step == self._options.get("term"):
      os.kill(os.getpid(), signal.SIGTERM)

  def _during(self, what, action):
    def watched(*arguments):
      self._counts[what] += 1
      before, self._doing = self._doing, what
      if self._counts[what] == self._options.get(what):
        self._kill()
      result = action(*arguments)
      if what == "evaluation":
        result["AP"] = self._ready.global_step / 1000  # each is the best so far
      self._doing = before
      self._note({what: self._ready.global_step})
      return result

    return watched

  def _kill(self):
    if byte := int(self._options.get("byte", 0)):
      self._say(f"byte {byte} of a checkpoint")
      resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
      resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))
      signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    else:
      timer = threading.Timer(self._options["after"], lambda: (self._say(), os.kill(os.getpid(), signal.SIGKILL)))
      timer.daemon = True
      timer.start()

  def _say(self, doing=None):
    (self._folder / "killed.json").write_text(json.dumps(doing or self._doing) + "\n")

  def _note(self, line):
    self._seen.write(json.dumps(line) + "\n")
    self._seen.flush()


def main(data, model_dir, steps, *pairs):
  options = {name: float(value) for name, value in (pair.split("=") for pair in pairs)}
  tf.config.threading.set_inter_op_parallelism_threads(2 if options.get("workers") else 1)
  tf.config.threading.set_intra_op_parallelism_threads(1)  # sums in one order: losses are equal to the last digit
  try:
    ready = setup.build(experiment(data, int(steps), options), model_dir)
    Harm(ready, options)
    loop.train(ready)
  except loop.Interrupted as error:
    print(error)
    return INTERRUPTED
  except loop.WorkerLost as error:
    print(error)
    return WORKER_LOST
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return USER_ERROR
  return 0


def forked(arguments, environment, output):
  """The program in a process that was forked off; what it says goes to the file `output`."""
  file = os.open(output, os.O_WRONLY | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)
  sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
  os.environ.update(environment)
  end(arguments)


def end(arguments):
  """Runs the program and ends the process."""
  code = 1
  try:
    code = main(*arguments)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
  end(sys.argv[1:])
