"""A folder per class, a CSV, or a JSON: images with labels for `prepare images`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from spinenet_tf.data import label_json, labelled, meta
from spinenet_tf.data.label_report import LabelReport
from spinenet_tf.errors import UserError


def prepare_images(
  images: str | os.PathLike,
  output: str | os.PathLike,
  *,
  annotations: str | os.PathLike | None = None,
  classes: str | os.PathLike | None = None,
  split: str = "train",
  **options,
) -> list[str]:
  """Converts images with one label each.

  Args:
    images: a folder with a folder per class; with `annotations` the folder its file names are relative to.
    output: folder for {split}-NNNNN-of-NNNNN.tfrecord and meta.json.
    annotations: a CSV with columns image and label, or a JSON as COCO's of which boxes are not used.
    classes: text file, a class name a line, ids from 1. Without it: the classes of the other splits in `output`, else
      the names found, sorted; a JSON lists its own.
    split: name of this part.
    **options: of `labelled.write`.
  Returns: the report, line by line.
  Raises: UserError; nothing usable is left then.
  """
  folder, suffix = os.fspath(images), os.path.splitext(os.fspath(annotations or ""))[1].lower()
  if annotations and suffix not in (".csv", ".json"):
    raise UserError(
      f"--annotations={os.fspath(annotations)!r}; give a .csv with columns image,label or a .json as COCO's"
    )
  if classes and suffix == ".json":
    raise UserError("--classes cannot be used with a JSON, which lists its own categories")
  names = read_classes(classes) if classes else None
  known = None if names or suffix == ".json" else labelled.known_classes(output, split)
  if suffix == ".json":
    data = label_json.read(annotations, folder)
  elif suffix == ".csv":
    data = read_csv(annotations, folder, names, known)
  else:
    data = read_folder(folder, names, known)
  return labelled.write(data, output, split=split, **options)


def read_folder(
  folder: str, names: Sequence[str] | None = None, known: Sequence[meta.Category] | None = None
) -> labelled.Labelled:
  """Reads a folder per class; images may lie deeper in it.

  Args:
    folder: the folder of the class folders.
    names: class names in order; known: classes with ids, instead. Without both the folders with images, sorted.
  """
  report = LabelReport()
  items = list(class_folders(folder, report))
  found = sorted({item.label for item in items})
  return labelled.assign(items, labelled.numbered(names or found, known), report, folder, "folder")


def class_folders(folder: str, report: LabelReport, upright: bool = True) -> Iterator[labelled.Item]:
  """The images of a folder per class, labelled with the folder's name."""
  labelled.check_folder(folder)
  used, classes = set(), []
  for place, folders, files in labelled.walk(folder):
    inside = os.path.relpath(place, folder) if "://" not in folder else place[len(folder) :].strip("/") or "."
    if inside == ".":
      classes = folders
    for name in files:
      file_name = name if inside == "." else f"{inside.replace(os.sep, '/')}/{name}"
      if not labelled.is_image_name(name):
        report.leave_out("no_image_file", file_name)
      elif inside == ".":
        report.leave_out("outside_classes", file_name)
      else:
        label = inside.replace(os.sep, "/").split("/")[0]
        used.add(label)
        yield labelled.Item(os.path.join(place, name), file_name, file_name, label, upright=upright)
  if not classes:
    raise UserError(
      f"--images={folder!r} has no folders; give a folder with a folder of images per class, or --annotations"
    )
  for name in classes:
    if name not in used:
      report.leave_out("empty_class", name)


def read_csv(
  path: str | os.PathLike,
  folder: str,
  names: Sequence[str] | None = None,
  known: Sequence[meta.Category] | None = None,
) -> labelled.Labelled:
  """Reads a CSV with a header that has the columns image and label; others are ignored.

  Args:
    path: the CSV; folder: what its file names are relative to.
    names, known: as in `read_folder`; without both the labels found, sorted.
  """
  where = os.fspath(path)
  labelled.check_folder(folder)
  report, items = LabelReport(), []
  for row in _rows(where):
    name, label = (row[column] or "" for column in ("image", "label"))
    if not name.strip() and not label.strip():
      continue
    item = labelled.Item(os.path.join(folder, name.strip()), name.strip(), name.strip(), label.strip())
    if not item.label:
      report.leave_out("no_label", item.file_name)
    elif not labelled.is_image_name(item.file_name):
      report.leave_out("no_image_file", item.file_name or f"(no name) of {label}")
    elif "://" not in folder and not os.path.isfile(item.path):
      report.leave_out("missing", item.file_name)
    else:
      items.append(item)
  items = labelled.one_label_each(items, report)
  found = sorted({item.label for item in items})
  return labelled.assign(items, labelled.numbered(names or found, known), report, where, "csv")


def read_classes(path: str | os.PathLike) -> list[str]:
  """Class names, one a line. Raises: UserError for none and for repeated ones."""
  names = labelled.read_lines(path)
  repeated = sorted(name for name, count in Counter(names).items() if count > 1)
  if not names or repeated:
    seen = f"repeats {', '.join(repeated[:5])}" if repeated else "is empty"
    raise UserError(f"--classes={os.fspath(path)!r} {seen}; give each class name once, one a line")
  return names


def _rows(where: str) -> Iterator[Mapping[str, str]]:
  lines = labelled.read_lines(where)
  reader = csv.DictReader(lines, skipinitialspace=True)
  header = [name.strip().lower() for name in reader.fieldnames or ()]
  reader.fieldnames = header
  if not {"image", "label"} <= set(header):
    raise UserError(f"{where}: the first line is {(lines or [''])[0][:80]!r}; it must name the columns image,label")
  return reader
