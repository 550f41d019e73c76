"""Detection end to end on a CPU: picture in, boxes out. Ours beside Model Garden's with its batched NMS.

  python -m benchmarks.detection [--model=spinenet49] [--size=640] [--rounds=7]

Both run in one process, in turn, with the same weights on the same 480 x 640 uint8 picture: resize, normalise, pad,
network, decode, NMS. Ours is what `st.load` makes of a run: batch norms folded, convolutions as on every CPU. Once with an
untrained class bias, so that hardly a box exceeds the score threshold, and once with one that lets about a hundredth of all
(anchor, class) pairs through, more than a trained network does.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf
from official.vision.modeling.layers import detection_generator
from official.vision.ops import anchor, preprocess_ops

from benchmarks import model_garden
from spinenet_tf.data.preprocess import preprocess_image
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.ops import winograd
from spinenet_tf.ops.nms import detect
from spinenet_tf.serving.fold import fold

CLASSES = 91


def _ours(model, size: int):
  @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
  def run(image):
    pixels, _ = preprocess_image(image, (size, size))
    outputs = model(pixels[None], training=False)
    return detect(outputs, model.anchors, (size, size), num_classes=CLASSES)

  return run


def _peer(model, size: int, anchor_size: float):
  boxes = anchor.Anchor(3, 7, 3, [1.0, 2.0, 0.5], anchor_size, (size, size)).multilevel_boxes
  boxes = {level: tf.constant(b)[None] for level, b in boxes.items()}

  @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
  def run(image):
    pixels = preprocess_ops.normalize_image(image)
    pixels, info = preprocess_ops.resize_and_crop_image(pixels, [size, size], [size, size])
    return model(pixels[None], image_shape=info[None, 1, :], anchor_boxes=boxes, training=False)

  return run


def _fold_into(model, variables, epsilon: float) -> None:
  weights = fold({name: variable.numpy() for name, variable in variables.items()}, epsilon)
  for name, variable in named_variables(model).items():
    variable.assign(weights[name])


def _time(run, image) -> float:
  begin = time.perf_counter()
  tf.nest.map_structure(lambda t: t.numpy(), run(image))
  return time.perf_counter() - begin


def _class_bias(model, share: float, size: int) -> float:
  """Returns the class bias at which `share` of all (anchor, class) pairs score above 0.05 on noise."""
  images = tf.random.stateless_normal([1, size, size, 3], [1, 2])
  logits = np.concatenate([t.numpy().ravel() for t in model(images, training=False)["cls_logits"].values()])
  return float(np.log(0.05 / 0.95) - np.quantile(logits, 1 - share))


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="spinenet49")
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  size = args.size
  ours = build_retinanet(args.model, CLASSES, (size, size), padding="same")
  peer = model_garden.build_task(args.model, CLASSES, size).build_model()
  peer._detection_generator = detection_generator.MultilevelDetectionGenerator(nms_version="batched")
  peer.head(peer.backbone(tf.zeros([1, size, size, 3])))
  variables = named_variables(ours)
  model_garden.randomise(variables)
  bias = variables["class_tower/predict/bias"]
  image = tf.constant(np.random.default_rng(0).integers(0, 256, (480, 640, 3)), tf.uint8)
  loaded = build_retinanet(args.model, CLASSES, (size, size), padding="same", folded=True)
  runs = {"ours": _ours(loaded, size), "peer": _peer(peer, size, ours.anchors.anchor_size)}
  print(f"{args.model}, {size} px, {CLASSES} classes, float32, batch 1; medians of {args.rounds}, seconds")
  print(f"{'share of pairs above 0.05':<28} {'ours':>8} {'peer':>8} {'ratio':>7}")
  for share in (0.0, 0.01):
    bias.assign(tf.zeros_like(bias))
    level = _class_bias(ours, share, size) if share else -20.0
    bias.assign(tf.fill(bias.shape, level))
    model_garden.copy_weights(variables, peer, ours)
    _fold_into(loaded, variables, ours.style.norm_epsilon)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    with winograd.enabled():
      for run in runs.values():
        _time(run, image)
    for _ in range(args.rounds):
      for side, run in runs.items():
        times[side].append(_time(run, image))
    medians = {side: statistics.median(found) for side, found in times.items()}
    print(f"{share:<28.0%} {medians['ours']:>8.3f} {medians['peer']:>8.3f} {medians['ours'] / medians['peer']:>7.2f}")


if __name__ == "__main__":
  main()
