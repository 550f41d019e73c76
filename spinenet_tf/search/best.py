"""What a search leaves for the next step: `best.json`, the architecture, and `best.gin`, ready for `train`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pprint

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.search.journal import Trial
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.training.run_directory import RunDirectory

JSON, GIN = "best.json", "best.gin"
_USUAL_LEVELS = (3, 7)  # of a detector


def best_architecture(space: SearchSpace, trial: Trial) -> Architecture:
  """Returns the network of a trial in full width, with a note on where it comes from."""
  note = f"Found in the search space {space.name}: trial {trial.id}, reward {trial.reward:.4f}."
  return dataclasses.replace(space.decode(trial.point), note=note)


def write_best(directory: str | os.PathLike, space: SearchSpace, trial: Trial, train_with: str) -> None:
  """Writes best.json and best.gin, each whole or not at all.

  Args:
    directory: of the search.
    space: that the trial is from.
    trial: the best one.
    train_with: gin file that best.gin includes; the architecture takes the place of that experiment's.
  """
  architecture = best_architecture(space, trial)
  files = RunDirectory(directory)
  files.write(JSON, architecture.to_json() + "\n")
  files.write(GIN, gin_text(architecture, trial, train_with, pathlib.Path(directory)))


def gin_text(architecture: Architecture, trial: Trial, train_with: str, directory: pathlib.Path) -> str:
  """Returns the content of best.gin; it holds the architecture, and so does not depend on best.json."""
  lowest, highest = min(architecture.output_levels), max(architecture.output_levels)
  levels = [
    f"model.{name} = {level}  # of the levels that this search space has\n"
    for name, level, usual in (("min_level", lowest, _USUAL_LEVELS[0]), ("max_level", highest, _USUAL_LEVELS[1]))
    if level != usual
  ]
  values = pprint.pformat(architecture.to_dict(), width=116, sort_dicts=False, compact=True)
  indented = values.replace("\n", "\n    ")
  return (
    f"# {architecture.name}, found by a search: trial {trial.id}, reward {trial.reward:.4f} in the proxy task.\n"
    f"# Command:   python -m spinenet_tf.train --gin_file={directory / GIN} --model_dir=DIR\n"
    "# Status:    found in the proxy task, not trained in earnest\n"
    f"include '{train_with}'\n\n{''.join(levels)}model.architecture = \\\n    {indented}\n"
  )
