"""What was measured as tables: every artefact and batch, and in the layout of the paper's table.  [SpineNet, table 4]"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from spinenet_tf.errors import UserError
from spinenet_tf.serving.latency import END_TO_END, STAGES, parts, percentiles

# Model, side of the input, AP on COCO val2017, milliseconds on a V100 with TensorRT: preprocessing, detection, suppression.
PAPER = (
  ("spinenet49s", 640, 39.9, 11.7),
  ("spinenet49", 640, 42.8, 15.3),
  ("spinenet49", 896, 45.3, 34.3),
)


def markdown(result: dict[str, Any]) -> str:
  """Returns the table of `latency.measure`'s result, with how it was measured; times in milliseconds."""
  columns = [
    "model",
    "input",
    "format",
    "batch",
    *(["p50", "p90", "p95", "p99"]),
    "images/s",
    *STAGES,
    "peak MiB",
    "file MB",
  ]
  rows = []
  for artefact in result["artefacts"]:
    for batch, stages in artefact["batches"].items():
      found = percentiles(stages[END_TO_END])
      split = parts(artefact, int(batch))
      rows.append(
        [
          name_of(artefact),
          _size(artefact),
          artefact["kind"],
          batch,
          *(_ms(found[key]) for key in ("p50", "p90", "p95", "p99")),
          f"{int(batch) / found['mean']:.1f}",
          *(_ms(split[stage]) if stage in split else "" for stage in STAGES),
          f"{artefact['peak'] / 2**20:.0f}",
          f"{artefact['bytes'] / 1e6:.1f}",
        ]
      )
  return f"{table(columns, rows)}\n\n{how(result)}"


def paper_layout(result: dict[str, Any]) -> str:
  """Returns the rows of the paper's table with the medians of batch 1 beside them, a column for each format.

  Artefacts of other models and sizes have rows of their own below; of two of one format, the first is shown.
  """
  kinds = list(dict.fromkeys(artefact["kind"] for artefact in result["artefacts"]))
  times: dict[tuple[str, int], dict[str, str]] = {}
  for artefact in result["artefacts"]:
    if "1" not in artefact["batches"]:
      continue
    side = max(artefact["about"].get("input_size") or [0])
    row = times.setdefault((name_of(artefact), side), {})
    row.setdefault(artefact["kind"], f"{_ms(percentiles(artefact['batches']['1'][END_TO_END])['p50'])} ms")
  paper = {(name, side): (ap, milliseconds) for name, side, ap, milliseconds in PAPER}
  rows = []
  for name, side in [*paper, *(key for key in times if key not in paper)]:
    ap, milliseconds = paper.get((name, side), ("", ""))
    shown = [f"{milliseconds} ms"] if milliseconds else [""]
    rows.append([name, side or "", ap, *shown, *(times.get((name, side), {}).get(kind, "") for kind in kinds)])
  columns = ["model", "resolution", "AP, paper", "V100 + TensorRT, paper", *(f"{kind}, here" for kind in kinds)]
  return f"{table(columns, rows)}\n\n{how(result)}"


def how(result: dict[str, Any]) -> str:
  """Returns in words how it was measured."""
  settings, machine = result["settings"], result["machine"]
  runtimes = ", ".join(dict.fromkeys(artefact["runtime"] for artefact in result["artefacts"]))
  height, width = settings["picture_size"]
  threads = settings["threads"] or "as many as the runtime takes"
  return (
    f"{machine['cpu']}, {machine['cores']} cores; {runtimes}; threads: {threads}. Milliseconds of a call, from JPEG files of "
    f"{height} x {width} to the answer on the host; {settings['warmup']} calls to warm up, then {settings['calls']} that "
    f"count, in each of {settings['rounds']} processes, the artefacts in turn. Parts are medians, some by subtraction; memory "
    "is the peak of the whole process over all batches."
  )


def name_of(artefact: dict[str, Any]) -> str:
  """Returns the architecture's name, or where an artefact does not tell it the last part of its path."""
  about = artefact["about"]
  name = (about.get("architecture") or {}).get("name") or about.get("model")
  return name or artefact["path"].rstrip("/").rpartition("/")[2]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table, aligned to be read as text as well."""
  cells = [[str(cell) for cell in row] for row in (columns, *rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
  lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
  rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
  return "\n".join([lines[0], rule, *lines[1:]])


def _size(artefact: dict[str, Any]) -> str:
  size = artefact["about"].get("input_size")
  return f"{size[0]} x {size[1]}" if size else ""


def _ms(seconds: float) -> str:
  return f"{seconds * 1000:.1f}"


def check_places(places: Sequence[pathlib.Path], overwrite: bool) -> None:
  """Checks before any work that files can be written.

  Raises: UserError when one is there and may not be replaced, or its folder is missing.
  """
  for place in places:
    if place.exists() and not overwrite:
      raise UserError(f"{place} exists already; give another --output, or --overwrite")
    if not place.parent.is_dir():
      raise UserError(f"{place.parent} is no folder; make it first, or give another --output")


def write(place: pathlib.Path, text: str) -> None:
  """Writes a file, whole or not at all.

  Raises: UserError when the file system refuses.
  """
  temporary = place.with_name(f".{place.name}.incomplete")
  try:
    temporary.write_text(text)
    os.replace(temporary, place)
  except OSError as error:
    raise UserError(f"{place} cannot be written ({error.strerror}); give another --output") from error
