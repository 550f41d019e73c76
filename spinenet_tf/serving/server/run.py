"""The life of the server process: bind, load, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from spinenet_tf.errors import UserError
from spinenet_tf.serving.server.model import Place, ServedModel
from spinenet_tf.serving.server.settings import LOOPBACK, Settings

try:
  import uvicorn

  from spinenet_tf.serving.server.app import create_app
  from spinenet_tf.serving.server.service import Service
except ImportError as error:
  raise UserError(f"the server needs a package that is missing ({error}): pip install 'spinenet_tf[serve]'") from error

_KEEP_ALIVE = 30  # seconds an idle connection stays open


def bind(host: str, port: int) -> socket.socket:
  """Takes the address, so that a port in use is told before the model loads.

  Args:
    host: name or address; port: 0 for any that is free.

  Raises: UserError where it cannot be had.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
  except (OSError, OverflowError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"cannot listen on {host}:{port} ({reason}); give another --host or --port") from error
  return bound


def serve(place: Place, settings: Settings, bound: socket.socket, access_log: bool = False) -> None:
  """Serves until SIGTERM or SIGINT; then finishes what is in flight. A second signal ends the process at once.

  The server answers from the first moment, /readyz and predictions with 503 until the model is loaded.

  Args:
    place: the model.
    settings: limits.
    bound: a socket from `bind`; closed on return.
    access_log: print a line for each request.

  Raises: UserError where the model cannot be loaded.
  """
  host, port = bound.getsockname()[:2]
  url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
  if host not in LOOPBACK:
    print(
      f"warning: {url} can be reached from other machines, and anyone who reaches it may use the model; "
      "put a proxy with authentication before it",
      file=sys.stderr,
      flush=True,
    )
  service = Service(place, settings)
  config = uvicorn.Config(
    create_app(service),
    log_level="info" if access_log else "warning",
    access_log=access_log,
    server_header=False,
    lifespan="off",
    http="h11",
    ws="none",
    timeout_keep_alive=_KEEP_ALIVE,
    timeout_graceful_shutdown=int(settings.drain_timeout),
    limit_concurrency=settings.max_queue * 4,  # connections, idle ones included
  )
  server = _Server(config, service)
  loader = threading.Thread(target=server.load, args=(url,), name="load", daemon=True)
  loader.start()
  try:
    asyncio.run(server.serve(sockets=[bound]))
  finally:
    loader.join()  # TensorFlow cannot be stopped while it loads, and must not outlive the interpreter
    service.close()
  if server.failure:
    raise server.failure
  print("drained; bye", flush=True)


class _Server(uvicorn.Server):
  """Drains on the first signal, and exits with code 0 then."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service
    self.failure: Exception | None = None

  def load(self, url: str) -> None:
    """Loads the model, then lets requests in; runs in a thread of its own."""
    place, start = self._service.place, time.monotonic()
    print(f"loading {place.folder}", flush=True)
    try:
      model = ServedModel(place)
      model.warm_up()
    except Exception as error:
      self.failure, self.should_exit = error, True
      return
    if self.should_exit:
      return
    gc.collect()
    gc.freeze()  # what is loaded stays; not to be looked through while requests are served
    self._service.start(model)
    seconds = time.monotonic() - start
    print(f"{place.name} version {place.version} loaded in {seconds:.1f} s: {', '.join(model.signatures)}", flush=True)
    print(f"page: {url}/   REST: {url}/v1/models/{place.name}:predict", flush=True)

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Installs the handlers while serving."""
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    if self.should_exit:
      print("second signal: ending at once", file=sys.stderr, flush=True)
      os._exit(128 + number)
    self.should_exit = True  # before it is told, for the next signal may come then
    self._service.stop_taking()
    print("draining: no new requests, those in flight are finished; the same signal again ends at once", flush=True)
