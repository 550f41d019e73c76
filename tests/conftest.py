"""Shared fixtures: where the real images lie, and a quiet TensorFlow."""

import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The checkout."""
  return ROOT


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """Folder with real data sets (`bccd`, `coco_sample`); skips, saying so, where there is none."""
  path = pathlib.Path(os.environ.get("SPINENET_TF_TEST_DATA", ROOT.parent / "shared" / "data"))
  if not path.is_dir():
    pytest.skip(f"no real images: {path} is not a folder; set SPINENET_TF_TEST_DATA")
  return path


@pytest.fixture(autouse=True, scope="module")
def _models_freed():
  """What a file built is freed at its end: otherwise a process grows by gigabytes, and TensorFlow slows down with it."""
  from spinenet_tf.compat import forgotten

  with forgotten():
    yield


@pytest.fixture(autouse=True)
def _direct_convolutions():
  """What a test switches on for computing on a CPU is off in the next."""
  yield
  if winograd := sys.modules.get("spinenet_tf.ops.winograd"):
    winograd.enable(False)
