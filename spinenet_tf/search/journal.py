"""The journal of a search: every trial handed out and every result, one JSON line each, on disk before anything follows.

  {"kind": "search", "format": 1, "space": {...}, "fingerprint": "9f...", "searcher": "controller", "seed": 0}
  {"kind": "start", "id": 0, "point": [1, 0, ...], "key": "...", "attempt": 1, "time": 1700000000.0}
  {"kind": "lost", "id": 0, "reason": "the worker died", "time": ...}            handed out again by another "start"
  {"kind": "end", "id": 0, "status": "ok", "reward": 0.21, "seconds": 12.5, "metrics": {"AP": 0.21, ...}, "time": ...}

Lines are only ever added. A process killed while it writes leaves a last line without its end, which is dropped, and said,
when the journal is opened again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from spinenet_tf import json_text
from spinenet_tf.errors import UserError
from spinenet_tf.search.space import Point, SearchSpace

FORMAT = 1
FILE_NAME = "trials.jsonl"
OK, FAILED, REPEATED = STATUSES = ("ok", "failed", "repeated")


@dataclasses.dataclass
class Trial:
  """A point and what became of it.

  Attributes:
    id: 0, 1, ... in the order in which the searcher gave them.
    point: of the space.
    key: equal for equal architectures.
    attempt: how often it was handed out to be trained; 0 when it was not yet.
    status: "ok", "failed", "repeated" (the reward is that of trial `source`), or "" while there is no result.
    reward: what the searcher is told; the floor for a failed one.
    reason: why it failed.
    seconds: that the last attempt took.
    metrics: of its training, by name.
    source: the trial that this one repeats.
    place: position among the results, 0 for the first one to end.
    ended: Unix time of the result.
  """

  id: int
  point: Point
  key: str
  attempt: int = 0
  status: str = ""
  reward: float | None = None
  reason: str = ""
  seconds: float = 0.0
  metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
  source: int | None = None
  place: int | None = None
  ended: float | None = None


class Journal:
  """`trials.jsonl` of a folder, held open and locked.

  Args:
    directory: of the search; made where there is none.
    space: that points belong to.
    searcher: its name.
    seed: of the search.
    say: told what had to be dropped.

  Attributes:
    trials: by id.
    results: ended trials in the order in which they ended.

  Raises: UserError for a journal of another space or searcher, one that another process has open, or a broken line before
    the last.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    space: SearchSpace,
    searcher: str,
    seed: int = 0,
    say: Callable[[str], None] = print,
  ):
    self.path = pathlib.Path(directory) / FILE_NAME
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.trials: dict[int, Trial] = {}
    self.results: list[Trial] = []
    self._file = open(self.path, "ab+")
    _lock(self._file, self.path)
    lines, dropped = read_lines(self.path)
    if dropped is not None:
      say(f"{self.path}: the last line was cut off and is dropped; its trial counts as not ended: {dropped[:80]!r}")
      self._file.truncate(self._file.seek(0, os.SEEK_END) - len(dropped))
    elif lines and not _ends_with_newline(self.path):
      self._write(b"\n")  # the line was whole, only its end is missing
    header = {
      "kind": "search",
      "format": FORMAT,
      "space": space.to_dict(),
      "fingerprint": space.fingerprint(),
      "searcher": searcher,
      "seed": seed,
    }
    if lines:
      _check_header(self.path, lines[0], header)
      self.trials, self.results = collect(self.path, lines)
    else:
      self._append(header)

  def start(self, trial_id: int, point: Point, key: str, attempt: int) -> Trial:
    """Notes that a trial is about to be handed out. Returns: it."""
    line = {"kind": "start", "id": trial_id, "point": list(point), "key": key, "attempt": attempt}
    return self._apply({**line, "time": time.time()})

  def lost(self, trial_id: int, reason: str) -> Trial:
    """Notes that the process that had a trial died. Returns: it."""
    return self._apply({"kind": "lost", "id": trial_id, "reason": reason, "time": time.time()})

  def end(
    self,
    trial_id: int,
    status: str,
    reward: float,
    *,
    reason: str = "",
    seconds: float = 0.0,
    metrics: Mapping[str, Any] | None = None,
    source: int | None = None,
  ) -> Trial:
    """Notes a result.

    Args:
      trial_id: of a trial that was started and has not ended.
      status: one of `STATUSES`.
      reward: finite.
      reason, seconds, metrics, source: as in `Trial`.

    Returns: the trial.

    Raises: ValueError when the trial has ended before, so that no result counts twice.
    """
    line = {"kind": "end", "id": trial_id, "status": status, "reward": reward, "seconds": round(seconds, 3)}
    extra = {"reason": reason, "metrics": dict(metrics or {}), "source": source}
    line.update({name: value for name, value in extra.items() if value not in ("", {}, None)})
    return self._apply({**line, "time": time.time()})

  def close(self) -> None:
    """Closes the file and gives up the lock."""
    self._file.close()

  def _apply(self, line: dict[str, Any]) -> Trial:
    trial = _apply(self.trials, self.results, line)
    self._append(line)
    return trial

  def _append(self, line: dict[str, Any]) -> None:
    self._write(json.dumps(line, allow_nan=False).encode() + b"\n")

  def _write(self, data: bytes) -> None:
    try:
      self._file.write(data)
      self._file.flush()
      os.fsync(self._file.fileno())
    except OSError as error:
      raise UserError(
        f"cannot write {self.path} ({error.strerror}); free some space, and the same command goes on from there"
      ) from error


def read(directory: str | os.PathLike) -> tuple[dict[str, Any], dict[int, Trial], list[Trial]]:
  """Reads the journal of a folder without opening it for writing; a search may be running.

  Returns: the header, trials by id, and those that ended in that order.

  Raises: UserError when there is none, or a line before the last is broken.
  """
  path = pathlib.Path(directory) / FILE_NAME
  if not path.is_file():
    raise UserError(f"{path} does not exist; give --model_dir the folder of a search")
  lines, _ = read_lines(path)
  if not lines:
    raise UserError(f"{path} is empty; no search has begun there")
  _check_format(path, lines[0])
  return (lines[0], *collect(path, lines))


def read_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], bytes | None]:
  """Returns the lines of a journal, and the bytes of a last one that was cut off, or None.

  Raises: UserError for a broken line before the last.
  """
  texts = path.read_bytes().split(b"\n")
  ends = [b"\n"] * (len(texts) - 1) + [b""]
  texts = [text + end for text, end in zip(texts, ends) if text + end]
  lines = []
  for number, text in enumerate(texts, 1):
    try:
      line = json_text.parse(text)
      if not isinstance(line, dict) or "kind" not in line:
        raise ValueError("not a line of a journal")
    except ValueError as error:
      if number == len(texts):
        return lines, text
      raise UserError(
        f"{path}, line {number}: {error}: {text[:60]!r}; only the last line may be cut off: restore the file, or give another "
        "--model_dir"
      ) from error
    lines.append(line)
  return lines, None


def collect(path: pathlib.Path, lines: list[dict[str, Any]]) -> tuple[dict[int, Trial], list[Trial]]:
  """Returns trials by id, and those that ended in that order, from the lines of a journal."""
  trials: dict[int, Trial] = {}
  results: list[Trial] = []
  for number, line in enumerate(lines[1:], 2):
    try:
      _apply(trials, results, line)
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f"{path}, line {number}: {error}; the file was changed: restore it") from error
  return trials, results


def _apply(trials: dict[int, Trial], results: list[Trial], line: dict[str, Any]) -> Trial:
  """Takes one line into account."""
  kind, number = line["kind"], line["id"]
  if kind == "start":
    trial = trials.setdefault(number, Trial(number, tuple(line["point"]), line["key"]))
    if trial.status:
      raise ValueError(f"trial {number} starts after its end")
    trial.attempt = line["attempt"]
    return trial
  trial = trials[number]
  if trial.status:
    raise ValueError(f"trial {number} ends twice")
  if kind == "end":
    trial.status, trial.reward, trial.seconds = line["status"], line["reward"], line["seconds"]
    trial.reason, trial.metrics, trial.source = line.get("reason", ""), line.get("metrics", {}), line.get("source")
    trial.place, trial.ended = len(results), line.get("time")
    results.append(trial)
  elif kind != "lost":
    raise ValueError(f"unknown kind {kind!r}")
  return trial


def _check_format(path: pathlib.Path, header: dict[str, Any]) -> None:
  whole = isinstance(header.get("space"), dict) and {"fingerprint", "searcher"} <= header.keys()
  if header.get("kind") != "search" or header.get("format") != FORMAT or not whole:
    raise UserError(
      f"{path} begins with {str(header)[:60]}; this version reads journals of format {FORMAT}: give another --model_dir"
    )


def _check_header(path: pathlib.Path, old: dict[str, Any], new: dict[str, Any]) -> None:
  _check_format(path, old)
  if old["fingerprint"] != new["fingerprint"]:
    names = old["space"].get("name"), new["space"]["name"]
    differ = [key for key in new["space"] if key != "name" and old["space"].get(key) != new["space"][key]]
    raise UserError(
      f"{path} is the journal of another search space: {names[0]!r} there, {names[1]!r} here, different in "
      f"{', '.join(differ)}; give another --model_dir, or set search.space as it was"
    )
  if old["searcher"] != new["searcher"]:
    raise UserError(
      f"{path} is the journal of the searcher {old['searcher']!r}, this search has {new['searcher']!r}; give another "
      "--model_dir, or set searcher.name as it was"
    )


def _ends_with_newline(path: pathlib.Path) -> bool:
  with open(path, "rb") as file:
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _lock(file: Any, path: pathlib.Path) -> None:
  """Locks a file until it is closed or the process ends, where the system can."""
  try:
    import fcntl
  except ImportError:  # not on Windows
    return
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UserError(f"{path} is in use by another search; wait for it, end it, or give another --model_dir") from error
  except OSError:  # some network file systems cannot lock
    pass
