"""Searchers by name: they are asked for points and told their rewards."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Protocol

from spinenet_tf.errors import UserError
from spinenet_tf.search.baselines import RandomSearch, RegularisedEvolution
from spinenet_tf.search.controller import Controller
from spinenet_tf.search.space import Point, SearchSpace


class Searcher(Protocol):
  """What a search asks and tells.

  Attributes:
    name: "controller", "evolution" or "random".
  """

  name: str

  def ask(self, count: int) -> list[Point]:
    """Returns `count` points to be rewarded; further ones may be asked for before any is told."""

  def tell(self, points: Sequence[Point], rewards: Sequence[float]) -> dict[str, float]:
    """Takes rewards, larger is better, in any number and order. Returns: metrics by name."""

  def save(self, path: str | os.PathLike) -> None:
    """Writes the whole state to one file, atomically."""

  def restore(self, path: str | os.PathLike) -> None:
    """Reads what `save` wrote; afterwards `ask` goes on as if there had been no break."""


SEARCHERS = {searcher.name: searcher for searcher in (Controller, RegularisedEvolution, RandomSearch)}


def build_searcher(name: str, space: SearchSpace, seed: int = 0, **settings) -> Searcher:
  """Returns a searcher.

  Args:
    name: a key of `SEARCHERS`.
    space: where to search.
    seed: of all that is drawn.
    **settings: further arguments of that searcher.

  Raises: UserError for another name, or a setting that the searcher lacks.
  """
  if name not in SEARCHERS:
    raise UserError(f"no searcher named {name!r}; there are {', '.join(SEARCHERS)}")
  known = [
    parameter for parameter in inspect.signature(SEARCHERS[name]).parameters if parameter not in ("space", "seed")
  ]
  if unknown := sorted(set(settings) - set(known)):
    raise UserError(f"the searcher {name} has no setting(s) {unknown}; it has {known}")
  return SEARCHERS[name](space, seed=seed, **settings)
