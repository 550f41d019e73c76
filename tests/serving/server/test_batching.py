"""Requests that go through the network together get their own answers."""

import concurrent.futures
import threading

import numpy as np
import pytest

from spinenet_tf.serving.server.batching import Batcher
from spinenet_tf.serving.server.settings import Settings
from tests.serving.server.client import b64, picture, running, scores_of


class Held:
  """A network that doubles numbers, and can be held: then requests gather behind the one that runs."""

  def __init__(self):
    self.go, self.started, self.batches = threading.Event(), threading.Event(), []
    self.go.set()

  def __call__(self, key, inputs):
    self.started.set()
    self.go.wait(30)
    self.batches.append((key, inputs["x"].tolist()))
    if np.any(inputs["x"] < 0):
      raise ValueError("negative")
    return {"y": inputs["x"] * 2}

  def hold(self, batcher):
    """Has a request of its own occupy the network."""
    self.go.clear()
    self.started.clear()
    first = batcher.submit("held", {"x": np.zeros(1)}, 1)
    self.started.wait(30)
    self.batches.clear()
    return first


@pytest.fixture
def held():
  network = Held()
  batcher = Batcher(network, max_batch=4, max_delay=0.001)
  yield network, batcher
  network.go.set()
  batcher.close()


def _submit(batcher, *values, key="a"):
  return batcher.submit(key, {"x": np.array(values, np.float64)}, len(values))


def test_what_gathers_is_run_together_and_split_again(held):
  network, batcher = held
  network.hold(batcher)
  futures = [_submit(batcher, 1), _submit(batcher, 2, 3), _submit(batcher, 4)]
  assert batcher.waiting == 3
  network.go.set()
  assert [future.result(30)["y"].tolist() for future in futures] == [[2], [4, 6], [8]]
  assert network.batches[1:] == [("a", [1, 2, 3, 4])]


def test_no_batch_is_larger_than_allowed_and_order_is_kept(held):
  network, batcher = held
  network.hold(batcher)
  futures = [_submit(batcher, 1, 1, 1), _submit(batcher, 2, 2), _submit(batcher, 3)]
  network.go.set()
  concurrent.futures.wait(futures, 30)
  assert network.batches[1:] == [("a", [1, 1, 1]), ("a", [2, 2, 3])]


def test_keys_are_not_mixed(held):
  network, batcher = held
  network.hold(batcher)
  futures = [_submit(batcher, 1, key="a"), _submit(batcher, 2, key="b"), _submit(batcher, 3, key="a")]
  network.go.set()
  assert [future.result(30)["y"].tolist() for future in futures] == [[2], [4], [6]]
  assert network.batches[1:] == [("a", [1, 3]), ("b", [2])]


def test_a_bad_request_fails_alone(held):
  network, batcher = held
  network.hold(batcher)
  good, bad, other = _submit(batcher, 1), _submit(batcher, -1), _submit(batcher, 3)
  network.go.set()
  assert good.result(30)["y"].tolist() == [2] and other.result(30)["y"].tolist() == [6]
  with pytest.raises(ValueError, match="negative"):
    bad.result(30)


def test_a_cancelled_request_is_not_run(held):
  network, batcher = held
  network.hold(batcher)
  stays, leaves = _submit(batcher, 1), _submit(batcher, 2)
  assert leaves.cancel()
  network.go.set()
  assert stays.result(30)["y"].tolist() == [2]
  assert network.batches[1:] == [("a", [1])]


def test_closing_finishes_what_is_queued(held):
  network, batcher = held
  network.hold(batcher)
  futures = [_submit(batcher, i) for i in range(6)]
  threading.Timer(0.05, network.go.set).start()
  batcher.close()
  assert [future.result(0)["y"].tolist() for future in futures] == [[2 * i] for i in range(6)]
  with pytest.raises(RuntimeError, match="closed"):
    _submit(batcher, 1)


def test_a_lone_request_waits_no_longer_than_it_has_to():
  network = Held()
  batcher = Batcher(network, max_batch=2, max_delay=3600)
  futures = [_submit(batcher, 1), _submit(batcher, 2)]  # a full batch does not wait for the hour to pass
  assert [future.result(30)["y"].tolist() for future in futures] == [[2], [4]]
  batcher.close()


def _ask(client, i):
  """One of several kinds of request. Returns: whether the answer is that to this request."""
  colour = (40 + 5 * (i % 40), 30 + 3 * (i % 60), 60 + 7 * (i % 25))
  size = (8 + i % 5, 6 + i % 7)
  if i % 3 == 2:
    pixels = np.full([1, size[1], size[0], 3], colour, np.uint8)
    document = {"instances": pixels.tolist()}
  elif i % 7 == 3:
    document = {"signature_name": "image_bytes", "instances": [b64(b"bad"), b64(picture(colour, size))]}
  else:
    document = {"signature_name": "image_bytes", "instances": [b64(picture(colour, size))]}
  status, _, answer = client.predict(document)
  row = answer["predictions"][-1]
  np.testing.assert_allclose(row["detection_scores"], scores_of(colour), rtol=1e-6)
  assert row["detection_boxes"][0] == [0, 0, size[1], size[0]]
  return status == 200 and len(answer["predictions"]) == len(document["instances"])


def test_many_clients_get_their_own_answers(toy):
  with running(toy.place, Settings(max_batch=8, max_delay_ms=20), toy) as (client, service):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      assert all(pool.map(lambda i: _ask(client, i), range(160)))
    text = service.metrics.text().decode()
    runs = float(next(line for line in text.splitlines() if line.startswith("spinenet_batch_rows_count")).split()[1])
    assert runs < 160  # some went together


def _wait(client, seconds):
  return client.predict({"signature_name": "wait", "instances": [seconds]})


def test_a_full_queue_says_when_to_come_back(toy):
  with running(toy.place, Settings(max_queue=2, max_batch=1), toy) as (client, service):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      futures = [pool.submit(_wait, client, 1.0) for _ in range(2)]
      while service._in_flight < 2:
        pass
      status, headers, answer = _wait(client, 0.0)
      assert status == 503 and headers["Retry-After"] == "1" and "2 requests" in answer["error"]
      assert client.get("/healthz")[0] == 200  # the event loop goes on while the network runs
      assert [future.result()[0] for future in futures] == [200, 200]
    assert _wait(client, 0.0)[0] == 200


def test_who_leaves_is_not_served(toy):
  with running(toy.place, Settings(max_batch=1), toy) as (client, service):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      first = pool.submit(_wait, client, 1.5)
      while service._in_flight < 1:
        pass
      with pytest.raises(TimeoutError):
        document = '{"signature_name": "wait", "instances": [60]}'
        client.request("POST", "/v1/models/toy:predict", document, timeout=0.3)
      assert first.result()[0] == 200
    assert _wait(client, 0.0)[0] == 200  # and not a minute later
    assert b'spinenet_requests_total{code="499",route="predict"} 1.0' in service.metrics.text()
