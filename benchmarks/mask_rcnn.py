"""Mask R-CNN: one training step, and finding objects with masks; ours beside Model Garden's.

  python -m benchmarks.mask_rcnn [--model=spinenet49] [--size=640] [--batches=1] [--steps=5] [--rounds=2] [--what=train,find]

Each side runs in a process of its own, in turn, so that peak memory can be told apart. Both train a network of the same
shape (91 classes with background, L2, momentum) on the same random images with the same 20 boxes and masks of 112 x 112
each, from weights of their own. For finding objects Model Garden uses batched non-maximum suppression for its proposals
and its detections (its default takes minutes on a CPU), and a bias makes one class likely in every region. Ours is what
`st.load` makes of a run: batch norms folded, convolutions as on every CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from benchmarks.train_step import BOXES, _batch

CLASSES = 90  # and background
MASK = 112
LIKELY = 6.0  # logit of one class, above all others


def _masks(batch: int):
  """Returns uint8[B, M, 112, 112]: discs."""
  import numpy as np

  y, x = np.mgrid[-1 : 1 : MASK * 1j, -1 : 1 : MASK * 1j]
  return np.broadcast_to((y * y + x * x < 1).astype(np.uint8), (batch, BOXES, MASK, MASK))


def _ours_train(name: str, size: int, batch: int):
  """Returns a function that runs one step, and the number of trained weights."""
  import numpy as np
  import tensorflow as tf

  from spinenet_tf.compat import keras
  from spinenet_tf.models.mask_rcnn import build_mask_rcnn
  from spinenet_tf.training.settings import Experiment
  from spinenet_tf.training.step import TrainStep
  from spinenet_tf.training.strategy import tune_for_cpu
  from spinenet_tf.training.tasks.mask_rcnn import MaskRCNNTask

  tune_for_cpu()
  model = build_mask_rcnn(name, CLASSES, (size, size))
  step = TrainStep(
    model,
    MaskRCNNTask(Experiment()).objective(CLASSES),
    keras.optimizers.legacy.SGD(0.001, momentum=0.9),
    model.trainable_variables,
    tf.Variable(0, dtype=tf.int64),
    total_steps=1000,
    clip_norm=0.0,
    weight_decay=4e-5,
  )
  images, boxes, classes = _batch(batch, size)
  arrays = {"image": images, "boxes": boxes, "classes": classes - 1, "masks": _masks(batch)}
  arrays["has_mask"] = np.ones(classes.shape, bool)
  iterator = iter(tf.data.Dataset.from_tensors(arrays).repeat().prefetch(2))

  @tf.function(autograph=False)
  def run():
    return step.update(*step.gradients(next(iterator), 0))

  return run, _weights(model)


def _peer_task(name: str, size: int):
  from official.core import exp_factory
  from official.vision.tasks import maskrcnn

  from benchmarks import model_garden

  config = exp_factory.get_exp_config("maskrcnn_spinenet_coco").task
  config.model.backbone.spinenet.model_id = model_garden.SPINENET_IDS[name]
  config.model.backbone.spinenet.stochastic_depth_drop_rate = 0.0
  config.model.input_size = [size, size, 3]
  config.model.num_classes = CLASSES + 1
  config.model.anchor.aspect_ratios = [1.0, 2.0, 0.5]
  config.model.norm_activation.use_sync_bn = False
  config.model.roi_generator.use_batched_nms = True
  config.model.detection_generator.nms_version = "batched"
  return maskrcnn.MaskRCNNTask(config)


def _peer_train(name: str, size: int, batch: int):
  """The same of Model Garden: its task's own train step, its labeler in the pipeline."""
  import numpy as np
  import tensorflow as tf
  from official.vision.ops import anchor

  from spinenet_tf.compat import keras

  task = _peer_task(name, size)
  model = task.build_model()
  optimizer = keras.optimizers.legacy.SGD(0.001, momentum=0.9)
  images, boxes, classes = _batch(batch, size)
  grid = anchor.Anchor(3, 7, 1, [1.0, 2.0, 0.5], 3.0, (size, size)).multilevel_boxes
  labeler = anchor.RpnAnchorLabeler(0.7, 0.3, 256, 0.5)

  def label(image, boxes, classes, masks):
    scores, deltas = labeler.label_anchors(grid, boxes, tf.expand_dims(classes, 1))
    labels = {"anchor_boxes": grid, "rpn_score_targets": scores, "rpn_box_targets": deltas}
    labels |= {"gt_boxes": boxes, "gt_classes": classes, "gt_masks": tf.cast(masks, tf.float32)}
    labels["image_info"] = tf.constant([[size, size], [size, size], [1, 1], [0, 0]], tf.float32)
    return image, labels

  data = tf.data.Dataset.from_tensor_slices((images, boxes, classes, np.array(_masks(batch)))).repeat()
  data = data.map(label, num_parallel_calls=tf.data.AUTOTUNE).batch(batch, drop_remainder=True).prefetch(2)
  iterator = iter(data)

  @tf.function
  def run():
    return task.train_step(next(iterator), model, optimizer)[task.loss]

  run()
  return run, _weights(model)


def _ours_find(name: str, size: int, batch: int):
  """Returns a function that finds objects in a batch of network inputs."""
  import tensorflow as tf

  from spinenet_tf.models.mask_rcnn import build_mask_rcnn
  from spinenet_tf.training.strategy import tune_for_cpu

  tune_for_cpu(training=False)
  model = build_mask_rcnn(name, CLASSES, (size, size), folded=True)
  (bias,) = [v for v in model.variables if v.shape == [CLASSES + 1] and "bias" in v.name]
  bias.assign(tf.one_hot(1, CLASSES + 1) * LIKELY)
  images = tf.constant(_batch(batch, size)[0])
  return tf.function(lambda: model.find(images), autograph=False), _weights(model)


def _peer_find(name: str, size: int, batch: int):
  """The same of Model Garden."""
  import tensorflow as tf

  model = _peer_task(name, size).build_model()
  images = tf.constant(_batch(batch, size)[0])
  shape = tf.fill([batch, 2], float(size))

  @tf.function
  def run():
    return model(images, image_shape=shape, training=False)

  run()  # makes the variables
  (bias,) = [v for v in model.detection_head.variables if v.shape == [CLASSES + 1] and "bias" in v.name]
  bias.assign(tf.one_hot(1, CLASSES + 1) * LIKELY)
  return run, _weights(model)


def _weights(model) -> int:
  return sum(int(v.shape.num_elements()) for v in model.trainable_variables)


def measure(side: str, what: str, name: str, size: int, batch: int, steps: int) -> dict:
  """Builds one side and runs it; times in seconds, memory in MiB."""
  import tensorflow as tf

  start = time.perf_counter()
  makers = {"ours_train": _ours_train, "peer_train": _peer_train, "ours_find": _ours_find, "peer_find": _peer_find}
  run, weights = makers[f"{side}_{what}"](name, size, batch)
  run()
  first = time.perf_counter()
  run()
  times = []
  for _ in range(steps):
    begin = time.perf_counter()
    tf.nest.map_structure(lambda t: t.numpy(), run())
    times.append(time.perf_counter() - begin)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {"start": first - start, "run": statistics.median(times), "peak": peak, "weights": weights / 1e6}


def main() -> None:
  """Runs both sides in turn and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="spinenet49")
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--batches", default="1")
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument("--what", default="train,find")
  parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side:
    print(json.dumps(measure(args.side, args.what, args.model, args.size, int(args.batches), args.steps)))
    return
  print(f"Mask R-CNN {args.model}, {args.size} px, {CLASSES} classes, float32; medians of {args.rounds} rounds")
  rows = {"start": "build + first run, s", "run": "run, s", "peak": "peak memory, MiB", "weights": "weights, millions"}
  for what in args.what.split(","):
    for batch in (int(b) for b in args.batches.split(",")):
      results: dict[str, list[dict]] = {"ours": [], "peer": []}
      for _ in range(args.rounds):
        for side, found in results.items():
          command = [sys.executable, "-m", "benchmarks.mask_rcnn", f"--side={side}", f"--what={what}"]
          command += [f"--model={args.model}", f"--size={args.size}", f"--batches={batch}", f"--steps={args.steps}"]
          output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
          found.append(json.loads(output.stdout.strip().splitlines()[-1]))
      print(f"\n{f'{what}, batch {batch}':<26} {'ours':>9} {'peer':>9} {'ratio':>7}")
      for key, label in rows.items():
        ours, peer = (statistics.median(r[key] for r in results[side]) for side in ("ours", "peer"))
        print(f"{label:<26} {ours:>9.2f} {peer:>9.2f} {ours / peer:>7.2f}")


if __name__ == "__main__":
  main()
