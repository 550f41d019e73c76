"""`python -m spinenet_tf.search report`: what a search has found, in pictures, a page and numbers; from its journal alone."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spinenet_tf.errors import UserError
from spinenet_tf.search import statistics
from spinenet_tf.search.best import best_architecture
from spinenet_tf.search.journal import FAILED, OK, Trial, read
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.visualize.architecture import draw_architecture

TOP = 5
RECENT = 20  # results of the moving mean
_LEVELS = range(1, 8)


def write_report(model_dir: str | os.PathLike, output: str | os.PathLike) -> str:
  """Writes rewards.png, cost.png, structure.png, top_1.png to top_5.png, report.md and report.json.

  Args:
    model_dir: folder of the search.
    output: folder, made where there is none.

  Returns: the page, as text.

  Raises: UserError when the folder has no journal, or no child has been trained yet.
  """
  header, trials, results = read(model_dir)
  space = SearchSpace.from_dict(header["space"])
  trained = [trial for trial in results if trial.status == OK]
  if not trained:
    raise UserError(f"{model_dir}: {len(trials)} trial(s), none of which has been trained yet; ask for a report later")
  output = pathlib.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  good = statistics.good_ones(trained)
  top = statistics.ordered(trained)[:TOP]
  costs = [trial for trial in trained if "multiply_adds" in trial.metrics]
  numbers = {
    "space": space.name,
    "searcher": header["searcher"],
    **statistics.summary(results),
    "multiply_adds": statistics.correlations(
      [trial.metrics["multiply_adds"] for trial in costs], [trial.reward for trial in costs]
    ),
    "structure": {
      "all": statistics.structure([space.decode(trial.point) for trial in trained]),
      "best_quarter": statistics.structure([space.decode(trial.point) for trial in good]),
    },
    "top": [_row(space, trial) for trial in top],
    "failures": [{"trial": trial.id, "reason": trial.reason} for trial in results if trial.status == FAILED],
  }
  plot_rewards(results, header["searcher"]).savefig(output / "rewards.png", dpi=110)
  if costs:
    plot_costs(costs, numbers["multiply_adds"]).savefig(output / "cost.png", dpi=110)
  plot_structure(space, numbers["structure"]).savefig(output / "structure.png", dpi=110)
  for place, trial in enumerate(top, 1):
    draw_architecture(best_architecture(space, trial)).save(output / f"top_{place}.png", dpi=90)
  (output / "report.json").write_text(json.dumps(numbers, indent=2) + "\n")
  page = text(numbers)
  (output / "report.md").write_text(page + "\n")
  return page


def _row(space: SearchSpace, trial: Trial) -> dict[str, Any]:
  return {
    "trial": trial.id,
    "reward": trial.reward,
    "multiply_adds": trial.metrics.get("multiply_adds"),
    "parameters": trial.metrics.get("parameters"),
    "network": space.text(trial.point),
  }


def text(numbers: dict[str, Any]) -> str:
  """Returns the page: Markdown that also reads well as it is."""
  lines = [
    f"# Search in {numbers['space']} by {numbers['searcher']}",
    "",
    f"{numbers['results']} trials: {numbers['trained']} trained, {numbers['failed']} failed, {numbers['repeated']} repeated; "
    f"{numbers['seconds']:.1f} s for a child",
    "",
    f"Best reward {numbers['best']['reward']:.4f} (trial {numbers['best']['trial']}); mean {_number(numbers['mean'])}, "
    f"standard deviation {_number(numbers['deviation'])}",
  ]
  if numbers["thirds"]:
    thirds = ", ".join(f"{third['mean']:.4f} +- {_number(third['deviation'])}" for third in numbers["thirds"])
    chance = "" if numbers["trend_p"] is None else f"; the last above the first by chance: p = {numbers['trend_p']:.2g}"
    lines += ["", f"Trained children in thirds, mean +- deviation: {thirds}{chance}"]
  if correlation := numbers["multiply_adds"]:
    lines += [
      "",
      f"Reward and multiply-adds: Pearson {correlation['pearson']:+.2f}, Spearman {correlation['spearman']:+.2f}",
    ]
  lines += ["", "| | trial | reward | multiply-adds | parameters | network |", "|---|---|---|---|---|---|"]
  for place, row in enumerate(numbers["top"], 1):
    adds, parameters = (
      "" if row[key] is None else f"{row[key] / unit:.{digits}f}{letter}"
      for key, unit, digits, letter in (("multiply_adds", 1e9, 2, "B"), ("parameters", 1e6, 2, "M"))
    )
    network = row["network"].replace("\n", "<br>")  # a row of a table is one line
    lines.append(f"| {place} | {row['trial']} | {row['reward']:.4f} | {adds} | {parameters} | {network} |")
  everything, best = numbers["structure"]["all"], numbers["structure"]["best_quarter"]
  for title, key in (
    ("connections by distance to the parent", "distance"),
    ("connections by level of the child minus level of the parent", "jump"),
    ("blocks by type", "types"),
  ):
    names = sorted({*everything[key], *best[key]})
    lines += ["", f"Share of {title}:", "", f"| | {' | '.join(map(str, names))} |", f"|---|{'---|' * len(names)}"]
    for label, shares in (("all", everything[key]), ("best quarter", best[key])):
      lines.append(f"| {label} | {' | '.join(f'{shares.get(name, 0):.2f}' for name in names)} |")
  if numbers["failures"]:
    lines += ["", "Failed:", ""]
    lines += [f"- trial {failure['trial']}: {failure['reason']}" for failure in numbers["failures"][:20]]
  return "\n".join(lines)


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.4f}"


def plot_rewards(results: Sequence[Trial], searcher: str) -> Figure:
  """Returns a figure: every reward, the best so far, a moving mean."""
  figure = Figure(figsize=(8, 4.5), layout="constrained")
  axes = figure.add_subplot()
  rewards = np.array([trial.reward for trial in results])
  where = np.arange(1, len(results) + 1)
  for status, color, marker in ((OK, "#0072B2", "o"), (FAILED, "#D55E00", "x"), ("repeated", "#9a9a9a", ".")):
    chosen = np.array([trial.status == status for trial in results])
    if chosen.any():
      axes.plot(where[chosen], rewards[chosen], marker, color=color, markersize=4, alpha=0.6, label=status)
  ok = np.where([trial.status == OK for trial in results], rewards, -np.inf)
  best = statistics.best_so_far(ok)
  axes.step(where[np.isfinite(best)], best[np.isfinite(best)], where="post", color="#009E73", label="best so far")
  if len(rewards) >= RECENT:
    mean = np.convolve(rewards, np.ones(RECENT) / RECENT, "valid")
    axes.plot(where[RECENT - 1 :], mean, color="#1a1a1a", linewidth=1.5, label=f"mean of {RECENT}")
  axes.set(xlabel="results", ylabel="reward", title=f"rewards ({searcher})")
  axes.legend(loc="best", fontsize="small")
  return figure


def plot_costs(trained: Sequence[Trial], correlation: dict[str, float] | None) -> Figure:
  """Returns a figure: reward against multiply-adds of each trained network; later ones are darker."""
  figure = Figure(figsize=(6, 4.5), layout="constrained")
  axes = figure.add_subplot()
  adds = np.array([trial.metrics["multiply_adds"] for trial in trained]) / 1e9
  points = axes.scatter(
    adds, [trial.reward for trial in trained], c=[trial.place for trial in trained], cmap="viridis_r", s=16
  )
  figure.colorbar(points, label="result number")
  title = f"Spearman {correlation['spearman']:+.2f}" if correlation else ""
  axes.set(xlabel="multiply-adds, 10^9", ylabel="reward", title=title)
  return figure


def plot_structure(space: SearchSpace, structure: dict[str, Any]) -> Figure:
  """Returns a figure: levels by place, and children by feature, of all trained networks and of the best quarter."""
  figure = Figure(figsize=(10, 6.5), layout="constrained")
  axes = figure.subplots(2, 2)
  for column, (key, label) in enumerate((("all", "all"), ("best_quarter", "best quarter"))):
    shares = np.array(structure[key]["levels"])
    picture = axes[0, column].imshow(
      shares.T, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=(-0.5, len(shares) - 0.5, 0.5, 7.5)
    )
    first = len(space.levels) - 0.5
    axes[0, column].axvline(first, color="#D55E00", linewidth=1)
    places = np.arange(len(shares))
    axes[0, column].set_xticks(places, places + len(space.stem))
    axes[0, column].set(title=f"levels, {label}", xlabel="feature (outputs right of the line)", ylabel="level")
    axes[0, column].set_yticks(list(_LEVELS))
    offspring = structure[key]["offspring"]
    axes[1, column].bar(range(len(offspring)), offspring, color="#56B4E9")
    axes[1, column].set(title=f"children of each feature, {label}", xlabel="feature (stem first)", ylabel="mean number")
    axes[1, column].set_ylim(0, max(max(structure[k]["offspring"]) for k in structure) * 1.1 + 1e-9)
  figure.colorbar(picture, ax=axes[0, :], label="share of networks")
  return figure
