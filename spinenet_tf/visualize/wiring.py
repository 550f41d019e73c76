"""Where the lines of a drawing run: a graph in columns and rows becomes boxes and right-angled routes, in inches.

Each node has a column of its own, in the order given, and stands in the row of its level. A line between neighbours goes
straight over; a longer one runs along a track, which is a free stretch of a row or a line between two rows. Lines change
their height between two columns only, in lanes. So no line crosses a node, and no two lines share a stretch; where they
cross, they cross at right angles. Tracks and lanes are chosen for few crossings and short ways.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

TRACK = 0.12  # between parallel lines
LANE = 0.095
APART = 0.3  # between the ends of bends in one lane
PORT = 0.11  # between the ends of lines at one node, at most
HEAD = 0.12  # kept free in front of a node, for the head of an arrow
MARGIN = 0.09  # between a row's nodes and the first track
CROSSING = 1.5  # the cost of a crossing, in rows of detour
_PASSES = 12

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Node:
  """A box: `key` names it, `shape` is "rectangle", "diamond" or "ellipse"; sizes in inches, `tag` below it."""

  key: int | str
  level: int
  shape: str = "rectangle"
  width: float = 0.6
  height: float = 0.5
  tag: float = 0.0

  def half_width(self, dy: float) -> float:
    """Returns the distance of its outline from its middle, `dy` above or below it."""
    share = min(1.0, abs(dy) / (self.height / 2))
    if self.shape == "diamond":
      return self.width / 2 * (1 - share)
    return self.width / 2 * ((1 - share**2) ** 0.5 if self.shape == "ellipse" else 1.0)


@dataclasses.dataclass(frozen=True)
class Edge:
  """A line from node to node, by their keys."""

  source: int | str
  target: int | str
  kind: str


@dataclasses.dataclass(frozen=True)
class Wiring:
  """Positions in inches, y upwards from the lowest line.

  Attributes:
    centers: of nodes.
    routes: corners of each line, from the source's outline to the target's.
    rows: middle of each level's row.
    size: width and height.
  """

  centers: dict[int | str, Point]
  routes: dict[Edge, tuple[Point, ...]]
  rows: dict[int, float]
  size: Point


def wire(nodes: Sequence[Node], edges: Sequence[Edge]) -> Wiring:
  """Places nodes and routes edges; every edge leads to a later node."""
  column = {node.key: i for i, node in enumerate(nodes)}
  spans = {edge: (column[edge.source], column[edge.target]) for edge in edges}
  levels = [node.level for node in nodes]
  tracks = _choose_tracks(levels, spans)
  rows, heights, top = _stack(nodes, tracks)
  ends = _ports(nodes, spans, rows, {edge: heights[track] for edge, track in tracks.items()})

  bends: dict[int, list[tuple[Edge, float, float]]] = defaultdict(list)
  for edge, (i, j) in spans.items():
    y0, y1 = ends[edge]
    run = heights[tracks[edge]] if edge in tracks else None
    for gap, left, right in ((i, y0, y1),) if run is None else ((i, y0, run), (j - 1, run, y1)):
      if left != right:
        bends[gap].append((edge, left, right))
  xs, lanes, width = _spread(nodes, bends)

  routes = {}
  for edge, (i, j) in spans.items():
    y0, y1 = ends[edge]
    points = [(xs[i] + nodes[i].half_width(y0 - rows[levels[i]]), y0)]
    for gap in dict.fromkeys((i, j - 1)):
      if (edge, gap) in lanes:
        x, left, right = lanes[edge, gap]
        points += [(x, left), (x, right)]
    points.append((xs[j] - nodes[j].half_width(y1 - rows[levels[j]]), y1))
    routes[edge] = tuple(points)
  centers = {node.key: (xs[i], rows[node.level]) for i, node in enumerate(nodes)}
  return Wiring(centers, routes, rows, (width, top))


def _choose_tracks(levels: list[int], spans: dict[Edge, tuple[int, int]]) -> dict[Edge, tuple[int, int]]:
  """Returns a track for every edge that passes a column: (level, 0) is the row, (level, n) the nth line above it.

  Starts with the shortest edges and moves one edge at a time to its best track, until none is better off elsewhere.
  """
  long = sorted((e for e, (i, j) in spans.items() if j > i + 1), key=lambda e: spans[e][1] - spans[e][0])
  rows = range(min(levels), max(levels) + 1)
  slots = max(6, -(-len(long) // (len(rows) + 1)) + 1)
  every = [(level, slot) for level in (rows[0] - 1, *rows) for slot in range(slots + 1) if slot or level in rows]
  tracks: dict[Edge, tuple[int, int]] = {}

  def height(track: tuple[int, int]) -> float:
    return track[0] + (0.3 + 0.4 * (track[1] - 1) / slots if track[1] else 0.0)

  def course(edge: Edge, track: tuple[int, int] | None) -> dict[int, Point]:
    """Heights at the left and the right of each gap that an edge passes."""
    i, j = spans[edge]
    if track is None:
      return {i: (levels[i], levels[j])}
    run = height(track)
    return {i: (levels[i], run), **dict.fromkeys(range(i + 1, j - 1), (run, run)), j - 1: (run, levels[j])}

  def free(edge: Edge, track: tuple[int, int]) -> bool:
    i, j = spans[edge]
    if not track[1] and track[0] in levels[i + 1 : j]:
      return False
    return not any(t == track and spans[e][0] < j and i < spans[e][1] for e, t in tracks.items())

  def best(edge: Edge) -> tuple[int, int]:
    i, j = spans[edge]
    others = [courses[e] for e, (k, m) in spans.items() if e != edge and e in courses and k < j and i < m]
    in_use = set(tracks.values())
    ways = []
    for track in every:
      if free(edge, track):
        detour = abs(levels[i] - height(track)) + abs(height(track) - levels[j])
        ways.append((detour + 0.1 * (bool(track[1]) and track not in in_use), track))
    found = None
    for way, track in sorted(ways):
      if found and way >= found[0]:
        break
      mine = course(edge, track)
      crossings = sum(
        (mine[gap][0] - left) * (mine[gap][1] - right) < 0
        for other in others
        for gap, (left, right) in other.items()
        if gap in mine
      )
      total = way + CROSSING * crossings, track
      found = total if found is None else min(found, total)
    return found[1]

  courses = {edge: course(edge, None) for edge, (i, j) in spans.items() if j == i + 1}
  for _ in range(_PASSES):
    before = dict(tracks)
    for edge in long:
      tracks.pop(edge, None)
      tracks[edge] = best(edge)
      courses[edge] = course(edge, tracks[edge])
    if tracks == before:
      break
  return tracks


def _stack(
  nodes: Sequence[Node], tracks: dict[Edge, tuple[int, int]]
) -> tuple[dict[int, float], dict[tuple[int, int], float], float]:
  """Returns heights of rows, heights of the tracks in use, and the whole height."""
  levels = [node.level for node in nodes]
  used = sorted(set(tracks.values()))
  rows, heights, y = {}, {}, 0.0
  for level in range(min(levels) - 1, max(levels) + 1):
    inside = [node for node in nodes if node.level == level]
    if level >= min(levels):
      half = max((node.height / 2 for node in inside), default=0.12)
      rows[level] = y + MARGIN + max((node.tag for node in inside), default=0.0) + half
      heights[level, 0] = rows[level]
      y = rows[level] + half + MARGIN
    for track in (t for t in used if t[0] == level and t[1]):
      heights[track] = y = y + TRACK / 2
      y += TRACK / 2
  return rows, heights, y


def _ports(
  nodes: Sequence[Node], spans: dict[Edge, tuple[int, int]], rows: dict[int, float], runs: dict[Edge, float]
) -> dict[Edge, Point]:
  """Returns the heights at which every edge leaves its source and meets its target.

  The lines at one side of a node do not cross there, and one that goes straight on meets its middle.
  """
  ends: dict[Edge, list[float]] = {edge: [0.0, 0.0] for edge in spans}
  for i, node in enumerate(nodes):
    row = rows[node.level]
    for side in (0, 1):
      lines = []
      for edge, span in spans.items():
        if span[side] == i:
          far = nodes[span[1 - side]]
          lines.append((runs.get(edge, rows[far.level]), edge))
      lines.sort(key=lambda line: line[0])
      straight = [n for n, (y, _) in enumerate(lines) if y == row]
      middle = straight[0] if straight else (len(lines) - 1) / 2
      most = max((abs(n - middle) for n in range(len(lines))), default=0)
      reach = (0.25 if node.shape == "diamond" else 0.36) * node.height
      step = min(PORT, reach / most) if most else 0.0
      for n, (_, edge) in enumerate(lines):
        ends[edge][side] = row + (n - middle) * step
  return {edge: (y0, y1) for edge, (y0, y1) in ends.items()}


def _spread(
  nodes: Sequence[Node], bends: dict[int, list[tuple[Edge, float, float]]]
) -> tuple[list[float], dict[tuple[Edge, int], tuple[float, float, float]], float]:
  """Returns the columns' middles, the lane (x, y left of it, y right of it) of each edge and gap, the whole width."""
  xs, lanes, x = [], {}, 0.0
  for i, node in enumerate(nodes):
    xs.append(x + node.width / 2)
    x += node.width + LANE
    placed: list[tuple[int, float, float]] = []  # number of the lane, its bend's lower and upper end
    for edge, *ends in _order(bends[i]):
      low, high = min(ends), max(ends)
      lane = max((n + 1 for n, a, b in placed if a < high + APART and low < b + APART), default=0)
      placed.append((lane, low, high))
      lanes[edge, i] = (x + lane * LANE, *ends)
    x += max((lane + 1 for lane, *_ in placed), default=0) * LANE
    x += HEAD if i < len(nodes) - 1 else -LANE
  return xs, lanes, x


def _order(bends: list[tuple[Edge, float, float]]) -> list[tuple[Edge, float, float]]:
  """The bends of a gap from left to right, with few crossings and no shared stretch."""
  between = {(a, b): _conflict(a[1:], b[1:]) for a, b in itertools.permutations(bends, 2)}

  def cost(order: Sequence[tuple[Edge, float, float]]) -> int:
    return sum(between[pair] for pair in itertools.combinations(order, 2))

  if len(bends) <= 6:
    return list(min(itertools.permutations(bends), key=cost))
  order: list[tuple[Edge, float, float]] = []
  for bend in bends:
    order = min(([*order[:n], bend, *order[n:]] for n in range(len(order) + 1)), key=cost)
  for _ in range(_PASSES):
    for bend in bends:
      rest = [other for other in order if other != bend]
      order = min((order, *([*rest[:n], bend, *rest[n:]] for n in range(len(order)))), key=cost)
  return order


def _conflict(a: Point, b: Point) -> int:
  """Crossings of two lines that change from height [0] to height [1], `a` at the left of `b`; 100 for a shared stretch."""
  crossings = (min(b) < a[1] < max(b)) + (min(a) < b[0] < max(a))
  return crossings + 100 * (abs(a[1] - b[0]) < TRACK / 3)
