"""What surrounds every request: which hosts may be named, headers of every answer, counting."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spinenet_tf.serving.server.metrics import Metrics

# The page needs its own script, style, API, and pictures that the person picked; nothing from elsewhere may be fetched.
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
  (b"content-security-policy", POLICY.encode()),
  (b"x-content-type-options", b"nosniff"),
  (b"referrer-policy", b"no-referrer"),
  (b"cache-control", b"no-store"),
  (b"cross-origin-resource-policy", b"same-origin"),
)


class Shell:
  """ASGI application around another.

  A page in somebody's browser can reach a server on that person's own machine by a name of its own (DNS rebinding); the
  Host header gives it away, so hosts are checked. There is no CORS: pages of other origins cannot read answers.
  """

  def __init__(self, app: ASGIApp, metrics: Metrics, allowed_hosts: tuple[str, ...]):
    self._app, self._metrics = app, metrics
    self._hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Serves one request."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    start, code = time.monotonic(), 500

    async def send_on(message: Message) -> None:
      nonlocal code
      if message["type"] == "http.response.start":
        code = message["status"]
        message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
      await send(message)

    try:
      host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
      if self._hosts and host and _without_port(host) not in self._hosts:
        await _refuse(send_on, host)
      else:
        await self._app(scope, receive, send_on)
    finally:
      endpoint: Any = scope.get("endpoint")
      self._metrics.observe_request(getattr(endpoint, "__name__", "other"), code, time.monotonic() - start)


def _without_port(host: str) -> str:
  host = host.lower()
  return host[1:].split("]")[0] if host.startswith("[") else host.split(":")[0]


async def _refuse(send: Send, host: str) -> None:
  reason = f"Host {host[:100]!r} is not one of this server's names; start it with --allowed_hosts to add it"
  headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
  await send({"type": "http.response.start", "status": 403, "headers": headers})
  await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})
