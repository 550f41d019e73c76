"""Weak scaling on one machine: `python -m benchmarks.weak_scaling [--size=128] [--per_replica=2] [--steps=10]`.

1, 2 and 4 logical CPUs and 2 processes train a small network, each replica on its own images. All share the cores, so
the limit is not N times the speed: it is what one device does with the same images in one batch. Efficiency is its time
divided by the time of N replicas; what is missing from 1 is what replicas cost: synchronised statistics, sums of gradients,
kernels on smaller parts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

WIDEN, WARM = 4.0, 2


def main() -> None:
  """Runs the benchmark."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
  parser.add_argument("--per_replica", type=int, default=2, help="images of a replica in a step")
  parser.add_argument("--steps", type=int, default=10)
  parser.add_argument("--child", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    child(**json.loads(arguments.child))
    return
  from benchmarks import tiny

  with tempfile.TemporaryDirectory() as folder:
    tiny.data(f"{folder}/data", arguments.size)
    base = {name: getattr(arguments, name) for name in ("size", "per_replica", "steps")} | {"folder": folder}
    one = {n: run(base, replicas=1, batch=n * arguments.per_replica) for n in (1, 2, 4)}
    print("| replicas | batch | seconds a step | one device, same batch | efficiency |\n|---|---|---|---|---|")
    print(f"| 1 device | {arguments.per_replica} | {one[1]:.3f} | {one[1]:.3f} | 1 |", flush=True)
    for count, workers in ((2, 1), (4, 1), (2, 2)):
      batch = count * arguments.per_replica
      seconds = run(base, replicas=count, batch=batch, workers=workers)
      what = f"{count} processes" if workers > 1 else f"{count} devices"
      print(f"| {what} | {batch} | {seconds:.3f} | {one[count]:.3f} | {one[count] / seconds:.2f} |", flush=True)


def run(base: dict, replicas: int, batch: int, workers: int = 1) -> float:
  """Returns the median seconds of a step."""
  environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
  environment.pop("TF_CONFIG", None)
  addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
  command = [sys.executable, "-m", "benchmarks.weak_scaling", "--child"]
  command.append(json.dumps({**base, "replicas": replicas, "batch": batch, "workers": workers}))
  processes = []
  for index in range(workers):
    if workers > 1:
      task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
      environment = {**environment, "TF_CONFIG": json.dumps(task)}
    processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
  try:
    outputs = [process.communicate(timeout=600)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return max(float(output.strip().splitlines()[-1]) for output in outputs)


def child(folder: str, size: int, per_replica: int, steps: int, replicas: int, batch: int, workers: int) -> None:
  """Trains and prints the median seconds of a step."""
  import tensorflow as tf

  from benchmarks import tiny
  from spinenet_tf.training import setup
  from spinenet_tf.training.trainer import Trainer

  if workers == 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
  strategy = "multi_worker" if workers > 1 else "mirrored" if replicas > 1 else "one_device"
  experiment = tiny.experiment(
    f"{folder}/data", size, batch, WIDEN, strategy=strategy, duration=steps + WARM, recompute=False
  )
  with tempfile.TemporaryDirectory() as scratch:
    ready = setup.build(experiment, scratch, writes=False)
    assert (ready.strategy.num_replicas_in_sync == replicas and batch == per_replica * replicas) or replicas == 1
    trainer = Trainer(ready.strategy, ready.step, lambda: ready.task.train_on(ready.strategy, ready.inputs, 0))
    trainer.train(tf.constant(WARM))
    seconds = []
    for _ in range(steps):
      begin = time.perf_counter()
      trainer.train(tf.constant(1))
      seconds.append(time.perf_counter() - begin)
  print(statistics.median(seconds), flush=True)


def _free_ports(count: int) -> list[int]:
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(("127.0.0.1", 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


if __name__ == "__main__":
  main()
