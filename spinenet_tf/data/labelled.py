"""Images with one label each to TFRecord: what the readers of folders, lists, ImageNet and iNaturalist share.

What cannot be used (a file that is no image, a label that is not in the list, an image that cannot be read) is left out,
counted and named in the report, or an error with `strict`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spinenet_tf.data import convert, image_io, meta, tfrecord
from spinenet_tf.data.label_report import LabelReport
from spinenet_tf.errors import UserError

TASK = "classification"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclasses.dataclass
class Item:
  """One image to convert.

  Attributes:
    path: the image file; file_name: as people call it; source_id: unique in the split.
    label: what stands for the class in the source (a folder's name, a synset, a category id).
    category: the class, once it is known.
    height, width: in pixels, None where the source does not say.
    crop: (ymin, xmin, ymax, xmax) in pixels, the part of the image that is used; None for all of it.
    upright: whether an EXIF rotation is applied to an image of unknown size.
  """

  path: str
  file_name: str
  source_id: str
  label: Hashable
  category: meta.Category | None = None
  height: int | None = None
  width: int | None = None
  crop: tuple[int, int, int, int] | None = None
  upright: bool = True


class Labelled(NamedTuple):
  """A checked data set: classes sorted by id, images, the report so far, a hash of what was read."""

  categories: tuple[meta.Category, ...]
  items: list[Item]
  report: LabelReport
  fingerprint: str


def make_record(item: Item) -> convert.Record:
  """Reads, checks, crops and encodes one image; the function that every runner maps over the items."""
  try:
    data = image_io.read_bytes(item.path)
    image = image_io.store(data, item.path, item.height, item.width, upright=item.upright, crop=item.crop)
  except UserError as error:
    return convert.Record(b"", (), str(error), item.category.name)
  return convert.Record(
    tfrecord.classification_record(
      encoded=image.encoded,
      image_format=image.image_format,
      height=image.height,
      width=image.width,
      file_name=item.file_name,
      source_id=item.source_id,
      label=item.category.id,
      text=item.category.name,
    ),
    image.notes,
    "",
    item.category.name,
  )


def write(
  data: Labelled,
  output: str | os.PathLike,
  *,
  split: str = "train",
  num_shards: int | None = None,
  workers: int = 1,
  strict: bool = False,
  overwrite: bool = False,
  runner: str = "local",
  beam_options: Sequence[str] = (),
) -> list[str]:
  """Converts a data set that was read.

  Args:
    data: the data set.
    output: folder for {split}-NNNNN-of-NNNNN.tfrecord and meta.json.
    split: name of this part; all splits of a folder must have the same classes.
    num_shards, workers, overwrite, runner, beam_options: as in `convert.prepare_coco`.
    strict: whatever would be left out, and one class only, are errors.
  Returns: the report, line by line.
  Raises: UserError; nothing usable is left then.
  """
  names = [c.name for c in data.categories]
  if strict:
    data.report.check_strict(names)
  convert.convert(
    data.items,
    make_record,
    os.fspath(output),
    split=split,
    categories=data.categories,
    report=data.report,
    fingerprint=data.fingerprint,
    task=TASK,
    on_bad=None if strict else data.report.add_failure,
    num_shards=num_shards,
    workers=workers,
    overwrite=overwrite,
    runner=runner,
    beam_options=beam_options,
  )
  return data.report.lines(names)


def assign(
  items: Iterable[Item], classes: Mapping[Hashable, meta.Category], report: LabelReport, where: str, fingerprint: str
) -> Labelled:
  """Gives each item its class; what has no known label is left out.

  Args:
    items: with unique `source_id`.
    classes: label -> class.
    report: gets the counts.
    where: what was read, for the error.
    fingerprint: of how it was read; the images' names and labels are added.
  Raises: UserError where no image is left.
  """
  kept, digest = [], hashlib.sha256(fingerprint.encode())
  for item in items:
    category = classes.get(item.label)
    if category is None:
      report.leave_out("unknown_label", f"{item.label} of {item.file_name}")
      continue
    kept.append(dataclasses.replace(item, category=category))
    report.per_class[category.name] += 1
    digest.update(f"{item.source_id}\0{item.file_name}\0{category.id}\0{category.name}\n".encode())
  if not kept:
    left = "; ".join(report.line(reason) for reason in report.left_out)
    raise UserError(f"{where}: no image with a known label{': ' + left if left else ''}")
  categories = tuple(sorted(set(classes.values()), key=lambda c: c.id))
  return Labelled(categories, kept, report, digest.hexdigest())


def one_label_each(items: Iterable[Item], report: LabelReport) -> list[Item]:
  """Merges entries of the same file: the same label is kept once, different labels leave the image out."""
  found: dict[str, list[Item]] = {}
  for item in items:
    found.setdefault(item.path, []).append(item)
  kept = []
  for same in found.values():
    labels = {item.label for item in same}
    if len(labels) > 1:
      report.leave_out("several_labels", f"{same[0].file_name}: {', '.join(sorted(map(str, labels)))}")
      continue
    kept.append(same[0])
    for item in same[1:]:
      report.leave_out("repeated", item.file_name)
  return kept


def known_classes(output: str | os.PathLike, split: str) -> tuple[meta.Category, ...] | None:
  """The classes of the other splits in a folder, None where there are none.

  Raises: UserError where they are for another task.
  """
  known = meta.load(output)
  if known is None or not set(known.splits) - {split}:
    return None
  if known.task != TASK:
    raise UserError(f"{os.fspath(output)} holds a data set for {known.task}; choose another --output for {TASK}")
  return known.categories


def numbered(names: Sequence[str], known: Sequence[meta.Category] | None = None) -> dict[Hashable, meta.Category]:
  """Classes by name: those known already, else ids from 1 in the order of `names`."""
  categories = known or [meta.Category(number, name) for number, name in enumerate(names, start=1)]
  return {category.name: category for category in categories}


def read_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a text file without blanks around them and without empty ones."""
  try:
    text = image_io.read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{os.fspath(path)}: not a UTF-8 text file ({error})") from error
  return [line.strip() for line in text.splitlines() if line.strip()]


def is_image_name(name: str) -> bool:
  """Whether a file's name ends as those of images do."""
  return os.path.splitext(name)[1].lower() in SUFFIXES


def walk(folder: str) -> Iterable[tuple[str, list[str], list[str]]]:
  """(folder, folders in it, files in it), sorted, hidden ones left out; local or on a file system of TensorFlow."""
  if "://" in folder:
    import tensorflow as tf

    levels: Any = tf.io.gfile.walk(folder)
  else:
    levels = os.walk(folder, followlinks=True)
  for place, folders, files in levels:
    folders[:] = sorted(name.rstrip("/") for name in folders if not name.startswith("."))
    yield place, list(folders), sorted(name for name in files if not name.startswith("."))


def check_folder(folder: str) -> None:
  """Raises UserError where --images is no folder."""
  if "://" not in folder and not os.path.isdir(folder):
    raise UserError(f"--images={folder!r} is not a folder; give the folder of the image files")
