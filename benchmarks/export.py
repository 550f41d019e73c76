"""SavedModels end to end on a CPU: ours beside Model Garden's exported RetinaNet with its batched NMS.

  python -m benchmarks.export [--model=spinenet49] [--size=640] [--rounds=20] [--shares=0,0.01]

Both are exported with the same weights, each by its own exporter, loaded again and called in turn in one process: a
480 x 640 picture in, boxes out, once as pixels and once as a JPEG file. With weights whose class bias lets hardly any
(anchor, class) pair exceed the score threshold, and with one that lets a hundredth of them through, more than a trained
network does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from official.core import config_definitions
from official.vision.modeling.layers import detection_generator
from official.vision.serving.detection import DetectionModule
from PIL import Image

from benchmarks import model_garden
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.models.network import Network
from spinenet_tf.models.retinanet import RetinaNet, build_retinanet
from spinenet_tf.serving.saved_model import export

CLASSES = 91
WARM_UP = 3
SIGNATURES = {"image_tensor": "serving_default", "image_bytes": "image_bytes"}


def write_run(
  model: Network, size: int, folder: pathlib.Path, task: str = "retinanet", settings: dict | None = None, **arguments
) -> pathlib.Path:
  """Writes a run directory of a model as it stands; `arguments` are those of its builder that are not the defaults."""
  arguments = {"num_classes": CLASSES, "input_size": [size, size], **arguments}
  about = {
    "format": 1,
    "task": task,
    "architecture": model.architecture.to_dict(),
    "model": arguments,
    "categories": [{"id": i, "name": f"class {i}"} for i in range(CLASSES)],
    "classification" if task == "classification" else "detection": settings or {},
  }
  folder.mkdir(parents=True)
  (folder / "model.json").write_text(json.dumps(about))
  checkpoint = tf.train.Checkpoint(model=variable_tree(model), global_step=tf.Variable(1, dtype=tf.int64))
  tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), 1, checkpoint_name="step").save(1)
  return folder


def export_peer(task, peer, size: int, folder: pathlib.Path) -> pathlib.Path:
  """Exports Model Garden's model with its own module."""
  params = config_definitions.ExperimentConfig(task=task.task_config)
  module = DetectionModule(params, batch_size=1, input_image_size=[size, size], model=peer)
  tf.saved_model.save(module, str(folder), signatures=module.get_inference_signatures(SIGNATURES))
  return folder


def class_bias(model: RetinaNet, share: float, size: int) -> float:
  """Returns the class bias at which `share` of all (anchor, class) pairs score above 0.05 on noise."""
  if not share:
    return -20.0
  images = tf.random.stateless_normal([1, size, size, 3], [1, 2])
  logits = np.concatenate([t.numpy().ravel() for t in model(images, training=False)["cls_logits"].values()])
  return float(np.log(0.05 / 0.95) - np.quantile(logits, 1 - share))


def time_in_turn(functions: dict, rounds: int) -> dict[str, np.ndarray]:
  """Returns float64[rounds] seconds of each, called one after the other in every round."""
  times: dict[str, list[float]] = {name: [] for name in functions}
  for i in range(WARM_UP + rounds):
    for name, function in functions.items():
      begin = time.perf_counter()
      tf.nest.map_structure(lambda t: t.numpy(), function())
      if i >= WARM_UP:
        times[name].append(time.perf_counter() - begin)
  return {name: np.array(values) for name, values in times.items()}


def megabytes(folder: pathlib.Path) -> float:
  """Returns the size of all files below a folder."""
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="spinenet49")
  parser.add_argument("--size", type=int, default=640)
  parser.add_argument("--rounds", type=int, default=20)
  parser.add_argument("--shares", default="0,0.01")
  args = parser.parse_args()
  size = args.size
  ours = build_retinanet(args.model, CLASSES, (size, size), padding="same")
  task = model_garden.build_task(args.model, CLASSES, size)
  task.task_config.model.detection_generator.nms_version = "batched"
  peer = task.build_model()
  peer._detection_generator = detection_generator.MultilevelDetectionGenerator(nms_version="batched")
  peer.head(peer.backbone(tf.zeros([1, size, size, 3])))
  variables = named_variables(ours)
  model_garden.randomise(variables)
  bias = variables["class_tower/predict/bias"]
  bias.assign(tf.zeros_like(bias))
  biases = {share: class_bias(ours, share, size) for share in map(float, args.shares.split(","))}
  pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
  picture = np.asarray(Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC))
  stream = io.BytesIO()
  Image.fromarray(picture).save(stream, "JPEG", quality=90)
  inputs = {"serving_default": tf.constant(picture[None]), "image_bytes": tf.constant([stream.getvalue()])}
  threads = os.cpu_count()
  print(f"{args.model}, {size} px, {CLASSES} classes, float32, batch 1, {threads} CPUs; TensorFlow {tf.__version__}")
  print(f"{args.rounds} calls in turn after {WARM_UP} to warm up; milliseconds")
  head = f"{'pairs > 0.05':>12} {'input':<16} {'side':<13}" + "".join(f"{x:>8}" for x in ("mean", "p50", "p90", "p99"))
  print(f"{head} {'ratio of means':>16}")
  with tempfile.TemporaryDirectory() as temporary:
    for share, value in biases.items():
      folder = pathlib.Path(temporary) / str(share)
      bias.assign(tf.fill(bias.shape, value))
      model_garden.copy_weights(variables, peer, ours)
      places = {
        "ours": export(write_run(ours, size, folder / "run", padding="same"), folder / "ours", target="cpu").path
      }
      places["Model Garden"] = export_peer(task, peer, size, folder / "peer")
      loaded = {side: tf.saved_model.load(str(place)) for side, place in places.items()}
      for signature, image in inputs.items():
        # The peer's inputs have no names of their own: "inputs".
        names = {side: next(iter(m.signatures[signature].structured_input_signature[1])) for side, m in loaded.items()}
        functions = {
          side: (lambda m=m, name=names[side]: m.signatures[signature](**{name: image}))  # noqa: B023
          for side, m in loaded.items()
        }
        times = time_in_turn(functions, args.rounds)
        ratio = times["ours"].mean() / times["Model Garden"].mean()
        for side, seconds in times.items():
          numbers = [seconds.mean(), *np.percentile(seconds, [50, 90, 99])]
          row = f"{share:>12.0%} {signature:<16} {side:<13}" + "".join(f"{1000 * x:>8.0f}" for x in numbers)
          print(row + (f" {ratio:>16.2f}" if side == "ours" else ""), flush=True)
        scores = [np.sort(f()["detection_scores"].numpy().ravel())[::-1][:10] for f in functions.values()]
        print(f"{'':>12} ten best scores differ by {np.abs(np.subtract(*scores)).max():.1e} at most")
      print(f"{'':>12} on disk: " + ", ".join(f"{side} {megabytes(place):.0f} MB" for side, place in places.items()))


if __name__ == "__main__":
  main()
