"""Cost of what stands on a backbone: RetinaNet, Mask R-CNN, classifier.  [SpineNet section 4.1, 4.3; authors' heads.py]"""

from __future__ import annotations

from spinenet_tf.backbones.counting.counter import Counter
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.heads.sizes import BOX_CROP, MASK_CROP, MaskHeads


def count_retinanet(
  counter: Counter, arch: Architecture, levels: tuple[int, ...], convs: int, filters: int, classes: int, anchors: int
) -> None:
  """Adds the class tower and the box tower: weights shared by the levels, normalisations not."""
  for outputs, part in ((anchors * classes, "class tower"), (anchors * 4, "box tower")):
    for level in levels:
      channels, first = arch.endpoint_filters, level == levels[0]
      for i in range(convs + 1):
        last = i == convs
        args = {"norm": not last, "then": "read" if last else "activate", "shared": not first}
        kernel, width = 3, outputs if last else filters
        if arch.separable:
          counter.conv(part, level, 3, channels, channels, depthwise=True, norm=False, then="read", shared=not first)
          kernel = 1
        counter.conv(part, level, kernel, channels, width, bias=last, **args)
        channels = width


def count_mask_rcnn(
  counter: Counter, arch: Architecture, levels: tuple[int, ...], heads: MaskHeads, classes: int
) -> None:
  """Adds the region proposal network, the box head and the mask head; `classes` are counted without background."""
  filters = heads.filters
  for level in levels:
    shared, channels = level != levels[0], arch.endpoint_filters
    for _ in range(heads.rpn_convs):
      counter.conv("rpn", level, 3, channels, filters, shared=shared)
      channels = filters
    for outputs in (heads.anchors, heads.anchors * 4):
      counter.conv("rpn", level, 1, filters, outputs, norm=False, bias=True, then="read", shared=shared)
  pixels, channels = heads.proposals * BOX_CROP**2, arch.endpoint_filters
  counter.map("box head", 0, channels, pixels=pixels)
  for _ in range(heads.convs):
    counter.conv("box head", 0, 3, channels, filters, pixels=pixels)
    channels = filters
  counter.conv("box head", 0, 1, channels * BOX_CROP**2, heads.dense, pixels=heads.proposals)
  for outputs in (classes + 1, classes * 4):
    counter.conv("box head", 0, 1, heads.dense, outputs, norm=False, bias=True, then="read", pixels=heads.proposals)
  pixels, channels = heads.detections * MASK_CROP**2, arch.endpoint_filters
  counter.map("mask head", 0, channels, pixels=pixels)
  for _ in range(heads.convs):
    counter.conv("mask head", 0, 3, channels, filters, pixels=pixels)
    channels = filters
  counter.conv("mask head", 0, 2, filters, filters, pixels=pixels, spread=4)
  counter.conv("mask head", 0, 1, filters, classes, norm=False, bias=True, then="read", pixels=4 * pixels)


def count_classifier(counter: Counter, channels: int, levels: tuple[int, ...], classes: int) -> None:
  """Adds the mean of each level over the image, the mean of these, and a dense layer."""
  for _ in levels:
    counter.map("classifier", 0, channels, then="add", pixels=1)
  counter.map("classifier", 0, channels, pixels=1)
  counter.conv("classifier", 0, 1, channels, classes, norm=False, bias=True, then="read", pixels=1)
