"""Figures that the paper publishes, to print beside ours.  [SpineNet tables 1 to 3, 5 to 10, third version]"""

from __future__ import annotations

import dataclasses

from spinenet_tf.backbones.catalog import ALLOCATIONS, Allocation

PUBLISHED_CLASSES = 91  # outputs of the authors' detectors: COCO's ids as they are, 0 not used
REGION_CLASSES = 90  # of the authors' Mask R-CNN, where output 0 is background
IMAGENET, INATURALIST = 1001, 5089  # outputs of the classifiers


@dataclasses.dataclass(frozen=True)
class Published:
  """One row of a table.

  Attributes:
    label: the model as the paper names it.
    name: in our catalog; None where we have no such model.
    size: side of the square input, pixels; None where not published.
    multiply_adds: in 10^9; None where not published.
    parameters: in 10^6; None where not published.
    scores: in per cent, in the order of the table's `scores`; None where not published.
    num_classes: without background.
    damage: what is removed from its connections, see `edit.damaged`.
  """

  label: str
  name: str | None
  size: int | None
  multiply_adds: float | None
  parameters: float | None
  scores: tuple[float | None, ...]
  num_classes: int = PUBLISHED_CLASSES
  damage: str | None = None


@dataclasses.dataclass(frozen=True)
class PublishedTable:
  """One table of the paper with costs or scores of models.

  Attributes:
    number: in the third version of the paper.
    title: what it shows.
    task: of `profile`.
    scores: what the scores are.
    rows: in the paper's order.
    notes: what one must know to compare.
  """

  number: int
  title: str
  task: str
  scores: tuple[str, ...]
  rows: tuple[Published, ...]
  notes: tuple[str, ...] = ()


# Blocks of each level.  [table 1]
BLOCK_COUNTS: tuple[Allocation, ...] = (
  Allocation("r50_fpn", (3, 4, 6, 3), (0, 0, 0, 0, 0, 0)),
  *ALLOCATIONS.values(),
)

_DETECTION = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def _rows(*rows: tuple, num_classes: int = PUBLISHED_CLASSES) -> tuple[Published, ...]:
  """Rows of (label, name, size, multiply-adds, parameters, score, score, ...)."""
  return tuple(Published(*row[:5], tuple(row[5:]), num_classes) for row in rows)


_TABLE_2 = PublishedTable(
  2,
  "RetinaNet, COCO test-dev",
  "retinanet",
  _DETECTION,
  _rows(
    ("SpineNet-49S", "spinenet49s", 640, 33.8, 11.9, 39.5, 59.3, 43.1, 20.9, 42.2, 54.3),
    ("SpineNet-49", "spinenet49", 640, 85.4, 28.5, 42.8, 62.3, 46.1, 23.7, 45.2, 57.3),
    ("R50-FPN", "r50_fpn", 640, 96.8, 34.0, 40.4, 59.9, 43.6, 22.7, 43.5, 57.0),
    ("R50-NAS-FPN", None, 640, 140.0, 60.3, 42.4, 61.8, 46.1, 25.1, 46.7, 57.8),
    ("SpineNet-49", "spinenet49", 896, 167.4, 28.5, 45.3, 65.1, 49.1, 27.0, 47.9, 57.7),
    ("SpineNet-96", "spinenet96", 1024, 265.4, 43.0, 47.1, 67.1, 51.1, 29.1, 50.2, 59.0),
    ("R101-FPN", "r101_fpn", 1024, 325.9, 53.1, 43.9, 63.6, 47.6, 26.8, 47.6, 57.0),
    ("SpineNet-143", "spinenet143", 1280, 524.4, 66.9, 48.1, 67.6, 52.0, 30.2, 51.1, 59.9),
    ("R152-FPN", "r152_fpn", 1280, 630.5, 68.7, 45.1, 64.6, 48.7, 28.4, 48.8, 58.2),
    ("R50-FPN†", "r50_fpn", 640, 96.8, 34.0, 42.3, 61.9, 45.9, 23.9, 46.1, 58.5),
    ("SpineNet-49S†", "spinenet49s", 640, 33.8, 12.0, 41.5, 60.5, 44.6, 23.3, 45.0, 58.0),
    ("SpineNet-49†", "spinenet49", 640, 85.4, 28.5, 44.3, 63.8, 47.6, 25.9, 47.7, 61.1),
    ("SpineNet-49†", "spinenet49", 896, 167.4, 28.5, 46.7, 66.3, 50.6, 29.1, 50.1, 61.7),
    ("SpineNet-96†", "spinenet96", 1024, 265.4, 43.0, 48.6, 68.4, 52.5, 32.0, 52.3, 62.0),
    ("SpineNet-143†", "spinenet143", 1280, 524.4, 66.9, 50.7, 70.4, 54.9, 33.6, 53.9, 62.1),
    ("SpineNet-190†", "spinenet190", 1280, 1885.0, 163.6, 52.1, 71.8, 56.5, 35.4, 55.0, 63.6),
  ),
  ("Protocol B; † protocol C.",),
)

_TABLE_3 = PublishedTable(
  3,
  "From R50-FPN to SpineNet-49, COCO val2017, protocol A",
  "retinanet",
  ("AP",),
  _rows(
    ("R50-FPN", "r50_fpn", 640, 96.8, None, 37.8),
    ("R35-SP18", None, 640, 91.7, None, 38.7),
    ("R23-SP30", "r23_sp30", 640, 96.5, None, 39.7),
    ("R14-SP39", None, 640, 99.7, None, 39.6),
    ("R0-SP53", "r0_sp53", 640, 95.2, None, 40.7),
    ("SpineNet-49", "spinenet49", 640, 85.4, None, 40.8),
  ),
  ("The orders and connections of R35-SP18 and R14-SP39 are not published.",),
)

_TABLE_5 = PublishedTable(
  5,
  "Mask R-CNN, COCO",
  "mask_rcnn",
  ("AP val", "mask AP val", "AP test-dev", "mask AP test-dev"),
  _rows(
    ("SpineNet-49S", "spinenet49s", 640, 60.2, 13.9, 39.3, 34.8, None, None),
    ("SpineNet-49", "spinenet49", 640, 216.1, 40.8, 42.9, 38.1, None, None),
    ("R50-FPN", "r50_fpn", 640, 227.7, 46.3, 42.7, 37.8, None, None),
    ("SpineNet-96", "spinenet96", 1024, 315.0, 55.2, 47.2, 41.5, None, None),
    ("R101-FPN", "r101_fpn", 1024, 375.5, 65.3, 46.6, 41.2, None, None),
    ("SpineNet-143", "spinenet143", 1280, 498.8, 79.2, 48.8, 42.7, None, None),
    ("R152-FPN", "r152_fpn", 1280, 605.3, 80.9, 48.1, 42.4, None, None),
    ("SpineNet-190†", "spinenet190", 1536, 2076.8, 176.2, 52.2, 46.1, 52.5, 46.3),
    num_classes=REGION_CLASSES,
  ),
  ("Protocol B; † protocol C. Counted with 1000 proposals through the box head and 100 through the mask head.",),
)


def _classifiers(*rows: tuple) -> tuple[Published, ...]:
  """Two rows, ImageNet and iNaturalist, from (label, name, multiply-adds, parameters, top-1, top-5, the last three)."""
  result = []
  for label, name, multiply_adds, *figures in rows:
    for i, (data, classes) in enumerate((("ImageNet", IMAGENET), ("iNaturalist", INATURALIST))):
      parameters, *scores = figures[3 * i : 3 * i + 3]
      result.append(Published(f"{label}, {data}", name, 224, multiply_adds, parameters, tuple(scores), classes))
  return tuple(result)


_TABLE_6 = PublishedTable(
  6,
  "Classification",
  "classification",
  ("top-1", "top-5"),
  _classifiers(
    ("SpineNet-49", "spinenet49", 3.5, 22.1, 77.0, 93.3, 23.1, 59.3, 81.9),
    ("ResNet-34", None, 3.7, 21.8, 74.4, 92.0, 23.9, 54.1, 76.7),
    ("ResNet-50", "r50_fpn", 4.1, 25.6, 77.1, 93.6, 33.9, 54.6, 77.2),
    ("SpineNet-96", "spinenet96", 5.7, 36.5, 78.2, 94.0, 37.6, 61.7, 83.4),
    ("ResNet-101", "r101_fpn", 7.8, 44.6, 78.2, 94.2, 52.9, 57.0, 79.3),
    ("SpineNet-143", "spinenet143", 9.1, 60.5, 79.0, 94.4, 61.6, 63.6, 84.8),
    ("ResNet-152", "r152_fpn", 11.5, 60.2, 78.7, 94.2, 68.6, 58.4, 80.2),
  ),
  (f"Counted with {IMAGENET} and {INATURALIST} outputs; a ResNet without its feature pyramid network.",),
)

_TABLE_8 = PublishedTable(
  8,
  "Connections of R0-SP53 removed, COCO val2017, protocol A",
  "retinanet",
  ("AP",),
  (
    Published("R0-SP53", "r0_sp53", 640, None, None, (40.7,)),
    Published("(1) short-range removed", "r0_sp53", 640, None, None, (35.8,), damage="short"),
    Published("(2) long-range removed", "r0_sp53", 640, None, None, (28.6,), damage="long"),
    Published("(3) sequential", "r0_sp53", 640, None, None, (28.2,), damage="both"),
  ),
  ("The paper gives no costs. Blocks that lead to no output any more are left out of the network, and of our count.",),
)

_TABLE_9 = PublishedTable(
  9,
  "Mobile detectors, COCO test-dev",
  "retinanet",
  ("AP", "APs", "APm", "APl"),
  _rows(
    ("SpineNet-49XS (MBConv)", "spinenet49xs_mobile", 256, 0.17, 0.82, 17.5, 2.3, 17.2, 33.6),
    ("MobileNetV3-Small-SSDLite", None, None, 0.16, 1.77, 16.1, None, None, None),
    ("SpineNet-49S (MBConv)", "spinenet49s_mobile", 384, 0.52, 0.97, 24.3, 7.2, 26.2, 41.1),
    ("MobileNetV3-SSDLite", None, None, 0.51, 3.22, 22.0, None, None, None),
    ("MobileNetV2-SSDLite", None, None, 0.80, 4.30, 22.1, None, None, None),
    ("MnasNet-A1-SSDLite", None, None, 0.80, 4.90, 23.0, 3.8, 21.7, 42.0),
    ("SpineNet-49 (MBConv)", "spinenet49_mobile", 384, 1.00, 2.32, 28.6, 9.2, 31.5, 47.0),
    ("MobileNetV2-NAS-FPNLite (7@64)", None, None, 0.98, 2.62, 25.7, None, None, None),
    ("MobileNetV2-FPNLite", None, None, 1.01, 2.20, 24.3, None, None, None),
  ),
  ("The readings tried for the three SpineNets are in docs/compatibility.md.",),
)

_TABLE_10 = PublishedTable(
  10,
  "Classification, improved recipe",
  "classification",
  ("top-1", "top-5"),
  _classifiers(
    ("SpineNet-49", "spinenet49", 3.5, 22.1, 77.0, 93.3, 23.1, 59.3, 81.9),
    ("SpineNet-49†", "spinenet49", 3.5, 22.1, 78.1, 94.0, 23.1, 63.3, 85.1),
    ("SpineNet-96", "spinenet96", 5.7, 36.5, 78.2, 94.0, 37.6, 61.7, 83.4),
    ("SpineNet-96†", "spinenet96", 5.7, 36.5, 79.4, 94.6, 37.6, 64.7, 85.9),
    ("SpineNet-143", "spinenet143", 9.1, 60.5, 79.0, 94.4, 61.6, 63.6, 84.8),
    ("SpineNet-143†", "spinenet143", 9.1, 60.5, 80.1, 95.0, 61.6, 66.7, 87.1),
    ("SpineNet-190†", "spinenet190", 19.1, 127.1, 80.8, 95.3, 129.2, 67.6, 87.4),
  ),
  (f"† stochastic depth, swish, label smoothing. Counted with {IMAGENET} and {INATURALIST} outputs.",),
)

TABLES: dict[int, PublishedTable] = {
  table.number: table for table in (_TABLE_2, _TABLE_3, _TABLE_5, _TABLE_6, _TABLE_8, _TABLE_9, _TABLE_10)
}
