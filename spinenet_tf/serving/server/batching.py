"""Micro-batching: requests that arrive within a few milliseconds go through the network together.

One thread runs the network. While it runs, requests gather, so under load batches fill without anybody waiting.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from typing import Callable

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class _Item:
  key: Hashable
  inputs: Arrays
  rows: int
  future: Future
  arrived: float


class Batcher:
  """Puts requests of one key into batches and gives each its own rows back.

  A batch that fails is run again request by request, so that one bad request does not take others along.
  """

  def __init__(
    self,
    run: Callable[[Hashable, Arrays], Arrays],
    *,
    max_batch: int,
    max_delay: float,
    observe: Callable[[int, float], None] = lambda rows, seconds: None,
  ):
    """Starts the thread.

    Args:
      run: takes a key and inputs, gives outputs; called from the one thread only. Dimension 0 of all is the row.
      max_batch: most rows together.
      max_delay: seconds that a request waits for others.
      observe: told of every run: how many rows, how many seconds.
    """
    self._run, self._observe = run, observe
    self._max_batch, self._max_delay = max_batch, max_delay
    self._waiting: deque[_Item] = deque()
    self._changed = threading.Condition()
    self._closed = False
    self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
    self._thread.start()

  @property
  def waiting(self) -> int:
    """Requests that have not begun to run."""
    return len(self._waiting)

  def submit(self, key: Hashable, inputs: Arrays, rows: int) -> Future:
    """Queues a request.

    Args:
      key: requests with equal keys may share a batch.
      inputs: name to array of `rows` rows.
      rows: their number.

    Returns: future of the outputs, of as many rows; cancelling it before it runs takes it out of the queue.
    """
    future: Future = Future()
    with self._changed:
      if self._closed:
        raise RuntimeError("the batcher is closed")
      self._waiting.append(_Item(key, inputs, rows, future, time.monotonic()))
      self._changed.notify()
    return future

  def close(self) -> None:
    """Finishes what is queued, then ends the thread."""
    with self._changed:
      self._closed = True
      self._changed.notify()
    self._thread.join()

  def _loop(self) -> None:
    while batch := self._next():
      running = [item for item in batch if item.future.set_running_or_notify_cancel()]
      if running:
        self._serve(running)

  def _next(self) -> list[_Item]:
    """Waits for a batch. Returns: requests of one key, oldest first; none when closed and finished."""
    with self._changed:
      while not self._waiting:
        if self._closed:
          return []
        self._changed.wait()
      until = self._waiting[0].arrived + self._max_delay
      while not self._closed and (batch := self._fitting()) and sum(item.rows for item in batch) < self._max_batch:
        left = until - time.monotonic()
        if left <= 0:
          break
        self._changed.wait(left)
      batch = self._fitting()
      for item in batch:
        self._waiting.remove(item)
      return batch

  def _fitting(self) -> list[_Item]:
    """Returns the oldest request and those of its key behind it, in order, as far as they fit."""
    first = self._waiting[0]
    batch, rows = [first], first.rows
    for item in list(self._waiting)[1:]:
      if item.key != first.key or item.future.cancelled():
        continue
      if rows + item.rows > self._max_batch:
        break
      batch.append(item)
      rows += item.rows
    return batch

  def _serve(self, batch: list[_Item]) -> None:
    try:
      if len(batch) == 1:
        batch[0].future.set_result(self._timed(batch[0].key, batch[0].inputs, batch[0].rows))
        return
      inputs = {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
      rows = sum(item.rows for item in batch)
      outputs = self._timed(batch[0].key, inputs, rows)
      if wrong := [name for name, value in outputs.items() if len(value) != rows]:
        raise ValueError(f"{wrong[0]} has {len(outputs[wrong[0]])} rows for {rows}")
    except Exception as error:
      if len(batch) == 1:
        batch[0].future.set_exception(error)
        return
      logging.warning("a batch of %d requests failed (%s); running them one by one", len(batch), error)
      for item in batch:
        self._serve([item])
      return
    start = 0
    for item in batch:
      item.future.set_result({name: value[start : start + item.rows] for name, value in outputs.items()})
      start += item.rows

  def _timed(self, key: Hashable, inputs: Arrays, rows: int) -> Arrays:
    start = time.monotonic()
    outputs = self._run(key, inputs)
    self._observe(rows, time.monotonic() - start)
    return outputs
