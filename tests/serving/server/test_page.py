"""The page in headless Chromium: a photo is picked, sent, drawn and listed."""

import numpy as np
import pytest

from spinenet_tf.serving.server.model import Place, ServedModel
from spinenet_tf.serving.server.settings import Settings
from spinenet_tf.serving.server.signatures import Signature, TensorSpec
from tests.serving.server.browser import chromium
from tests.serving.server.client import picture, running

LIST = "return [...document.querySelectorAll('#found .name')].map((item) => item.textContent)"
SIZE = "const c = document.getElementById('canvas'); return [c.width, c.height]"
PIXEL = (
  "return [...document.getElementById('canvas').getContext('2d').getImageData(...arguments, 1, 1).data].slice(0, 3)"
)
SLIDE = "const s = document.getElementById('score'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  with chromium(tmp_path_factory.mktemp("browser")) as browser:
    yield browser


@pytest.fixture
def page(browser, client):
  browser.open(f"http://127.0.0.1:{client.port}/")
  browser.log()
  return browser


class Fake(ServedModel):
  """Says the same of every picture."""

  def __init__(self, outputs):
    self.place, self.info, self.names = Place("", "fake", 1), {}, {1: "a <b>cell</b>", 2: "leaf"}
    self.outputs = outputs
    text = TensorSpec(np.dtype(object), (None,), "x:0", "DT_STRING")
    self.signatures = {"image_bytes": Signature({"image_bytes": text}, dict.fromkeys(outputs, text))}

  def run(self, signature, inputs):
    return self.outputs


def test_a_photo_is_drawn_and_listed(page, tmp_path):
  (tmp_path / "a.png").write_bytes(picture((200, 100, 50), size=(960, 640)))
  assert page.pick(tmp_path / "a.png").startswith("2 objects, in ")
  assert page.log() == []  # nothing that the page does is forbidden by its policy
  assert page.run(LIST) == ["red things", "green things"]
  assert page.run(SIZE) == [960, 640]
  assert page.run(PIXEL, 800, 600) == [200, 100, 50]  # the photo
  assert page.run(PIXEL, 240, 320) != [200, 100, 50]  # the lower edge of the second box
  page.run(SLIDE, "0.5")
  assert page.run("return document.getElementById('status').textContent").endswith("2 more below 0.50.")
  assert page.run(LIST) == ["red things"]
  assert page.run(PIXEL, 240, 320) == [200, 100, 50]
  page.run(SLIDE, "0")
  assert len(page.run(LIST)) == 3


def test_what_is_no_photo_is_told_and_the_next_photo_is_served(page, tmp_path):
  (tmp_path / "text.png").write_bytes(b"not a photo")
  assert page.pick(tmp_path / "text.png") == "This browser cannot read that file as a photo."
  (tmp_path / "large.png").write_bytes(picture(size=(1100, 1000)))
  assert "1100000 pixels (1100x1000), at most 1000000" in page.pick(tmp_path / "large.png")
  assert page.run("return document.getElementById('figure').hidden")
  (tmp_path / "a.png").write_bytes(picture())
  assert page.pick(tmp_path / "a.png").startswith("2 objects")


def test_a_photo_that_is_stored_turned_is_shown_upright(page, tmp_path):
  exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
  (tmp_path / "turned.jpg").write_bytes(picture((200, 100, 50), (960, 640), "JPEG", exif=exif))
  page.pick(tmp_path / "turned.jpg")
  assert page.run(SIZE) == [640, 960]
  plain = page.run(PIXEL, 400, 800)
  np.testing.assert_allclose(plain, [200, 100, 50], atol=4)
  # The second box is the upper left quarter of the upright photo: its right edge lies at 320, its lower one at 480.
  assert np.abs(np.subtract(page.run(PIXEL, 320, 240), plain)).max() > 20
  assert np.abs(np.subtract(page.run(PIXEL, 160, 480), plain)).max() > 20


def test_a_small_photo_is_enlarged(page, tmp_path):
  (tmp_path / "small.png").write_bytes(picture((200, 100, 50), size=(24, 16)))
  page.pick(tmp_path / "small.png")
  assert page.run(SIZE) == [900, 600]
  assert page.run(PIXEL, 700, 500) == [200, 100, 50]
  assert page.run(PIXEL, 225, 300) != [200, 100, 50]  # the second box ends at half the photo


def test_a_format_that_only_the_browser_knows(page, tmp_path):
  (tmp_path / "a.webp").write_bytes(picture((200, 100, 50), (960, 640), "WEBP"))
  assert page.pick(tmp_path / "a.webp").startswith("2 objects")


def test_masks_are_pasted_into_their_boxes(browser, tmp_path):
  mask = np.zeros([1, 1, 28, 28], np.float32)
  mask[..., :14] = 1  # the left half of its box
  outputs = {
    "detection_boxes": np.float32([[[80, 160, 400, 800]]]),
    "detection_scores": np.float32([[0.9]]),
    "detection_classes": np.int64([[1]]),
    "num_detections": np.int32([1]),
    "detection_masks": mask,
    "image_error": np.array([b""], object),
  }
  model = Fake(outputs)
  (tmp_path / "a.png").write_bytes(picture((200, 200, 200), size=(960, 640)))
  with running(model.place, Settings(), model) as (client, _):
    browser.open(f"http://127.0.0.1:{client.port}/")
    assert browser.pick(tmp_path / "a.png").startswith("1 object,")
    assert browser.run(LIST) == ["a <b>cell</b>"]
    assert browser.run(PIXEL, 240, 240) == browser.run(PIXEL, 440, 240) != [200, 200, 200]
    for x, y in ((520, 240), (760, 240), (80, 240), (240, 480)):
      assert browser.run(PIXEL, x, y) == [200, 200, 200]


def test_classes_are_listed(browser, tmp_path):
  outputs = {
    "classes": np.int64([[2, 1]]),
    "scores": np.float32([[0.75, 0.25]]),
    "features": np.zeros([1, 4], np.float32),
    "image_error": np.array([b""], object),
  }
  model = Fake(outputs)
  (tmp_path / "a.png").write_bytes(picture())
  with running(model.place, Settings(), model) as (client, _):
    browser.open(f"http://127.0.0.1:{client.port}/")
    assert browser.pick(tmp_path / "a.png").startswith("leaf (0.750), in ")
    assert browser.run(LIST) == ["leaf", "a <b>cell</b>"]
    assert browser.run("return document.getElementById('controls').hidden")


def test_everything_has_a_name_for_those_who_hear_the_page(page):
  unnamed = page.run(
    "return [...document.querySelectorAll('input, canvas, section')]"
    ".filter((e) => !(e.labels && e.labels.length) && !e.getAttribute('aria-label')).length"
  )
  assert unnamed == 0
  assert page.run("return document.querySelector('[role=status]').getAttribute('aria-live')") == "polite"
  assert page.run("return document.documentElement.lang") == "en"
