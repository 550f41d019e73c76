"""Finds objects in pictures, or tells what they show, whatever the run was trained for.

python -m spinenet_tf.predict --model_dir=runs/mine [--output=predictions] IMAGE_OR_FOLDER...

A detector: pictures with labelled boxes (and masks), and detections.json; [--score_threshold=0.3] [--nolabels]
A classifier: pictures with the likeliest classes below, and classes.json; [--top=5] [--features=FILE.npy]

An unreadable picture is reported and left out; then the exit code is 1.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from spinenet_tf.data.image_io import read_image
from spinenet_tf.errors import UserError, run_command
from spinenet_tf.serving.image_files import OVERVIEW, find_images, output_names
from spinenet_tf.serving.load import load, task_of_run
from spinenet_tf.serving.reports import SMALLEST, FoundObjects, LikelyClasses, Report, write_json
from spinenet_tf.visualize.boxes import grid

_SHOWN = 12  # pictures in the overview
_SCORE_THRESHOLD = 0.3


def predict(report: Report, images: Sequence[pathlib.Path], output: str | os.PathLike) -> int:
  """Runs a model over image files, draws, prints a line for each, and writes the report's JSON.

  Returns: how many files could not be read.
  """
  output = pathlib.Path(output)
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--output={output} cannot be made ({error.strerror}); give another folder") from error
  records: list[dict[str, Any]] = []
  failures: list[dict[str, str]] = []
  thumbnails = []
  for i, (image, place) in enumerate(zip(images, output_names(images, output)), 1):
    try:
      pixels = read_image(image)
    except UserError as error:
      print(f"[{i}/{len(images)}] skipped: {error}", file=sys.stderr)
      failures.append({"file": str(image), "error": str(error)})
      continue
    said = report.look(pixels)
    picture = report.draw(pixels, said)
    picture.save(place, quality=95, subsampling=0)
    if len(thumbnails) < _SHOWN:
      thumbnails.append(report.thumbnail(pixels, said, picture))
    height, width = pixels.shape[:2]
    records.append({"file": str(image), "picture": place.name, "height": height, "width": width, **said.to_dict()})
    print(f"[{i}/{len(images)}] {image}: {report.summary(said)} -> {place}", flush=True)
  write_json(output / report.file_name, {**report.head, "images": records, "failed": failures})
  if len(records) > 1:
    grid(thumbnails, tile=(SMALLEST, SMALLEST)).save(output / OVERVIEW, quality=90)
    print(f"the first {len(thumbnails)} of them side by side: {output / OVERVIEW}")
  for line in report.finish([record["file"] for record in records]):
    print(line)
  print(f"{len(records)} pictures and {report.file_name} are in {output}")
  if failures:
    print(f"error: {len(failures)} of {len(images)} files could not be read, see above", file=sys.stderr)
  return len(failures)


def make_report(
  model_dir: str | os.PathLike,
  *,
  score_threshold: float | None = None,
  labels: bool | None = None,
  top: int | None = None,
  features: str | None = None,
) -> Report:
  """Loads a run, and returns the report of its task.

  Raises: UserError for a run that cannot be loaded, and for an argument of another task.
  """
  task = task_of_run(model_dir)
  is_classifier = task == "classification"
  wrong = (
    {"score_threshold": score_threshold, "labels": labels} if is_classifier else {"top": top, "features": features}
  )
  if given := [f"--{name}" for name, value in wrong.items() if value is not None]:
    raise UserError(f"{model_dir} is a run of {task}, for which {', '.join(given)} means nothing: leave it out")
  if is_classifier:
    return LikelyClasses(load(model_dir, top=top), features)
  threshold = _SCORE_THRESHOLD if score_threshold is None else score_threshold
  return FoundObjects(load(model_dir, score_threshold=threshold), labels)


def define_flags() -> None:
  """Defines this command's flags; not at import, where several commands' flags would collide."""
  flags.DEFINE_string("model_dir", None, "Run directory of training, or one of its checkpoints.", required=True)
  flags.DEFINE_string("output", "predictions", "Folder for pictures and the JSON.")
  flags.DEFINE_float(
    "score_threshold", None, f"Detection: lower scores are left out ({_SCORE_THRESHOLD} by default).", 0.0, 1.0
  )
  flags.DEFINE_bool("labels", None, "Detection: names and scores on pictures; by default unless there are too many.")
  flags.DEFINE_integer("top", None, "Classification: classes told of each picture (5 by default).", 1)
  flags.DEFINE_string("features", None, "Classification: .npy file for the feature vectors; their files' names beside.")


def main(argv: list[str]) -> int:
  """Returns the exit code: 0, or 1 when files could not be read."""
  values = flags.FLAGS
  images = find_images(argv[1:], values.output)
  report = make_report(
    values.model_dir,
    score_threshold=values.score_threshold,
    labels=values.labels,
    top=values.top,
    features=values.features,
  )
  return 1 if predict(report, images, values.output) else 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
