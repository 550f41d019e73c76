"""A JSON in COCO's form as labels of images, and crops around its boxes: iNaturalist, and lists of your own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from typing import Any

from spinenet_tf.data import coco, labelled, meta
from spinenet_tf.data.label_report import LabelReport
from spinenet_tf.errors import UserError


def prepare_inaturalist(
  annotations: str | os.PathLike,
  images: str | os.PathLike,
  output: str | os.PathLike,
  *,
  bbox: bool = False,
  enlarge: float = 1.5,
  split: str = "train",
  **options,
) -> list[str]:
  """Converts iNaturalist-2017, or iNaturalist-bbox: a crop around each box.  [paper, section 5.6]

  Args:
    annotations: train_2017.json, val_2017.json, or with `bbox` those with boxes.
    images: the folder that its file names are relative to.
    output: folder for {split}-NNNNN-of-NNNNN.tfrecord and meta.json.
    bbox: each box is an image of its own; classes are those with boxes (of the first split in `output`).
    enlarge: sides of a crop / sides of its box, around the same centre, clipped at the image's border.
    split: name of this part.
    **options: of `labelled.write`.
  Returns: the report, line by line.
  Raises: UserError; nothing usable is left then.
  """
  known = labelled.known_classes(output, split) if bbox else None
  data = read(annotations, images, enlarge=enlarge if bbox else None, known=known, upright=False)
  return labelled.write(data, output, split=split, **options)


def read(
  annotations: str | os.PathLike,
  images: str | os.PathLike,
  *,
  enlarge: float | None = None,
  known: tuple[meta.Category, ...] | None = None,
  upright: bool = True,
) -> labelled.Labelled:
  """Reads images, categories and annotations with an image_id and a category_id.

  Args:
    annotations: the JSON file; images: the folder that its file names are relative to.
    enlarge: makes a crop of each box, `enlarge` times its sides; without it boxes are not used.
    known: with `enlarge`, the classes; without it those with boxes.
    upright: whether EXIF rotations are applied, where the whole image is used.
  Raises: UserError naming the file and the value.
  """
  where, folder = os.fspath(annotations), os.fspath(images)
  content, data = coco.load(where, folder)
  categories = {c.id: c for c in coco.read_categories(data["categories"], where, unique_names=False)}
  report = LabelReport()
  pictures = _pictures(data["images"], where, folder, upright, bool(enlarge), report)
  labels = list(_labels(data["annotations"], where, {str(e["id"]) for e in data["images"]}, report))
  labels = [(number, entry) for number, entry in labels if number in pictures]
  if enlarge:
    items = list(_crops(labels, pictures, where, enlarge, report))
    found = {item.label for item in items}
    categories = {c.id: c for c in known or categories.values() if known or c.id in found}
  else:
    made = (dataclasses.replace(pictures[number], label=entry["category_id"]) for number, entry in labels)
    items = labelled.one_label_each(made, report)
    labelled_ids = {number for number, _ in labels}
    for number, item in pictures.items():
      if number not in labelled_ids:
        report.leave_out("no_label", item.file_name)
  how = f"json {hashlib.sha256(content).hexdigest()} enlarge={enlarge}"
  return labelled.assign(items, categories, report, where, how)


def _pictures(
  entries: list, where: str, folder: str, upright: bool, sized: bool, report: LabelReport
) -> dict[str, labelled.Item]:
  """Image id as text -> item without a label; files that are missing or no images are left out."""
  pictures, seen = {}, set()
  for entry in entries:
    if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("file_name"), str):
      raise UserError(f"{where}: image {_short(entry)} needs an id and a file_name")
    number, name = str(entry["id"]), entry["file_name"]
    if number in seen:
      raise UserError(f"{where}: image id {number} occurs more than once; each must be unique")
    seen.add(number)
    item = labelled.Item(os.path.join(folder, name), name, number, None, upright=upright)
    if sized:
      item.height, item.width = entry.get("height"), entry.get("width")
    if not labelled.is_image_name(name):
      report.leave_out("no_image_file", name)
    elif "://" not in folder and not os.path.isfile(item.path):
      report.leave_out("missing", name)
    else:
      pictures[number] = item
  return pictures


def _labels(entries: list, where: str, images: set[str], report: LabelReport) -> Iterator[tuple[str, dict]]:
  """(image id as text, annotation); those of images that are not in the list are left out."""
  for entry in entries:
    if not isinstance(entry, dict) or any(key not in entry for key in ("image_id", "category_id")):
      raise UserError(f"{where}: annotation {_short(entry)} needs an image_id and a category_id")
    if not isinstance(entry["category_id"], (int, str)):
      raise UserError(f"{where}: annotation {_short(entry)} has a category_id that is neither a number nor a text")
    if str(entry["image_id"]) in images:
      yield str(entry["image_id"]), entry
    else:
      report.leave_out("unknown_image", entry["image_id"])


def _crops(
  labels: list[tuple[str, dict]], pictures: dict[str, labelled.Item], where: str, enlarge: float, report: LabelReport
) -> Iterator[labelled.Item]:
  """An item per box."""
  used, counts = set(), {}
  for number, entry in labels:
    item = pictures[number]
    if entry.get("bbox") is None:
      continue
    called = f"{where}: annotation {entry.get('id', _short(entry))}"
    if not all(isinstance(side, int) and side >= 1 for side in (item.height, item.width)):
      raise UserError(f"{called} is of {item.file_name}, which has no height and width; crops need both in pixels")
    y, x, height, width = _box(entry["bbox"], called)
    crop = enlarged((y, x, y + height, x + width), item.height, item.width, enlarge)
    if height <= 0 or width <= 0:
      report.leave_out("zero_area", entry.get("id", number))
    elif y >= item.height or x >= item.width or y + height <= 0 or x + width <= 0:
      report.leave_out("outside_image", entry.get("id", number))
    else:
      used.add(number)
      report.crops += 1
      middle, half = (y + height / 2, x + width / 2), (enlarge * height / 2, enlarge * width / 2)
      inside = all(m - h >= 0 and m + h <= s for m, h, s in zip(middle, half, (item.height, item.width)))
      report.clipped += not inside
      counts[number] = counts.get(number, 0) + 1
      yield dataclasses.replace(item, label=entry["category_id"], crop=crop, source_id=f"{number}_{counts[number]}")
  report.without_box = len(pictures) - len(used)
  if not used:
    raise UserError(f"{where}: no annotation has a bbox; give the JSON with boxes, or leave --bbox out")


def enlarged(
  box: tuple[float, float, float, float], height: int, width: int, factor: float
) -> tuple[int, int, int, int]:
  """A box enlarged around its centre, clipped to the image, in whole pixels (those it touches), at least one.

  Args:
    box: (ymin, xmin, ymax, xmax) in pixels; height, width: of the image; factor: new side / old side.
  """
  sides = []
  for low, high, size in ((box[0], box[2], height), (box[1], box[3], width)):
    middle, half = (low + high) / 2, factor * (high - low) / 2
    first = min(max(math.floor(middle - half + 1e-6), 0), size - 1)
    sides.append((first, max(min(math.ceil(middle + half - 1e-6), size), first + 1)))
  (ymin, ymax), (xmin, xmax) = sides
  return ymin, xmin, ymax, xmax


def _box(bbox: Any, called: str) -> tuple[float, float, float, float]:
  """[x, y, width, height] as (y, x, height, width)."""
  numbers = isinstance(bbox, (list, tuple)) and len(bbox) == 4
  if not numbers or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in bbox):
    raise UserError(f"{called} has bbox {_short(bbox)}; give [x, y, width, height] in pixels, finite numbers")
  return float(bbox[1]), float(bbox[0]), float(bbox[3]), float(bbox[2])


def _short(value: Any) -> str:
  text = json.dumps(value, default=str)
  return text if len(text) <= 80 else text[:77] + "..."
