"""Whether a TFLite file answers as the run does: number by number in float32, and by its detections' average precision.

Average precision takes the run's own detections, those that it is certain of, for ground truth: 1 means that the file finds
the same. Of a classifier it is the share of pictures with the same likeliest class.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops import nms
from spinenet_tf.serving import verify as verification
from spinenet_tf.serving.agreement import agreement
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.module import Outputs, ServingModule
from spinenet_tf.serving.tflite_graph import all_anchors, decode_codes, denormalize, function_of, pixels_of
from spinenet_tf.serving.tflite_runtime import TFLiteModel

TOLERANCE = (
  1e-3  # float32, raw: of scores, probabilities and features, and of boxes as shares of the input's longer side
)
LEAST = {"float32": 0.95, "float16": 0.95, "int8": 0.5}  # agreement: AP, or of classifiers the share of pictures

Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Check:
  """How a file compares with its run.

  Attributes:
    pictures: how many, and of what origin.
    agreement: "AP", "AP50", "AP75" and "objects" as of `agreement.agreement`; or "same", a share of pictures.
    least: what the first of these must be at least.
    largest: differences of numbers by output, float32 raw files only.
    tolerance: of these.
  """

  pictures: str
  agreement: dict[str, float]
  least: float
  largest: dict[str, float]
  tolerance: float

  @property
  def passed(self) -> bool:
    """Whether it agrees enough; where numbers are compared they alone decide, for equal scores may change places."""
    if self.largest:
      return all(value <= self.tolerance for value in self.largest.values())
    share = next(iter(self.agreement.values()))
    return math.isnan(share) or share >= self.least

  def passed_or_raise(self, name: str) -> Check:
    """Returns itself.

    Raises: VerificationError when it did not pass.
    """
    if not self.passed:
      raise verification.VerificationError(
        f"{name} answers otherwise than the run that it was made of: {self}; nothing was kept. Calibrate on more images like "
        "those it will see, export another precision, or allow less with --least"
      )
    return self

  def to_dict(self) -> dict[str, Any]:
    """Returns plain values, ready for JSON."""
    return {**dataclasses.asdict(self), "passed": self.passed}

  def __str__(self) -> str:
    (key, share), *rest = self.agreement.items()
    parts = [f"{key} {share:.3f} with the run (at least {self.least:g})", *(f"{k} {v:.3g}" for k, v in rest)]
    parts += [f"{name} differ by {value:.2g} (at most {self.tolerance:g})" for name, value in self.largest.items()]
    return f"verified on {self.pictures}: {', '.join(parts)}"


def answers_of_run(module: ServingModule, pictures: verification.Pictures) -> list[Values]:
  """Returns the run's own outputs for each picture, as TensorFlow computes them.

  Returns: of a RetinaNet "raw_scores" and "raw_boxes" as of `serving.raw`, and "whole_boxes", the same before they are
    clipped, which the operation suppresses; of a classifier "probabilities" and "features".
  """
  spec = tf.TensorSpec([None, *module.input_size, 3], tf.float32)
  if module.task == "classification":
    function = module.find
  else:
    codes = function_of(module, "raw")

    def function(images: tf.Tensor) -> Outputs:
      whole = box_ops.decode(codes(denormalize(images))["raw_codes"], all_anchors(module.model))
      return {**module.raw(images), "whole_boxes": whole}

  traced = tf.function(function, input_signature=[spec], autograph=False)
  inputs = [module.prepare(tf.constant(array))[None] for array in pictures.arrays]
  return [{key: value.numpy()[0] for key, value in traced(one).items()} for one in inputs]


def verify(
  model: TFLiteModel,
  module: ServingModule,
  form: str,
  precision: str,
  pictures: verification.Pictures,
  expected: list[Values],
  least: dict[str, float],
) -> Check:
  """Compares a file with the run that it was made of, in pixels of the network's input.

  Args:
    model: the file.
    module: of the run.
    form, precision: of the file.
    pictures: to compare on.
    expected: as of `answers_of_run`.
    least: as of `tflite.export`.
  """
  found = [{key: value[0] for key, value in model(pixels_of(module, array)).items()} for array in pictures.arrays]
  if module.task == "classification":
    told = {"same": _share_of_same(expected, found)}
  else:
    if form == "raw":
      found = [{"raw_scores": b["raw_scores"], "raw_boxes": decode_codes(b["raw_codes"], module.model)} for b in found]
    answers = [_suppressed(one, module) if form == "raw" else _detections(one, module) for one in found]
    boxes = "raw_boxes" if form == "raw" else "whole_boxes"
    wanted = [_suppressed({**one, "raw_boxes": one[boxes]}, module) for one in expected]
    told = agreement(wanted, answers, [module.input_size] * len(answers))
  exact = precision == "float32" and form == "raw"
  largest = {key: _difference(key, expected, found, module) for key in found[0]} if exact else {}
  return Check(pictures.origin, told, {**LEAST, **least}[precision], largest, TOLERANCE)


def _share_of_same(expected: list[Values], found: list[Values]) -> float:
  best = [[np.argmax(one["probabilities"]) for one in side] for side in (expected, found)]
  return float(np.mean(np.equal(*best)))


def _difference(key: str, expected: list[Values], found: list[Values], module: ServingModule) -> float:
  unit = max(module.input_size) if key == "raw_boxes" else 1
  return float(max(np.abs(one[key] - other[key]).max() for one, other in zip(expected, found)) / unit)


def _suppressed(outputs: Values, module: ServingModule) -> Detections:
  """Returns what `ops.nms` makes of the raw outputs of one picture."""
  settings = module.settings
  scores = np.where(outputs["raw_scores"] > settings.get("score_threshold", 0.05), outputs["raw_scores"], -1.0)
  best = np.argsort(-scores, axis=None, kind="stable")[: settings.get("pre_nms_top_k", 5000)]
  anchor, label = np.unravel_index(best, scores.shape)
  found = nms.suppress(
    tf.constant(outputs["raw_boxes"][anchor][None]),
    tf.constant(scores[anchor, label][None].astype(np.float32)),
    tf.constant(label[None].astype(np.int32)),
    iou_threshold=settings.get("iou_threshold", 0.5),
    max_detections=settings.get("max_detections", 100),
  )
  count = int(found["num_detections"][0])
  boxes, scores, classes = (found[f"detection_{key}"][0, :count].numpy() for key in ("boxes", "scores", "classes"))
  return _answer(box_ops.clip(boxes, module.input_size).numpy(), scores, classes, module)


def _detections(outputs: Values, module: ServingModule) -> Detections:
  """Returns what the detections of one picture are in pixels of the input, clipped to it."""
  count = round(float(outputs["num_detections"]))
  limit = np.float32([*module.input_size, *module.input_size])
  boxes = np.clip(outputs["detection_boxes"][:count] * limit, 0, limit)
  return _answer(
    boxes, outputs["detection_scores"][:count], outputs["detection_classes"][:count].astype(np.int64), module
  )


def _answer(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, module: ServingModule) -> Detections:
  inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
  ids, names = zip(*(module.labels[i] for i in classes[inside])) if inside.any() else ((), ())
  return Detections(boxes[inside], scores[inside], np.asarray(ids, np.int64), tuple(names))
