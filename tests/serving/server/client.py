"""A client that says what it wants, byte by byte where a test needs that, and a server in a thread."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import time

import numpy as np
import uvicorn
from PIL import Image

from spinenet_tf.serving.server.app import create_app
from spinenet_tf.serving.server.service import Service


class Client:
  """Requests to one server, each on a connection of its own."""

  def __init__(self, port: int, name: str = "toy"):
    self.port, self.name = port, name

  def request(self, method: str, path: str, body=None, headers=None, timeout=60):
    """Returns: status, headers, body; JSON is parsed."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
    try:
      connection.request(method, path, body, headers or {})
      response = connection.getresponse()
      content = response.read()
      is_json = response.headers.get_content_type() == "application/json"
      return response.status, response.headers, json.loads(content) if is_json else content
    finally:
      connection.close()

  def get(self, path: str):
    return self.request("GET", path)

  def predict(self, document, version=""):
    body = document if isinstance(document, (bytes, str)) else json.dumps(document)
    return self.request("POST", f"/v1/models/{self.name}{version}:predict", body)

  def raw(self, data: bytes, timeout=10) -> bytes:
    """Sends bytes as they are. Returns: all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
      connection.sendall(data)
      parts = []
      with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
          parts.append(part)
      return b"".join(parts)


@contextlib.contextmanager
def running(place, settings, model=None):
  """Serves in a thread of this process. Yields: a `Client` and the `Service`."""
  service = Service(place, settings)
  bound = socket.socket()
  bound.bind(("127.0.0.1", 0))
  config = uvicorn.Config(create_app(service), log_level="critical", lifespan="off", http="h11", ws="none")
  server = uvicorn.Server(config)
  thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True)
  port = bound.getsockname()[1]
  thread.start()
  while not server.started:
    time.sleep(0.01)
  if model is not None:
    service.start(model)
  try:
    yield Client(port, place.name), service
  finally:
    server.should_exit = True
    thread.join(30)
    service.close()


def picture(colour=(200, 100, 50), size=(24, 16), kind="PNG", **options) -> bytes:
  """Returns an encoded picture of one colour; size is (width, height)."""
  stream = io.BytesIO()
  Image.new("RGB", size, colour).save(stream, kind, **options)
  return stream.getvalue()


def b64(data: bytes) -> dict:
  """Returns bytes as JSON takes them."""
  return {"b64": base64.b64encode(data).decode()}


def scores_of(colour) -> np.ndarray:
  """Returns the toy's scores for a picture of one colour."""
  values = np.sort(np.float32(colour))[::-1] / np.float32(255)
  return np.where(values >= 0.1, values, 0)
