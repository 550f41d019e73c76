"""`python -m spinenet_tf.serve` as a process: what it prints, how it ends."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.serving.server.model import Place
from spinenet_tf.serving.server.run import bind, serve
from spinenet_tf.serving.server.settings import Settings
from tests.serving.server.client import Client


@contextlib.contextmanager
def command(*arguments):
  """Starts the command. Yields: the process and a client, once the model is loaded."""
  line = [sys.executable, "-m", "spinenet_tf.serve", "--port=0", *arguments]
  environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
  process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
  drain = threading.Thread(target=process.stderr.read, daemon=True)
  drain.start()
  try:
    printed = []
    for text in process.stdout:
      printed.append(text)
      if found := re.search(r"page: http://127\.0\.0\.1:(\d+)/ ", text):
        break
    else:
      pytest.fail(f"the server ended: {printed}")
    yield process, Client(int(found[1]))
  finally:
    process.kill()
    process.wait()


def _wait(client, seconds):
  return client.predict({"signature_name": "wait", "instances": [seconds]})


def _until_in_flight(client):
  while b"spinenet_requests_in_flight 1.0" not in client.get("/metrics")[2]:
    pass


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new(toy_folder):
  with command(f"--model={toy_folder}") as (process, client), ThreadPoolExecutor(1) as pool:
    answer = pool.submit(_wait, client, 2.0)
    _until_in_flight(client)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(OSError):  # at first 503 may come from a connection that was already made
      while client.get("/readyz")[0] == 503:
        pass
    assert answer.result(30)[::2] == (200, {"predictions": [2.0]})
    assert process.wait(30) == 0
    assert process.stdout.read().splitlines()[-1] == "drained; bye"


@pytest.mark.slow
def test_a_second_signal_ends_at_once(toy_folder):
  with command(f"--model={toy_folder}", "--name=toy") as (process, client), ThreadPoolExecutor(1) as pool:
    answer = pool.submit(_wait, client, 600.0)
    _until_in_flight(client)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("draining")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    with pytest.raises((OSError, http.client.HTTPException)):
      answer.result(30)


def test_a_broken_model_is_told_and_ends_the_server(tmp_path):
  (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
  with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match=r"cannot be loaded \(.*; export the model again"):
    pool.submit(serve, Place.find(str(tmp_path)), Settings(), bind("127.0.0.1", 0)).result(60)


def test_folders_as_tensorflow_serving_has_them(tmp_path):
  for version in ("3", "20", "draft"):
    (tmp_path / "cells" / version).mkdir(parents=True)
    (tmp_path / "cells" / version / "saved_model.pb").touch()
  base = tmp_path / "cells"
  assert Place.find(str(base)) == Place(base / "20", "cells", 20)
  assert Place.find(str(base / "3")) == Place(base / "3", "cells", 3)
  assert Place.find(str(base / "draft")) == Place(base / "draft", "draft", 1)
  assert Place.find(str(base / "3"), "other") == Place(base / "3", "other", 3)


def test_what_cannot_be_served_is_told(tmp_path):
  with pytest.raises(UserError, match="is no folder; give a folder that"):
    Place.find(str(tmp_path / "none"))
  with pytest.raises(UserError, match=r"has no saved_model\.pb"):
    Place.find(str(tmp_path))
  (tmp_path / "saved_model.pb").touch()
  for name in ("a/b", "", "a b", "ü", "x" * 101, "a:predict"):
    with pytest.raises(UserError, match="does not fit into a URL"):
      Place.find(str(tmp_path), name)


@pytest.mark.parametrize(
  "wrong",
  [{"max_batch": 0}, {"max_queue": 0}, {"max_body_mb": 0}, {"max_delay_ms": -1}, {"read_timeout": float("nan")}],
)
def test_limits_out_of_range_are_told(wrong):
  with pytest.raises(UserError, match=f"--{next(iter(wrong))}=.*give a number from"):
    Settings(**wrong)


def test_a_port_in_use_is_told():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(.*in use"):
      bind("127.0.0.1", port)
  with pytest.raises(UserError, match="cannot listen on"):
    bind("no.such.host.invalid", 1)
