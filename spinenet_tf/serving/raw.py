"""What a network says before non-maximum suppression, in the form in which it leaves TensorFlow.

Nothing here depends on how it will be run: trace under `ops.winograd.enabled` for CPUs with TensorFlow, and without it, under
`ops.portable.portable`, for converters.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from spinenet_tf.models.classifier import Classifier
from spinenet_tf.models.mask_rcnn import MaskRCNN
from spinenet_tf.models.network import Network
from spinenet_tf.models.retinanet import RetinaNet
from spinenet_tf.models.solo import Solo
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.anchors import anchors


def raw_outputs(model: Network, images: tf.Tensor, *, legacy_plus_one: bool = False) -> dict[str, tf.Tensor]:
  """Returns the outputs of any of our models before non-maximum suppression, by name.

  Args:
    model: with a known input size.
    images: float32[B, h, w, 3], normalised pixels as the network takes them.
    legacy_plus_one: of a detector, see `ops.boxes.decode`.

  Returns: of a RetinaNet as `raw_retinanet`, of a Mask R-CNN as `raw_regions`, of a SOLO as `raw_cells`, of a classifier as
    its call.
  """
  if isinstance(model, RetinaNet):
    return raw_retinanet(model, images, legacy_plus_one)
  if isinstance(model, MaskRCNN):
    return raw_regions(model, images, legacy_plus_one)
  if isinstance(model, Solo):
    return raw_cells(model, images)
  assert isinstance(model, Classifier)
  return dict(model(images, training=False))


def raw_retinanet(model: RetinaNet, images: tf.Tensor, legacy_plus_one: bool = False) -> dict[str, tf.Tensor]:
  """Returns scores and boxes of all N anchors, levels in rising order.

  Returns:
    "raw_scores": float32[B, N, K], in [0, 1].
    "raw_boxes": float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels, clipped to the input.
  """
  size = model.known_size()
  outputs = model(images, training=False)
  levels = anchors(model.anchors, size)

  def joined(values: dict[str, tf.Tensor], width: int) -> tf.Tensor:
    return tf.concat([tf.reshape(values[name], [-1, len(of_level), width]) for name, of_level in levels.items()], 1)

  scores = tf.sigmoid(tf.cast(joined(outputs["cls_logits"], model.num_classes), tf.float32))
  deltas = joined(outputs["box_deltas"], 4)
  boxes = box_ops.decode(deltas, np.concatenate(list(levels.values())), legacy_plus_one=legacy_plus_one)
  return {"raw_scores": scores, "raw_boxes": box_ops.clip(boxes, size)}


def raw_regions(model: MaskRCNN, images: tf.Tensor, legacy_plus_one: bool = False) -> dict[str, tf.Tensor]:
  """Returns what the second stage says of the N = 1000 regions of the first; masks are made of what is kept of them.

  Returns:
    "raw_scores": float32[B, N, K], probabilities without background; 0 in padding.
    "raw_boxes": float32[B, N, K, 4], one for each class, (ymin, xmin, ymax, xmax) in input pixels, clipped to the input.
  """
  size = model.known_size()
  outputs = model(images, training=False)
  regions, _ = model.propose(outputs, legacy_plus_one=legacy_plus_one)
  logits, codes = model.box_outputs(outputs["pyramid"], regions)
  scores = tf.nn.softmax(tf.cast(logits, tf.float32))[..., 1:]
  scores = tf.where((box_ops.area(regions) > 0)[..., None], scores, 0.0)
  boxes = box_ops.decode_region(codes, regions[:, :, None], legacy_plus_one=legacy_plus_one)
  boxes = box_ops.clip(boxes, size)
  return {"raw_scores": scores, "raw_boxes": boxes}


def raw_cells(model: Solo, images: tf.Tensor) -> dict[str, tf.Tensor]:
  """Returns what a SOLO says of all N cells, levels in their order and row by row; masks are made of the best of them only.

  Returns:
    "raw_scores": float32[B, N, K], in [0, 1], before the points NMS.
  """
  logits, levels = model(images, training=False)["cls_logits"], model.solo_levels
  cells = [tf.reshape(logits[n], [-1, s * s, model.num_classes]) for n, s in zip(levels.names, levels.grids)]
  return {"raw_scores": tf.sigmoid(tf.cast(tf.concat(cells, axis=1), tf.float32))}
