"""SOLO's switches on drawn shapes: mask AP with each turned, and its spread over seeds.

  python -m benchmarks.solo_switches [--switches=centre,aligned,negatives] [--seeds=3] [--steps=400] [--images=8]

A narrow network learns a few images of 64 pixels by heart, and mask AP is that on these images: what can be told on a CPU
within minutes. Runs with the same seed have the same images, initial weights and order.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile

ARCHITECTURE = {
  "name": "narrow",
  "filter_scale": 0.25,
  "endpoint_filters": 48,
  "head_convs": 2,
  "head_filters": 48,
  "stem": [{"level": 2, "block": "residual"}],
  "blocks": [
    {"level": 3, "block": "residual", "parents": [0], "is_output": True},
    {"level": 4, "block": "residual", "parents": [0, 1], "is_output": True},
  ],
}
LEVELS = {"sources": (3, 3), "strides": (4, 8), "grids": (12, 6), "scales": ((1, 24), (16, 64)), "cells": 24}
SWITCHES = {
  "centre": {"centre": "box"},
  "sigma": {"sigma": 0.4},
  "aligned": {"aligned": False},
  "negatives": {"negatives": True},
  "multi_level": {"multi_level": False},
}
PLAIN = "plain"


def train(switch: str, seed: int, steps: int, folder: pathlib.Path) -> dict[str, float]:
  """Trains one network on the images of `folder` / "data". Returns: its last metrics."""
  from spinenet_tf.training import loop, setup
  from spinenet_tf.training.optimizers import adam
  from spinenet_tf.training.schedules import Schedule
  from spinenet_tf.training.settings import DataSettings, Experiment, ModelSettings, RunSettings
  from spinenet_tf.training.solo_settings import SoloSettings

  data = DataSettings(
    directory=str(folder / "data"),
    eval_split="train",
    batch_size=4,
    scale_jitter=(1.0, 1.0),
    flip=False,
    cache=True,
    mask_size=28,
  )
  schedule = Schedule(
    learning_rate=0.002,
    learning_rate_batch=None,
    warmup=20,
    warmup_learning_rate=0.0002,
    drops=("75%",),
    factors=(0.1,),
  )
  run = RunSettings(
    task="solo",
    duration=steps,
    strategy="one_device",
    optimizer=adam,
    log_interval=50,
    checkpoint_interval=steps,
    eval_interval=steps,
    clip_norm=35.0,
    seed=seed,
  )
  experiment = Experiment(
    model=ModelSettings(ARCHITECTURE, image_size=64, norm_momentum=0.97),
    solo=SoloSettings(**LEVELS, **SWITCHES.get(switch, {})),
    data=data,
    schedule=schedule,
    train=run,
  )
  return loop.train(setup.build(experiment, folder / f"{switch}_{seed}"))


def main() -> None:
  """Trains all and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--switches", default="centre,aligned,negatives", help=f"of {', '.join(SWITCHES)}")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--images", type=int, default=8)
  args = parser.parse_args()
  switches = args.switches.split(",")
  if unknown := sorted(set(switches) - set(SWITCHES)):
    parser.error(f"--switches has {unknown}; known: {', '.join(SWITCHES)}")
  from spinenet_tf.data.synthetic import prepare_synthetic

  found: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as folder:
    prepare_synthetic(f"{folder}/data", train=args.images, val=1, size=64)
    for seed in range(args.seeds):
      for name in (PLAIN, *switches):
        metrics = train(name, seed, args.steps, pathlib.Path(folder))
        found.setdefault(name, []).append(metrics["mask_AP"])
        print(json.dumps({"switch": name, "seed": seed, "mask_AP": round(metrics["mask_AP"], 4)}), flush=True)
  print(
    "\n| turned | mask AP of each seed | mean | standard deviation | to plain, seed by seed |\n|---|---|---|---|---|"
  )
  for name, values in found.items():
    turned = "none" if name == PLAIN else ", ".join(f"{key} {value!r}" for key, value in SWITCHES[name].items())
    pairs = [value - plain for value, plain in zip(values, found[PLAIN])]
    spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
    print(
      f"| {turned} | {' '.join(f'{value:.3f}' for value in values)} | {statistics.mean(values):.3f} | {spread} | "
      f"{' '.join(f'{pair:+.3f}' for pair in pairs)} |"
    )


if __name__ == "__main__":
  main()
