"""Finds objects in pictures.

python -m spinenet_tf.predict --model_dir=runs/mine [--output=predictions] [--score_threshold=0.3] IMAGE_OR_FOLDER...

Writes the pictures with labelled boxes, and `detections.json`. An unreadable picture is reported and left out; then
the exit code is 1.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from absl import flags

from spinenet_tf.data.image_io import read_image
from spinenet_tf.errors import UserError, run_command
from spinenet_tf.serving.detector import Detections, Detector
from spinenet_tf.serving.load import load
from spinenet_tf.visualize.boxes import draw, grid

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
OVERVIEW = "overview.jpg"
_SHOWN = 12  # pictures in the overview
_SMALLEST = 320  # pixels; smaller pictures are enlarged before names are written on them


def find_images(paths: Sequence[str | os.PathLike], output: str | os.PathLike) -> list[pathlib.Path]:
  """Returns the image files that are meant, each once; folders are searched with all below them, but not `output`.

  Raises: UserError for a path that does not exist and a folder without images.
  """
  if not paths:
    raise UserError("no images were given; name image files or folders after the flags")
  found: dict[pathlib.Path, pathlib.Path] = {}
  skip = pathlib.Path(output).resolve()
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      folder = path.resolve()
      if skip == folder:
        raise UserError(f"--output={output} is the folder of the images; give another one, so that they stay apart")
      files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
      files = [p for p in files if not p.name.startswith(".")]
      if folder in skip.parents:
        files = [p for p in files if skip not in p.resolve().parents]
      if not files:
        raise UserError(f"{str(path)!r} has no images; files are taken whose names end in {', '.join(SUFFIXES)}")
    elif path.exists():
      files = [path]
    else:
      raise UserError(f"{str(path)!r} does not exist; name image files or folders")
    for file in files:
      found.setdefault(file.resolve(), file)
  return list(found.values())


def output_names(images: Sequence[pathlib.Path], output: str | os.PathLike) -> list[pathlib.Path]:
  """Returns where the picture of each image goes: all different, and none the place of an image."""
  taken = {str(path.resolve()).lower() for path in (*images, pathlib.Path(output) / OVERVIEW)}
  places = []
  for image in images:
    number = 1
    while True:
      place = pathlib.Path(output) / (f"{image.stem}.jpg" if number == 1 else f"{image.stem}_{number}.jpg")
      if (key := str(place.resolve()).lower()) not in taken:
        break
      number += 1
    taken.add(key)
    places.append(place)
  return places


def predict(detector: Detector, images: Sequence[pathlib.Path], output: str | os.PathLike) -> int:
  """Runs a detector over image files, draws, prints a line for each, and writes `detections.json`.

  Returns: how many files could not be read.
  """
  output = pathlib.Path(output)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--output={output} cannot be made ({error.strerror}); give another folder") from error
  records: list[dict[str, Any]] = []
  failures: list[dict[str, str]] = []
  for i, (image, place) in enumerate(zip(images, output_names(images, output)), 1):
    try:
      pixels = read_image(image)
    except UserError as error:
      print(f"[{i}/{len(images)}] skipped: {error}", file=sys.stderr)
      failures.append({"file": str(image), "error": str(error)})
      continue
    detections = detector(pixels)
    draw(pixels, detections, min_size=_SMALLEST).save(place, quality=95, subsampling=0)
    height, width = pixels.shape[:2]
    records.append(
      {"file": str(image), "picture": place.name, "height": height, "width": width, **detections.to_dict()}
    )
    print(f"[{i}/{len(images)}] {image}: {_summary(detections)} -> {place}", flush=True)
  _write_json(
    output / "detections.json",
    {"boxes": "(ymin, xmin, ymax, xmax) in pixels of the file", "images": records, "failed": failures},
  )
  if len(records) > 1:
    shown = [output / record["picture"] for record in records[:_SHOWN]]
    grid([read_image(path) for path in shown], tile=(_SMALLEST, _SMALLEST)).save(output / OVERVIEW, quality=90)
    print(f"the first {len(shown)} of them side by side: {output / OVERVIEW}")
  print(f"{len(records)} pictures and detections.json are in {output}")
  if failures:
    print(f"error: {len(failures)} of {len(images)} files could not be read, see above", file=sys.stderr)
  return len(failures)


def _summary(detections: Detections) -> str:
  counts = ", ".join(f"{n} {name}" for name, n in Counter(detections.names).most_common())
  return f"{len(detections)} object{'' if len(detections) == 1 else 's'}" + (f" ({counts})" if counts else "")


def _write_json(path: pathlib.Path, value: Any) -> None:
  temporary = path.with_name(f".{path.name}.incomplete")
  temporary.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(temporary, path)


def define_flags() -> None:
  """Defines this command's flags; not at import, where several commands' flags would collide."""
  flags.DEFINE_string("model_dir", None, "Run directory of training, or one of its checkpoints.", required=True)
  flags.DEFINE_string("output", "predictions", "Folder for pictures and detections.json.")
  flags.DEFINE_float("score_threshold", 0.3, "Objects with lower scores are left out.", 0.0, 1.0)


def main(argv: list[str]) -> int:
  """Returns the exit code: 0, or 1 when files could not be read."""
  values = flags.FLAGS
  images = find_images(argv[1:], values.output)
  detector = load(values.model_dir, score_threshold=values.score_threshold)
  return 1 if predict(detector, images, values.output) else 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
