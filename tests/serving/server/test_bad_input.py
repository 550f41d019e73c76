"""Whatever a client sends: a 4xx that says why, and the next good request is served."""

import json
import struct
import zlib

import numpy as np
import pytest

from spinenet_tf.serving.server.settings import Settings
from tests.serving.server.client import b64, picture, running


def _png_header(width, height):
  """A PNG file that claims a size and has no pixels."""
  header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
  return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def _jpeg_header(width, height):
  """A JPEG picture whose header is changed to claim a size."""
  data = bytearray(picture(kind="JPEG"))
  at = data.index(b"\xff\xc0") + 5
  data[at : at + 4] = struct.pack(">HH", height, width)
  return bytes(data)


def _images(*instances, **more):
  return {"signature_name": "image_bytes", "instances": [b64(data) for data in instances], **more}


DEEP = "[" * 100_000
ROW = np.zeros([2, 2, 3], int).tolist()
TABLE = {
  "no JSON": ("{", 400, "not JSON"),
  "no UTF-8": (b'{"instances": "\xff"}', 400, "not JSON in UTF-8"),
  "no object": ("[1]", 400, "not a JSON object"),
  "empty body": ("", 400, "body is empty"),
  "deep": ('{"instances": ' + DEEP, 400, "not"),
  "deeper than asked": ({"instances": [[[[[[1]]]]]]}, 400, "deeper than 4"),
  "NaN": ('{"signature_name": "half", "instances": [NaN]}', 400, "NaN"),
  "Infinity": ('{"signature_name": "half", "instances": [-Infinity]}', 400, "finite"),
  "overflow": ('{"signature_name": "half", "instances": [1e39]}', 400, "not finite"),
  "huge number": ('{"signature_name": "half", "instances": [' + "9" * 400 + "]}", 400, "too large"),
  "longer number": ('{"signature_name": "half", "instances": [' + "9" * 9000 + "]}", 400, ""),
  "neither": ({"signature_name": "half"}, 400, "either instances"),
  "both": ({"instances": [1], "inputs": [1]}, 400, "either instances"),
  "misspelt": ({"instnaces": [ROW]}, 400, "either instances"),
  "unknown signature": ({"signature_name": "detect", "instances": [1]}, 400, "has half"),
  "signature no text": ({"signature_name": [1], "instances": [1]}, 400, "unknown signature_name"),
  "instances no list": ({"instances": {"images": [ROW]}}, 400, "must be a list"),
  "empty batch": ({"instances": []}, 400, "empty"),
  "empty column": ({"inputs": {"images": []}}, 400, "batch is empty"),
  "empty rows": ({"inputs": [[], []]}, 400, "length 0"),
  "wrong rank": ({"instances": ROW}, 400, "rank 3"),
  "no list": ({"instances": [5]}, 400, "rank 1"),
  "wrong channels": ({"instances": [[[[0, 0]]]]}, 400, "shape [1, 1, 1, 2]"),
  "ragged": ({"instances": [[[[0, 0, 0]], [[0, 0]]]]}, 400, "lengths from 2 to 3"),
  "mixed": ({"instances": [[[[0, 0, 0]], 1]]}, 400, "mixed"),
  "decimals": ({"instances": [[[[0.5, 0, 0]]]]}, 400, "the number 0.5"),
  "text for numbers": ({"instances": [[[["a", 0, 0]]]]}, 400, "a string 'a'"),
  "null": ({"instances": [[[[None, 0, 0]]]]}, 400, "null"),
  "true for a number": ({"signature_name": "half", "instances": [True]}, 400, "true or false True"),
  "out of range": ({"instances": [[[[256, 0, 0]]]]}, 400, "256 was given, which is not in [0, 255]"),
  "negative": ({"instances": [[[[-1, 0, 0]]]]}, 400, "-1 was given"),
  "an object": ({"signature_name": "half", "inputs": [{}]}, 400, "an object"),
  "too many rows": ({"signature_name": "half", "instances": [1] * 5}, 400, "at most 4"),
  "unequal rows": (
    {"signature_name": "several", "inputs": {"signal": [[1, 2]], "tag": ["a", "b"]}},
    400,
    "different numbers of rows",
  ),
  "unknown input": ({"signature_name": "half", "inputs": {"z": [1]}}, 400, "takes x"),
  "missing input": ({"signature_name": "several", "instances": [{"tag": "a"}]}, 400, "takes signal, tag"),
  "no names": ({"signature_name": "several", "inputs": [1]}, 400, "must be an object"),
  "some names": ({"signature_name": "half", "instances": [{"x": 1}, 2]}, 400, "instance 1 has no names"),
  "rows of a total": ({"signature_name": "total", "instances": [1.0]}, 400, "no row for each instance"),
  "bad base64": ({"signature_name": "image_bytes", "instances": [{"b64": "a*c="}]}, 400, "no base64"),
  "base64 cut": ({"signature_name": "image_bytes", "instances": [{"b64": "abcde"}]}, 400, "no base64"),
  "base64 no text": ({"signature_name": "image_bytes", "instances": [{"b64": 5}]}, 400, "neither"),
  "half a character": ('{"signature_name": "image_bytes", "instances": ["\\ud800"]}', 400, "no valid text"),
  "number for bytes": ({"signature_name": "image_bytes", "instances": [7]}, 400, "the number 7"),
  "no picture": (_images(b"hello"), 400, "not a JPEG, PNG, GIF or BMP"),
  "empty picture": (_images(b""), 400, "empty"),
  "no pictures": (_images(b"hello", b"world"), 400, "picture 0: not"),
  "cut picture": (_images(picture(size=(80, 80), kind="JPEG")[:-300]), 400, "truncated"),
  "cut header": (_images(picture(kind="JPEG")[:12]), 400, "ends within its header"),
  "huge PNG": (_images(_png_header(50_000, 50_000)), 413, "2500000000 pixels"),
  "huge JPEG": (_images(_jpeg_header(50_000, 50_000)), 413, "at most 1000000"),
  "largest PNG": (_images(_png_header(2**32 - 1, 2**32 - 1)), 413, "pixels"),
  "PNG without size": (_images(_png_header(0, 5)), 400, "0x5"),
  "no example": ({"signature_name": "tf_example", "instances": ["text"]}, 400, "Example"),
  "empty example": ({"signature_name": "tf_example", "instances": [""]}, 400, "0 values in image/encoded"),
  "the model refuses": ({"signature_name": "picky", "instances": [50.0]}, 400, "above ten"),
}


def _is_served(client):
  return client.predict({"signature_name": "half", "instances": [1.0]})[::2] == (200, {"predictions": [2.5]})


@pytest.mark.parametrize("case", TABLE)
def test_bad_requests_are_told_why(client, case):
  body, code, reason = TABLE[case]
  status, _, answer = client.predict(body)
  assert (status, set(answer)) == (code, {"error"}), answer
  assert reason in answer["error"] and len(answer["error"]) < 400
  assert _is_served(client)


@pytest.mark.parametrize(
  ("method", "path", "code", "reason"),
  [
    ("POST", "/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
    ("POST", "/v1/models/toy/versions/2:predict", 404, "Servable not found for request: Specific(toy, 2)"),
    ("GET", "/v1/models/other", 404, "Servable not found"),
    ("GET", "/v1/models/toy/versions/x", 404, "Specific(toy, x)"),
    ("POST", "/v1/models/toy:classify", 405, "Method Not Allowed"),
    ("GET", "/v1/models/toy:predict", 404, "Servable not found"),
    ("GET", "/v2", 404, "Not Found"),
    ("DELETE", "/v1/models/toy", 405, "Method Not Allowed"),
    ("POST", "/v1/models/toy:image?min_score=2", 400, "no number from 0 to 1"),
    ("POST", "/v1/models/toy:image?min_score=nan", 400, "no number from 0 to 1"),
    ("POST", "/v1/models/toy:image", 400, "not a JPEG"),
  ],
)
def test_wrong_paths(client, method, path, code, reason):
  status, _, answer = client.request(method, path, b"{}" if method == "POST" else None)
  assert status == code and reason in answer["error"]


def test_a_claimed_gigabyte_is_refused_before_it_is_read(client):
  answer = client.raw(b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n{")
  assert answer.startswith(b"HTTP/1.1 413") and b"1000000000 bytes, at most 1048576" in answer
  assert _is_served(client)


def test_a_chunked_body_is_cut_at_the_limit(client):
  head = b"POST /v1/models/toy:image HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
  answer = client.raw(head + b"100001\r\n" + b"x" * 0x100001)
  assert answer.startswith(b"HTTP/1.1 413")
  assert _is_served(client)


def test_a_body_that_does_not_come_is_given_up(client):
  answer = client.raw(b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{")
  assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 2 seconds" in answer
  assert _is_served(client)


@pytest.mark.parametrize(
  "head",
  [
    b"GARBAGE\r\n\r\n",
    b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
  ],
)
def test_what_is_no_http(client, head):
  assert client.raw(head).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
  assert _is_served(client)


def test_compressed_bodies_are_refused(client):
  status, _, answer = client.request("POST", "/v1/models/toy:predict", b"x", {"Content-Encoding": "gzip"})
  assert status == 415 and "gzip" in answer["error"]


def test_documents_and_answers_of_too_many_values_are_refused(toy):
  with running(toy.place, Settings(max_values=30), toy) as (client, _):
    status, _, answer = client.predict(_images(picture(), picture()))
    assert status == 400 and "40 numbers, at most 30" in answer["error"]
    assert client.predict(_images(picture()))[0] == 200
    status, _, answer = client.predict({"instances": np.zeros([1, 4, 4, 3], int).tolist()})
    assert status == 413 and "values, at most 30 are parsed" in answer["error"]
    assert _is_served(client)


def test_before_the_model_is_loaded_and_after_it_is_put_away(toy):
  with running(toy.place, Settings(), None) as (client, service):
    for state in ("LOADING", "UNLOADING"):
      status, headers, answer = client.predict({"signature_name": "half", "instances": [1.0]})
      assert status == 503 and state in answer["error"] and headers["Retry-After"] == "5"
      assert client.get("/readyz")[0] == 503
      assert client.get("/healthz")[0] == 200
      assert json.dumps(client.get("/v1/models/toy")[2]).count(state) == 1
      service.start(toy)
      assert client.get("/readyz")[0] == 200
      service.stop_taking()
