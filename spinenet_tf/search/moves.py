"""Random points, and points next to a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spinenet_tf.search.decisions import FIRST, LEVEL, OFFSET, OUTPUT, SECOND

if TYPE_CHECKING:
  from spinenet_tf.search.space import Point, SearchSpace


def random_point(space: SearchSpace, rng: np.random.Generator) -> Point:
  """Returns a point; all points of the space are drawn alike, see `SearchSpace.weights`."""
  point: Point = ()
  while len(point) < len(space.decisions):
    point += (_draw(space.weights(point), rng),)
  return point


def _draw(weights: tuple[int, ...], rng: np.random.Generator) -> int:
  """Returns an index, drawn in proportion to whole weights."""
  at = int(rng.integers(sum(weights)))
  for index, weight in enumerate(weights):
    at -= weight
    if at < 0:
      return index
  raise AssertionError("not reached: the weights add up")


def mutate(space: SearchSpace, point: Point, rng: np.random.Generator) -> Point:
  """Returns a neighbour of a point, never the point itself.

  One decision among those that can change is drawn, all alike. A level or an output level changes places with another
  one; one of a pair of parents becomes another candidate; an offset or a type becomes another one. Where a level that
  moved forbids the offset of its block, that offset is drawn anew.

  Raises: ValueError for a space of a single point.
  """
  changes = [(t, options) for t in range(len(point)) if (options := _changes(space, point, t))]
  if not changes:
    raise ValueError(f"{space.name} has a single point: nothing in it can change")
  t, options = changes[int(rng.integers(len(changes)))]
  choice = options[int(rng.integers(len(options)))]
  made, kind = list(point), space.decisions[t].kind
  if kind in (LEVEL, OUTPUT):
    made[t], made[choice] = made[choice], made[t]
    return _with_allowed_offsets(space, tuple(made), rng)
  made[t] = choice
  if kind in (FIRST, SECOND):
    start = t if kind == FIRST else t - 1
    made[start : start + 2] = sorted(made[start : start + 2])
  return tuple(made)


def _changes(space: SearchSpace, point: Point, t: int) -> list[int]:
  """Returns what decision `t` may become: choices, or the decisions that it may change places with."""
  decision = space.decisions[t]
  if decision.kind in (LEVEL, OUTPUT):
    return [s for s, other in enumerate(space.decisions) if other.kind == decision.kind and point[s] != point[t]]
  if decision.kind in (FIRST, SECOND):
    pair = point[t : t + 2] if decision.kind == FIRST else point[t - 1 : t + 1]
    return [c for c in range(len(decision.options)) if c not in pair]
  return [c for c, weight in enumerate(space.weights(point[:t])) if weight and c != point[t]]


def _with_allowed_offsets(space: SearchSpace, point: Point, rng: np.random.Generator) -> Point:
  for t, decision in enumerate(space.decisions):
    if decision.kind == OFFSET and not (weights := space.weights(point[:t]))[point[t]]:
      point = (*point[:t], _draw(weights, rng), *point[t + 1 :])
  return point
