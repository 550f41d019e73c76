"""Non-maximum suppression by TensorFlow's one operation for it, which TF-TRT takes into an engine.

TF-TRT takes `CombinedNonMaxSuppression` where it is given 4096 boxes or fewer, so the best 4096 anchors go in. Answers are
those of `ops.nms.detect` unless more than 4096 anchors of an image exceed the threshold and matter.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.serving.classifier import ImageClassifier
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.module import DetectionModule, Outputs

MOST_BOXES = 4096  # that TF-TRT's converter accepts


class CombinedModule(DetectionModule):
  """A RetinaNet's module with that operation."""

  @staticmethod
  def of(source: Detector | ImageClassifier, **options: Any) -> CombinedModule:
    """Returns the module of a RetinaNet's detector.

    Raises: UserError for other models.
    """
    if not isinstance(source.model, RetinaNet):
      raise UserError(
        f"combined suppression is for RetinaNet, this is {source.model.name}; leave the suppression as it is, 'loop'"
      )
    return CombinedModule(source, **options)

  def find(self, images: tf.Tensor) -> Outputs:
    """See the base class."""
    raw = self.raw(images)
    chosen = {k: v for k, v in self.settings.items() if k in ("score_threshold", "iou_threshold", "max_detections")}
    return suppress(raw["raw_scores"], raw["raw_boxes"], **chosen)


def suppress(
  scores: tf.Tensor,
  boxes: tf.Tensor,
  *,
  score_threshold: float = 0.05,
  iou_threshold: float = 0.5,
  max_detections: int = 100,
) -> Outputs:
  """Returns detections as `ops.nms.detect` does.

  Args:
    scores: float32[B, N, K], in [0, 1]; N is known.
    boxes: float32[B, N, 4], (ymin, xmin, ymax, xmax).
    score_threshold, iou_threshold, max_detections: as of `ops.nms.detect`.
  """
  if scores.shape[1] > MOST_BOXES:
    _, best = tf.math.top_k(tf.reduce_max(scores, axis=-1), MOST_BOXES, sorted=False)
    scores, boxes = tf.gather(scores, best, batch_dims=1), tf.gather(boxes, best, batch_dims=1)
  found = tf.image.combined_non_max_suppression(
    boxes[:, :, None],
    scores,
    max_output_size_per_class=max_detections,
    max_total_size=max_detections,
    iou_threshold=iou_threshold,
    score_threshold=score_threshold,
    clip_boxes=False,
  )
  real = tf.range(max_detections)[None] < found.valid_detections[:, None]
  return {
    "detection_boxes": found.nmsed_boxes,
    "detection_scores": found.nmsed_scores,
    "detection_classes": tf.where(real, tf.cast(found.nmsed_classes, tf.int32), -1),
    "num_detections": found.valid_detections,
  }
