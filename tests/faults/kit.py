"""Starting tiny runs, and reading what they left."""

import json
import multiprocessing
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from unittest import mock

from tests.faults import run

SCRIPT = pathlib.Path(run.__file__)
SETTINGS = {
  "TF_USE_LEGACY_KERAS": "1",
  "OPENBLAS_NUM_THREADS": "1",
}  # one Keras is imported, not two; no threads to fork
FORKS = multiprocessing.get_context("forkserver")


class Fork:
  """A process like subprocess.Popen's, forked off one that has imported TensorFlow and done nothing with it."""

  def __init__(self, arguments, environment):
    FORKS.set_forkserver_preload([run.__name__])
    with mock.patch.dict(os.environ, SETTINGS):
      forkserver.ensure_running()
    self._output = tempfile.NamedTemporaryFile("r", suffix=".txt")
    self._process = FORKS.Process(target=run.forked, args=(arguments, environment, self._output.name))
    self._process.start()
    self.pid, self.kill = self._process.pid, self._process.kill

  @property
  def returncode(self):
    return self._process.exitcode

  def poll(self):
    return self._process.exitcode

  def communicate(self, timeout=None):
    self._process.join(timeout)
    assert self.returncode is not None, f"still running after {timeout} seconds"
    return pathlib.Path(self._output.name).read_text(), None


def start(*arguments, environment=None, fresh=False, **options):
  """Starts run.py; options that are None are left out. `fresh` imports TensorFlow anew, which takes some seconds."""
  given = [*map(str, arguments), *(f"{name}={value}" for name, value in options.items() if value is not None)]
  if not fresh:
    return Fork(given, environment or {})
  return subprocess.Popen(
    [sys.executable, str(SCRIPT), *given],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=SCRIPT.parents[2],
    env={**os.environ, **SETTINGS, **(environment or {})},
  )


def finish(process, code=0):
  """Waits for the end of a process, and returns what it said."""
  out, _ = process.communicate(timeout=900)
  assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out[-4000:]}"
  return out


def lines(path):
  """The complete lines of a file of JSON lines; none where there is no file."""
  found = []
  for text in pathlib.Path(path).read_text().splitlines() if pathlib.Path(path).is_file() else ():
    try:
      found.append(json.loads(text))
    except json.JSONDecodeError:
      continue
  return found


def losses(run):
  """Step -> total loss, as the run directory tells it."""
  return {line["step"]: line["total"] for line in lines(run / "metrics.jsonl") if line["kind"] == "train"}


def seen(run, worker=0):
  """[(step, ids of its images)] of all processes that worked on a run, in order; steps may come again."""
  return [(line["step"], line["ids"]) for line in lines(run / f"seen-{worker}.jsonl") if "step" in line]


def latest(run):
  """The step that a run goes on from, 0 when there is none; the files of what its state file names must be there.

  It is that of the newest complete checkpoint: a kill may come between its last file and the state file.
  """
  folder = run / "checkpoints"
  if (folder / "checkpoint").is_file():
    (step,) = re.findall(r'^model_checkpoint_path: "step-(\d+)"', (folder / "checkpoint").read_text(), re.MULTILINE)
    for name in ("index", "data-00000-of-00001"):
      assert (folder / f"step-{step}.{name}").is_file(), f"step-{step}.{name} is gone"
  return max((int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.index")), default=0)


def leftovers(run):
  """Files that no run leaves when it has come to its end."""
  named = r"checkpoint|metrics\.json|step-\d+\.(index|data-\d{5}-of-\d{5})"
  found = [path.name for name in ("checkpoints", "best") for path in (run / name).glob("*")]
  other = [path.name for path in run.iterdir() if re.search(r"incomplete|writable|worker", path.name)]
  return [name for name in found if not re.fullmatch(named, name)] + other


def wrong(run, whole, worker=0):
  """What differs from the run that nothing happened to, of all steps so far: losses, evaluations, images."""
  found = []
  expected, evaluations = (
    losses(whole),
    {line["step"]: line for line in lines(whole / "metrics.jsonl") if line["kind"] == "eval"},
  )
  found += [f"loss of step {step}" for step, value in losses(run).items() if value != expected[step]]
  for line in lines(run / "metrics.jsonl"):
    if line["kind"] == "eval" and {**line, "seconds": 0} != {**evaluations[line["step"]], "seconds": 0}:
      found.append(f"evaluation of step {line['step']}")
  images = dict(seen(whole, worker))
  return found + [f"images of step {step}" for step, ids in seen(run, worker) if ids != images[step]]


def unfinished(run, whole):
  """What a completed run lacks of the one that nothing happened to, or has beside it."""
  found = [f"left behind: {name}" for name in leftovers(run)]
  if list(losses(run)) != list(losses(whole)):
    found.append(f"lines of steps {list(losses(run))}")
  for name in ("eval/detections.json", "best/metrics.json"):
    if (whole / name).is_file() and (run / name).read_text() != (whole / name).read_text():
      found.append(name)
  names = [{path.name for path in (folder / "checkpoints").iterdir()} for folder in (run, whole)]
  return found + ([] if names[0] == names[1] else [f"checkpoints {sorted(names[0])}"])


def wait_for(run, step, process):
  """Waits until a run has written the line of a step."""
  for _ in range(9000):
    if max(losses(run), default=0) >= step:
      return
    assert process.poll() is None, process.communicate()[0][-4000:]
    time.sleep(0.1)
  raise AssertionError(f"no line of step {step} in {run}")


def start_workers(data, run, steps, *own, **options):
  """Starts one process for each of `own`, options of that worker only; they reach each other over loopback."""
  sockets = [socket.socket() for _ in own]
  for one in sockets:
    one.bind(("127.0.0.1", 0))
  workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
  for one in sockets:
    one.close()
  processes = []
  for index, harm in enumerate(own):
    task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    environment = {"TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": ""}
    processes.append(start(data, run, steps, workers=1, environment=environment, **options, **harm))
  return processes


def finish_all(processes, codes):
  """Waits for the end of all processes, which have these exit codes, and returns what each said."""
  try:
    found = [process.communicate(timeout=900)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  ended = [process.returncode for process in processes]
  assert ended == codes, f"exit codes {ended}, not {codes}\n" + "\n".join(text[-4000:] for text in found)
  return found
