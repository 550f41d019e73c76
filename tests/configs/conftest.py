"""A data set and a gin configuration that is left empty behind each test."""

import gin
import pytest
from PIL import Image

from spinenet_tf.data.image_folder import prepare_images
from spinenet_tf.data.synthetic import prepare_synthetic


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
  """Folder with 12 training and 4 validation images of 128 pixels, 5 classes."""
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=12, val=4, size=128)
  return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
  """Folder with 6 training and 4 validation images of one colour, 2 classes."""
  folder = tmp_path_factory.mktemp("photos")
  for split, count in (("train", 3), ("val", 2)):
    for number, (name, color) in enumerate({"red": (200, 20, 20), "blue": (20, 20, 200)}.items()):
      place = folder / split / name
      place.mkdir(parents=True)
      for i in range(count):
        Image.new("RGB", (40, 30), tuple(c + 10 * i + number for c in color)).save(place / f"{i}.png")
    prepare_images(folder / split, folder / "data", split=split, workers=1)
  return folder / "data"


@pytest.fixture(autouse=True)
def empty_gin():
  """Empties gin's global configuration."""
  yield
  gin.clear_config()
