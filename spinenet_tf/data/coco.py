"""COCO JSON: reading and checking annotations before an image is touched.

What cannot be meant (a repeated id, an unknown category, NaN) is an error; what annotation tools do produce
(a box across the border, a box without area) is clipped or dropped, counted, and named in the report.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from typing import Any

from spinenet_tf import json_text
from spinenet_tf.data import image_io
from spinenet_tf.data.meta import Category
from spinenet_tf.data.report import Report
from spinenet_tf.errors import UserError


@dataclasses.dataclass
class Item:
  """One image to convert.

  Attributes:
    path: the image file; file_name: as in the annotations; source_id: the image's id as text.
    height, width: in pixels.
    objects: dicts of box (ymin, xmin, ymax, xmax) in pixels, id (category), name, is_crowd (0 or 1), area
      (pixels^2); where masks are wanted also annotation (its id) and segmentation (as in the JSON).
  """

  path: str
  file_name: str
  source_id: str
  height: int
  width: int
  objects: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Coco:
  """A checked data set: categories sorted by id, images in JSON order, the report so far, a hash of the
  JSON.

  `report.with_masks`: masks are wanted and at least one object has a segmentation.
  """

  categories: tuple[Category, ...]
  items: list[Item]
  report: Report
  fingerprint: str


def read(annotations: str | os.PathLike, images: str | os.PathLike, strict: bool = False, masks: bool = False) -> Coco:
  """Reads a COCO detection file.

  Args:
    annotations: the JSON file; images: the folder that its file names are relative to.
    strict: treat boxes without area or outside the image as errors instead of dropping them.
    masks: keep each object's segmentation, where the file has any.
  Raises: UserError naming the file, the value and the rule.
  """
  where, images = os.fspath(annotations), os.fspath(images)
  content, data = load(where, images)
  categories = read_categories(data["categories"], where)
  items = _images(data["images"], where, images)
  report = Report(images=len(items))
  _annotations(data["annotations"], where, items, {c.id: c.name for c in categories}, report, masks)
  if strict and report.dropped:
    counts = ", ".join(
      f"{count} {reason} (annotations {_ids(report.examples[reason])})" for reason, count in report.dropped.items()
    )
    raise UserError(f"{where}: boxes that cannot train: {counts}; correct them or run without --strict to drop them")
  return Coco(categories, list(items.values()), report, hashlib.sha256(content).hexdigest())


def load(where: str, images: str) -> tuple[bytes, dict[str, list]]:
  """Reads a JSON in COCO's form; `images` must be a folder. Returns: its bytes, and its content with the three lists.

  Raises: UserError naming the file and what is missing.
  """
  content = image_io.read_bytes(where)
  try:
    data = json_text.parse(content)
  except ValueError as error:
    raise UserError(f"{where}: not valid JSON ({error}); give a COCO instances file") from error
  if not isinstance(data, dict):
    raise UserError(f"{where}: holds a {type(data).__name__}, not an object with images, annotations, categories")
  for key in ("categories", "images", "annotations"):
    if not isinstance(data.get(key), list) or (key != "annotations" and not data[key]):
      seen = "no" if key not in data else "an empty" if data[key] == [] else "a malformed"
      raise UserError(f"{where}: {seen} {key!r} list; a COCO file needs images, annotations, categories")
  if "://" not in images and not os.path.isdir(images):
    raise UserError(f"--images={images!r} is not a folder; give the folder of the image files")
  return content, data


def read_categories(entries: list, where: str, unique_names: bool = True) -> tuple[Category, ...]:
  """Checks categories and sorts them by id; names that occur twice get their ids behind them, or are refused."""
  for entry in entries:
    number = entry.get("id") if isinstance(entry, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or not str(entry.get("name", "")).strip():
      raise UserError(f"{where}: category {entry!r} needs an integer id and a name")
  _unique([e["id"] for e in entries], "category id", where)
  names = Counter(str(e["name"]) for e in entries)
  if unique_names:
    _unique([str(e["name"]) for e in entries], "category name", where)
  full = {e["id"]: str(e["name"]) if names[str(e["name"])] == 1 else f"{e['name']} ({e['id']})" for e in entries}
  return tuple(Category(number, full[number]) for number in sorted(full))


def _images(entries: list, where: str, folder: str) -> dict[Any, Item]:
  for entry in entries:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not name or not isinstance(name, str) or "\0" in name or "id" not in entry:
      raise UserError(f"{where}: image {_short(entry)} needs an id and a file_name")
    sides = [entry.get("height"), entry.get("width")]
    if not all(isinstance(side, (int, float)) and side >= 1 and side == int(side) for side in sides):
      raise UserError(
        f"{where}: image {entry['id']} has height {sides[0]!r} and width {sides[1]!r}; give both in pixels"
      )
  _unique([e["id"] for e in entries], "image id", where)
  items = {
    e["id"]: Item(os.path.join(folder, e["file_name"]), e["file_name"], str(e["id"]), int(e["height"]), int(e["width"]))
    for e in entries
  }
  _unique([item.source_id for item in items.values()], "image id (as text)", where)
  if "://" not in folder:
    missing = [item.file_name for item in items.values() if not os.path.exists(item.path)]
    if missing:
      raise UserError(
        f"{len(missing)} of {len(items)} images listed in {where} are not in {folder}: {_ids(missing)}; "
        "correct --images or remove them from the list"
      )
  return items


def _annotations(entries: list, where: str, items: dict, names: dict[int, str], report: Report, masks: bool) -> None:
  """Checks each annotation and appends it to its image."""
  masks = report.with_masks = masks and any(isinstance(e, dict) and e.get("segmentation") for e in entries)
  for entry in entries:
    if not isinstance(entry, dict) or any(key not in entry for key in ("image_id", "category_id")):
      raise UserError(f"{where}: annotation {_short(entry)} needs an image_id and a category_id")
    called = f"{where}: annotation {entry.get('id', _short(entry))}"
    if entry["image_id"] not in items:
      raise UserError(f"{called} is of image {entry['image_id']!r}, which is not in the list of images")
    if entry["category_id"] not in names:
      raise UserError(
        f"{called} has category {entry['category_id']!r}, not one of the {len(names)} categories {_ids(list(names))}"
      )
    item = items[entry["image_id"]]
    x, y, width, height = _bbox(entry.get("bbox"), called)
    box = (max(y, 0.0), max(x, 0.0), min(y + height, float(item.height)), min(x + width, float(item.width)))
    reason = None
    if width <= 0 or height <= 0:
      reason = "zero_area"
    elif box[2] <= box[0] or box[3] <= box[1]:
      reason = "outside_image"
    if reason:
      report.drop(reason, entry.get("id"))
      continue
    overhang = max(-x, -y, x + width - item.width, y + height - item.height)
    if overhang > 1e-6:
      report.clip(entry.get("id"), overhang)
    area = entry.get("area")
    if not isinstance(area, (int, float)) or not math.isfinite(area) or area <= 0:
      area = (box[2] - box[0]) * (box[3] - box[1])
    crowd = int(bool(entry.get("iscrowd", 0)))
    category = entry["category_id"]
    found = {"box": box, "id": category, "name": names[category], "is_crowd": crowd, "area": float(area)}
    if masks:
      found.update(annotation=entry.get("id"), segmentation=entry.get("segmentation"))
    item.objects.append(found)
  _unique([e["id"] for e in entries if "id" in e], "annotation id", where)
  for item in items.values():
    report.add_image(item.height, item.width, item.objects)


def _bbox(bbox: Any, called: str) -> tuple[float, float, float, float]:
  if bbox is None:
    raise UserError(f"{called} has no bbox; detection needs a box [x, y, width, height] in pixels for each")
  numbers = isinstance(bbox, (list, tuple)) and len(bbox) == 4
  if not numbers or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in bbox):
    raise UserError(f"{called} has bbox {_short(bbox)}; give [x, y, width, height] in pixels")
  if not all(math.isfinite(v) for v in bbox):
    raise UserError(f"{called} has bbox {bbox}; all four numbers must be finite: correct or remove it")
  return tuple(float(v) for v in bbox)


def _unique(values: list, what: str, where: str) -> None:
  try:
    repeated = [value for value, count in Counter(values).items() if count > 1]
  except TypeError as error:
    raise UserError(f"{where}: each {what} must be a number or a text ({error})") from error
  if repeated:
    raise UserError(f"{where}: {what} {_ids(repeated)} occurs more than once; each must be unique")


def _ids(values: list, most: int = 5) -> str:
  return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def _short(value: Any) -> str:
  text = json.dumps(value, default=str)
  return text if len(text) <= 80 else text[:77] + "..."
