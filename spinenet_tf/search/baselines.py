"""What a controller must beat: random search and regularised evolution, with the same ask and tell.

[Real et al. 2019, "Regularized evolution for image classifier architecture search"]
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

import numpy as np

from spinenet_tf.errors import UserError
from spinenet_tf.search.space import Point, SearchSpace
from spinenet_tf.search.state import read_state, write_state


class RandomSearch:
  """Points of the space, all drawn alike; rewards change nothing.

  Args:
    space: where to search.
    seed: of the draws.
  """

  name = "random"

  def __init__(self, space: SearchSpace, seed: int = 0):
    self.space = space
    self._rng = np.random.default_rng(seed)

  def ask(self, count: int) -> list[Point]:
    """Returns `count` points to be rewarded."""
    return [self.space.random_point(self._rng) for _ in range(count)]

  def tell(self, points: Sequence[Point], rewards: Sequence[float]) -> dict[str, float]:
    """Takes rewards of points, in any number and order. Returns: {"reward_mean"} of them."""
    return {"reward_mean": float(np.mean(rewards))} if len(points) else {}

  def save(self, path: str | os.PathLike) -> None:
    """Writes the whole state to one file, atomically."""
    write_state(path, self._values())

  def restore(self, path: str | os.PathLike) -> None:
    """Reads what `save` wrote; afterwards `ask` goes on as if there had been no break.

    Raises: UserError for a file of another searcher or space.
    """
    values, _ = read_state(path, self.name, self.space.fingerprint())
    self._set_values(values)

  def _values(self) -> dict:
    return {"searcher": self.name, "space": self.space.fingerprint(), "rng": self._rng.bit_generator.state}

  def _set_values(self, values: dict) -> None:
    self._rng.bit_generator.state = values["rng"]


class RegularisedEvolution(RandomSearch):
  """A population in which the oldest dies: children of the best of random samples.  [Real et al. 2019, algorithm 1]

  Until `population` points were handed out they are random. Then each point is a mutation (`SearchSpace.mutate`) of the
  best of `tournament` members drawn without replacement. Every rewarded point joins the population, and the oldest member
  leaves it, however good. Points may be asked for while others wait for rewards, as with many workers.

  Args:
    space: where to search.
    seed: of the draws.
    population: its size; 100 in [Real et al. 2019].
    tournament: members compared for each child; 25 there.

  Raises: UserError for sizes below 1, or a tournament larger than the population.
  """

  name = "evolution"

  def __init__(self, space: SearchSpace, seed: int = 0, population: int = 100, tournament: int = 25):
    super().__init__(space, seed)
    if not 1 <= tournament <= population:
      raise UserError(
        f"population is {population} and tournament {tournament}; the tournament draws members of the population: set "
        "1 <= tournament <= population"
      )
    self.population, self.tournament = population, tournament
    self._asked = 0
    self._members: collections.deque[tuple[Point, float]] = collections.deque(maxlen=population)

  def ask(self, count: int) -> list[Point]:
    """Returns `count` points to be rewarded."""
    return [self._next() for _ in range(count)]

  def _next(self) -> Point:
    self._asked += 1
    if self._asked <= self.population or not self._members:
      return self.space.random_point(self._rng)
    drawn = self._rng.choice(len(self._members), min(self.tournament, len(self._members)), replace=False)
    parent = max((self._members[i] for i in drawn), key=lambda member: member[1])
    return self.space.mutate(parent[0], self._rng)

  def tell(self, points: Sequence[Point], rewards: Sequence[float]) -> dict[str, float]:
    """Takes rewards of points, in any number and order.

    Returns: {"reward_mean"} of them, {"population_mean", "population_best"} after they joined.
    """
    self._members.extend((tuple(point), float(reward)) for point, reward in zip(points, rewards))
    if not len(points):
      return {}
    alive = [reward for _, reward in self._members]
    metrics = {"population_mean": float(np.mean(alive)), "population_best": max(alive)}
    return {**super().tell(points, rewards), **metrics}

  def _values(self) -> dict:
    members = [[list(point), reward] for point, reward in self._members]
    return {**super()._values(), "asked": self._asked, "members": members}

  def _set_values(self, values: dict) -> None:
    super()._set_values(values)
    self._asked = values["asked"]
    self._members.clear()
    self._members.extend((tuple(point), reward) for point, reward in values["members"])
