"""Building models: ours beside Model Garden's.

  python -m benchmarks.build_time [--models=spinenet49,spinenet190] [--size=640] [--rounds=3]

Two rows for each model: the backbone as each side's own function builds it, and a RetinaNet for 91 classes with all its
variables. Each build is the first of a process of its own, the sides in turn, so nothing is warm; imports and the start
of TensorFlow are not counted. Both sides end with the same number of variables' elements, but for the biases of Model
Garden's towers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CLASSES = 91
ROWS = {"backbone": "backbone", "retinanet": "RetinaNet"}


def _ours(what: str, name: str, size: int):
  from spinenet_tf.backbones.builder import build_backbone
  from spinenet_tf.models.retinanet import build_retinanet

  if what == "backbone":
    return lambda: build_backbone(name, (size, size))
  return lambda: build_retinanet(name, CLASSES, (size, size))


def _peer(what: str, name: str, size: int):
  from official.vision.modeling.backbones import factory

  from benchmarks import model_garden
  from spinenet_tf.backbones.catalog import architecture
  from spinenet_tf.compat import keras

  task = model_garden.build_task(name, CLASSES, size)
  config = task.task_config.model
  arch = architecture(name)
  config.head.override({"num_convs": arch.head_convs, "num_filters": arch.head_filters})
  specs = keras.layers.InputSpec(shape=[None, size, size, 3])

  def retinanet():
    model = task.build_model()
    model.head(model.backbone.output)  # makes the variables of the towers, which ours has from the start
    return model

  if what == "backbone":
    return lambda: factory.build_backbone(specs, config.backbone, config.norm_activation)
  return retinanet


def measure(side: str, what: str, name: str, size: int) -> dict:
  """Builds one model in this process. Returns: seconds, and elements of trainable variables."""
  import tensorflow as tf

  build = {"ours": _ours, "peer": _peer}[side](what, name, size)
  tf.zeros([1]).numpy()  # starts TensorFlow
  start = time.perf_counter()
  model = build()
  seconds = time.perf_counter() - start
  return {"seconds": seconds, "parameters": sum(v.shape.num_elements() for v in model.trainable_variables)}


def main() -> None:
  """Runs both sides in turn and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--models", default="spinenet49,spinenet190")
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--one", nargs=3, metavar=("SIDE", "WHAT", "MODEL"), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.one:
    print(json.dumps(measure(*args.one, args.size)))
    return
  print(f"{args.size} px, {CLASSES} classes, seconds to build; medians of {args.rounds} processes each\n")
  print(f"{'':<24} {'ours':>8} {'peer':>8} {'ratio':>7}   {'ours, M':>8} {'peer, M':>8}")
  for name in args.models.split(","):
    for what, label in ROWS.items():
      found: dict[str, list[dict]] = {"ours": [], "peer": []}
      for _ in range(args.rounds):
        for side, results in found.items():
          command = [sys.executable, "-m", "benchmarks.build_time", "--one", side, what, name, f"--size={args.size}"]
          output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
          results.append(json.loads(output.stdout.strip().splitlines()[-1]))
      ours, peer = (statistics.median(r["seconds"] for r in found[side]) for side in ("ours", "peer"))
      counts = [found[side][0]["parameters"] / 1e6 for side in ("ours", "peer")]
      row = f"{f'{name} {label}':<24} {ours:>8.2f} {peer:>8.2f} {ours / peer:>7.2f}"
      print(f"{row}   {counts[0]:>8.2f} {counts[1]:>8.2f}", flush=True)


if __name__ == "__main__":
  main()
