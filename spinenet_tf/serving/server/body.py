"""Bodies of requests, as much of them as is allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from spinenet_tf.serving.server.refusal import Refusal

GONE = 499  # the client left; nobody reads the answer


async def read_body(request: Request, most: int, timeout: float) -> bytes:
  """Reads a body.

  Args:
    request: of which nothing has been read.
    most: largest size in bytes. A larger Content-Length is refused before anything is read, a body without one when it
      gets there.
    timeout: seconds in which it has to be here.

  Raises: Refusal 413 when too large, 408 when too slow, 415 when compressed, 400 when empty, 499 when the client left.
  """
  encoding = request.headers.get("content-encoding", "identity").lower()
  if encoding != "identity":
    raise Refusal(415, f"Content-Encoding {encoding[:30]!r} is not taken; send the body as it is", close=True)
  said = request.headers.get("content-length", "")
  if said.isdigit() and int(said) > most:
    raise Refusal(413, f"the body is said to have {int(said)} bytes, at most {most} are taken", close=True)
  try:
    body = await asyncio.wait_for(_read(request, most), timeout)
  except asyncio.TimeoutError as error:
    raise Refusal(408, f"the body did not arrive within {timeout:g} seconds", close=True) from error
  except ClientDisconnect as error:
    raise Refusal(GONE, "the client left", close=True) from error
  if not body:
    raise Refusal(400, "the body is empty")
  return body


async def _read(request: Request, most: int) -> bytes:
  parts, size = [], 0
  async for part in request.stream():
    parts.append(part)
    size += len(part)
    if size > most:
      raise Refusal(413, f"the body has more than {most} bytes, which is the most that is taken", close=True)
  return b"".join(parts)
