"""Cost of what stands on a backbone: RetinaNet, Mask R-CNN, classifier.  [SpineNet section 4.1, 4.3; authors' heads.py]"""

from __future__ import annotations

import dataclasses

from spinenet_tf.backbones.counting.counter import Counter
from spinenet_tf.backbones.spec import Architecture

BOX_CROP, MASK_CROP = 7, 14  # sides of a region's features


@dataclasses.dataclass(frozen=True)
class MaskHeads:
  """Sizes of Mask R-CNN's heads, and of the pyramid that they read.

  Attributes:
    endpoints: channels of the pyramid; the architecture's when None.
    rpn_convs: 3x3 convolutions of the region proposal network.
    convs: 3x3 convolutions of the box head, and of the mask head.
    filters: channels of all of them.
    dense: width of the box head's hidden layer.
    anchors: of each location.
    proposals: regions that the box head reads.
    detections: regions that the mask head reads.
  """

  endpoints: int | None = None
  rpn_convs: int = 1
  convs: int = 4
  filters: int = 256
  dense: int = 1024
  anchors: int = 3
  proposals: int = 1000
  detections: int = 100


# Heads of the paper's table 5 that are not `MaskHeads()`.  [authors' configurations; what gives the table's counts]
MASK_HEADS = {
  "spinenet49s": MaskHeads(endpoints=128, filters=128, dense=512),
  "spinenet190": MaskHeads(rpn_convs=7, convs=7, filters=384),
}


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
  """Adds the region proposal network, the box head and the mask head."""
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
  for outputs in (classes, classes * 4):
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
