"""Exported models beside the Keras models that they were made of, on photos, with random but fixed weights.

  python -m benchmarks.export_parity --images=photos [--count=20] [--tasks=retinanet,mask_rcnn,classification]
    [--formats=saved_model,onnx,tflite]

SpineNet-49 at 640 pixels (224 of a classifier) with 91 classes becomes a SavedModel and ONNX files, the mobile 49XS at
256 pixels TFLite files; each export compares every picture with the run and fails outside of its tolerance. Then eight photos
go through the SavedModel at once and one by one.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from benchmarks import model_garden
from benchmarks.export import CLASSES, class_bias, write_run
from spinenet_tf.compat import forgotten
from spinenet_tf.models.classifier import build_classifier
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.serving import onnx, saved_model, tflite
from spinenet_tf.serving.image_files import find_images

BUILD = {"retinanet": build_retinanet, "mask_rcnn": build_mask_rcnn, "classification": build_classifier}
SHARE = 0.001  # of (anchor, class) pairs that score above 0.05
SPREAD = 3.0  # standard deviation of the class logits of Mask R-CNN's regions


def random_run(task: str, network: str, size: int, folder: pathlib.Path) -> pathlib.Path:
  """Writes a run of a model with random weights, which finds something in any picture."""
  model = BUILD[task](network, CLASSES, (size, size))
  variables = named_variables(model)
  model_garden.randomise(variables)
  if task == "retinanet":
    bias = variables["class_tower/predict/bias"]
    bias.assign(tf.zeros_like(bias))
    bias.assign(tf.fill(bias.shape, class_bias(model, SHARE, size)))
  elif task == "mask_rcnn":
    outputs = model(tf.random.stateless_normal([1, size, size, 3], [1, 2]), training=False)
    logits, _ = model.box_outputs(outputs["pyramid"], model.propose(outputs, count=100)[0])
    kernel = variables["box_head/classes/kernel"]
    kernel.assign(kernel * SPREAD / tf.math.reduce_std(logits))
  settings = {"crop": 0.875} if task == "classification" else {}
  return write_run(model, size, folder, task, settings)


def batch_difference(folder: pathlib.Path, files: list[pathlib.Path]) -> dict[str, float]:
  """Returns the largest difference of each output between all files at once and each of them alone."""
  find = tf.saved_model.load(str(folder)).signatures["image_bytes"]
  contents = [file.read_bytes() for file in files]
  together = find(image_bytes=tf.constant(contents))
  alone = [find(image_bytes=tf.constant([content])) for content in contents]
  differences = {}
  for name, value in together.items():
    other = tf.concat([one[name] for one in alone], axis=0)
    if value.dtype.is_floating:
      differences[name] = float(np.abs(value.numpy() - other.numpy()).max())
    else:
      differences[name] = float(np.sum(value.numpy() != other.numpy()))
  return differences


def main() -> None:
  """Prints what each export's comparison gave."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", required=True)
  parser.add_argument("--count", type=int, default=20)
  parser.add_argument("--tasks", default=",".join(BUILD))
  parser.add_argument("--formats", default="saved_model,onnx,tflite")
  args = parser.parse_args()
  formats, options = args.formats.split(","), {"images": [args.images], "count": args.count}
  files = find_images([args.images], pathlib.Path("/dev/null"))[:8]
  with tempfile.TemporaryDirectory() as temporary:
    place = pathlib.Path(temporary)
    for task in args.tasks.split(","):
      with forgotten():
        run = random_run(task, "spinenet49", 224 if task == "classification" else 640, place / task)
        if "saved_model" in formats:
          result = saved_model.export(run, place / f"{task}_saved", **options)
          print(f"{task}: {result}", flush=True)
          print(f"{len(files)} at once and alone: {batch_difference(result.path, files)}", flush=True)
        if "onnx" in formats:
          print(f"{task}: {onnx.export(run, place / f'{task}_onnx', **options)}", flush=True)
      if "tflite" in formats and task != "mask_rcnn":
        with forgotten():
          run = random_run(task, "spinenet49xs_mobile", 256, place / f"{task}_mobile")
          result = tflite.export(run, place / f"{task}_tflite", least={"int8": 0.0}, **options)
          print(f"{task}: {result}", flush=True)


if __name__ == "__main__":
  main()
