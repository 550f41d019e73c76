"""One training step, labels included: ours beside Model Garden's.

  python -m benchmarks.train_step [--model=spinenet49] [--size=640] [--batches=1,2] [--steps=5] [--rounds=2]

Each side runs in a process of its own, in turn, so that peak memory can be told apart; both train the same network
(same weights to start from, 91 classes, L2, momentum) on the same random images with the same 20 boxes each. Model
Garden assigns anchors in its input pipeline, with prefetching, as its trainer does; we assign them inside the step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

CLASSES, BOXES = 91, 20


def _batch(batch: int, size: int):
  """Returns images float32[B, S, S, 3], boxes float32[B, M, 4] in pixels, classes int32[B, M] from 1 on."""
  import numpy as np

  rng = np.random.default_rng(0)
  images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
  corner = rng.uniform(0, size * 0.7, (batch, BOXES, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(size * 0.02, size * 0.3, (batch, BOXES, 2))], -1)
  return images, boxes.astype(np.float32), rng.integers(1, CLASSES, (batch, BOXES)).astype(np.int32)


def _ours(name: str, size: int, batch: int):
  """Returns a function that runs one step and returns the loss."""
  import tensorflow as tf

  from spinenet_tf.compat import keras
  from spinenet_tf.losses.retinanet import RetinaNetLoss
  from spinenet_tf.models.retinanet import build_retinanet
  from spinenet_tf.training.step import TrainStep
  from spinenet_tf.training.strategy import tune_for_cpu
  from spinenet_tf.training.tasks.retinanet import RetinaNetObjective

  tune_for_cpu()
  model = build_retinanet(name, CLASSES, (size, size))
  optimizer = keras.optimizers.legacy.SGD(0.01, momentum=0.9)
  step_variable = tf.Variable(0, dtype=tf.int64)
  step = TrainStep(
    model,
    RetinaNetObjective(RetinaNetLoss(CLASSES)),
    optimizer,
    model.trainable_variables,
    step_variable,
    total_steps=1000,
    clip_norm=10.0,
    weight_decay=4e-5,
  )
  images, boxes, classes = _batch(batch, size)
  data = tf.data.Dataset.from_tensors({"image": images, "boxes": boxes, "classes": classes})
  iterator = iter(data.repeat().prefetch(2))

  @tf.function(autograph=False)  # as the trainer does: the step has no Python control flow on tensors
  def run():
    gradients, losses = step.gradients(next(iterator), 0)
    return step.update(gradients, losses)

  return run


def _peer(name: str, size: int, batch: int):
  """The same of Model Garden: its task's own train step, its labeler in the pipeline."""
  import tensorflow as tf
  from official.vision.ops import anchor

  from benchmarks import model_garden
  from spinenet_tf.compat import keras

  task = model_garden.build_task(name, CLASSES, size)
  model = task.build_model()
  optimizer = keras.optimizers.legacy.SGD(0.01, momentum=0.9, global_clipnorm=10.0)
  images, boxes, classes = _batch(batch, size)
  grid = anchor.Anchor(3, 7, 3, [1.0, 2.0, 0.5], 3.0, (size, size))
  labeler = anchor.AnchorLabeler(match_threshold=0.5, unmatched_threshold=0.5)

  def label(image, boxes, classes):
    targets, box_targets, _, weights, box_weights = labeler.label_anchors(
      grid.multilevel_boxes, boxes, tf.expand_dims(classes, 1)
    )
    labels = {"cls_targets": targets, "box_targets": box_targets, "cls_weights": weights, "box_weights": box_weights}
    return image, labels

  data = tf.data.Dataset.from_tensor_slices((images, boxes, classes)).repeat()
  data = data.map(label, num_parallel_calls=tf.data.AUTOTUNE).batch(batch, drop_remainder=True).prefetch(2)
  iterator = iter(data)

  @tf.function
  def run():
    return task.train_step(next(iterator), model, optimizer)[task.loss]

  return run


def measure(side: str, name: str, size: int, batch: int, steps: int) -> dict:
  """Builds one side and runs it; times in seconds, memory in MiB."""
  import tensorflow as tf  # noqa: F401 - its import is in neither side's build time

  if side == "peer":
    from benchmarks import model_garden  # noqa: F401
  else:
    import spinenet_tf.training.tasks.retinanet  # noqa: F401
  start = time.perf_counter()
  run = {"ours": _ours, "peer": _peer}[side](name, size, batch)
  built = time.perf_counter()
  run()
  first = time.perf_counter()
  run()
  times = []
  for _ in range(steps):
    begin = time.perf_counter()
    result = run()
    result.numpy()
    times.append(time.perf_counter() - begin)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {
    "build": built - start,
    "first": first - built,
    "start": first - start,
    "step": statistics.median(times),
    "peak": peak,
  }


def main() -> None:
  """Runs both sides in turn and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="spinenet49")
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--batches", default="1,2")
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side:
    print(json.dumps(measure(args.side, args.model, args.size, int(args.batches), args.steps)))
    return
  print(f"{args.model}, {args.size} px, {CLASSES} classes, float32; medians of {args.rounds} rounds")
  rows = {
    "start": "build + first step, s",
    "build": "  build, s",
    "first": "  first step, s",
    "step": "step, s",
    "peak": "peak memory, MiB",
  }
  for batch in (int(b) for b in args.batches.split(",")):
    results: dict[str, list[dict]] = {"ours": [], "peer": []}
    for _ in range(args.rounds):
      for side, found in results.items():
        command = [sys.executable, "-m", "benchmarks.train_step", f"--side={side}", f"--model={args.model}"]
        command += [f"--size={args.size}", f"--batches={batch}", f"--steps={args.steps}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found.append(json.loads(output.stdout.strip().splitlines()[-1]))
    print(f"\nbatch {batch:<20} {'ours':>9} {'peer':>9} {'ratio':>7}")
    for key, label in rows.items():
      ours, peer = (statistics.median(r[key] for r in results[side]) for side in ("ours", "peer"))
      print(f"{label:<26} {ours:>9.2f} {peer:>9.2f} {ours / peer:>7.2f}")


if __name__ == "__main__":
  main()
