"""Searching for a known answer: how many samples until an architecture agrees with SpineNet-49 in 90 % of its decisions.

  python -m benchmarks.search_known_answer [--output=DIR] [--searchers=controller,evolution,random] [--seeds=5]
    [--first_seed=0] [--limit=20000] [--goal=0.9] [--settings='{"evolution": {"tournament": 50}}']

The reward of a point of SpineNet-49's space is the share of 60 facts that it has in common with the paper's SpineNet-49: for
each of the 15 blocks its level (after the offset), its type, and two parents. The first block after the stem can have no other
parents than the paper's, which gives everybody 2 of the 60. Nothing but this number reaches a searcher. No network is built;
samples are counted, not time. Searchers are asked for 20 points at a time.

Prints a table, and writes results.json, table.md and curves.png to the output folder.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from spinenet_tf.search.presets import find_space
from spinenet_tf.search.searchers import build_searcher
from spinenet_tf.search.space import Point, SearchSpace

BATCH = 20
COLOURS = {"controller": "tab:blue", "evolution": "tab:orange", "random": "tab:gray"}


def agreement(space: SearchSpace, target: Point) -> Callable[[Sequence[Point]], np.ndarray]:
  """Returns a function from points to float[n], the share of facts that each has in common with `target`."""
  kinds = np.array([decision.kind for decision in space.decisions])
  tables = [
    np.array([space.types.index(option) if d.kind == "type" else option for option in d.options])
    for d in space.decisions
  ]

  def facts(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns int[n, blocks]: levels, types; int[n, blocks, 2]: parents."""
    values = np.stack([table[column] for table, column in zip(tables, np.array(points).T)], 1)
    of = {kind: values[:, kinds == kind] for kind in set(kinds)}
    levels = np.concatenate([of["level"] + of["offset"], of["output"]], 1)
    return levels, of["type"], np.stack([of["first_parent"], of["second_parent"]], 2)

  levels, types, parents = facts([target])
  count = 4 * space.block_count

  def rewards(points: Sequence[Point]) -> np.ndarray:
    found = facts(points)
    common = (found[2][..., None] == parents[..., None, :]).any(-1)  # a pair never has a parent twice
    return ((found[0] == levels).sum(1) + (found[1] == types).sum(1) + common.sum((1, 2))) / count

  return rewards


def search(name: str, seed: int, limit: int, goal: float, settings: dict) -> dict:
  """Runs one searcher until the goal or the limit.

  Returns: "samples" to the goal or None, "best" reward, and "curve": [samples, best so far, mean of the batch] for each batch.
  """
  space = find_space("spinenet49")
  reward = agreement(space, space.encode("spinenet49"))
  searcher = build_searcher(name, space, seed=seed, **settings)
  best, curve = 0.0, []
  for start in range(0, limit, BATCH):
    points = searcher.ask(min(BATCH, limit - start))
    rewards = reward(points)
    searcher.tell(points, rewards.tolist())
    best = max(best, float(rewards.max()))
    curve.append([start + len(points), best, float(rewards.mean())])
    if best >= goal:
      return {"samples": start + int(np.argmax(rewards >= goal)) + 1, "best": best, "curve": curve}
  return {"samples": None, "best": best, "curve": curve}


def table(results: dict[str, list[dict]], limit: int, goal: float) -> str:
  """Returns Markdown: for each searcher the samples of each seed and their median."""
  lines = [f"| searcher | samples to {goal:g}, each seed | median | best, median |", "|---|---|---|---|"]
  for name, runs in results.items():
    samples = [run["samples"] for run in runs]
    texts = ", ".join(f"{n:,}" if n else f"> {limit:,}" for n in samples)
    median = statistics.median(n or limit + 1 for n in samples)
    shown = f"{median:,.0f}" if median <= limit else f"> {limit:,}"
    lines.append(f"| {name} | {texts} | {shown} | {statistics.median(run['best'] for run in runs):.3f} |")
  return "\n".join(lines)


def draw(results: dict[str, list[dict]], goal: float, path: pathlib.Path) -> None:
  """Draws best-so-far and the mean of the batch against samples, a line for each seed."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharex=True, sharey=True, layout="constrained")
  for axis, column, title in zip(axes, (1, 2), ("best so far", "mean of 5 batches of 20")):
    for name, runs in results.items():
      for n, run in enumerate(runs):
        curve = np.array(run["curve"])
        y = curve[:, column]
        if column == 2:
          y = np.convolve(y, np.ones(5) / 5, "valid") if len(y) >= 5 else y
        axis.plot(curve[-len(y) :, 0], y, color=COLOURS[name], linewidth=1, alpha=0.8, label=name if n == 0 else None)
    axis.axhline(goal, color="black", linewidth=0.8, linestyle=":")
    axis.set(title=title, xscale="log", xlabel="samples")
    axis.grid(alpha=0.3)
  axes[0].set_ylabel("agreement with SpineNet-49")
  axes[0].legend()
  figure.savefig(path, dpi=120)


def main() -> None:
  """Runs all searchers and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", default="/tmp/search_known_answer")
  parser.add_argument("--searchers", default="controller,evolution,random")
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--first_seed", type=int, default=0)
  parser.add_argument("--limit", type=int, default=20_000)
  parser.add_argument("--goal", type=float, default=0.9)
  parser.add_argument("--settings", type=json.loads, default={})
  args = parser.parse_args()
  output = pathlib.Path(args.output)
  output.mkdir(parents=True, exist_ok=True)
  results: dict[str, list[dict]] = {}
  for name in args.searchers.split(","):
    for seed in range(args.first_seed, args.first_seed + args.seeds):
      run = search(name, seed, args.limit, args.goal, args.settings.get(name, {}))
      results.setdefault(name, []).append(run)
      print(f"{name} seed {seed}: {run['samples'] or f'not within {args.limit}'}, best {run['best']:.3f}", flush=True)
  text = table(results, args.limit, args.goal)
  (output / "table.md").write_text(text + "\n")
  (output / "results.json").write_text(json.dumps(results))
  draw(results, args.goal, output / "curves.png")
  print(f"\n{text}\n\n{output}/curves.png")


if __name__ == "__main__":
  main()
