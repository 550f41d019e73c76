"""The paper's tables with our counts beside the published ones, and what one model costs."""

from __future__ import annotations

import collections

from spinenet_tf.backbones.catalog import CATALOG, Allocation
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.counting.receptive_field import receptive_fields
from spinenet_tf.backbones.edit import damaged
from spinenet_tf.backbones.profile import Cost, profile
from spinenet_tf.backbones.published import BLOCK_COUNTS, TABLES, Published
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.backbones.table import Table
from spinenet_tf.errors import UserError

NUMBERS = (1, *TABLES)  # of the paper's tables that are recomputed
MEBIBYTE = 2**20


def paper_table(number: int, num_classes: int | None = None) -> Table:
  """Recomputes a table of the paper.

  Args:
    number: of the table in the third version.
    num_classes: of the models, without background; the authors' when None.

  Returns: our counts, the paper's, the difference, the paper's scores.

  Raises: UserError for a table that has no counts.
  """
  if number not in NUMBERS:
    raise UserError(f"table is {number}; it must be one of {', '.join(map(str, NUMBERS))}")
  if number == 1:
    return _blocks_table()
  table = TABLES[number]
  costs = [_published_cost(row, table.task, num_classes) for row in table.rows]
  columns = {"model": "", "size": ""}
  for unit, quantity in (("10^9", "multiply-adds"), ("10^6", "parameters")):
    form = ".3f" if number == 9 else ".2f"
    columns |= {f"{unit} {quantity}": form, f"{quantity}, paper": "", f"{quantity}, %": "+.2f"}
  columns |= dict.fromkeys(table.scores, "")
  rows = []
  for row, cost in zip(table.rows, costs):
    multiply_adds = cost.multiply_adds / 1e9 if cost else None
    parameters = cost.parameters / 1e6 if cost else None
    compared = (*_compared(multiply_adds, row.multiply_adds), *_compared(parameters, row.parameters))
    rows.append((row.label, row.size, *compared, *row.scores))
  used = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
  notes = (*table.notes, "%: our count over the paper's, less one. Scores are the paper's.")
  if num_classes is not None:
    notes += (f"Counted with {num_classes} outputs, not the authors'.",)
  return Table(
    f"Table {number}: {table.title}",
    {key: form for i, (key, form) in enumerate(columns.items()) if i in used},
    tuple(tuple(row[i] for i in used) for row in rows),
    notes,
  )


def _published_cost(row: Published, task: str, num_classes: int | None) -> Cost | None:
  if row.name is None:
    return None
  arch = damaged(row.name, row.damage) if row.damage else find_architecture(row.name)
  return profile(arch, task, num_classes or row.num_classes, (row.size, row.size))


def _compared(ours: float | None, published: float | None) -> tuple[float | None, float | None, float | None]:
  return ours, published, 100 * (ours / published - 1) if ours and published else None


def _blocks_table() -> Table:
  rows = []
  for paper in BLOCK_COUNTS:
    ours = block_counts(CATALOG[paper.name]) if paper.name in CATALOG else None
    cells = (_levels(ours.stem), _levels(ours.permuted)) if ours else ("not published: to be searched", "")
    same = "" if ours is None else "none" if (ours.stem, ours.permuted) == (paper.stem, paper.permuted) else "differs"
    rows.append((paper.name, cells[0], _levels(paper.stem), cells[1], _levels(paper.permuted), same))
  columns = ("model", "stem", "stem, paper", "permuted", "permuted, paper", "difference")
  return Table(
    "Table 1: blocks of levels 2 to 5 in the stem, 2 to 7 in the scale-permuted part",
    dict.fromkeys(columns, ""),
    tuple(rows),
    ("The permuted blocks count the five outputs, one at each of levels 3 to 7.",),
  )


def _levels(counts: tuple[int, ...]) -> str:
  return ",".join(map(str, counts)) if any(counts) else "-"


def block_counts(arch: Architecture) -> Allocation:
  """Returns how many blocks of each level an architecture has."""
  stem, permuted = (collections.Counter(spec.level for spec in part) for part in (arch.stem, arch.blocks))
  return Allocation(
    arch.name, tuple(stem[level] for level in (2, 3, 4, 5)), tuple(permuted[level] for level in (2, 3, 4, 5, 6, 7))
  )


def published_rows(name: str, task: str) -> list[tuple[int, Published]]:
  """Returns (table, row) of each undamaged model of that name and task in the paper, one for each size and classes."""
  found: dict[tuple, tuple[int, Published]] = {}
  for number, table in TABLES.items():
    for row in table.rows:
      if table.task == task and row.name == name and row.multiply_adds and not row.damage:
        found.setdefault((row.size, row.num_classes), (number, row))
  return list(found.values())


def describe_model(arch: Architecture, task: str, num_classes: int, size: int, activation: str = "relu") -> list[Table]:
  """Returns what one model is and costs: its blocks, then costs by part and by level, then the paper's.

  Args:
    arch: its architecture.
    task: of `profile`.
    num_classes: outputs.
    size: side of the square input, pixels.
    activation: of `profile`.
  """
  cost = profile(arch, task, num_classes, (size, size), activation=activation)
  title = (
    f"{arch.name}, {task}, {size} x {size}, {num_classes} classes" if task != "backbone" else f"{arch.name}, {size}"
  )
  tables = [_spec_table(arch), _cost_table(f"{title}: by part", "part", cost)]
  fields = receptive_fields(arch)
  tables.append(
    _cost_table(
      f"{title}: by level",
      "level",
      cost,
      fields,
      (
        f"Executed: {cost.multiply_adds_run:,} multiply-adds, expanding before up-sampling where sizes divide.",
        _FIELD_NOTE,
      ),
    )
  )
  rows = []
  for number, row in published_rows(arch.name, task):
    if (row.size, row.num_classes) == (size, num_classes):
      ours = (cost.multiply_adds / 1e9, cost.parameters / 1e6)
      for quantity, value, paper in zip(_QUANTITIES, ours, (row.multiply_adds, row.parameters)):
        rows.append((f"table {number}", quantity, *_compared(value, paper)))
  if rows:
    columns = {"paper": "", "quantity": "", "ours": ".3f", "published": "", "difference %": "+.2f"}
    tables.append(Table(f"{title}: beside the paper", columns, tuple(rows)))
  return tables


_QUANTITIES = ("10^9 multiply-adds", "10^6 parameters")
_FIELD_NOTE = (
  "Receptive field: side in pixels of the square of the image that one pixel of the pyramid sees. Memory: of one image, "
  "float32."
)


def _spec_table(arch: Architecture) -> Table:
  rows = []
  for i, spec in enumerate(arch.features):
    added = arch.unused_inputs(i)
    inputs = ", ".join(f"+{p}" if p in added else f"{p}" for p in arch.inputs(i))
    output = ", ".join(f"P{level}" for level, j in arch.outputs.items() if j == i)
    rows.append((i, spec.level, spec.block, arch.channels(i), inputs, output))
  notes = (
    f"filter_scale {arch.filter_scale}, resample_alpha {arch.resample_alpha}, block_repeats {arch.block_repeats}, "
    f"endpoint_filters {arch.endpoint_filters}, pyramid {arch.pyramid}; +n is added by the out-degree-0 rule.",
  )
  if unused := sorted(set(range(len(arch.features))) - arch.used()):
    notes += (f"No output depends on {unused}: left out.",)
  columns = ("block", "level", "kind", "channels", "inputs", "output")
  return Table(arch.name, dict.fromkeys(columns, ""), tuple(rows), (*notes, *((arch.note,) if arch.note else ())))


def _cost_table(title: str, field: str, cost: Cost, fields: dict | None = None, notes: tuple[str, ...] = ()) -> Table:
  columns = {
    field: "",
    "parameters": ",",
    "multiply-adds": ",",
    "activations MiB": ",.1f",
    "kept in training MiB": ",.1f",
  }
  rows = [(key or "none" if field == "level" else key, *_costs(part)) for key, part in cost.by(field).items()]
  rows.append(("total", *_costs(cost)))
  if fields is not None:
    columns["receptive field"] = ","
    rows = [(*row, fields.get(row[0])) for row in rows]
  return Table(title, columns, tuple(rows), notes)


def _costs(cost: Cost) -> tuple[int, int, float, float]:
  memory = (cost.activation_bytes / MEBIBYTE, cost.training_bytes / MEBIBYTE)
  return cost.parameters, cost.multiply_adds, *memory


def summary(models: list[tuple[Architecture, str, int, int]], activation: str = "relu") -> Table:
  """Returns one row for each (architecture, task, number of classes, size)."""
  columns = {"model": "", "size": "", "10^6 parameters": ".2f", "10^9 multiply-adds": ".2f"}
  columns |= {"activations MiB": ",.0f", "kept in training MiB": ",.0f", "receptive field": ",", "paper": ""}
  rows = []
  for arch, task, num_classes, size in models:
    cost = profile(arch, task, num_classes, (size, size), activation=activation)
    parameters, multiply_adds, *memory = _costs(cost)
    published = [
      f"{row.parameters or '-'} M, {row.multiply_adds} B"
      for _, row in published_rows(arch.name, task)
      if (row.size, row.num_classes) == (size, num_classes)
    ]
    widest = max(receptive_fields(arch).values())
    rows.append(
      (arch.name, size, parameters / 1e6, multiply_adds / 1e9, *memory, widest, "".join(published[:1]) or None)
    )
  return Table("Models", columns, tuple(rows), ("Receptive field: of the pyramid's widest level, pixels.",))
