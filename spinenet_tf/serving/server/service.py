"""One model being served: which requests are let in, how they reach the network, and its life from loading to draining."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.requests import Request

from spinenet_tf.serving.server import rest
from spinenet_tf.serving.server.batching import Batcher
from spinenet_tf.serving.server.body import GONE
from spinenet_tf.serving.server.metrics import Metrics
from spinenet_tf.serving.server.model import IMAGE_BYTES, IMAGE_ERROR, Place, ServedModel
from spinenet_tf.serving.server.refusal import Refusal
from spinenet_tf.serving.server.settings import Settings

LOADING, AVAILABLE, UNLOADING = "LOADING", "AVAILABLE", "UNLOADING"
_PARSERS = 2  # threads that read and write JSON; more would only share the interpreter's lock


class Service:
  """State of a server.

  Attributes:
    place: the model's folder, name and version.
    settings: limits.
    metrics: counters.
    model: the loaded model, None while it loads.
    state: LOADING, AVAILABLE or UNLOADING, TensorFlow Serving's words.
  """

  def __init__(self, place: Place, settings: Settings):
    self.place, self.settings, self.metrics = place, settings, Metrics()
    self.model: ServedModel | None = None
    self.state = LOADING
    self._in_flight = 0
    self._alone = itertools.count()
    self._batcher = Batcher(
      self._run,
      max_batch=settings.max_batch,
      max_delay=settings.max_delay_ms / 1000,
      observe=self.metrics.observe_batch,
    )
    self._parsers = ThreadPoolExecutor(_PARSERS, "json")
    self.metrics.watch(lambda: self._in_flight, lambda: self._batcher.waiting, lambda: self.state == AVAILABLE)

  def start(self, model: ServedModel) -> None:
    """Takes requests for a loaded model from now on."""
    self.metrics.describe(name=self.place.name, version=str(self.place.version), task=str(model.info.get("task", "")))
    self.model, self.state = model, AVAILABLE

  def stop_taking(self) -> None:
    """Refuses requests from now on; those in flight go on."""
    self.state = UNLOADING

  def close(self) -> None:
    """Finishes what is queued and ends the threads."""
    self.stop_taking()
    self._batcher.close()
    self._parsers.shutdown()

  @contextlib.contextmanager
  def admitted(self) -> Iterator[ServedModel]:
    """Counts a request in and out.

    Yields: the model.
    Raises: Refusal 503 while loading or draining, and when too many requests are in flight.
    """
    if self.model is None or self.state != AVAILABLE:
      raise Refusal(503, f"the model is {self.state}; try again later", retry_after=5, close=True)
    if self._in_flight >= self.settings.max_queue:
      raise Refusal(
        503, f"{self._in_flight} requests are being served, which is the most: try again", retry_after=1, close=True
      )
    self._in_flight += 1
    try:
      yield self.model
    finally:
      self._in_flight -= 1

  async def in_parser(self, work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs Python code that takes long in a thread, so that the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(self._parsers, work, *arguments)

  def parse(self, body: bytes) -> rest.Call:
    """Understands and checks a predict request. Raises: Refusal."""
    assert self.model is not None
    call = rest.parse(body, self.model.signatures, self.settings.max_batch, self.settings.max_values)
    return self.check(call)

  def parse_picture(self, body: bytes) -> rest.Call:
    """Makes a request out of an encoded picture. Raises: Refusal."""
    assert self.model is not None
    if IMAGE_BYTES not in self.model.signatures:
      raise Refusal(404, f"the model has no signature {IMAGE_BYTES}, so it takes no encoded pictures")
    picture = np.empty(1, object)
    picture[0] = body
    return self.check(rest.Call(IMAGE_BYTES, {IMAGE_BYTES: picture}, 1, by_row=False))

  def check(self, call: rest.Call) -> rest.Call:
    """Looks at the pictures of a request and at the size of its answer. Raises: Refusal."""
    assert self.model is not None
    self._check_size(self.model.signatures[call.signature].answer_values(call.rows))
    call.errors = self.model.check_pictures(call.signature, call.inputs, self.settings.max_pixels)
    return call

  async def run(self, call: rest.Call, request: Request) -> dict[str, np.ndarray]:
    """Takes a request through the network, in a batch with others.

    Args:
      call: checked.
      request: its body is read; when its client leaves before its turn, it is not run.

    Returns: name to array, of the request's rows; `image_error` holds the reasons of pictures taken out before.

    Raises: Refusal.
    """
    assert self.model is not None
    is_batched = self.model.signatures[call.signature].batched
    shapes = tuple(value.shape[1:] for value in call.inputs.values()) if is_batched else next(self._alone)
    future = asyncio.wrap_future(self._batcher.submit((call.signature, shapes), call.inputs, call.rows))
    outputs = await _unless_gone(future, request)
    self._check_size(sum(value.size for value in outputs.values()))
    return self._with_errors(call, outputs)

  def _run(self, key: Hashable, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    assert self.model is not None
    return self.model.run(key[0], inputs)

  def _with_errors(self, call: rest.Call, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if IMAGE_ERROR not in outputs:
      return dict(outputs)
    errors = outputs[IMAGE_ERROR].astype(object)
    for row, reason in call.errors.items():
      errors[row] = reason.encode()
    failed = [row for row, error in enumerate(errors.tolist()) if error]
    self.metrics.pictures_failed.inc(len(failed))
    if len(failed) == len(errors):
      reason = errors[failed[0]].decode(errors="replace")
      raise Refusal(400, f"no picture could be read: {reason}" if len(errors) > 1 else reason)
    return {**outputs, IMAGE_ERROR: errors}

  def _check_size(self, values: int) -> None:
    if values > (most := self.settings.max_values):
      raise Refusal(
        400, f"the answer would have {values} numbers, at most {most} are written as JSON: use fewer rows, or gRPC"
      )


async def _unless_gone(future: asyncio.Future, request: Request) -> Any:
  """Waits for a result, or until the client has left; then the work is cancelled where it has not begun."""
  left = asyncio.ensure_future(request.receive())
  try:
    await asyncio.wait({future, left}, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
      raise Refusal(GONE, "the client left", close=True)
    return future.result()
  finally:
    left.cancel()
    future.cancel()
