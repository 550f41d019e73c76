"""Load on `python -m spinenet_tf.serve`: requests/s, latencies, wrong answers, memory; then malformed requests.

  python -m benchmarks.serving_load --model=exported/bccd --images=FOLDER [--clients=4] [--seconds=60] [--malformed=1000]
    [--route=predict|image] [further flags are the server's, such as --max_batch=1]

The server runs as a process of its own on loopback. Each client has one connection and asks again as soon as it is answered,
with another photo each time. Every answer is compared with what the SavedModel says of that photo alone, asked directly before
the server starts: as many detections, and each with one of the same class whose box differs by 0.1 pixels at most and whose
score by 1e-4 at most, since sums are rounded otherwise in a batch of another size. A request that is not answered with 200 is
wrong. Memory is the resident set of the server, read every second. Clients and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import itertools
import json
import pathlib
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np


def answers(model: str, photos: list[bytes]) -> list[dict[str, np.ndarray]]:
  """Returns what the SavedModel says of each photo alone."""
  import tensorflow as tf

  loaded = tf.saved_model.load(model)
  run = loaded.signatures["image_bytes"]
  rows = []
  for photo in photos:
    outputs = run(image_bytes=tf.constant([photo]))
    count = int(outputs["num_detections"][0])
    keys = {"box": "detection_boxes", "class": "detection_classes", "score": "detection_scores"}
    rows.append({key: outputs[name][0, :count].numpy() for key, name in keys.items()})
  return rows


def is_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
  """Tells whether two answers have the same detections, in whatever order equal scores stand."""
  if len(found["score"]) != len(expected["score"]):
    return False
  if not len(expected["score"]):
    return True
  near = np.abs(found["box"][:, None] - expected["box"][None]).max(-1) <= 0.1
  near &= found["class"][:, None] == expected["class"][None]
  near &= np.abs(found["score"][:, None] - expected["score"][None]) <= 1e-4
  return bool(near.any(0).all() and near.any(1).all())


def read_answer(body: bytes) -> dict[str, np.ndarray]:
  """Returns the detections of an answer of either route."""
  document = json.loads(body)
  if "detections" in document:
    rows = document["detections"]
    columns = {key: [row[key] for row in rows] for key in ("box", "class", "score")}
  else:
    row = document["predictions"][0]
    count = row["num_detections"]
    keys = {"box": "detection_boxes", "class": "detection_classes", "score": "detection_scores"}
    columns = {key: row[name][:count] for key, name in keys.items()}
  return {
    key: np.asarray(value).reshape(len(value), 4) if key == "box" else np.asarray(value)
    for key, value in columns.items()
  }


@contextlib.contextmanager
def server(model: str, flags: list[str]):
  """Starts the server. Yields: its process and its port."""
  line = [sys.executable, "-m", "spinenet_tf.serve", f"--model={model}", "--name=load", "--port=0", *flags]
  process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
  try:
    found = next(filter(None, (re.search(r"page: http://[^:]+:(\d+)/", text) for text in process.stdout)), None)
    if found is None:
      raise SystemExit(f"the server ended with code {process.wait()}")
    yield process, int(found[1])
    process.send_signal(signal.SIGTERM)
    print(f"SIGTERM: exit code {process.wait(60)}")
  finally:
    process.kill()


def resident(process: subprocess.Popen) -> float:
  """Returns the resident set in MiB."""
  text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
  return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


class Client(threading.Thread):
  """Asks until the time is over."""

  def __init__(self, port, path, bodies, expected, first, until):
    super().__init__()
    self.port, self.path, self.bodies, self.expected, self.first, self.until = (
      port,
      path,
      bodies,
      expected,
      first,
      until,
    )
    self.seconds: list[float] = []
    self.wrong: list[str] = []

  def run(self) -> None:
    """Asks for one photo after another, and keeps what was wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
    for i in itertools.count(self.first):
      start = time.monotonic()
      if start > self.until:
        break
      k = i % len(self.bodies)
      try:
        connection.request("POST", self.path, self.bodies[k])
        response = connection.getresponse()
        body = response.read()
      except (OSError, http.client.HTTPException) as error:
        self.wrong.append(repr(error))
        connection.close()
        continue
      self.seconds.append(time.monotonic() - start)
      if response.status != 200:
        self.wrong.append(f"{response.status}: {body[:200]!r}")
      elif not is_same(read_answer(body), self.expected[k]):
        self.wrong.append(f"photo {k}: another answer")


def load(process, port: int, path: str, bodies, expected, clients: int, seconds: float) -> None:
  """Runs the clients, and prints what they saw."""
  memory = [resident(process)]
  start = time.monotonic()
  threads = [Client(port, path, bodies, expected, i * 7, start + seconds) for i in range(clients)]
  for thread in threads:
    thread.start()
  while any(thread.is_alive() for thread in threads):
    time.sleep(1)
    memory.append(resident(process))
  took = time.monotonic() - start
  times = np.array([value for thread in threads for value in thread.seconds]) * 1000
  wrong = [text for thread in threads for text in thread.wrong]
  p50, p95, p99 = np.percentile(times, [50, 95, 99])
  print(f"{clients} clients for {took:.0f} s: {len(times)} requests, {len(times) / took:.1f} requests/s")
  print(f"latency ms: p50 {p50:.0f}   p95 {p95:.0f}   p99 {p99:.0f}   longest {times.max():.0f}")
  print(f"wrong answers: {len(wrong)} {wrong[:3] if wrong else ''}")
  parts = [memory[int(share * (len(memory) - 1))] for share in (0, 0.1, 0.25, 0.5, 0.75, 1)]
  print(
    "resident MiB at 0, 10, 25, 50, 75, 100 %: " + "  ".join(f"{part:.0f}" for part in parts),
    f"  most {max(memory):.0f}",
  )


def malformed(photo: bytes) -> list[tuple[str, str, bytes, dict[str, str]]]:
  """Returns kinds of bad requests: name, route, body, headers."""
  header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
  huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))

  def predict(data: bytes) -> bytes:
    return json.dumps(
      {"signature_name": "image_bytes", "instances": [{"b64": base64.b64encode(data).decode()}]}
    ).encode()

  return [
    ("not an image", "predict", predict(b"hello" * 20), {}),
    ("not an image, as the body", "image", b"hello" * 20, {}),
    ("truncated", "predict", predict(photo[: len(photo) // 2]), {}),
    ("truncated, as the body", "image", photo[: len(photo) // 2], {}),
    ("1 GB claimed", "predict", b"{", {"Content-Length": "1000000000"}),
    ("50,000 x 50,000 header", "predict", predict(huge), {}),
    ("wrong dtype", "predict", b'{"instances": [[[["a", "b", "c"]]]]}', {}),
    ("decimals for bytes", "predict", b'{"instances": [[[[0.5, 1, 2]]]]}', {}),
    ("wrong rank", "predict", b'{"instances": [[1, 2, 3]]}', {}),
    ("empty batch", "predict", b'{"instances": []}', {}),
    ("NaN", "predict", b'{"signature_name": "raw", "instances": [NaN]}', {}),
    ("no JSON", "predict", b'{"instances": [', {}),
    ("no base64", "predict", b'{"signature_name": "image_bytes", "instances": [{"b64": "***"}]}', {}),
    ("unknown signature", "predict", b'{"signature_name": "none", "instances": [1]}', {}),
  ]


def send_malformed(process, port: int, count: int, photo: bytes, good: bytes, expected) -> None:
  """Sends bad requests, good ones after each of the first and every tenth later, and prints what came back."""
  kinds = malformed(photo)
  codes: dict[str, dict[int, int]] = {kind[0]: {} for kind in kinds}
  reasons, failed, served, unserved, before = {}, [], 0, 0, resident(process)

  def ask(route: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
      connection.request("POST", f"/v1/models/load:{route}", body, headers)
      response = connection.getresponse()
      return response.status, response.read()
    finally:
      connection.close()

  for i in range(count):
    name, route, body, headers = kinds[i % len(kinds)]
    try:
      code, answer = ask(route, body, headers)
      reasons[name] = json.loads(answer)["error"]
      codes[name][code] = codes[name].get(code, 0) + 1
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
      failed.append(f"{name}: {error!r}")
    if i < 3 * len(kinds) or i % 10 == 0:
      code, answer = ask("predict", good, {})
      is_good = code == 200 and is_same(read_answer(answer), expected)
      served, unserved = served + is_good, unserved + (not is_good)
  for name, seen in codes.items():
    print(
      f"  {name:26s} {', '.join(f'{number} x {code}' for code, number in seen.items()):12s} {reasons.get(name, '')[:90]}"
    )
  refused = sum(number for seen in codes.values() for code, number in seen.items() if 400 <= code < 500)
  print(
    f"{count} malformed requests: {refused} answered 4xx with a reason, {len(failed)} without an answer {failed[:3]}"
  )
  print(f"good requests right after one: {served} served, {unserved} not")
  print(f"resident MiB before {before:.0f}, after {resident(process):.0f}; the server runs: {process.poll() is None}")


def main() -> None:
  """Runs both parts."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", required=True)
  parser.add_argument("--images", required=True)
  parser.add_argument("--count", type=int, default=20, help="photos")
  parser.add_argument("--clients", type=int, default=4)
  parser.add_argument("--seconds", type=float, default=60)
  parser.add_argument("--malformed", type=int, default=1000)
  parser.add_argument("--route", choices=("predict", "image"), default="predict")
  arguments, flags = parser.parse_known_args()

  files = sorted(path for path in pathlib.Path(arguments.images).rglob("*.jpg"))[: arguments.count]
  photos = [path.read_bytes() for path in files]
  expected = answers(arguments.model, photos)
  print(f"{len(photos)} photos, {np.mean([len(row['score']) for row in expected]):.0f} detections each")
  texts = [base64.b64encode(photo).decode() for photo in photos]
  encoded = [json.dumps({"signature_name": "image_bytes", "instances": [{"b64": text}]}).encode() for text in texts]
  bodies = encoded if arguments.route == "predict" else photos
  with server(arguments.model, flags) as (process, port):
    path = f"/v1/models/load:{arguments.route}"
    if arguments.seconds:
      load(process, port, path, bodies, expected, arguments.clients, arguments.seconds)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = dict(
      x.rsplit(" ", 1) for x in connection.getresponse().read().decode().splitlines() if x[:1] not in ("#", "")
    )
    connection.close()
    runs, rows = (float(lines[f"spinenet_batch_rows_{key}"]) for key in ("count", "sum"))
    print(f"rows that went through the network together: {rows / max(runs, 1):.2f} on average")
    if arguments.malformed:
      send_malformed(process, port, arguments.malformed, photos[0], encoded[0], expected[0])


if __name__ == "__main__":
  main()
