"""The report of `prepare` for images with one label each: what was left out and why, and how many images each
class has.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from spinenet_tf.data.report import WORDS
from spinenet_tf.errors import UserError

_EXAMPLES = 10  # names kept per reason
_LEFT_OUT = {
  "no_image_file": "files that are no images, going by their names",
  "outside_classes": "images that lie in no class folder",
  "empty_class": "class folders without images",
  "unknown_label": "labels that are not in the list of classes",
  "unknown_image": "labels of images that are not in the list of images",
  "no_label": "images without a label",
  "several_labels": "images with different labels",
  "repeated": "repeated entries",
  "missing": "images that do not exist",
  "zero_area": "boxes without area",
  "outside_image": "boxes entirely outside their image",
  "unreadable": "images that cannot be used",
}
_WORDS = {
  **WORDS,
  "exif_upright": "turned upright by their EXIF tag",
  "exif_ignored": "with an EXIF rotation, kept as stored",
}


@dataclasses.dataclass
class LabelReport:
  """Counts of one split; `to_dict` is what meta.json keeps.

  Attributes:
    per_class: class name -> images.
    left_out: reason -> how many; examples: reason -> names, the first ten.
    conversions: note of `image_io.StoredImage` -> images.
    crops: crops made of boxes (each one image here); clipped: of these cut at the border of their image.
    without_box: images that crops were not made of, as they have no box.
  """

  per_class: Counter = dataclasses.field(default_factory=Counter)
  left_out: Counter = dataclasses.field(default_factory=Counter)
  examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  conversions: Counter = dataclasses.field(default_factory=Counter)
  crops: int = 0
  clipped: int = 0
  without_box: int = 0

  @property
  def images(self) -> int:
    """Images in the split."""
    return sum(self.per_class.values())

  def leave_out(self, reason: str, name: Any) -> None:
    """Counts something that does not become a record."""
    self.left_out[reason] += 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < _EXAMPLES:
      examples.append(str(name))

  def add_failure(self, error: str, category: str) -> None:
    """Counts an image of a class that turns out to be unusable."""
    self.per_class[category] -= 1
    self.leave_out("unreadable", error)

  def add_notes(self, notes: Iterable[str]) -> None:
    """Counts what was particular about an image file."""
    self.conversions.update(notes)

  def add_masks(self, count: int, notes: Iterable[tuple[str, Any]]) -> None:
    """Nothing: images with a label have no masks."""

  def check_strict(self, names: Sequence[str]) -> None:
    """Raises UserError where anything was left out, or there is one class only."""
    problems = [self.line(reason) for reason in self.left_out]
    if len(names) == 1:
      problems.append(f"one class only, {names[0]!r}")
    if problems:
      raise UserError(f"{'; '.join(problems)}; correct this, or run without --strict to leave it out")

  def totals(self) -> dict[str, int]:
    """What meta.json says of a split beside the number of examples."""
    return {}

  def to_dict(self) -> dict[str, Any]:
    """JSON-ready."""
    crops = {"crops": self.crops, "clipped_crops": self.clipped, "images_without_box": self.without_box}
    return {
      "images": self.images,
      **(crops if self.crops else {}),
      "left_out": dict(sorted(self.left_out.items())),
      "examples": dict(sorted(self.examples.items())),
      "conversions": dict(sorted(self.conversions.items())),
      "images_per_class": {name: count for name, count in self.per_class.items() if count},
    }

  def lines(self, names: Sequence[str]) -> list[str]:
    """The report for people; `names` are all classes, in order."""
    counts = [self.per_class[name] for name in names]
    some = [count for count in counts if count]
    each = f"{min(some)} to {max(some)}" if min(some) < max(some) else f"{some[0]}"
    out = [f"{self.images} images of {len(some)} classes, {each} of each"]
    if len(names) == 1:
      out.append(f"one class only, {names[0]!r}: there is nothing to tell apart, any classifier is always right")
    if self.crops:
      out.append(
        f"{self.crops} crops around boxes, {self.clipped} of them cut at the border of their image; "
        f"{self.without_box} images have no box"
      )
    out += [f"left out: {self.line(reason)}" for reason in sorted(self.left_out)] or ["nothing was left out"]
    out += [f"{count} images {_WORDS.get(note, note)}" for note, count in sorted(self.conversions.items())]
    none = [name for name, count in zip(names, counts) if not count]
    if none:
      shown = ", ".join(none[:8]) + (", ..." if len(none) > 8 else "")
      out.append(f"{len(none)} of {len(names)} classes have no image here: {shown}")
    if len(names) <= 12:
      out.append("images per class: " + ", ".join(f"{name} {count}" for name, count in zip(names, counts)))
    return out

  def line(self, reason: str) -> str:
    """How much was left out for a reason, with examples."""
    count, examples = self.left_out[reason], self.examples.get(reason, [])
    shown = ", ".join(examples[:5]) + (", ..." if count > 5 else "")
    return f"{count} {_LEFT_OUT.get(reason, reason)} ({shown})"
