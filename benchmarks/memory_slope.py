"""Whether a long run stays as it is: `python -m benchmarks.memory_slope [--steps=3000]`.

Trains a tiny network with an evaluation every 150 steps and a checkpoint every 100, and prints memory, open files, traces and
the sizes of what grows on disk. Slopes are those of straight lines through what was measured after the first fifth.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import tiny
from spinenet_tf.training import loop, setup


def main() -> None:
  """Runs the benchmark."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=3000)
  parser.add_argument("--data", help="folder of data to use; drawn when it is not given")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    directory = arguments.data or tiny.data(f"{folder}/data", 64)
    experiment = tiny.experiment(
      directory,
      64,
      4,
      duration=arguments.steps,
      log_interval=50,
      checkpoint_interval=100,
      eval_interval=150,
      pictures=2,
      ema=0.99,
    )
    ready = setup.build(experiment, f"{folder}/run")
    samples, trainers = watch(ready)
    begin = time.perf_counter()
    loop.train(ready)
    seconds = time.perf_counter() - begin
    report(ready, samples, trainers, seconds)


def watch(ready: setup.Setup) -> tuple[list[tuple[int, float, int]], list]:
  """Takes a sample, (step, MiB, open files), with each line of progress, and keeps the trainer that the loop makes."""
  samples, trainers = [], []
  append, make = ready.run.append_metrics, loop._trainer

  def sampling(line: dict) -> None:
    append(line)
    if line["kind"] == "train":
      samples.append((line["step"], resident(), len(os.listdir("/proc/self/fd"))))

  def keeping(made: setup.Setup):
    trainers.append(make(made))
    return trainers[-1]

  ready.run.append_metrics, loop._trainer = sampling, keeping
  return samples, trainers


def resident() -> float:
  """Returns the memory of this process in MiB."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGESIZE") / 2**20


def slope(steps: np.ndarray, values: np.ndarray) -> float:
  """Returns the growth per 1,000 steps of a straight line through the values."""
  return float(np.polyfit(steps / 1000, values, 1)[0])


def report(ready: setup.Setup, samples: list, trainers: list, seconds: float) -> None:
  """Prints what was found."""
  steps, memory, files = (np.asarray(column, float) for column in zip(*samples))
  warm = steps > steps[-1] / 5
  run = ready.run.path
  size = {
    "metrics.jsonl": (run / "metrics.jsonl").stat().st_size,
    "TensorBoard": sum(path.stat().st_size for path in (run / "tensorboard").rglob("*") if path.is_file()),
  }
  kept = len(list((run / "checkpoints").glob("*.index")))
  print(f"{steps[-1]:.0f} steps in {seconds:.0f} s, with {ready.plan.total // ready.plan.evaluate} evaluations")
  for at in np.linspace(0, len(steps) - 1, 7).astype(int):
    print(f"  step {steps[at]:5.0f}: {memory[at]:7.1f} MiB, {files[at]:.0f} open files")
  print(f"memory after warm-up: {slope(steps[warm], memory[warm]):+.2f} MiB per 1,000 steps")
  print(f"open files: {slope(steps[warm], files[warm]):+.2f} per 1,000 steps")
  traces = [trainer._loop.experimental_get_tracing_count() for trainer in trainers]
  print(f"traces: training {sum(traces)}, evaluation {ready.evaluator._detect.experimental_get_tracing_count()}")
  print(", ".join(f"{name} {value / 1024:.0f} KiB" for name, value in size.items()) + f"; {kept} checkpoints kept")


if __name__ == "__main__":
  main()
