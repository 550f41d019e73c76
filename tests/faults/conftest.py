"""The small data set of the training tests."""

import pytest

from spinenet_tf.data.synthetic import prepare_synthetic


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
  """Folder with 12 training and 4 validation images of 128 pixels."""
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=12, val=4, size=128)
  return folder
