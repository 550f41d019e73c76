"""A search of cheap trials in a process of its own, which tests kill: fake_search.py DIR SEARCHER RUNNER TRIALS MILLISECONDS.

The reward is a fixed function of the architecture. Each trial adds a line "ID-OF-PROCESS KEY" to DIR/tried. With FAKE_KILL=N
in the environment the process ends itself, unprepared, in the middle of the N-th write to the journal.
"""

import functools
import os
import pathlib
import signal
import sys
import time
import types
import zlib

from spinenet_tf.search.executors import InProcess
from spinenet_tf.search.network_key import network_key
from spinenet_tf.search.presets import find_space
from spinenet_tf.search.runner import Runner
from spinenet_tf.search.searchers import build_searcher
from spinenet_tf.search.settings import SearchSettings

SETTINGS = {"evolution": {"population": 6, "tournament": 3}, "controller": {"batch": 4}}


def reward(architecture) -> float:
  return zlib.crc32(network_key(architecture).encode()) % 1000 / 1000


def objective(folder: str, seconds: float):
  def call(architecture):
    with open(os.path.join(folder, "tried"), "a") as file:
      file.write(f"{os.getpid()} {network_key(architecture)}\n")
    time.sleep(seconds)
    return types.SimpleNamespace(reward=reward(architecture), metrics={"multiply_adds": 10})

  return call


def kill_in_write(journal, count: int) -> None:
  """The N-th line is written by half, then the process is gone."""
  write, done = journal._write, [0]

  def half(data: bytes) -> None:
    done[0] += 1
    if done[0] == count:
      write(data[: len(data) // 2])
      os.kill(os.getpid(), signal.SIGKILL)
    write(data)

  journal._write = half


def main(folder: str, searcher: str, runner: str, trials: str, milliseconds: str) -> None:
  pathlib.Path(folder).mkdir(exist_ok=True)
  space = find_space("tiny")
  settings = SearchSettings(
    space,
    trials=int(trials),
    runner=runner,
    ray_address="local",
    workers=2,
    log_seconds=0,
    attempts=5,
    trials_per_worker=100,
  )
  factory = functools.partial(objective, folder, int(milliseconds) / 1000)
  if runner == "ray":
    from spinenet_tf.search.ray_runner import RayExecutor

    executor = RayExecutor(factory, settings)
  else:
    executor = InProcess(factory)
  search = Runner(
    folder, space, build_searcher(searcher, space, seed=3, **SETTINGS.get(searcher, {})), executor, settings
  )
  if kill := int(os.environ.get("FAKE_KILL", 0)):
    kill_in_write(search.journal, kill)
  best = search.run()
  print("best", best.id, best.reward)
  executor.close()


if __name__ == "__main__":
  main(*sys.argv[1:])
