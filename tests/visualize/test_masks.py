"""Masks on pictures: fill, contour and rim where they should be, neighbours told apart, any size."""

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.masks import encode
from spinenet_tf.visualize.boxes import color, draw
from spinenet_tf.visualize.masks import draw_masks, luminance, shades

GREY = np.full((40, 60, 3), 100, np.uint8)
SQUARE = np.zeros((40, 60), bool)
SQUARE[10:20, 20:40] = True
GREEN = (0, 200, 0)


def painted(masks, colors=None, size=(60, 40), **more):
  picture = Image.fromarray(GREY).resize(size)
  return np.asarray(draw_masks(picture, masks, colors or [GREEN] * len(masks), **more)).astype(int)


def test_fill_contour_and_rim():
  pixels = painted([SQUARE])
  assert (pixels[10, 20:40] == GREEN).all() and (pixels[10:20, 39] == GREEN).all(), "contour within the mask"
  assert (pixels[11:19, 21:39] == [60, 140, 60]).all(), "two fifths of the colour"
  assert (pixels[9, 20:40] == 40).all() and (pixels[10:20, 40] == 40).all(), "dark rim outside"
  assert (pixels[:9] == 100).all() and (pixels[:, :19] == 100).all() and (GREY == 100).all()


def test_run_lengths_and_arrays_are_the_same():
  np.testing.assert_array_equal(painted(encode(SQUARE[None])), painted([SQUARE]))


def test_contours_alone():
  pixels = painted([SQUARE], fill=False)
  assert (pixels[11:19, 21:39] == 100).all() and (pixels[19, 20:40] == GREEN).all()


def test_the_first_lies_on_top_and_no_rim_on_a_neighbour():
  other = np.roll(SQUARE, 20, axis=1)  # begins where the first ends
  pixels = painted([SQUARE, other], [GREEN, (200, 0, 0)])
  assert (pixels[10:20, 39] == GREEN).all() and (pixels[10:20, 40] == (200, 0, 0)).all()
  pixels = painted([SQUARE, np.roll(SQUARE, 5, axis=1)], [GREEN, (200, 0, 0)])
  assert (pixels[10:20, 39] == GREEN).all()


def test_masks_grow_with_the_picture():
  pixels = painted([SQUARE], size=(180, 120), line=1)
  assert (pixels[30, 62:118] == GREEN).all() and (pixels[32:58, 119] == GREEN).all()
  assert (pixels[35:55, 65:115] == [60, 140, 60]).all() and (pixels[:28] == 100).all()
  corner = np.zeros((40, 60), bool)
  corner[:5, :5] = corner[35:, 55:] = True
  pixels = painted([corner], size=(97, 65))
  assert (pixels[0, 0] == GREEN).all() and (pixels[64, 96] == GREEN).all()


def test_broad_contours_leave_small_objects_visible():
  tiny = np.zeros((40, 60), bool)
  tiny[5:9, 5:9] = True
  assert (painted([tiny], line=5)[6:8, 6:8] == [60, 140, 60]).all()


@pytest.mark.parametrize("mask", [np.zeros((40, 60), bool), np.ones((40, 60), bool), np.eye(40, 60, dtype=bool)])
def test_any_mask(mask):
  pixels = painted([mask])
  assert (pixels[mask] != 100).any(axis=-1).all()
  assert painted([]).shape == (40, 60, 3)


def test_neighbours_get_different_shades():
  red, blue = (220, 30, 30), (30, 30, 220)
  boxes = np.array([[0, 0, 9, 9], [10, 0, 19, 9], [5, 10, 14, 19], [50, 50, 60, 60], [10, 0, 19, 9]])
  found = shades([red, red, red, red, blue], boxes)
  assert len(set(found[:3])) == 3, "all three touch each other"
  assert found[3] == found[0] and found[4] == shades([blue], boxes[:1])[0], "no neighbour of their colour"
  far = [max(abs(a - b) for a, b in zip(found[i], found[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
  assert min(far) > 30


def test_more_neighbours_than_shades():
  found = shades([color(1)] * 12, np.tile([0, 0, 9, 9], (12, 1)))
  assert sorted(found.count(shade) for shade in set(found)) == [2] * 6


def test_contours_show_on_black():
  assert all(luminance(shade) >= 129 for i in range(50) for shade in shades([color(i)] * 6, np.zeros((6, 4))))


def described(masks, **more):
  count = len(masks)
  return {"boxes": [[10, 20, 20, 40]] * count, "classes": [1] * count, "masks": masks, "scores": [0.9] * count, **more}


def test_boxes_lie_on_masks_and_share_their_color():
  picture = np.asarray(draw(GREY, described([SQUARE]), labels=False))
  (shade,) = shades([color(1)], np.array([[20, 10, 40, 20]]))
  assert (picture[10, 20:40] == shade).all(), "the box"
  assert (picture[12:18, 22:38] != 100).all()


def test_crowds_have_contours_and_no_boxes():
  half = SQUARE & (np.arange(60) < 30)
  picture = np.asarray(draw(GREY, described(encode(np.stack([half] * 40)), names=["nucleus"] * 40)))
  assert (picture[15, 36] == 100).all() and (picture[20, 34:40] == 100).all(), "the right half of the box is free"
  assert (picture[15, 25] != 100).any()


def test_objects_without_a_mask_among_others():
  picture = np.asarray(draw(GREY, described([None, SQUARE]), labels=False))
  assert (picture[12:18, 22:38] != 100).any(axis=-1).all()


def test_truth_has_white_contours():
  picture = np.asarray(
    draw(GREY, None, truth={"boxes": [[5, 5, 35, 55]], "classes": [1], "masks": [SQUARE]}, labels=False)
  )
  assert (picture[10, 20:40] == 255).all() and (picture[12:18, 22:38] == 100).all()


def test_sizes_and_numbers_must_agree():
  with pytest.raises(UserError, match=r"mask of \(40, 40\) pixels .* image of \(40, 60\)"):
    draw(GREY, described([SQUARE[:, :40]]))
  with pytest.raises(UserError, match="1 boxes, .* 2 masks"):
    draw(GREY, {**described([SQUARE]), "masks": [SQUARE, SQUARE]})
