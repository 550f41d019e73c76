"""The controller's speed: drawing a batch of architectures, and one update of the policy with their rewards.

  python -m benchmarks.search_sampling [--space=spinenet49] [--batch=20] [--rounds=50] [--algorithm=reinforce,ppo]

Measured from outside: `ask` until the points are Python tuples, `tell` until the update is done, in turn; medians of rounds.
The first round compiles and stands apart. Rewards are random numbers. `decode` of the points, which a search does for
those that it trains, is a column of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np


def measure(space_name: str, batch: int, rounds: int, algorithm: str) -> dict[str, float]:
  """Returns seconds: "compile" of the first round, medians of "ask", "tell" and "decode" for one batch afterwards."""
  from spinenet_tf.search.presets import find_space
  from spinenet_tf.search.searchers import build_searcher

  space = find_space(space_name)
  rng = np.random.default_rng(0)
  start = time.perf_counter()
  searcher = build_searcher("controller", space, batch=batch, algorithm=algorithm)
  points = searcher.ask(batch)
  searcher.tell(points, rng.random(batch).tolist())
  compiled = time.perf_counter() - start
  seconds: dict[str, list[float]] = {"ask": [], "tell": [], "decode": []}
  for _ in range(rounds):
    rewards = rng.random(batch).tolist()
    times = [time.perf_counter()]
    points = searcher.ask(batch)
    times.append(time.perf_counter())
    metrics = searcher.tell(points, rewards)
    times.append(time.perf_counter())
    assert "loss" in metrics, "every round has its update"
    for point in points:
      space.decode(point)
    times.append(time.perf_counter())
    for name, begin, end in zip(seconds, times, times[1:]):
      seconds[name].append(end - begin)
  return {"compile": compiled, **{name: statistics.median(values) for name, values in seconds.items()}}


def main() -> None:
  """Prints a row for each algorithm."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--space", default="spinenet49")
  parser.add_argument("--batch", type=int, default=20)
  parser.add_argument("--rounds", type=int, default=50)
  parser.add_argument("--algorithm", default="reinforce,ppo")
  args = parser.parse_args()
  load = ", ".join(f"{value:.1f}" for value in os.getloadavg()[:2])
  print(
    f"space {args.space}, batch {args.batch}, {os.cpu_count()} cores, load of the machine {load}; milliseconds a batch\n"
  )
  print(f"{'':<10} {'compile, s':>10} {'ask':>7} {'update':>7} {'architectures/s':>16} {'decode':>8}")
  for algorithm in args.algorithm.split(","):
    found = measure(args.space, args.batch, args.rounds, algorithm)
    rate = args.batch / (found["ask"] + found["tell"])
    times = [f"{1e3 * found[name]:>7.1f}" for name in ("ask", "tell")]
    print(
      f"{algorithm:<10} {found['compile']:>10.1f} {' '.join(times)} {rate:>16.0f} {1e3 * found['decode']:>8.1f}",
      flush=True,
    )


if __name__ == "__main__":
  main()
