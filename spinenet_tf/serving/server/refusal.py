"""A request that is not served: the HTTP status, and the reason that the client reads."""

from __future__ import annotations


class Refusal(Exception):
  """Answered as `{"error": reason}`.

  Attributes:
    status: HTTP status, 4xx where the request is at fault, 503 where the server is busy or not ready.
    reason: the value seen, the rule it breaks, what to change.
    retry_after: seconds after which the same request may do, for 503.
    close: close the connection, because the rest of the body will not be read.
  """

  def __init__(self, status: int, reason: str, *, retry_after: int | None = None, close: bool = False):
    super().__init__(reason)
    self.status = status
    self.reason = reason
    self.retry_after = retry_after
    self.close = close

  @property
  def headers(self) -> dict[str, str]:
    """HTTP headers that belong to the answer."""
    headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
    return {**headers, "Connection": "close"} if self.close else headers


def shortened(value: object, length: int = 60) -> str:
  """Returns a value as it stands in a reason: never long, whatever the client sent."""
  text = repr(value[: 2 * length] if isinstance(value, (str, bytes, list)) else value)
  return text if len(text) <= length else f"{text[: length - 3]}..."
