"""Drawings of architectures: blocks by level and order, every connection, the outputs.  [SpineNet figure 4]

Columns follow the order in which blocks are built, rows are levels. Number, level and kind of a block, and the kind of a
line, show in text, shape and dashes; colours (Okabe and Ito's, told apart by most colour-blind readers) repeat the level.
"""

from __future__ import annotations

import pathlib
import textwrap

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import Normal, withStroke

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.rules import FPN_LEVELS
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.visualize.wiring import Edge, Node, Point, Wiring, wire

_INK = "#1a1a1a"
_FADED = "#9a9a9a"
_COLORS = ("#F0E442", "#56B4E9", "#E69F00", "#009E73", "#0072B2", "#D55E00", "#CC79A7")  # levels 1 to 7
_KINDS = {  # of blocks: shape, width, height, marker of the legend
  "bottleneck": ("rectangle", 0.50, 0.48, "s"),
  "residual": ("diamond", 0.78, 0.72, "D"),
  "mbconv": ("ellipse", 0.66, 0.54, "o"),
}
_DASHES = {"unused": (0, (3.5, 1.8)), "top_down": (0, (6, 1.5, 1, 1.5)), "coarser": (0, (1, 1))}
_LINES = {  # of edges, in the legend
  "stem": "chain of the stem",
  "parent": "connection, resampled (colour: level it comes from)",
  "unused": "added as it is (out-degree-0 rule)",
  "lateral": "1x1 convolution",
  "top_down": "up-sampled and added",
  "coarser": "3x3/2 convolution",
}
_SUFFIXES = (".png", ".svg")
_MAX_PIXELS = 16000


def draw_architecture(source: str | pathlib.Path | dict | Architecture) -> ArchitectureDrawing:
  """Draws an architecture.

  Args:
    source: what `catalog.architecture` takes.

  Returns: a drawing; `.save("arch.svg")` or `.save("arch.png")` writes it.
  """
  return ArchitectureDrawing(architecture(source))


class ArchitectureDrawing:
  """A drawing, and what stands in it.

  Attributes:
    architecture: the spec.
    edges: every line as (source, target, kind). Keys of blocks are their numbers; "conv" is the first convolution, "P3"
      and so on are a feature pyramid network's levels. Kinds: "stem", "parent", "unused" (out-degree-0 rule), "lateral",
      "top_down", "coarser".
    nodes: every box.
    wiring: where they are, in inches.
    figure: matplotlib's.
  """

  def __init__(self, arch: Architecture):
    self.architecture = arch
    self.nodes = _nodes(arch)
    self.edges = _edges(arch)
    self.wiring = wire(self.nodes, self.edges)
    self.figure = _paint(self)

  def save(self, path: str | pathlib.Path, dpi: int = 150) -> None:
    """Writes the drawing.

    Args:
      path: ends in ".png" or ".svg".
      dpi: pixels for an inch in a PNG; less where a side would exceed 16000 pixels.

    Raises: UserError for another suffix or a missing folder.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
      raise UserError(f"a drawing cannot be written to {str(path)!r}; the name must end in one of {list(_SUFFIXES)}")
    if not path.parent.is_dir():
      raise UserError(f"no folder {str(path.parent)!r} to write the drawing to; create it")
    metadata = {"Title": self.architecture.name}
    if suffix == ".svg":
      metadata["Date"] = None
    dpi = min(dpi, _MAX_PIXELS / max(self.figure.get_size_inches()))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.architecture.name}):
      self.figure.savefig(path, dpi=dpi, format=suffix[1:], metadata=metadata)


def _nodes(arch: Architecture) -> tuple[Node, ...]:
  """The first convolution, blocks in their order, levels of a feature pyramid network."""
  nodes = [Node("conv", arch.stem[0].level, "rectangle", 0.56, 0.54)]
  for i, spec in enumerate(arch.features):
    shape, width, height, _ = _KINDS[spec.block]
    nodes.append(Node(i, spec.level, shape, width, height, tag=0.22 if spec.is_output else 0.0))
  if arch.pyramid == "fpn":
    top = max(arch.outputs)
    order = (*sorted(arch.outputs, reverse=True), *(level for level in FPN_LEVELS if level > top))
    nodes += [Node(f"P{level}", level, "rectangle", 0.46, 0.36) for level in order]
  return tuple(nodes)


def _edges(arch: Architecture) -> tuple[Edge, ...]:
  edges = [Edge("conv", 0, "stem")]
  for i in range(len(arch.features)):
    kind = "stem" if i < len(arch.stem) else "parent"
    added = arch.unused_inputs(i)
    edges += [Edge(p, i, "unused" if p in added else kind) for p in arch.inputs(i)]
  if arch.pyramid == "fpn":
    edges += [Edge(i, f"P{level}", "lateral") for level, i in arch.outputs.items()]
    for level in FPN_LEVELS[1:]:
      down = level in arch.outputs
      source, target = (level, level - 1) if down else (level - 1, level)
      edges.append(Edge(f"P{source}", f"P{target}", "top_down" if down else "coarser"))
  return tuple(edges)


def _mix(color: str, other: int, share: float) -> str:
  """`share` of a colour, the rest grey level `other`."""
  values = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
  return "#" + "".join(f"{round(share * v + (1 - share) * other):02x}" for v in values)


def _left_out(arch: Architecture) -> frozenset[int]:
  return frozenset(range(len(arch.features))) - arch.used()


def _paint(drawing: ArchitectureDrawing) -> Figure:
  arch, wiring = drawing.architecture, drawing.wiring
  width, height = wiring.size
  note = textwrap.wrap(arch.note, max(70, int(width * 11)))
  left, right, top = 1.05, 0.2, 1.05
  handles = _legend(drawing)
  columns = max(1, min(len(handles), int((width + 1) / 3.6)))
  bottom = 0.4 + 0.23 * -(-len(handles) // columns) + 0.19 * len(note)
  whole = max(width + left + right, 7.0), height + top + bottom
  figure = Figure(figsize=whole, facecolor="white")
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_axis_off()
  axes.set_xlim(-left, whole[0] - left)
  axes.set_ylim(-bottom, height + top)

  for level, y in wiring.rows.items():
    axes.add_patch(Rectangle((-0.1, y - 0.2), width + 0.2, 0.4, facecolor="#f3f3f3", edgecolor="none", zorder=0))
    axes.text(-0.2, y, f"L{level}  1/{2**level}", ha="right", va="center", fontsize=10.5, color=_INK)
  _brackets(axes, arch, wiring)
  left_out = _left_out(arch)
  by_key = {node.key: node for node in drawing.nodes}
  length = {edge: sum(abs(b[0] - a[0]) for a, b in zip(r, r[1:])) for edge, r in wiring.routes.items()}
  for order, edge in enumerate(sorted(drawing.edges, key=lambda e: -length[e])):
    _paint_edge(axes, edge, wiring.routes[edge], by_key[edge.source].level, edge.target in left_out, order)
  for node in drawing.nodes:
    _paint_node(axes, arch, node, wiring.centers[node.key], node.key in left_out)

  facts = [f"blocks {len(arch.features)}", f"repeats {_repeats(arch)}", f"width x{arch.filter_scale:g}"]
  if arch.pyramid == "endpoints":
    facts.append("separable connections" if arch.separable else f"alpha {arch.resample_alpha:g}")
  facts.append(f"{arch.pyramid} {arch.endpoint_filters}")
  axes.text(-left + 0.15, height + top - 0.12, arch.name, va="top", fontsize=16, fontweight="bold", color=_INK)
  axes.text(-left + 0.15, height + top - 0.42, ", ".join(facts), va="top", fontsize=10.5, color=_INK)
  axes.text(-left + 0.15, -bottom + 0.08, "\n".join(note), va="bottom", fontsize=10, style="italic", color=_INK)
  axes.legend(
    handles=handles,
    loc="upper left",
    bbox_to_anchor=(0.1 / whole[0], (bottom - 0.12) / whole[1]),
    ncol=columns,
    frameon=False,
    fontsize=10.5,
    borderpad=0,
    labelspacing=0.45,
    columnspacing=1.4,
    handlelength=2.4,
  )
  return figure


def _brackets(axes: Axes, arch: Architecture, wiring: Wiring) -> None:
  """Says over the columns which blocks are the stem's."""
  groups = [("stem", ["conv", *range(len(arch.stem))])]
  if arch.blocks:
    groups.append(("scale-permuted blocks", list(range(len(arch.stem), len(arch.features)))))
  if arch.pyramid == "fpn":
    groups.append(("feature pyramid network", [f"P{level}" for level in FPN_LEVELS]))
  y = wiring.size[1] + 0.14
  for label, keys in groups:
    xs = [wiring.centers[key][0] for key in keys]
    start, stop = min(xs) - 0.28, max(xs) + 0.28
    axes.plot([start, start, stop, stop], [y - 0.07, y, y, y - 0.07], color=_INK, linewidth=0.8)
    axes.text((start + stop) / 2, y + 0.04, label, ha="center", va="bottom", fontsize=10.5, color=_INK)
  if len(groups) > 1:
    stem = [wiring.centers[key][0] for key in groups[0][1]]
    axes.add_patch(
      FancyBboxPatch(
        (min(stem) - 0.34, 0.06),
        max(stem) - min(stem) + 0.66,
        wiring.size[1] - 0.12,
        boxstyle="round,pad=0.04",
        facecolor="#e9e9e4",
        edgecolor="none",
        zorder=0.5,
      )
    )


def _repeats(arch: Architecture) -> str:
  repeats = arch.block_repeats
  return ",".join(map(str, repeats)) if isinstance(repeats, tuple) else str(repeats)


def _paint_edge(axes: Axes, edge: Edge, route: tuple[Point, ...], level: int, faded: bool, order: int) -> None:
  """A line with rounded corners and an arrow's head; a white rim lifts it off the lines it crosses."""
  color = _FADED if faded else _line_color(edge.kind, level)
  zorder = 2 + order / 1000
  end = route[-1]
  tip = (end[0] - 0.085, end[1])
  points = [*route[:-1], tip]
  vertices, codes = [points[0]], [Path.MOVETO]
  for before, corner, after in zip(points, points[1:], points[2:]):
    radius = min(0.06, _distance(before, corner) / 2, _distance(corner, after) / 2)
    vertices += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
    codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
  vertices.append(points[-1])
  codes.append(Path.LINETO)
  width = 1.0 if faded else 1.6
  line = PathPatch(Path(vertices, codes), fill=False, edgecolor=color, linewidth=width, zorder=zorder)
  line.set_linestyle(_DASHES.get(edge.kind, "solid"))
  line.set_path_effects([withStroke(linewidth=width + 2.2, foreground="white"), Normal()])
  line.set_gid(f"edge_{edge.source}_{edge.target}_{edge.kind}")
  axes.add_patch(line)
  head = [end, (tip[0] - 0.01, end[1] + 0.04), (tip[0] - 0.01, end[1] - 0.04)]
  axes.add_patch(Polygon(head, closed=True, facecolor=color, edgecolor="none", zorder=3))


def _line_color(kind: str, level: int) -> str:
  return _mix(_COLORS[level - 1], 0, 0.72) if kind in ("parent", "lateral") else _INK


def _distance(a: Point, b: Point) -> float:
  return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(start: Point, goal: Point, length: float) -> Point:
  share = length / max(_distance(start, goal), 1e-9)
  return start[0] + share * (goal[0] - start[0]), start[1] + share * (goal[1] - start[1])


def _paint_node(axes: Axes, arch: Architecture, node: Node, center: Point, faded: bool) -> None:
  (x, y), w, h = center, node.width / 2, node.height / 2
  output = str(node.key).startswith("P") or (isinstance(node.key, int) and arch.features[node.key].is_output)
  style = {
    "facecolor": "white" if faded or node.key == "conv" else _mix(_COLORS[node.level - 1], 255, 0.55),
    "edgecolor": _FADED if faded else _INK,
    "linewidth": 2.6 if output else 0.9,
    "linestyle": (0, (1, 1)) if faded else "solid",
    "zorder": 4,
    "gid": f"node_{node.key}",
  }
  if node.shape == "ellipse":
    axes.add_patch(Ellipse(center, 2 * w, 2 * h, **style))
  elif node.shape == "diamond":
    axes.add_patch(Polygon([(x - w, y), (x, y + h), (x + w, y), (x, y - h)], closed=True, **style))
  else:
    axes.add_patch(Rectangle((x - w, y - h), 2 * w, 2 * h, **style))
  ink = {"ha": "center", "color": "#6a6a6a" if faded else _INK, "zorder": 5}
  if isinstance(node.key, str):
    pool = "\npool/2" if arch.stem_pool else ""
    kernel = arch.stem_kernel
    label = f"conv\n{kernel}x{kernel}/2{pool}" if node.key == "conv" else node.key
    size = 9 if node.key == "conv" else 14
    axes.text(x, y, label, va="center", fontsize=size, fontweight="normal" if size == 9 else "bold", **ink)
    return
  axes.text(x, y - 0.04, str(node.key), va="bottom", fontsize=15, fontweight="bold", **ink)
  axes.text(x, y - 0.045, f"L{node.level}", va="top", fontsize=11, **ink)
  if output:
    axes.text(x, y - h - 0.04, f"P{node.level}", va="top", fontsize=12, fontweight="bold", **ink)


def _legend(drawing: ArchitectureDrawing) -> list[Line2D | Patch]:
  """Entries for what stands in this drawing."""
  arch = drawing.architecture

  def marker(shape: str, label: str, **style: object) -> Line2D:
    settings = {"markerfacecolor": "#dddddd", "markeredgecolor": _INK, "markersize": 10, **style}
    return Line2D([], [], linestyle="none", marker=shape, label=label, **settings)

  kinds = dict.fromkeys(spec.block for spec in arch.features)
  handles = [marker(_KINDS[kind][3], f"{kind} block: number, level") for kind in kinds]
  handles.append(marker("s", "thick border: output, level of the pyramid", markeredgewidth=2.4))
  if _left_out(arch):
    label = "dotted, grey: no output depends on it, left out"
    handles.append(Patch(facecolor="white", edgecolor=_FADED, linestyle=(0, (1, 1)), label=label))
  for kind in dict.fromkeys(edge.kind for edge in drawing.edges):
    level = max(1, arch.stem[-1].level)
    style = _DASHES.get(kind, "solid")
    handles.append(Line2D([], [], color=_line_color(kind, level), linewidth=1.6, linestyle=style, label=_LINES[kind]))
  return handles
