"""SpineNet for TensorFlow: scale-permuted backbones, RetinaNet, Mask R-CNN, classifiers, training.  [Du et al., CVPR 2020]

The names below are the stable API; each is imported when it is first used, so `import spinenet_tf` costs nothing.

    import spinenet_tf as st

    detector = st.build_retinanet("spinenet49", num_classes=80, input_size=(640, 640))
    cost = st.profile("spinenet49", num_classes=91)
    detect = st.load("runs/bccd")
    st.draw(image, detect(image)).save("out.png")
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# TensorFlow's C++ side would print dozens of notes about this machine before the first line of a command. Errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_HOME = {
  "AccuracyEvaluator": "evaluation.accuracy",
  "Architecture": "backbones.spec",
  "BlockSpec": "backbones.spec",
  "CocoEvaluator": "evaluation.coco",
  "Detections": "serving.detector",
  "Detector": "serving.detector",
  "ImageClassifier": "serving.classifier",
  "UserError": "errors",
  "architecture": "backbones.catalog",
  "build_backbone": "backbones.builder",
  "build_classifier": "models.classifier",
  "build_mask_rcnn": "models.mask_rcnn",
  "build_retinanet": "models.retinanet",
  "build_solo": "models.solo",
  "damaged": "backbones.edit",
  "draw": "visualize.boxes",
  "draw_architecture": "visualize.architecture",
  "draw_confusion": "visualize.confusion",
  "load": "serving.load",
  "profile": "backbones.profile",
  "read_image": "data.image_io",
  "scaled": "backbones.edit",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
  from spinenet_tf.backbones.builder import build_backbone as build_backbone
  from spinenet_tf.backbones.catalog import architecture as architecture
  from spinenet_tf.backbones.edit import damaged as damaged
  from spinenet_tf.backbones.edit import scaled as scaled
  from spinenet_tf.backbones.profile import profile as profile
  from spinenet_tf.backbones.spec import Architecture as Architecture
  from spinenet_tf.backbones.spec import BlockSpec as BlockSpec
  from spinenet_tf.data.image_io import read_image as read_image
  from spinenet_tf.errors import UserError as UserError
  from spinenet_tf.evaluation.accuracy import AccuracyEvaluator as AccuracyEvaluator
  from spinenet_tf.evaluation.coco import CocoEvaluator as CocoEvaluator
  from spinenet_tf.models.classifier import build_classifier as build_classifier
  from spinenet_tf.models.mask_rcnn import build_mask_rcnn as build_mask_rcnn
  from spinenet_tf.models.retinanet import build_retinanet as build_retinanet
  from spinenet_tf.models.solo import build_solo as build_solo
  from spinenet_tf.serving.classifier import ImageClassifier as ImageClassifier
  from spinenet_tf.serving.detector import Detections as Detections
  from spinenet_tf.serving.detector import Detector as Detector
  from spinenet_tf.serving.load import load as load
  from spinenet_tf.visualize.architecture import draw_architecture as draw_architecture
  from spinenet_tf.visualize.boxes import draw as draw
  from spinenet_tf.visualize.confusion import draw_confusion as draw_confusion


def __getattr__(name: str) -> object:
  if name not in _HOME:
    raise AttributeError(f"spinenet_tf has no {name!r}; it has {', '.join(__all__)}")
  return getattr(importlib.import_module(f"spinenet_tf.{_HOME[name]}"), name)


def __dir__() -> list[str]:
  return [*__all__, "__version__"]
