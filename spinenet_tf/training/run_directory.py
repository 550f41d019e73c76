"""The run directory: everything that a run leaves, in one folder."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import tensorflow as tf

from spinenet_tf import json_text
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError

FORMAT = 1
# Options that older runs do not name, and what they had.
DIALECT = {"pooling": "chain", "pool_padding": "same", "endpoint_activation": True, "squeeze": "swish"}
PACKAGES = ("tensorflow", "tf-keras", "tf-models-official", "gin-config", "numpy", "pycocotools", "tensorflow-addons")


class RunDirectory:
  """Files of one run. Every file is replaced in one step; metrics.jsonl grows by lines.

  Args:
    path: of the folder.
    writes: False for workers that are not the chief: their writes do nothing.
  """

  def __init__(self, path: str | os.PathLike, writes: bool = True):
    self.path, self.writes = pathlib.Path(path), writes

  @property
  def metrics_file(self) -> pathlib.Path:
    """JSON lines: {"step": int, "kind": "train" or "eval", ...}."""
    return self.path / "metrics.jsonl"

  @property
  def tensorboard(self) -> str | None:
    """Folder of TensorBoard events, None where this process writes nothing."""
    return str(self.path / "tensorboard") if self.writes else None

  def prepare(self) -> None:
    """Makes the folder.

    Raises: UserError when it cannot be made or written to.
    """
    if not self.writes:
      return
    probe = self.path / ".writable"
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      probe.write_text("")
      probe.unlink(missing_ok=True)
    except OSError as error:
      raise UserError(
        f"--model_dir={self.path} cannot be written ({error.strerror}); give a folder that this user may write to"
      ) from error

  def check_place(self) -> None:
    """Checks, without making anything, that the folder exists or can be made, and can be written to.

    Raises: UserError when it does not look so.
    """
    place = next((folder for folder in (self.path, *self.path.absolute().parents) if folder.exists()), pathlib.Path())
    if not place.is_dir() or not os.access(place, os.W_OK):
      what = "is not a folder" if not place.is_dir() else "may not be written to"
      raise UserError(
        f"--model_dir={self.path} cannot be used ({place} {what}); give a folder that this user may write to"
      )

  def write(self, name: str, text: str) -> None:
    """Writes a file of the folder, whole or not at all."""
    if not self.writes:
      return
    temporary = self.path / f".{name}.incomplete"
    try:
      temporary.write_text(text)
      os.replace(temporary, self.path / name)
    except OSError as error:
      raise UserError(f"cannot write {self.path / name} ({error.strerror}); free some space and start again") from error

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file of the folder."""
    self.write(name, json.dumps(value, indent=2) + "\n")

  def read_model(self) -> dict[str, Any] | None:
    """Returns the content of model.json, or None when the folder has none."""
    path = self.path / "model.json"
    if not path.is_file():
      return None
    try:
      content = json_text.parse(path.read_bytes())
    except ValueError as error:
      raise UserError(f"{path} is not JSON ({error}); give another --model_dir, or remove the file") from error
    seen = content.get("format") if isinstance(content, dict) else type(content).__name__
    if seen != FORMAT:
      raise UserError(f"{path} has format {seen!r}; this version reads {FORMAT}: give another --model_dir")
    return content

  def check_same(self, model: dict[str, Any]) -> None:
    """Checks that the folder is empty or belongs to the same model.

    Args:
      model: what `model_description` returns.

    Raises: UserError that names the first difference.
    """
    old = self.read_model()
    if old is None:
      return
    ours = json.loads(json.dumps(model))
    try:
      differences = list(_differences(old, ours))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise UserError(
        f"{self.path / 'model.json'} was changed and cannot be understood ({type(error).__name__}: {error}); restore it, or "
        "give another --model_dir"
      ) from error
    for what, then, now in differences:
      raise UserError(
        f"--model_dir={self.path} holds a run whose {what} is {then}, this experiment has {now}; give another --model_dir "
        "(to start from that run's weights, set train.initial_checkpoint to it)"
      )

  def append_metrics(self, line: dict[str, Any]) -> None:
    """Adds one line to metrics.jsonl.

    Raises: UserError when the file system refuses, a full disk for example.
    """
    if not self.writes:
      return
    try:
      with self.metrics_file.open("a") as file:
        file.write(json.dumps(line) + "\n")
    except OSError as error:
      raise UserError(
        f"cannot write {self.metrics_file} ({error.strerror}); free some space and start again: the run goes on from its "
        "last checkpoint"
      ) from error

  def read_metrics(self) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; what is none, such as a last one cut off by a crash, is left out."""
    if not self.metrics_file.is_file():
      return []
    lines = []
    for text in self.metrics_file.read_bytes().splitlines():
      try:
        line = json_text.parse(text)
      except ValueError:
        continue
      if isinstance(line, dict) and isinstance(line.get("step"), int):
        lines.append(line)
    return lines

  def drop_metrics_after(self, step: int) -> None:
    """Removes the lines of steps after `step`, which a resumed run does again."""
    lines = self.read_metrics()
    kept = [line for line in lines if line["step"] <= step]
    if self.metrics_file.is_file():
      self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

  def evaluated_at(self, step: int) -> bool:
    """Returns whether metrics.jsonl has an evaluation at a step."""
    return any(line.get("kind") == "eval" and line.get("step") == step for line in self.read_metrics())


def _differences(old: dict[str, Any], new: dict[str, Any]):
  """Yields (what, then, now) where two model descriptions differ in what makes checkpoints useless for each other."""
  if old.get("task") != new.get("task"):
    yield "task", old.get("task"), new.get("task")
  if Architecture.from_dict(old["architecture"]) != Architecture.from_dict(new["architecture"]):
    names = old["architecture"].get("name"), new["architecture"].get("name")
    yield ("architecture", *(names if names[0] != names[1] else (f"another {names[0]}", f"a changed {names[1]}")))
  keys = ("num_classes", "input_size", "anchors", "head_convs", "head_width", "activation", "padding", "levels")
  for key in (*keys, *DIALECT):
    then, now = (model["model"].get(key, DIALECT.get(key)) for model in (old, new))
    if then != now:
      yield key, then, now
  if old.get("categories") and old["categories"] != new["categories"]:
    yield "list of classes", [c["name"] for c in old["categories"]][:8], [c["name"] for c in new["categories"]][:8]


def environment(command: list[str] | None = None) -> dict[str, Any]:
  """Returns what a run ran on: versions, devices, revision, command."""
  return {
    "python": sys.version.split()[0],
    "platform": platform.platform(),
    "tensorflow": tf.__version__,
    "keras": getattr(keras, "__version__", None) or _version("keras"),
    "packages": {name: version for name in PACKAGES if (version := _version(name))},
    "spinenet_tf": _version("spinenet_tf"),
    "devices": [f"{d.device_type}: {_device_name(d)}" for d in tf.config.list_physical_devices()],
    "cpu_count": os.cpu_count(),
    "git": _git_revision(),
    "command": command or sys.argv,
  }


def _version(name: str) -> str | None:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


def _device_name(device: tf.config.PhysicalDevice) -> str:
  details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
  return details.get("device_name", device.name)


def _git_revision() -> str | None:
  """The checkout's revision, with "+changes" where files differ from it; None outside of a checkout."""
  folder = pathlib.Path(__file__).resolve().parent.parent.parent
  if not (folder / ".git").exists():
    return None
  try:
    run = [
      subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True).stdout
      for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
  except (OSError, subprocess.SubprocessError):
    return None
  return run[0].strip() + ("+changes" if run[1].strip() else "")
