"""What the server allows: sizes, numbers, times."""

from __future__ import annotations

import dataclasses

from spinenet_tf.errors import UserError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True)
class Settings:
  """Limits of one server.

  Attributes:
    max_body_mb: largest body of a request, in MiB, whether its length is said ahead or not.
    max_pixels: largest height times width of one encoded picture; read from its header, before anything is decoded.
    max_batch: most rows in one request, and most rows that go through the network together.
    max_delay_ms: how long a request waits for others to share its batch, in milliseconds; 0 for not at all.
    max_queue: requests that are read, wait or run at one time; one more gets 503.
    max_values: most values in the JSON of one request, numbers and lists and strings together, and most numbers in one
      answer. A document is parsed at one go, during which nothing else of Python runs: this bounds for how long.
    read_timeout: seconds in which the body of a request has to arrive.
    drain_timeout: seconds that requests in flight get after SIGTERM.
    allowed_hosts: names that the Host header may give, without port; empty for any.

  Raises: UserError for a value out of range.
  """

  max_body_mb: float = 16
  max_pixels: int = 32_000_000
  max_batch: int = 8
  max_delay_ms: float = 5
  max_queue: int = 64
  max_values: int = 2_000_000
  read_timeout: float = 30
  drain_timeout: float = 30
  allowed_hosts: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name == "allowed_hosts":
        continue
      smallest = 0 if field.name == "max_delay_ms" else 1
      if field.name == "max_body_mb":
        smallest = 0.001
      if not smallest <= value < 2**40:
        raise UserError(f"--{field.name}={value} is out of range; give a number from {smallest} on")

  @property
  def max_body(self) -> int:
    """Largest body in bytes."""
    return int(self.max_body_mb * 2**20)
