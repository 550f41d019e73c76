"""ImageNet (ILSVRC-2012) as it is distributed: a folder per synset for training, a flat folder and a list for validation.

Ids are 1 to K in the order of the synset ids, as in the records of TensorFlow's programs (0 is background there).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping

from spinenet_tf.data import image_folder, labelled, meta
from spinenet_tf.data.label_report import LabelReport
from spinenet_tf.errors import UserError

_SYNSET = re.compile(r"n\d{8}")
_LINE = re.compile(r"^(?:(?P<number>\d+)[\s,]+)?(?P<synset>n\d{8})(?:[\s,:]+(?P<names>.*))?$")


def prepare_imagenet(
  images: str | os.PathLike,
  output: str | os.PathLike,
  *,
  synsets: str | os.PathLike | None = None,
  ground_truth: str | os.PathLike | None = None,
  split: str = "train",
  **options,
) -> list[str]:
  """Converts one split.

  Args:
    images: the folder of the synsets' folders or of the flat images, or one that has it under the split's name.
    output: folder for {split}-NNNNN-of-NNNNN.tfrecord and meta.json.
    synsets: text file, a line "n01440764 tench, Tinca tinca" per class; the number of the development kit may stand
      first. Without it the classes are called by their synset ids.
    ground_truth: for flat images: a synset or a number of the development kit a line, in the order of the file names; or
      lines with a file name and a synset (Kaggle's LOC_val_solution.csv is one).
    split: name of this part.
    **options: of `labelled.write`.
  Returns: the report, line by line.
  Raises: UserError; nothing usable is left then.
  """
  folder = os.fspath(images)
  labelled.check_folder(folder)
  below = os.path.join(folder, split)
  folder = below if "://" not in folder and os.path.isdir(below) else folder
  known = None if synsets else labelled.known_classes(output, split)
  data = read(folder, synsets, ground_truth, known)
  return labelled.write(data, output, split=split, **options)


def read(
  folder: str,
  synsets: str | os.PathLike | None = None,
  ground_truth: str | os.PathLike | None = None,
  known: tuple[meta.Category, ...] | None = None,
) -> labelled.Labelled:
  """Reads one split; arguments as in `prepare_imagenet`, `known` are classes called by synset ids."""
  classes, numbers = read_synsets(synsets) if synsets else ({}, {})
  report = LabelReport()
  if ground_truth:
    items = _flat(folder, os.fspath(ground_truth), numbers, report)
  else:
    _, folders, files = next(iter(labelled.walk(folder)), ("", [], []))
    if not folders and files:
      raise UserError(f"{folder!r} has no folders; flat images need --ground_truth, the list of their classes")
    items = list(image_folder.class_folders(folder, report, upright=False))
  if not classes:
    found = sorted({str(item.label) for item in items})
    classes = labelled.numbered(found, known)
  return labelled.assign(items, classes, report, folder, "imagenet")


def read_synsets(path: str | os.PathLike) -> tuple[dict[str, meta.Category], dict[int, str]]:
  """Reads names of synsets.

  Returns: synset -> class, ids from 1 in the order of synsets; number of the development kit -> synset, where given.
  Raises: UserError for a line that is not understood, and repeated synsets.
  """
  where, names, numbers = os.fspath(path), {}, {}
  for line in labelled.read_lines(path):
    match = _LINE.match(line)
    if not match:
      if names:
        raise UserError(f"{where}: line {line[:80]!r}; give lines such as 'n01440764 tench, Tinca tinca'")
      continue  # a header
    if match["synset"] in names:
      raise UserError(f"{where}: synset {match['synset']} occurs more than once")
    names[match["synset"]] = (match["names"] or "").strip().split(",")[0].strip() or match["synset"]
    if match["number"]:
      numbers[int(match["number"])] = match["synset"]
  if not names:
    raise UserError(f"{where}: no synsets; give lines such as 'n01440764 tench, Tinca tinca'")
  count = Counter(names.values())
  classes = {}
  for number, synset in enumerate(sorted(names), start=1):
    name = names[synset] if count[names[synset]] == 1 else f"{names[synset]} ({synset})"
    classes[synset] = meta.Category(number, name)
  return classes, numbers


def _flat(folder: str, ground_truth: str, numbers: Mapping[int, str], report: LabelReport) -> list[labelled.Item]:
  """Images of one folder with the labels of a list."""
  _, _, files = next(iter(labelled.walk(folder)), ("", [], []))
  names = [name for name in files if labelled.is_image_name(name)]
  for name in files:
    if name not in names:
      report.leave_out("no_image_file", name)
  lines = labelled.read_lines(ground_truth)
  by_name = _named(lines)
  if by_name is None:
    if len(lines) != len(names):
      raise UserError(f"{ground_truth}: {len(lines)} lines for the {len(names)} images of {folder}; give one for each")
    by_name = {_stem(name): _synset(line, numbers, ground_truth) for name, line in zip(names, lines)}
  items = []
  for name in names:
    if _stem(name) in by_name:
      path = os.path.join(folder, name)
      items.append(labelled.Item(path, name, name, by_name[_stem(name)], upright=False))
    else:
      report.leave_out("no_label", name)
  present = {_stem(name) for name in names}
  for stem in by_name:
    if stem not in present:
      report.leave_out("missing", stem)
  return items


def _named(lines: list[str]) -> dict[str, str] | None:
  """File name without its end -> synset, from lines that have both; None for lists without names."""
  pairs = {}
  for line in lines:
    fields = re.split(r"[\s,]+", line)
    if len(fields) < 2:
      return None
    synset = next((field for field in fields[1:] if _SYNSET.fullmatch(field)), None)
    if synset is None and pairs:
      raise UserError(f"ground truth: line {line[:80]!r} has no synset such as n01440764")
    if synset:
      pairs[_stem(fields[0])] = synset
  return pairs or None


def _synset(line: str, numbers: Mapping[int, str], where: str) -> str:
  if not line.isdigit():
    return line
  if not numbers:
    raise UserError(
      f"{where} has numbers of the development kit, whose order is not that of the synset ids; give --synsets with lines "
      "such as '1 n02119789 kit fox', or a list of synsets"
    )
  return numbers.get(int(line), line)


def _stem(name: str) -> str:
  return os.path.splitext(os.path.basename(name))[0]
