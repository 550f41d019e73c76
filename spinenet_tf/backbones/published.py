"""Figures that the paper publishes, to print beside ours.  [SpineNet table 2; COCO test-dev, RetinaNet]"""

from __future__ import annotations

import dataclasses

PUBLISHED_CLASSES = 91  # outputs of the authors' models: COCO's ids as they are, 0 not used


@dataclasses.dataclass(frozen=True)
class PublishedRetinaNet:
  """One row of table 2.

  Attributes:
    name: catalog name.
    size: side of the square input, pixels.
    multiply_adds: in 10^9.
    parameters: in 10^6.
    ap: box AP in per cent under protocol B; None where the paper has no such row.
    ap_protocol_c: the same under protocol C.
  """

  name: str
  size: int
  multiply_adds: float
  parameters: float
  ap: float | None
  ap_protocol_c: float | None


RETINANETS = (
  PublishedRetinaNet("spinenet49s", 640, 33.8, 11.9, 39.5, 41.5),
  PublishedRetinaNet("spinenet49", 640, 85.4, 28.5, 42.8, 44.3),
  PublishedRetinaNet("spinenet49", 896, 167.4, 28.5, 45.3, 46.7),
  PublishedRetinaNet("spinenet96", 1024, 265.4, 43.0, 47.1, 48.6),
  PublishedRetinaNet("spinenet143", 1280, 524.4, 66.9, 48.1, 50.7),
  PublishedRetinaNet("spinenet190", 1280, 1885.0, 163.6, None, 52.1),
)
