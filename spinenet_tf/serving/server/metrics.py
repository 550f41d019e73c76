"""What the server counts, in the text form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
  CollectorRegistry,
  Counter,
  Gauge,
  Histogram,
  Info,
  ProcessCollector,
  disable_created_metrics,
  generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
  """Counters of one server, apart from those of others in the process."""

  content_type = CONTENT_TYPE_LATEST

  def __init__(self) -> None:
    disable_created_metrics()  # one more line for each, which says when it was first counted
    self.registry = registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    self.requests = Counter(
      "spinenet_requests", "Requests answered; code 499 where the client left.", ["route", "code"], registry=registry
    )
    self.seconds = Histogram(
      "spinenet_request_seconds",
      "From the request's header to the end of its answer.",
      ["route"],
      buckets=_SECONDS,
      registry=registry,
    )
    self.batch_rows = Histogram(
      "spinenet_batch_rows", "Rows that went through the network together.", buckets=_ROWS, registry=registry
    )
    self.batch_seconds = Histogram(
      "spinenet_batch_seconds",
      "One run of the network, decoding and NMS included.",
      buckets=_SECONDS,
      registry=registry,
    )
    self.pictures_failed = Counter(
      "spinenet_pictures_failed", "Pictures answered with an image_error.", registry=registry
    )
    self.in_flight = Gauge("spinenet_requests_in_flight", "Requests read, waiting or running.", registry=registry)
    self.waiting = Gauge("spinenet_queue_requests", "Requests that wait for the network.", registry=registry)
    self.ready = Gauge("spinenet_ready", "1 while requests are served.", registry=registry)
    self._model = Info("spinenet_model", "The model served.", registry=registry)

  def watch(self, in_flight: Callable[[], float], waiting: Callable[[], float], ready: Callable[[], float]) -> None:
    """Has the gauges read whenever somebody asks."""
    self.in_flight.set_function(in_flight)
    self.waiting.set_function(waiting)
    self.ready.set_function(ready)

  def describe(self, **labels: str) -> None:
    """Sets what is said of the model."""
    self._model.info(labels)

  def observe_batch(self, rows: int, seconds: float) -> None:
    """Counts one run of the network."""
    self.batch_rows.observe(rows)
    self.batch_seconds.observe(seconds)

  def observe_request(self, route: str, code: int, seconds: float) -> None:
    """Counts one request."""
    self.requests.labels(route, str(code)).inc()
    self.seconds.labels(route).observe(seconds)

  def text(self) -> bytes:
    """Returns all of it as Prometheus reads it."""
    return generate_latest(self.registry)
