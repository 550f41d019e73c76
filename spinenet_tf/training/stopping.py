"""SIGTERM, heard while a long TensorFlow call runs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Callable


@contextlib.contextmanager
def on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
  """Calls `stop` on SIGTERM, where this is the main thread; from another thread, at once.

  Python's own handlers wait until the main thread is back from TensorFlow, which may be a hundred steps later. The
  wake-up pipe is written to by the signal itself.
  """
  try:
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
  except ValueError:  # not the main thread
    yield
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  listener = threading.Thread(target=_listen, args=(reader, stop), daemon=True)
  listener.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    signal.signal(signal.SIGTERM, previous)
    os.close(writer)  # ends the listener
    listener.join(timeout=10)
    os.close(reader)


def _listen(reader: int, stop: Callable[[], None]) -> None:
  while numbers := os.read(reader, 64):
    if signal.SIGTERM in numbers:
      stop()
