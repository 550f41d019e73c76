"""A table of results, and the same table as text, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import json

FORMATS = ("text", "markdown", "json")


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of values.

  Attributes:
    title: stands above it.
    columns: heading -> format of its numbers, as in `format()`.
    rows: values in the order of `columns`; None where there is none.
    notes: stand below it.
  """

  title: str
  columns: dict[str, str]
  rows: tuple[tuple, ...]
  notes: tuple[str, ...] = ()

  def cells(self) -> list[list[str]]:
    """Returns the values as text."""
    formats = self.columns.values()
    return [
      ["" if v is None else v if isinstance(v, str) else format(v, f) for v, f in zip(r, formats)] for r in self.rows
    ]

  def to_text(self) -> str:
    """Returns aligned columns: numbers to the right, words to the left."""
    lines = [list(self.columns), *self.cells()]
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = [any(isinstance(row[i], (int, float)) for row in self.rows) for i in range(len(widths))]
    body = [
      "  ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(line, widths, right)).rstrip()
      for line in lines
    ]
    return "\n".join([self.title, *body, *self.notes])

  def to_markdown(self) -> str:
    """Returns a Markdown section."""
    lines = [list(self.columns), ["---"] * len(self.columns), *self.cells()]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    notes = ["", *self.notes] if self.notes else []
    return "\n".join([f"### {self.title}", "", *body, *notes])

  def to_dict(self) -> dict:
    """Returns plain values, rows keyed by column."""
    rows = [dict(zip(self.columns, row)) for row in self.rows]
    return {"title": self.title, "rows": rows, "notes": list(self.notes)}


def render(tables: list[Table], form: str) -> str:
  """Returns tables one below the other in one of `FORMATS`."""
  if form == "json":
    return json.dumps([table.to_dict() for table in tables], indent=2, ensure_ascii=False)
  return "\n\n".join(table.to_markdown() if form == "markdown" else table.to_text() for table in tables)
