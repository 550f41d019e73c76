"""Checkpoints of a run: the latest few for resuming, the best one for using, and weights to start from."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from spinenet_tf import json_text
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.training import leftovers
from spinenet_tf.training.average import Average
from spinenet_tf.training.strategy import Worker

LATEST, BEST = "checkpoints", "best"
_AVERAGE = "average/"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
Weights = Mapping[str, np.ndarray]


class Checkpoints:
  """Saves and restores a run.

  A checkpoint is complete before the state file names it, and the state file is replaced in one step, so a process
  killed at any time leaves the last good checkpoint in use.

  Args:
    directory: of the run; checkpoints go to its `checkpoints/` and `best/`.
    model: whose variables are saved by name.
    optimizer: with its slots.
    global_step: of the run.
    keep: how many of the latest stay.
    average: of the weights, saved beside them.
    worker: all workers save, as some variables live on all of them; only the chief's files are kept.
    writes: False only reads; the folders stay as they are.

  Attributes:
    unreadable: what was found wrong with checkpoints that were passed over.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    model: keras.Model,
    optimizer: tf.Module,
    global_step: tf.Variable,
    *,
    keep: int = 3,
    worker: Worker | None = None,
    average: Average | None = None,
    writes: bool = True,
  ):
    worker = worker or Worker()
    self._directory = pathlib.Path(directory)
    tree = variable_tree(model)
    averaged = {"average": average.tree} if average else {}
    self._all = tf.train.Checkpoint(model=tree, optimizer=optimizer, global_step=global_step, **averaged)
    self._averages = average is not None
    self._weights = tf.train.Checkpoint(model=tree, global_step=global_step)
    self._step = global_step
    self._is_chief, self._writes = worker.is_chief, writes
    place = self._directory if worker.is_chief else self._directory / f".worker_{worker.index}"
    for folder in (LATEST, BEST) if writes else ():
      leftovers.mend_state(place / folder)
    self._latest = tf.train.CheckpointManager(self._all, str(place / LATEST), keep, checkpoint_name="step")
    self._best = tf.train.CheckpointManager(self._weights, str(place / BEST), 1, checkpoint_name="step")
    self._saved_step: int | None = None
    self._own = None if worker.is_chief else place
    # Held in memory, so that all workers decide alike: saving is something that they do together.
    self._best_so_far = self.best() or {}
    self.unreadable: list[str] = []

  def restore(self) -> str | None:
    """Restores the latest checkpoint of the run that can be read; those that cannot are set aside and listed in `unreadable`.

    Returns: its path, or None when there is none.

    Raises: UserError when none of several can be read, or the checkpoint belongs to another model.
    """
    folder = self._directory / LATEST
    for path in stored(folder):
      try:
        self._restore(path)
      except (tf.errors.OpError, IndexError) as error:  # the latter of a file that was cut off
        self.unreadable.append(f"{path} cannot be read ({_first_line(error)})")
        continue
      self._saved_step = int(self._step.numpy())
      if self._is_chief and self._writes:
        leftovers.clean(folder, self._saved_step)
        leftovers.clean(self._directory / BEST)
      return path
    if self.unreadable:
      raise UserError(
        f"{'; '.join(self.unreadable)}: no checkpoint in {folder} can be read; copy one back, or give another --model_dir"
      )
    return None

  def _restore(self, path: str) -> None:
    if self._averages != any(name.startswith(_AVERAGE) for name, _ in tf.train.list_variables(path)):
      now, then = ("set", "off") if self._averages else ("off", "set")
      raise UserError(
        f"train.ema is {now}, and was {then} when {path} was saved; leave it as it was, or give another --model_dir and set "
        "train.initial_checkpoint to this run"
      )
    try:
      self._all.restore(path).assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
      raise UserError(
        f"cannot read checkpoint {path}: {_first_line(error)}; it belongs to another model or optimizer: give another "
        "--model_dir"
      ) from error

  def save(self) -> str | None:
    """Saves the state, unless that of this step is saved. Returns: the path, or None.

    Raises: UserError when the file system refuses, a full disk for example; earlier checkpoints stay as they are.
    """
    step = int(self._step.numpy())
    if step == self._saved_step:
      return None
    path = self._write(self._latest, step)
    self._saved_step = step
    return path

  def save_best(self, metrics: dict[str, float], key: str = "AP") -> bool:
    """Saves the weights as the best when `metrics[key]` is above that of the best so far. Returns: whether it was."""
    value = metrics[key]
    if not math.isfinite(value) or value <= self._best_so_far.get(key, -math.inf):
      return False
    step = int(self._step.numpy())
    self._write(self._best, step)
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float) and math.isfinite(v)}
    self._best_so_far = {"step": step, **numbers}
    if self._is_chief:
      _write_json(self._directory / BEST / "metrics.json", self._best_so_far)
    return True

  def best(self) -> dict[str, float] | None:
    """Returns step and metrics of the best checkpoint, or None."""
    return best_numbers(self._directory / BEST / "metrics.json")

  def clean_up(self) -> None:
    """Removes the files of a worker that is not the chief."""
    if self._own is not None and self._own.is_dir():
      tf.io.gfile.rmtree(str(self._own))

  def _write(self, manager: tf.train.CheckpointManager, step: int) -> str:
    last = manager.latest_checkpoint
    remedy = f"free some space and start again; the last good checkpoint is {last or 'none yet'}"
    with _explained(f"cannot save the checkpoint of step {step} in {manager.directory}", remedy):
      try:
        path = manager.save(checkpoint_number=step)
        leftovers.to_disk(path)
        return path
      except BaseException:
        _remove_parts(manager.directory, step)
        raise


@contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
  try:
    yield
  except tf.errors.UnavailableError:  # another worker is gone
    raise
  except (tf.errors.OpError, OSError, AssertionError, IndexError) as error:  # the last of a file that was cut off
    raise UserError(f"{what}: {_first_line(error)}; {remedy}") from error


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _remove_parts(directory: str, step: int) -> None:
  """Removes what an interrupted save left, where the file system lets it."""
  for path in pathlib.Path(directory).glob(f"step-{step}[._]*"):
    try:
      if path.is_dir():
        tf.io.gfile.rmtree(str(path))
      else:
        path.unlink()
    except OSError:
      continue


def _write_json(path: pathlib.Path, value: dict) -> None:
  temporary = path.with_suffix(".incomplete")
  temporary.write_text(json.dumps(value, indent=2) + "\n")
  os.replace(temporary, path)


def best_numbers(path: pathlib.Path) -> dict[str, float] | None:
  """Returns the numbers in `best/metrics.json`, None where there is no such file.

  Raises: UserError when the file is something else.
  """
  if not path.is_file():
    return None
  try:
    content = json_text.parse(path.read_bytes())
    return {str(key): float(value) for key, value in content.items()} | {"step": int(content["step"])}
  except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
    raise UserError(
      f"{path} is not the file of numbers that belongs to the best checkpoint ({type(error).__name__}: {error}); remove "
      f"the folder {path.parent}, and the next evaluation begins it anew"
    ) from error


def stored(folder: str | os.PathLike) -> list[str]:
  """Returns the prefixes of a folder's checkpoints, the one to use first.

  First those that were completed after what the state file names; then those that it names, the newest before the others; then
  those that it does not name. Checkpoints whose files are gone are left out; the state file may be missing or cut off.
  """
  state = leftovers.state_of(folder)
  unnamed = leftovers.newer(folder, state)
  named = [os.path.join(folder, path) for path in reversed(state.all_model_checkpoint_paths)] if state else []
  others = leftovers.on_disk(folder)
  if state and state.model_checkpoint_path:
    named.insert(0, os.path.join(folder, state.model_checkpoint_path))
  return [path for path in dict.fromkeys(unnamed + named + others) if tf.io.gfile.exists(path + ".index")]


def find(path: str | os.PathLike, prefer_best: bool = True) -> str:
  """Returns the prefix of a checkpoint.

  Args:
    path: a prefix such as "runs/a/checkpoints/step-500", a folder of checkpoints, or a run directory.
    prefer_best: of a run directory, take best/ rather than the latest.

  Raises: UserError when there is no checkpoint.
  """
  text = os.fspath(path)
  if tf.io.gfile.exists(text + ".index"):
    return text
  folders = [BEST, LATEST] if prefer_best else [LATEST, BEST]
  for folder in (*folders, ""):
    if found := stored(os.path.join(text, folder) if folder else text):
      return found[0]
  raise UserError(
    f"no checkpoint at {text!r}; give a run directory, its {BEST}/ or {LATEST}/, or a prefix that FILE.index belongs to"
  )


def restore_weights(model: keras.Model, prefix: str, convert: Callable[[Weights], Weights] | None = None) -> int:
  """Restores all of a model's variables from a checkpoint.

  Args:
    model: built.
    prefix: of the checkpoint.
    convert: makes the model's weights of the checkpoint's, both by variable name.

  Returns: the step it was saved at, 0 when not told.

  Raises: UserError when a variable is missing or has another shape; it names some.
  """
  weights = read_weights(prefix)
  report = assign_matching(model, convert(weights) if convert else weights, prefix)
  if report.missing or report.wrong_shape:
    raise UserError(f"{prefix} is not a checkpoint of this model:\n{report}")
  reader = tf.train.load_checkpoint(prefix)
  return int(reader.get_tensor("global_step" + _SUFFIX)) if reader.has_tensor("global_step" + _SUFFIX) else 0


def read_weights(prefix: str) -> Weights:
  """Returns the model's weights in a checkpoint, by variable name; their average where the run kept one.

  Raises: UserError when the file cannot be read.
  """
  with _explained(f"cannot read checkpoint {prefix}", "give another one"):
    reader = tf.train.load_checkpoint(prefix)
    keys = [k for k in reader.get_variable_to_shape_map() if k.endswith(_SUFFIX) and "/.OPTIMIZER_SLOT" not in k]
    places = {}
    for root in ("model/", _AVERAGE):  # the later one wins
      places |= {k[len(root) : -len(_SUFFIX)]: k for k in keys if k.startswith(root)}
    return {name: reader.get_tensor(key) for name, key in places.items()}


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """What `load_matching` did, by variable name; `str` gives it as a table."""

  source: str
  matched: tuple[str, ...]
  missing: tuple[str, ...]
  wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
  unused: tuple[str, ...]

  def __str__(self) -> str:
    lines = [
      f"weights from {self.source}",
      f"  matched      {len(self.matched):5d}  taken from the checkpoint",
      f"  missing      {len(self.missing):5d}  not in the checkpoint, start afresh{_some(self.missing)}",
      f"  wrong shape  {len(self.wrong_shape):5d}  start afresh",
      f"  unused       {len(self.unused):5d}  in the checkpoint only{_some(self.unused)}",
    ]
    for name, ours, theirs in self.wrong_shape[:10]:
      lines.append(f"    {name}: model {list(ours)}, checkpoint {list(theirs)}")
    return "\n".join(lines)


def _some(names: tuple[str, ...], count: int = 3) -> str:
  return f": {', '.join(names[:count])}{', ...' if len(names) > count else ''}" if names else ""


def load_matching(model: keras.Model, prefix: str) -> LoadReport:
  """Takes the variables of equal name and shape from a checkpoint, and leaves the others as they are.

  Args:
    model: built.
    prefix: of a checkpoint whose keys follow variable names, see `models.naming`.

  Returns: what matched and what did not.

  Raises: UserError when nothing matches, or the file cannot be read.
  """
  return assign_matching(model, read_weights(prefix), prefix)


def assign_matching(model: keras.Model, weights: Weights, source: str) -> LoadReport:
  """Does the same with weights that have been read; `source` names them in messages."""
  matched, missing, wrong = [], [], []
  for name, variable in named_variables(model).items():
    if name not in weights:
      missing.append(name)
    elif tuple(weights[name].shape) != tuple(variable.shape):
      wrong.append((name, tuple(variable.shape), tuple(weights[name].shape)))
    else:
      variable.assign(weights[name])
      matched.append(name)
  unused = sorted(set(weights) - set(matched) - {name for name, *_ in wrong})
  report = LoadReport(source, tuple(matched), tuple(missing), tuple(wrong), tuple(unused))
  if not matched:
    raise UserError(
      f"no variable of the model is in {source}, with {len(weights)} variables{_some(tuple(sorted(weights)))}; the model "
      f"has {_some(tuple(missing))[2:]}: the checkpoint belongs to another architecture or was not saved by this package"
    )
  return report
