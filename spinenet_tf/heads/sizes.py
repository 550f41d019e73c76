"""Sizes of Mask R-CNN's heads, for building and for counting.  [SpineNet section 4.1; authors' configurations]"""

from __future__ import annotations

import dataclasses

from spinenet_tf.errors import UserError

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
    anchor_size: side of a square anchor, in strides of its level.
    proposals: regions that the box head reads.
    detections: regions that the mask head reads.

  Raises: UserError for a size that is no whole number from 1 on.
  """

  endpoints: int | None = None
  rpn_convs: int = 1
  convs: int = 4
  filters: int = 256
  dense: int = 1024
  anchors: int = 3
  anchor_size: float = 3.0
  proposals: int = 1000
  detections: int = 100

  def __post_init__(self):
    for field in ("endpoints", "rpn_convs", "convs", "filters", "dense", "anchors", "proposals", "detections"):
      value = getattr(self, field)
      if (field, value) != ("endpoints", None) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"{field} of Mask R-CNN's heads is {value!r}; it is a whole number from 1 on")

  @classmethod
  def of(cls, name: str) -> MaskHeads:
    """Returns the paper's for the architecture of that name; for others those that most of its models have."""
    return _PAPER.get(name, cls())


# Heads of the paper's table 5 that are not `MaskHeads()`.  [authors' configurations; what gives the table's counts]
_PAPER = {
  "spinenet49s": MaskHeads(endpoints=128, filters=128, dense=512),
  "spinenet190": MaskHeads(rpn_convs=7, convs=7, filters=384, anchor_size=5.0),
}
