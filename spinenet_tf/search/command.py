"""From a configured search to a running one: folder, searcher, executor, what is printed."""

from __future__ import annotations

import pathlib
from typing import Callable

import numpy as np

from spinenet_tf.errors import UserError
from spinenet_tf.search.best import JSON, write_best
from spinenet_tf.search.executors import Executor, InProcess
from spinenet_tf.search.journal import Trial
from spinenet_tf.search.proxy import Proxy
from spinenet_tf.search.ray_runner import RayExecutor
from spinenet_tf.search.runner import Runner
from spinenet_tf.search.searchers import build_searcher
from spinenet_tf.search.settings import Search
from spinenet_tf.search.trials import ObjectiveFactory, attempt
from spinenet_tf.training.progress import duration, speak
from spinenet_tf.training.run_directory import RunDirectory, environment


def search(
  made: Search,
  model_dir: str,
  factory: ObjectiveFactory,
  *,
  config: str = "",
  operative_config: str = "",
  say: Callable[[str], None] = speak,
) -> Trial | None:
  """Searches, from the beginning or from where the folder's search stopped.

  Args:
    made: the search.
    model_dir: its folder.
    factory: makes the objective in another process, for Ray.
    config, operative_config: texts for config.gin and config.operative.gin.
    say: prints a line.

  Returns: the best trial, None when every one failed.

  Raises: UserError for everything that can be known to fail, before the first trial.
  """
  files = RunDirectory(model_dir)
  files.prepare()
  searcher = build_searcher(made.searcher.name, made.space, seed=made.search.seed, **made.searcher.settings)
  proxy = Proxy(made.experiment, made.proxy)  # under Ray, too: mistakes are found here rather than by the workers
  for line in describe(made, proxy):
    say(line)
  executor = executor_of(made, proxy, factory)
  runner = None
  try:
    runner = Runner(
      model_dir,
      made.space,
      searcher,
      executor,
      made.search,
      on_best=lambda trial: write_best(model_dir, made.space, trial, made.search.train_with),
      say=say,
    )
    _write_facts(files, config, operative_config, say)
    best = runner.run()
  finally:
    executor.close()
    if runner:
      runner.journal.close()
  if best:
    for line in farewell(best, pathlib.Path(model_dir)):
      say(line)
  return best


def executor_of(made: Search, proxy: Proxy, factory: ObjectiveFactory) -> Executor:
  """Returns what runs the trials."""
  if made.search.runner == "ray":
    return RayExecutor(factory, made.search)
  return InProcess(lambda: proxy)


def describe(made: Search, proxy: Proxy) -> list[str]:
  """Returns what is said before the first trial."""
  space, network = made.space, proxy.child(made.space.decode(_any_point(made)))
  sizes = space.sizes()
  return [
    f"space {space.name}: {space.block_count} blocks, {len(space.decisions)} decisions, {float(sizes['points']):.2g} points",
    f"child: filters x {network.filter_scale:g}, {_image_size(proxy)} px, {proxy.split.num_train} images to train on, "
    f"{proxy.split.num_held_out} held out; reward {made.proxy.metric}",
    f"{made.searcher.name}, {made.search.trials} trials, {made.search.runner.replace('_', ' ')}",
  ]


def farewell(best: Trial, directory: pathlib.Path) -> list[str]:
  """Returns what is said at the end."""
  return [
    f"done: best reward {best.reward:.4f}, trial {best.id}",
    f"look:      python -m spinenet_tf.describe {directory / JSON} --draw={directory / 'best.png'}",
    f"report:    python -m spinenet_tf.search report --model_dir={directory}",
    f"train it:  python -m spinenet_tf.train --gin_file={directory / 'best.gin'} --model_dir=DIR",
  ]


def dry_run(made: Search, say: Callable[[str], None] = speak) -> None:
  """Trains one random child and says what the search would take. Writes nothing.

  Raises: UserError when the child fails.
  """
  proxy = Proxy(made.experiment, made.proxy)
  for line in describe(made, proxy):
    say(line)
  outcome = attempt(proxy, made.space.decode(_any_point(made)))
  if outcome.reward is None:
    raise UserError(f"the child failed: {outcome.reason}")
  parts = {name: outcome.metrics[f"seconds_{name}"] for name in ("build", "train", "evaluate")}
  shown = ", ".join(f"{name} {seconds:.1f}s" for name, seconds in parts.items())
  say(f"one random child: reward {outcome.reward:.4f}, {outcome.seconds:.1f}s ({shown})")
  workers = made.search.workers or 1
  total = outcome.seconds * made.search.trials
  say(
    f"{made.search.trials} trials at this pace: {total / 3600:.1f} hours of one such machine"
    + (f", {duration(total / workers)} with {workers} of them" if workers > 1 else "")
  )


def _any_point(made: Search) -> tuple[int, ...]:
  return made.space.random_point(np.random.default_rng(made.search.seed))


def _image_size(proxy: Proxy) -> str:
  height, width = proxy.image_size
  return f"{height}x{width}"


def _write_facts(files: RunDirectory, config: str, operative: str, say: Callable[[str], None]) -> None:
  """Writes the configuration and the environment; says what differs from the configuration before."""
  before = files.path / "config.gin"
  if before.is_file() and (changed := _changed(before.read_text(), config)):
    say(
      "note: the configuration is not the one that this search began with, and rewards may not compare: "
      + "; ".join(changed)
    )
  files.write("config.gin", config)
  files.write("config.operative.gin", operative)
  files.write_json("environment.json", environment())


def _changed(before: str, now: str) -> list[str]:
  """Lines of `now` that `before` does not have, but for those of the search itself, which change no reward."""
  old = set(before.splitlines())
  return [line.strip() for line in now.splitlines() if line not in old and line[:1].isalpha() and "search." not in line]
