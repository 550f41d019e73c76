"""What evaluation leaves behind: a table to read and files to keep."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

# Order and meaning are those of pycocotools' summary.
METRICS = {
  "AP": "IoU 0.50:0.95, all sizes, 100 detections",
  "AP50": "IoU 0.50",
  "AP75": "IoU 0.75",
  "APs": "small, area below 32 x 32 pixels",
  "APm": "medium, up to 96 x 96",
  "APl": "large",
  "AR1": "average recall, 1 detection for each picture",
  "AR10": "10 detections",
  "AR100": "100 detections",
  "ARs": "100 detections, small",
  "ARm": "100 detections, medium",
  "ARl": "100 detections, large",
}


def number(value: float) -> str:
  """Returns the number as text, "-" where there is none."""
  return "-" if math.isnan(value) else f"{value:.3f}"


def table(metrics: Mapping[str, Any]) -> str:
  """Returns readable text: the twelve numbers, then one line for each class, best first; "-" where nothing
  counts. Where masks were scored their numbers stand beside those of the boxes.
  """
  masks = "mask_AP" in metrics
  columns = ("AP", "AP50", "AP75", *(("mask_AP",) if masks else ()))
  lines = [f"{'':<6} {'box':>6} {'mask':>6}"] if masks else []
  for key, text in METRICS.items():
    numbers = [number(metrics[name]) for name in (key, f"mask_{key}") if name in metrics]
    lines.append(f"{key:<6} {' '.join(f'{x:>6}' for x in numbers)}  {text}")
  classes = metrics["per_class"]
  width = max([5, *(len(name) for name in classes)])
  titles = " ".join(f"{key.replace('_', ' '):>{_width(key)}}" for key in columns)
  lines += ["", f"{'class':<{width}} {titles} {'objects':>8} {'images':>7}"]
  rank = sorted(classes.items(), key=lambda x: (math.isnan(x[1]["AP"]), -x[1]["AP"] if x[1]["AP"] == x[1]["AP"] else 0))
  for name, row in rank:
    numbers = " ".join(f"{number(row[key]):>{_width(key)}}" for key in columns)
    lines.append(f"{name:<{width}} {numbers} {row['objects']:>8} {row['images']:>7}")
  return "\n".join(lines)


def _width(key: str) -> int:
  return max(6, len(key))


def per_class_csv(metrics: Mapping[str, Any], ids: Iterable[int]) -> str:
  """Returns CSV text: id, name, AP, AP50, AP75, (mask_AP where masks were scored,) objects, images; empty fields where a
  class has no object.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  columns = ("AP", "AP50", "AP75", *(("mask_AP",) if "mask_AP" in metrics else ()))
  writer.writerow(["id", "name", *columns, "objects", "images"])
  for category, (name, row) in zip(ids, metrics["per_class"].items()):
    cells = ["" if math.isnan(row[key]) else f"{row[key]:.6f}" for key in columns]
    writer.writerow([category, name, *cells, row["objects"], row["images"]])
  return text.getvalue()


def to_json(value: Any) -> str:
  """Returns JSON text with null where a number does not exist (JSON knows no NaN)."""
  return json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _without_nan(v) for key, v in value.items()}
  return None if isinstance(value, float) and math.isnan(value) else value


def write(path: str, chunks: Iterable[str]) -> None:
  """Writes a file that is there as a whole or not at all; `path` may be on any file system TensorFlow
  knows.
  """
  temporary = f"{path}.{os.getpid()}.tmp"
  try:
    with tf.io.gfile.GFile(temporary, "w") as file:
      for chunk in chunks:
        file.write(chunk)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  finally:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.remove(temporary)
