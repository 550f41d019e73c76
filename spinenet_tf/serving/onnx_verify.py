"""Whether an ONNX file answers as TensorFlow does with the run's model, picture by picture and in batches."""

from __future__ import annotations

import os
from typing import Callable

import numpy as np
import tensorflow as tf

from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.classifier import Classes
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.exported import as_classes, as_detections
from spinenet_tf.serving.module import Outputs, ServingModule
from spinenet_tf.serving.onnx_runtime import OnnxModel

TOLERANCE = 1e-3  # of scores, logits and features
BOX_TOLERANCE = 0.01  # of boxes in pixels
BATCH = 4  # pictures at once
BATCHES = 2  # of them

Values = dict[str, np.ndarray]


def verify(
  path: str | os.PathLike,
  module: ServingModule,
  function: Callable[[tf.Tensor], Outputs],
  spec: tf.TensorSpec,
  pictures: verification.Pictures,
) -> verification.Verification:
  """Compares an ONNX file with the function that it was made of, as TensorFlow computes it on a CPU.

  Args:
    path: of the file.
    module: of the run.
    function: of one tensor.
    spec: of the tensor.
    pictures: to compare on.

  Returns: the worse of two comparisons: all pictures one at a time, and the first of them `BATCH` at once, which are copies
    of one picture where the file takes pictures of any size.
  """
  model = OnnxModel(path, providers=["CPUExecutionProvider"])
  reference = tf.function(function, input_signature=[spec], autograph=False)
  if spec.dtype == tf.uint8:
    inputs = [array[None] for array in pictures.arrays]
  else:
    inputs = [module.prepare(tf.constant(array)).numpy()[None] for array in pictures.arrays]
  expected = [_row({key: value.numpy() for key, value in reference(tf.constant(one)).items()}, 0) for one in inputs]
  single = [_row(model(one), 0) for one in inputs]
  if spec.dtype == tf.uint8:
    several = [_row(model(np.concatenate([one] * BATCH)), BATCH - 1) for one in inputs[:BATCHES]]
  else:
    several = []
    for first in range(0, len(inputs), BATCH)[:BATCHES]:
      part = inputs[first : first + BATCH]
      outputs = model(np.concatenate(part))
      several += [_row(outputs, i) for i in range(len(part))]
  compare = _compare_answers if "detection_scores" in expected[0] or "classes" in expected[0] else _compare_values
  sizes = [one.shape[1:3] for one in inputs]
  return verification.worst(
    compare(expected[: len(found)], found, module, pictures.origin, sizes[: len(found)]) for found in (single, several)
  )


def _row(outputs: Values, i: int) -> Values:
  return {key: value[i] for key, value in outputs.items()}


def _compare_answers(
  expected: list[Values], found: list[Values], module: ServingModule, origin: str, sizes: list[tuple[int, int]]
) -> verification.Verification:
  names = dict(module.labels)

  def told(outputs: Values, size: tuple[int, int]) -> Detections | Classes:
    if "classes" in outputs:
      return as_classes(outputs, names)
    return as_detections({"detection_mask_boxes": outputs["detection_boxes"], **outputs}, size, names)

  sides = [[told(outputs, size) for outputs, size in zip(side, sizes)] for side in (expected, found)]
  return verification.compare(*sides, origin, settings=module.settings, boxes=BOX_TOLERANCE, scores=TOLERANCE)


def _compare_values(
  expected: list[Values], found: list[Values], module: ServingModule, origin: str, sizes: list[tuple[int, int]]
) -> verification.Verification:
  """Compares outputs before suppression number by number; of a Mask R-CNN, whose regions come in no fixed order, what
  suppression leaves of them.
  """
  if module.task == "mask_rcnn":
    sides = [[_suppressed(outputs) for outputs in side] for side in (expected, found)]
    return _compare_answers(*sides, module, origin, sizes)
  tolerance = {key: BOX_TOLERANCE if key == "raw_boxes" else TOLERANCE for key in expected[0]}
  largest = {key: float(max(np.abs(a[key] - b[key]).max() for a, b in zip(expected, found))) for key in tolerance}
  return verification.Verification(origin, len(expected), 0, largest, tolerance)


def _suppressed(outputs: Values) -> Values:
  found = tf.image.combined_non_max_suppression(
    outputs["raw_boxes"][None],
    outputs["raw_scores"][None],
    max_output_size_per_class=100,
    max_total_size=100,
    iou_threshold=0.5,
    score_threshold=0.05,
    clip_boxes=False,
  )
  keys = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
  values = {key: value.numpy()[0] for key, value in zip(keys, found)}
  return {**values, "detection_classes": values["detection_classes"].astype(np.int64)}
