"""Captions: sizes, bars, text that does not fit, bad input."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from spinenet_tf.errors import UserError
from spinenet_tf.visualize.captions import caption, percentage
from spinenet_tf.visualize.picture import fit, shorten

BLUE = (0, 114, 178)


def picture(height, width, value=200):
  return np.full((height, width, 3), value, np.uint8)


def bars(image, height):
  """Widths of the bar of the first line, in a row of pixels that text does not reach."""
  pixels = np.asarray(image)
  return int((pixels[height + 7] == BLUE).all(-1).sum())


def test_the_picture_stays_and_bars_are_as_long_as_probable():
  got = caption(picture(300, 480), ["cat", "dog"], [1.0, 0.0])
  assert got.width == 480 and 300 < got.height < 400
  assert (np.asarray(got)[:300] == 200).all()
  whole, half = (bars(caption(picture(300, 480), ["cat"], [score]), 300) for score in (1.0, 0.5))
  assert 460 <= whole <= 480 and abs(half - whole / 2) <= 1


def test_lines_take_room_and_none_is_none():
  heights = [caption(picture(100, 300), ["x"] * n, [0.1] * n).height for n in range(4)]
  assert heights[0] < 120 and len(set(np.diff(heights))) == 1


def test_small_and_narrow_pictures_get_room_for_names():
  assert caption(picture(20, 40), ["cat"], [0.5], min_size=320).size[0] == 320
  narrow = caption(picture(400, 10), ["cat"], [0.5])
  assert narrow.width == 240 and (np.asarray(narrow)[:400, 115:125] == 200).all()


def test_long_names_are_shortened_before_the_number():
  long = np.asarray(caption(picture(50, 240), ["A" * 200], [0.5]))
  short = np.asarray(caption(picture(50, 240), ["A"], [0.5]))
  np.testing.assert_array_equal(long[:, -34:], short[:, -34:])
  font = ImageFont.load_default(size=13)
  assert shorten("cat", font, 100) == "cat" and shorten("c" * 99, font, 50).endswith("…")


@pytest.mark.parametrize(("score", "text"), [(0.9312, "93%"), (0.042, "4.2%"), (0.0004, "<0.1%"), (1.0, "100%")])
def test_percentages(score, text):
  assert percentage(score) == text


def test_fit():
  assert fit(Image.new("RGB", (100, 50)), 320, 320).size == (320, 160)
  assert fit(Image.new("RGB", (1, 4000)), 320, 320).size == (1, 320)


def test_bad_input():
  with pytest.raises(UserError, match="2 names and 1 scores"):
    caption(picture(9, 9), ["a", "b"], [0.5])
  with pytest.raises(UserError, match="cannot be drawn on"):
    caption(np.zeros((9, 9, 3)), [], [])
