"""What TFLite files compute: pixels in, one picture; scores and box codes, or detections, out.

Detections are made by TFLite_Detection_PostProcess, an operation of the stock interpreter: it decodes box codes and
suppresses class by class in float32, also in a file whose network is quantised, where suppression made of elementary
operations would be quantised with it. It differs from `ops.nms.detect` in one thing: boxes are not clipped to the input
before they suppress each other, nor after.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import tensorflow as tf

from spinenet_tf.data.preprocess import BIAS, GAIN
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.anchors import anchors
from spinenet_tf.serving.module import Outputs, ServingModule

FORMS = ("raw", "nms")
OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")  # in the operation's order


def normalize(pixels: tf.Tensor) -> tf.Tensor:
  """Returns float32[1, h, w, 3], the network's input of RGB pixels 0 to 255.

  As a convolution, whose weights are quantised channel by channel.
  """
  gain = tf.reshape(tf.constant(GAIN, tf.float32), [1, 1, 3, 1])
  scaled = tf.nn.depthwise_conv2d(pixels, gain, [1, 1, 1, 1], "VALID")
  return tf.nn.bias_add(scaled, tf.constant(BIAS, tf.float32))


def denormalize(images: tf.Tensor) -> tf.Tensor:
  """The inverse of `normalize`, not rounded."""
  return (images - tf.constant(BIAS, tf.float32)) / tf.constant(GAIN, tf.float32)


def pixels_of(module: ServingModule, picture: np.ndarray) -> np.ndarray:
  """Returns float32[h, w, 3], 0 to 255: a picture as uint8[H, W, 3] resized to the input and padded with the mean colour."""
  return tf.clip_by_value(denormalize(module.prepare(tf.constant(picture))), 0.0, 255.0).numpy()


def all_anchors(model: RetinaNet) -> np.ndarray:
  """Returns float32[N, 4], (ymin, xmin, ymax, xmax) in input pixels, levels in rising order."""
  return np.concatenate(list(anchors(model.anchors, model.known_size()).values())).astype(np.float32)


def function_of(module: ServingModule, form: str) -> Callable[[tf.Tensor], Outputs]:
  """Returns what a file of this form computes of float32[1, h, w, 3], RGB pixels 0 to 255.

  Of a RetinaNet "raw" is:
    "raw_scores": float32[1, N, K], in [0, 1].
    "raw_codes": float32[1, N, 4], box codes (ty, tx, th, tw) relative to the anchors, as of `ops.boxes.decode`.
  and "nms", D rows by falling score:
    "detection_boxes": float32[1, D, 4], (ymin, xmin, ymax, xmax) in shares of the input's sides, not clipped.
    "detection_classes": float32[1, D], outputs from 0 on.
    "detection_scores": float32[1, D]. "num_detections": float32[1], the rest of D is padding.
  Of a classifier "raw" is "probabilities" float32[1, K] and "features" float32[1, C].

  Args:
    module: of the run.
    form: of `FORMS`.
  """
  if module.task == "classification":
    return lambda pixels: module.find(normalize(pixels))
  model = module.model
  reference = all_anchors(model)
  levels = anchors(model.anchors, model.known_size())

  def joined(values: dict[str, tf.Tensor], width: int) -> tf.Tensor:
    return tf.concat([tf.reshape(values[name], [1, len(of_level), width]) for name, of_level in levels.items()], 1)

  def raw(pixels: tf.Tensor) -> Outputs:
    outputs = model(normalize(pixels), training=False)
    scores = tf.sigmoid(joined(outputs["cls_logits"], model.num_classes))
    return {"raw_scores": scores, "raw_codes": joined(outputs["box_deltas"], 4)}

  def detect(pixels: tf.Tensor) -> Outputs:
    found = raw(pixels)
    height, width = model.known_size()
    ymin, xmin, ymax, xmax = reference.T
    centred = np.stack([(ymin + ymax) / 2, (xmin + xmax) / 2, ymax - ymin, xmax - xmin], axis=1)
    shares = (centred / np.float32([height, width, height, width])).astype(np.float32)
    post_process = _post_process(module)
    return dict(zip(OUTPUTS, post_process(found["raw_codes"], found["raw_scores"], tf.constant(shares))))

  return raw if form == "raw" else detect


def decode_codes(codes: np.ndarray, model: RetinaNet) -> np.ndarray:
  """Returns float32[N, 4], (ymin, xmin, ymax, xmax) in input pixels, clipped to it, of float32[N, 4] "raw_codes"."""
  return box_ops.clip(box_ops.decode(codes, all_anchors(model)), model.known_size()).numpy()


def _post_process(module: ServingModule) -> Callable[..., tuple[tf.Tensor, ...]]:
  """Returns the function that the converter replaces by the operation; only its outputs' types count."""
  settings = module.settings
  most = settings.get("max_detections", 100)
  attributes: dict[str, Any] = {
    "max_detections": most,
    "detections_per_class": most,
    "max_classes_per_detection": 1,
    "use_regular_nms": True,
    "nms_score_threshold": float(settings.get("score_threshold", 0.05)),
    "nms_iou_threshold": float(settings.get("iou_threshold", 0.5)),
    "num_classes": module.model.num_classes,
    **{f"{side}_scale": 1.0 for side in "yxhw"},
  }
  kinds = {bool: "b", int: "i", float: "f"}
  text = ['name: "TFLite_Detection_PostProcess"']
  for key, value in attributes.items():
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    text.append(f'attr {{ key: "{key}" value {{ {kinds[type(value)]}: {shown} }} }}')

  @tf.function(experimental_implements=" ".join(text), autograph=False)
  def post_process(box_encodings: tf.Tensor, class_predictions: tf.Tensor, anchors: tf.Tensor):
    del box_encodings, class_predictions, anchors
    return tf.zeros([1, most, 4]), tf.zeros([1, most]), tf.zeros([1, most]), tf.zeros([1])

  return post_process
