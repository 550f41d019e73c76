"""Which image files are meant, and where what is made of them goes."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from spinenet_tf.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
OVERVIEW = "overview.jpg"


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
