"""What the trials of a search say: progress, cost, and which levels and parents good networks have."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.search.journal import FAILED, OK, REPEATED, Trial

GOOD = 0.25  # share of the trained networks, the best ones, that statistics set against all
THIRDS = 3


def summary(results: Sequence[Trial]) -> dict[str, Any]:
  """Returns counts and rewards of a search.

  Args:
    results: ended trials, in order.

  Returns: "results", "trained", "failed", "repeated" (counts); "best" {"trial", "reward"} or None; "mean", "deviation" of
    trained rewards; "thirds": [{"mean", "deviation", "count"}] of trained rewards in order, first, middle, last;
    "trend_p": one-sided p of the last third against the first by `rank_test`; "seconds": mean of a trained trial.
  """
  trained = [trial for trial in results if trial.status == OK]
  rewards = np.array([trial.reward for trial in trained])
  best = max(trained, key=lambda trial: (trial.reward, -trial.id), default=None)
  thirds = np.array_split(rewards, THIRDS) if len(rewards) >= THIRDS else []
  return {
    "results": len(results),
    "trained": len(trained),
    "failed": sum(trial.status == FAILED for trial in results),
    "repeated": sum(trial.status == REPEATED for trial in results),
    "best": {"trial": best.id, "reward": best.reward} if best else None,
    **_spread(rewards),
    "thirds": [{**_spread(third), "count": len(third)} for third in thirds],
    "trend_p": rank_test(thirds[-1], thirds[0]) if thirds else None,
    "seconds": float(np.mean([trial.seconds for trial in trained])) if trained else None,
  }


def best_so_far(rewards: Sequence[float]) -> np.ndarray:
  """Returns float64[n]: the highest of the first 1, 2, ..., n rewards."""
  return np.maximum.accumulate(np.asarray(rewards, float))


def correlations(x: Sequence[float], y: Sequence[float]) -> dict[str, float] | None:
  """Returns "pearson" and "spearman" in [-1, 1]; None for fewer than three pairs, or where one side does not vary."""
  a, b = np.asarray(x, float), np.asarray(y, float)
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return None
  return {"pearson": _pearson(a, b), "spearman": _pearson(ranks(a), ranks(b))}


def ranks(values: Sequence[float]) -> np.ndarray:
  """Returns float64[n]: ranks from 1 on; equal values share the mean of theirs."""
  values = np.asarray(values, float)
  _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[inverse]


def rank_test(high: Sequence[float], low: Sequence[float]) -> float | None:
  """Returns the one-sided p value that `high` is not above `low`: Mann and Whitney's test, normal approximation with ties.

  None for fewer than two values on a side, or where all are equal.
  """
  n, m = len(high), len(low)
  if min(n, m) < 2:
    return None
  together = np.concatenate([high, low])
  above = ranks(together)[:n].sum() - n * (n + 1) / 2
  _, counts = np.unique(together, return_counts=True)
  total = n + m
  variance = n * m / 12 * (total + 1 - (counts**3 - counts).sum() / (total * (total - 1)))
  if variance <= 0:
    return None
  from math import erfc, sqrt

  z = (above - n * m / 2 - 0.5) / sqrt(variance)
  return 0.5 * erfc(z / sqrt(2))


def structure(architectures: Sequence[Architecture]) -> dict[str, Any]:
  """Returns how often networks have what a search decides about.

  Args:
    architectures: of one space, so that block i is the same place in all.

  Returns: "levels": float[N][7], the share of networks whose block at place i has level 1 .. 7; "distance": {1: share, ...}
    of connections by how many features the parent lies back; "jump": {-3: share, ...} of connections by level of the child
    minus level of the parent; "types": {"bottleneck": share, ...} of blocks; "offspring": mean number of children of the
    features in order, stem first.
  """
  distances, jumps, types = collections.Counter(), collections.Counter(), collections.Counter()
  places = len(architectures[0].blocks)
  levels = np.zeros((places, 7))
  children = np.zeros(len(architectures[0].features))
  for arch in architectures:
    for i, spec in enumerate(arch.blocks):
      index = i + len(arch.stem)
      levels[i, spec.level - 1] += 1
      types[spec.block] += 1
      for parent in spec.parents:
        distances[index - parent] += 1
        jumps[spec.level - arch.features[parent].level] += 1
        children[parent] += 1
  return {
    "levels": (levels / len(architectures)).round(4).tolist(),
    "distance": _shares(distances),
    "jump": _shares(jumps),
    "types": _shares(types),
    "offspring": (children / len(architectures)).round(3).tolist(),
  }


def ordered(trained: Sequence[Trial]) -> list[Trial]:
  """Returns trained trials, best first, equal ones in order."""
  return sorted(trained, key=lambda trial: (-trial.reward, trial.id))


def good_ones(trained: Sequence[Trial]) -> list[Trial]:
  """Returns the best quarter of trained trials, one at least, best first."""
  return ordered(trained)[: max(1, round(GOOD * len(trained)))]


def _shares(counter: collections.Counter) -> dict[Any, float]:
  total = sum(counter.values())
  return {key: round(counter[key] / total, 4) for key in sorted(counter)}


def _spread(rewards: np.ndarray) -> dict[str, float | None]:
  return {
    "mean": float(rewards.mean()) if len(rewards) else None,
    "deviation": float(rewards.std(ddof=1)) if len(rewards) > 1 else None,
  }


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.corrcoef(a, b)[0, 1])
