"""Trials on many machines, through Ray: one trial a task, each with the devices it asks for.

A worker process that dies (killed, out of memory, its machine gone) loses its trial only; the runner hands it out again.
Exceptions inside a trial are failures of the child. Ray's own retries are off, so that the journal knows of every attempt.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.search.settings import SearchSettings
from spinenet_tf.search.trials import Objective, ObjectiveFactory, Outcome, attempt, one_line

CONNECT_SECONDS = 10
_OBJECTIVES: dict[str, Objective] = {}  # of this worker process, by search


class RayExecutor:
  """Runs trials as Ray tasks.

  Args:
    factory: makes the objective; called once in each worker process. It and what it refers to are pickled; the package
      and the data must be there on every machine.
    settings: address, workers, devices.

  Raises: UserError when Ray is not installed or the cluster cannot be reached.
  """

  is_own_process = False

  def __init__(self, factory: ObjectiveFactory, settings: SearchSettings):
    self._ray = _import_ray()
    self._settings = settings
    _connect(self._ray, settings)
    self._factory = self._ray.put(factory)
    self._token = f"{os.getpid()}-{os.urandom(4).hex()}"
    self._running: dict[Any, int] = {}  # reference of a task -> trial
    resources = {"num_cpus": settings.cpus_per_trial}
    if settings.gpus_per_trial:
      resources["num_gpus"] = settings.gpus_per_trial
    self._task = self._ray.remote(max_calls=settings.trials_per_worker, max_retries=0, **resources)(_run)

  def capacity(self) -> int:
    """Returns how many trials the cluster has room for, at least one: Ray keeps what does not fit for later."""
    if self._settings.workers:
      return self._settings.workers
    have, settings = self._ray.cluster_resources(), self._settings
    room = [
      have.get(name, 0) / asked
      for name, asked in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial))
      if asked
    ]
    return max(1, int(min(room, default=1)))

  def submit(self, trial_id: int, architecture: Architecture) -> None:
    """Hands a trial to Ray."""
    surroundings = {"cpus": self._settings.cpus_per_trial, "folder": os.getcwd()}
    reference = self._task.remote(self._token, self._factory, architecture.to_dict(), surroundings)
    self._running[reference] = trial_id

  def wait(self) -> list[tuple[int, Outcome]]:
    """Waits until one of the trials has ended, at least."""
    done, _ = self._ray.wait(list(self._running), num_returns=1)
    more, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
    return [(self._running.pop(reference), self._outcome(reference)) for reference in dict.fromkeys([*done, *more])]

  def close(self) -> None:
    """Ends the trials that still run, and the connection."""
    for reference in self._running:
      self._ray.cancel(reference, force=True)
    self._running.clear()
    self._ray.shutdown()

  def _outcome(self, reference: Any) -> Outcome:
    errors = self._ray.exceptions
    try:
      return Outcome(**self._ray.get(reference))
    except errors.RayTaskError as error:  # outside of the trial: the factory, or a package that is missing there
      return Outcome(None, reason=f"a worker could not begin: {one_line(error.cause or error)}")
    except errors.RayError as error:
      return Outcome(None, reason=f"the worker died ({type(error).__name__})", lost=True)


def _run(
  token: str, factory: ObjectiveFactory, architecture: dict[str, Any], surroundings: dict[str, Any]
) -> dict[str, Any]:
  """One trial, in a worker process. Returns: the fields of an `Outcome`."""
  _settle(**surroundings)
  if token not in _OBJECTIVES:
    _OBJECTIVES.clear()
    _OBJECTIVES[token] = factory()
  return vars(attempt(_OBJECTIVES[token], Architecture.from_dict(architecture)))


def _settle(cpus: float, folder: str) -> None:
  """Makes a worker process like the one that the search runs in, before TensorFlow starts there.

  Args:
    cpus: that TensorFlow may use; otherwise it takes all cores of the machine for each trial.
    folder: that relative paths begin in, where the machine has it.
  """
  if cpus >= 1:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(int(cpus)))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(int(cpus)))
  os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # trials may share a GPU
  if os.path.isdir(folder):
    os.chdir(folder)


def _import_ray() -> Any:
  try:
    import ray
    import ray.exceptions
  except ImportError as error:
    raise UserError(
      f"search.runner is 'ray', which is not installed ({error}); run: pip install 'spinenet_tf[search]'"
    ) from error
  return ray


def _connect(ray: Any, settings: SearchSettings) -> None:
  """Starts Ray on this machine, or joins a cluster."""
  address = settings.ray_address
  common = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
  try:
    if address == "local":
      workers = settings.workers or None
      cpus = max(1, round(workers * settings.cpus_per_trial)) if workers and settings.cpus_per_trial else None
      ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
      return
    _check_port(address)
    ray.init(address=address, **common)
  except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
    raise UserError(
      f"no Ray cluster at search.ray_address = {address!r} ({one_line(error)}); start one with `ray start --head` and "
      "give its HOST:PORT, or set 'local' for processes of this machine"
    ) from error


def _check_port(address: str) -> None:
  """Raises OSError when nothing listens at HOST:PORT: Ray itself would try for minutes."""
  place = address.removeprefix("ray://")
  host, _, port = place.rpartition(":")
  if host and port.isdigit():
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
