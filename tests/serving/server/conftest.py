"""The toy model, loaded once, and a server of it."""

import importlib.util
import warnings

import pytest

_MISSING = [name for name in ("fastapi", "prometheus_client", "uvicorn") if importlib.util.find_spec(name) is None]
if _MISSING:
  warnings.warn(
    f"tests/serving/server is left out: {', '.join(_MISSING)} missing, install the extra serve", stacklevel=1
  )
collect_ignore_glob = ["test_*.py"] if _MISSING else []


@pytest.fixture(scope="package")
def toy_folder(tmp_path_factory):
  from tests.serving.server.toy import export_toy

  return export_toy(tmp_path_factory.mktemp("served") / "toy")


@pytest.fixture(scope="package")
def toy(toy_folder):
  from spinenet_tf.serving.server.model import Place, ServedModel

  return ServedModel(Place.find(str(toy_folder)))


@pytest.fixture(scope="package")
def client(toy):
  from spinenet_tf.serving.server.settings import Settings
  from tests.serving.server.client import running

  settings = Settings(max_body_mb=1, max_pixels=1_000_000, max_batch=4, read_timeout=2, allowed_hosts=("127.0.0.1",))
  with running(toy.place, settings, toy) as (client, _):
    yield client
