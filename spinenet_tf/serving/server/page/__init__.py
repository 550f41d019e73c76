"""The page's files, read once at the start: no request names a path on disk."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def read_files() -> dict[str, str]:
  """Returns file name to content."""
  folder = pathlib.Path(__file__).parent
  return {path.name: path.read_text("utf-8") for path in folder.iterdir() if path.suffix[1:] in TYPES}


def fill(text: str, name: str, info: Mapping[str, Any]) -> str:
  """Puts the model's name and description into the page.

  Args:
    text: index.html with {{name}} and {{about}}.
    name: of the model.
    info: content of export_info.json.
  """
  return text.replace("{{name}}", html.escape(name)).replace("{{about}}", html.escape(describe(info)))


def describe(info: Mapping[str, Any]) -> str:
  """Returns a line about a model: task, architecture, input size, classes, as far as they are known."""
  tasks = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN", "solo": "SOLO", "classification": "classifier"}
  parts = [tasks.get(str(info.get("task")), "")]
  architecture = info.get("architecture")
  parts.append(str(architecture.get("name", "")) if isinstance(architecture, Mapping) else str(architecture or ""))
  size = info.get("input_size")
  if isinstance(size, (list, tuple)) and len(size) == 2:
    parts.append(f"input {size[1]} x {size[0]}")
  if count := info.get("num_classes"):
    parts.append("1 class" if count == 1 else f"{count} classes")
  return ", ".join(part for part in parts if part)
