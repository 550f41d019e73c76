"""Kill -9 of the search and of its workers, with real processes: nothing is lost, nothing counts twice."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from spinenet_tf.search.journal import read

SECONDS = 300  # that one process may take on a busy machine


def command(root, folder, searcher, runner, trials, milliseconds):
  script = str(root / "tests/search/fake_search.py")
  return [sys.executable, script, str(folder), searcher, runner, str(trials), str(milliseconds)]


def finished(root, *arguments, kill=0):
  return subprocess.run(
    command(root, *arguments),
    cwd=root,
    capture_output=True,
    text=True,
    timeout=SECONDS,
    env={**os.environ, "FAKE_KILL": str(kill)},
  )


def killed_from_outside(root, *arguments, results):
  """Runs a search until so many results are there, then kills it."""
  folder = arguments[0]
  process = subprocess.Popen(
    command(root, *arguments), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  wait_for_results(folder, results, process)
  process.kill()
  process.wait()
  return process


def wait_for_results(folder, count, process):
  until = time.monotonic() + SECONDS
  while time.monotonic() < until:
    assert process.poll() is None, process.stdout.read() + process.stderr.read()
    if (folder / "trials.jsonl").is_file() and (folder / "trials.jsonl").read_text().count('"kind": "end"') >= count:
      return
    time.sleep(0.02)
  raise AssertionError(f"no {count} results within {SECONDS} s")


def content(folder):
  """The searcher's state, as arrays and values."""
  (file,) = folder.glob("searcher-*")
  with np.load(file) as arrays:
    return {name: arrays[name] for name in arrays.files}


def outcomes(folder):
  """What the journal says, without times and attempts."""
  _, trials, results = read(folder)
  assert sorted(t.id for t in results) == list(range(len(trials)))
  return [(t.id, t.point, t.key, t.status, t.reward, t.source) for t in results]


def tried(folder):
  return [line.split() for line in (folder / "tried").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["evolution", "controller"])
def test_a_search_killed_three_times_is_the_search_that_was_not(root, tmp_path, searcher):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  done = finished(root, whole, searcher, "in_process", 20, 0)
  assert done.returncode == 0, done.stderr

  torn = finished(root, parts, searcher, "in_process", 20, 0, kill=12)  # in the middle of a line
  assert torn.returncode == -signal.SIGKILL
  again = finished(root, parts, searcher, "in_process", 20, 0, kill=10)
  assert again.returncode == -signal.SIGKILL and "the last line was cut off and is dropped" in again.stdout
  killed = killed_from_outside(root, parts, searcher, "in_process", 20, 50, results=12)
  assert killed.returncode == -signal.SIGKILL
  last = finished(root, parts, searcher, "in_process", 20, 0)
  assert last.returncode == 0, last.stderr
  assert "results are there" in last.stdout

  assert outcomes(parts) == outcomes(whole)
  assert len(tried(parts)) <= len(tried(whole)) + 3  # one was under way at each kill
  one, two = content(whole), content(parts)
  assert one.keys() == two.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.slow
def test_a_ray_worker_and_then_the_search_are_killed(root, tmp_path):
  pytest.importorskip("ray")
  folder = tmp_path / "run"
  arguments = (root, folder, "evolution", "ray", 24, 400)
  process = subprocess.Popen(
    command(*arguments), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
  )
  wait_for_results(folder, 4, process)
  victim = int(tried(folder)[-1][0])  # the worker that began a trial last
  os.kill(victim, signal.SIGKILL)
  wait_for_results(folder, 10, process)
  lines = [json.loads(line) for line in (folder / "trials.jsonl").open() if line.endswith("\n")]
  (lost,) = [line for line in lines if line["kind"] == "lost"]
  assert "the worker died" in lost["reason"]
  assert [line["attempt"] for line in lines if line["kind"] == "start" and line["id"] == lost["id"]] == [0, 1, 2]
  process.kill()
  process.wait()

  last = finished(*arguments)
  assert last.returncode == 0, last.stderr
  assert "results are there" in last.stdout and "best" in last.stdout
  _, trials, results = read(folder)
  assert len(results) == len(trials) == 24 and {t.status for t in results} <= {"ok", "repeated"}
  assert len({worker for worker, _ in tried(folder)}) >= 3
  state = json.loads((folder / "state.json").read_text())
  assert state["told"] == 24
  values = json.loads(str(content(folder)["values"]))
  assert values["asked"] == 24 and len(values["members"]) == 6  # population 6: the last results, each once
  assert [reward for _, reward in values["members"]] == [t.reward for t in results[-6:]]


@pytest.mark.slow
def test_no_cluster_is_one_message(root, tmp_path):
  pytest.importorskip("ray")
  code = (
    "from spinenet_tf.search.ray_runner import RayExecutor\n"
    "from spinenet_tf.search.settings import SearchSettings\n"
    "RayExecutor(None, SearchSettings('tiny', runner='ray', ray_address='127.0.0.1:9'))\n"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=SECONDS)
  assert done.returncode == 1
  assert (
    done.stderr.strip()
    .splitlines()[-1]
    .startswith(
      "spinenet_tf.errors.UserError: no Ray cluster at search.ray_address = '127.0.0.1:9' (ConnectionRefusedError"
    )
  )
