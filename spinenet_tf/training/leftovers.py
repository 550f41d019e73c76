"""Files of checkpoints on disk: made durable, and what a killed process left of them removed."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import tensorflow as tf

_STEP = re.compile(r"step-(\d+)")
_WHOLE = re.compile(r"step-\d+\.(index|data-\d{5}-of-\d{5})")
UNREADABLE = "unreadable-"


def step_of(path: str | os.PathLike) -> int:
  """Returns the step in the name of a checkpoint's file, -1 when there is none."""
  match = _STEP.match(os.path.basename(path))
  return int(match[1]) if match else -1


def on_disk(folder: str | os.PathLike) -> list[str]:
  """Returns the prefixes of the checkpoints in a folder, by falling step, whatever its state file says."""
  found = [path[: -len(".index")] for path in tf.io.gfile.glob(os.path.join(folder, "step-*.index"))]
  return sorted(found, key=step_of, reverse=True)


def state_of(folder: str | os.PathLike) -> Any:
  """Returns what a folder's state file says, None where there is none or it says nothing."""
  try:
    return tf.train.get_checkpoint_state(os.fspath(folder))
  except (tf.errors.OpError, ValueError):
    return None


def newer(folder: str | os.PathLike, state: Any) -> list[str]:
  """Returns the checkpoints that a killed process completed before it could name them, by falling step.

  Args:
    folder: of checkpoints.
    state: as of `state_of`; those are newer than what it goes on from, and it does not list them. None where it says nothing.
  """
  if state is None or not state.model_checkpoint_path:
    return []
  listed = {step_of(path) for path in (*state.all_model_checkpoint_paths, state.model_checkpoint_path)}
  last = step_of(state.model_checkpoint_path)
  return [prefix for prefix in on_disk(folder) if step_of(prefix) > last and step_of(prefix) not in listed]


def mend_state(folder: str | os.PathLike) -> None:
  """Writes the state file of a folder anew where it says nothing, as after a power cut, or lacks the newest checkpoint."""
  file = os.path.join(folder, "checkpoint")
  if "://" in os.fspath(folder) or not os.path.exists(file):
    return
  state = state_of(folder)
  if state is None:
    os.remove(file)
    _write_state(folder, on_disk(folder)[::-1])
  elif unnamed := newer(folder, state):
    _write_state(folder, [*state.all_model_checkpoint_paths, *unnamed[::-1]])


def _write_state(folder: str | os.PathLike, paths: list[str]) -> None:
  """Names checkpoints, the last of them as the one to go on from; none leaves the folder without a state file."""
  folder = os.path.abspath(folder)
  names = [name for path in paths if os.path.exists(os.path.join(folder, (name := os.path.basename(path)) + ".index"))]
  if names:
    # Without times a CheckpointManager would never remove them.
    times = [os.path.getmtime(os.path.join(folder, name + ".index")) for name in names]
    tf.compat.v1.train.update_checkpoint_state(folder, names[-1], names, all_model_checkpoint_timestamps=times)


def to_disk(prefix: str) -> None:
  """Waits until a checkpoint's files are on the disk and not in the kernel's memory only, so that a pulled plug keeps them."""
  if "://" in prefix:
    return
  folder = pathlib.Path(prefix).parent
  for path in (*folder.glob(pathlib.Path(prefix).name + ".*"), folder / "checkpoint", folder):
    try:
      handle = os.open(path, os.O_RDONLY)
    except OSError:
      continue
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


def clean(folder: str | os.PathLike, step: int | None = None) -> None:
  """Removes what interrupted saves left: parts of files, and data without an index.

  Args:
    folder: of checkpoints.
    step: that the run goes on from; newer checkpoints, which could not be read or which the list passes over, are set aside
      as "unreadable-step-N...". None keeps them.
  """
  if "://" in os.fspath(folder):
    return
  complete = {step_of(prefix) for prefix in on_disk(folder)}
  for path in pathlib.Path(folder).glob("step-*"):
    try:
      if not _WHOLE.fullmatch(path.name) or step_of(path) not in complete:
        tf.io.gfile.rmtree(str(path)) if path.is_dir() else path.unlink()
      elif step is not None and step_of(path) > step:
        os.replace(path, path.with_name(UNREADABLE + path.name))
    except OSError:
      continue
