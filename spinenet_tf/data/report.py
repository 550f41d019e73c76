"""The report of `prepare`: everything that was clipped, dropped, converted or is likely to be hard to
learn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_EXAMPLES = 10  # ids kept per reason
WORDS = {
  "zero_area": "without area",
  "outside_image": "entirely outside their image",
  "greyscale": "greyscale, read as three equal channels",
  "alpha_dropped": "with an alpha channel, dropped",
  "transparent_pixels": "of these with transparent pixels: check what colour lies under them",
  "cmyk_converted": "CMYK, converted to RGB",
  "sixteen_bit_reduced": "of 16 bits, upper 8 used",
  "exif_upright": "turned upright by their EXIF tag, as the annotations have them",
  "exif_ignored": "with an EXIF rotation that the annotations ignore, kept as stored",
  "first_frame_only": "with several frames, the first used",
  "reencoded": "encoded anew (the others keep their bytes)",
}
MASK_WORDS = {
  "mask_missing": "without a mask",
  "mask_malformed": "with a segmentation that is neither polygons nor run lengths, or a polygon that is none",
  "mask_few_points": "with a polygon of fewer than 3 points",
  "mask_odd": "with a polygon of an odd number of coordinates",
  "mask_numbers": "with a polygon whose coordinates are not finite or far outside the image",
  "mask_size": "with run lengths of another size than their image",
  "mask_runs": "with run lengths that do not fill their image",
  "mask_empty": "with a mask that has no pixel",
  "mask_outside_image": "with a mask entirely outside the image",
  "mask_outside_box": "with a mask entirely outside the box",
}
MASK_KEPT = {  # of these the mask is used
  "mask_clipped": "with a mask across the border, clipped",
  "mask_beyond_box": "with a mask that leaves the box by more than 2 px: training sees what is inside, scoring all of it",
}


@dataclasses.dataclass
class Report:
  """Counts of one split; `to_dict` is what meta.json keeps.

  Attributes:
    images: images in the split; empty: of these without any object (they train as negatives).
    boxes: boxes kept, crowds included; crowds: of these crowd regions (left out of training, used by
      scoring).
    clipped: boxes cut at the border; largest_overhang: by how many pixels at most.
    dropped: reason -> boxes left out; examples: reason (or "clipped") -> annotation ids, the first ten.
    conversions: note of `image_io.StoredImage` -> images.
    per_class: class name -> boxes, crowds not counted.
    most_objects: the largest number of objects in one image, crowds not counted.
    masks: objects with a mask, crowds included; mask_notes: reason (`MASK_WORDS`, `MASK_KEPT`) -> objects.
    with_masks: whether masks were asked for and there are any.
  """

  images: int = 0
  empty: int = 0
  boxes: int = 0
  crowds: int = 0
  clipped: int = 0
  largest_overhang: float = 0.0
  dropped: Counter = dataclasses.field(default_factory=Counter)
  examples: dict[str, list] = dataclasses.field(default_factory=dict)
  conversions: Counter = dataclasses.field(default_factory=Counter)
  per_class: Counter = dataclasses.field(default_factory=Counter)
  most_objects: int = 0
  masks: int = 0
  mask_notes: Counter = dataclasses.field(default_factory=Counter)
  with_masks: bool = False
  _sizes: list[float] = dataclasses.field(default_factory=list)

  def drop(self, reason: str, identity: Any) -> None:
    """Counts a box that is left out."""
    self.dropped[reason] += 1
    self._example(reason, identity)

  def clip(self, identity: Any, overhang: float) -> None:
    """Counts a box that crossed the border by `overhang` pixels."""
    self.clipped += 1
    self.largest_overhang = max(self.largest_overhang, overhang)
    self._example("clipped", identity)

  def add_image(self, height: int, width: int, objects: Sequence[Mapping[str, Any]]) -> None:
    """Counts the objects of one image (pixels)."""
    single = [o for o in objects if not o["is_crowd"]]
    self.empty += not objects
    self.boxes += len(objects)
    self.crowds += len(objects) - len(single)
    self.most_objects = max(self.most_objects, len(single))
    self.per_class.update(o["name"] for o in single)
    for ymin, xmin, ymax, xmax in (o["box"] for o in single):
      self._sizes.append(((ymax - ymin) * (xmax - xmin)) ** 0.5 / max(height, width))

  def add_notes(self, notes: Iterable[str]) -> None:
    """Counts what was particular about an image file."""
    self.conversions.update(notes)

  def add_masks(self, count: int, notes: Iterable[tuple[str, Any]]) -> None:
    """Counts objects with a mask, and notes (reason, annotation id; None where there are too many to tell)."""
    self.masks += count
    for reason, identity in notes:
      self.mask_notes[reason] += 1
      if identity is not None:
        self._example(reason, identity)

  def totals(self) -> dict[str, int]:
    """What meta.json says of a split beside the number of examples."""
    return {"num_boxes": self.boxes, "num_masks": self.masks}

  def to_dict(self) -> dict[str, Any]:
    """JSON-ready.

    `size_quantiles` are the 0, 1, ... 100 % quantiles of sqrt(box area) / long side of the image: at an
    input of S pixels
    an object has about S times that side (`Meta.share_smaller`).
    """
    sizes = np.quantile(self._sizes, np.linspace(0, 1, 101)).round(5).tolist() if self._sizes else []
    return {
      "images": self.images,
      "images_without_objects": self.empty,
      "boxes": self.boxes,
      "crowd_boxes": self.crowds,
      "clipped_boxes": self.clipped,
      "largest_overhang": round(self.largest_overhang, 3),
      "dropped_boxes": dict(sorted(self.dropped.items())),
      "masks": self.masks,
      "mask_notes": dict(sorted(self.mask_notes.items())),
      "examples": dict(sorted(self.examples.items())),
      "conversions": dict(sorted(self.conversions.items())),
      "boxes_per_class": dict(self.per_class),
      "max_objects_per_image": self.most_objects,
      "size_quantiles": sizes,
    }

  def lines(self, names: Sequence[str]) -> list[str]:
    """The report for people; `names` are all classes, in order."""
    out = [f"{self.images} images, {self.empty} of them without objects (kept: they train as background)"]
    out.append(f"{self.boxes} boxes, {self.crowds} of them crowds (not trained on, used by scoring)")
    if self.clipped:
      over = f"by {self.largest_overhang:.3g} px at most"
      out.append(f"{self.clipped} boxes crossed the border and were clipped, {over}{self._named('clipped')}")
    for reason, count in sorted(self.dropped.items()):
      out.append(f"{count} boxes {WORDS.get(reason, reason)} were dropped{self._named(reason)}")
    if not self.dropped:
      out.append("no box was dropped")
    out += self._mask_lines()
    out += [f"{count} images {WORDS.get(note, note)}" for note, count in sorted(self.conversions.items())]
    out.append(f"at most {self.most_objects} objects in one image")
    none = [name for name in names if not self.per_class[name]]
    if none:
      shown = ", ".join(none[:8]) + (", ..." if len(none) > 8 else "")
      out.append(f"{len(none)} of {len(names)} classes have no box here: {shown}")
    if len(names) <= 12:
      out.append("boxes per class: " + ", ".join(f"{name} {self.per_class[name]}" for name in names))
    return out

  def _mask_lines(self) -> list[str]:
    if not self.with_masks:
      return []
    without = self.boxes - self.masks
    out = [f"{self.masks} objects with a mask" + (f"; {without} without, used for their boxes only" if without else "")]
    for reason, count in sorted(self.mask_notes.items()):
      words = MASK_WORDS.get(reason) or MASK_KEPT.get(reason, reason)
      out.append(f"{count} objects {words}{self._named(reason)}")
    return out

  def _example(self, reason: str, identity: Any) -> None:
    examples = self.examples.setdefault(reason, [])
    if len(examples) < _EXAMPLES:
      examples.append(identity)

  def _named(self, reason: str) -> str:
    examples = self.examples.get(reason, [])
    return f" (annotations {', '.join(map(str, examples[:5]))}{', ...' if len(examples) > 5 else ''})"
