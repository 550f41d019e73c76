"""A data set and a gin configuration that is left empty behind each test."""

import gin
import pytest

from spinenet_tf.data.synthetic import prepare_synthetic


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
  """Folder with 12 training and 4 validation images of 128 pixels, 5 classes."""
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=12, val=4, size=128)
  return folder


@pytest.fixture(autouse=True)
def empty_gin():
  """Empties gin's global configuration."""
  yield
  gin.clear_config()
