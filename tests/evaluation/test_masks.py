"""Masks in pictures: values worked by hand, a slow reference, pycocotools' own encoding, COCO's ways to write a mask."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from spinenet_tf.evaluation import masks as lib


def paste(mask, box, size, threshold=0.5):
  return lib.decode(lib.paste(np.array(mask, np.float32), box, size, threshold)).astype(int).tolist()


def test_one_value_for_each_pixel_comes_back_exactly():
  assert paste([[1, 0, 1], [0, 1, 1]], (1, 2, 3, 5), (4, 6)) == [
    [0, 0, 0, 0, 0, 0],
    [0, 0, 1, 0, 1, 0],
    [0, 0, 0, 1, 1, 0],
    [0, 0, 0, 0, 0, 0],
  ]


def test_values_belong_to_the_middles_of_bins():
  # Bins of 2 pixels with middles at x = 1 and 3; pixel middles 0.5, 1.5, 2.5, 3.5 have the values 1, 0.75, 0.25, 0.
  mask = [[1, 0]]
  assert paste(mask, (0, 0, 1, 4), (1, 4)) == [[1, 1, 0, 0]]
  assert paste(mask, (0, 0, 1, 4), (1, 4), 0.25) == [[1, 1, 1, 0]]
  assert paste(mask, (0, 0, 1, 4), (1, 4), 0.8) == [[1, 0, 0, 0]]
  # Half a pixel further the second middle is halfway between the bins': 0.5 is enough.
  assert paste(mask, (0, 0.5, 1, 4.5), (1, 5)) == [[1, 1, 1, 0, 0]]


def test_both_directions():
  # Products of (1, 0.75, 0.25, 0) with itself: 1, 0.75, 0.5625 in the corner, 0.25 and less elsewhere.
  mask = [[1, 0], [0, 0]]
  corner = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
  assert paste(mask, (0, 0, 4, 4), (4, 4)) == corner
  corner[1][1] = 0
  assert paste(mask, (0, 0, 4, 4), (4, 4), 0.6) == corner


def test_a_box_that_leaves_the_picture_is_cut_not_squeezed():
  # Bins of 2 pixels with middles at -1 and 1 in both directions; 0.5 lies 3/4 of the way: 1 - 0.75 ** 2 = 0.4375.
  mask = [[1, 1], [1, 0]]
  assert paste(mask, (-2, -2, 2, 2), (3, 3)) == [[0, 0, 0]] * 3
  assert paste(mask, (-2, -2, 2, 2), (3, 3), 0.4) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
  assert paste([[1]], (-9, 1, 99, 2), (2, 3)) == [[0, 1, 0]] * 2
  assert paste([[1]], (5, 5, 9, 9), (3, 3)) == paste([[1]], (-5, 0, -1, 3), (3, 3)) == [[0, 0, 0]] * 3


def test_boxes_smaller_than_a_pixel():
  mask = np.ones((28, 28))
  assert paste(mask, (0.3, 1.3, 0.6, 1.6), (2, 2)) == [[0, 1], [0, 0]], "holds the middle of a pixel"
  assert paste(mask, (0.6, 0.6, 0.9, 0.9), (2, 2)) == [[0, 0], [0, 0]], "holds none"
  assert paste(mask, (0.5, 0.5, 1.5, 1.5), (2, 2)) == [[1, 0], [0, 0]], "the lower border belongs to it"
  assert paste(mask, (1, 1, 1, 1), (2, 2)) == paste(mask, (2, 2, 0, 0), (2, 2)) == [[0, 0], [0, 0]], "no box"


def test_the_whole_picture():
  assert paste([[1]], (0, 0, 3, 5), (3, 5)) == [[1] * 5] * 3
  assert lib.paste(np.ones((28, 28)), (0, 0, 3, 5), (3, 5)) == lib.encode(np.ones((1, 3, 5)))[0]
  assert paste([[1, 0]], (0, 0, 3, 5), (3, 5)) == [[1, 1, 1, 0, 0]] * 3  # the middle of the third is the middle of both


def reference(mask, box, size, threshold):
  """Pixel by pixel, in float64."""
  (h, w), (ymin, xmin, ymax, xmax) = mask.shape, box
  out = np.zeros(size, np.uint8, "F")

  def bins(middle, start, stop, count):
    place = min(max((middle - start) / (stop - start) * count - 0.5, 0), count - 1)
    low = min(int(place), max(count - 2, 0))
    return [(low, 1 - (place - low)), (min(low + 1, count - 1), place - low)]

  for y in range(size[0]):
    for x in range(size[1]):
      if ymin <= y + 0.5 < ymax and xmin <= x + 0.5 < xmax:
        rows, columns = bins(y + 0.5, ymin, ymax, h), bins(x + 0.5, xmin, xmax, w)
        out[y, x] = sum(a * b * mask[i, j] for i, a in rows for j, b in columns) >= threshold
  return out


def test_against_a_slow_reference():
  rng = np.random.default_rng(0)
  for _ in range(60):
    size = tuple(rng.integers(1, 25, 2).tolist())
    mask = rng.random(rng.integers(1, 8, 2)).astype(np.float32)
    corner = rng.uniform(-8, 20, 2)
    box = (*corner, *(corner + rng.uniform(0.1, 25, 2)))
    assert lib.paste(mask, box, size, 0.45) == mask_util.encode(reference(mask, box, size, 0.45))


def test_run_lengths_are_pycocotools_own():
  rng = np.random.default_rng(1)
  for _ in range(100):
    size = rng.integers(1, 12, 2)
    masks = rng.random((3, *size)) < rng.choice([0, 0.1, 0.5, 0.9, 1])
    assert lib.encode(masks) == mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    np.testing.assert_array_equal([lib.decode(rle) for rle in lib.encode(masks)], masks)
    assert lib.area(lib.encode(masks)).tolist() == masks.sum((1, 2)).tolist()


def test_several_and_none():
  masks = [np.ones((1, 1)), np.eye(2), np.ones((5, 3))]
  boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 4, 4]])
  assert lib.paste_all(masks, boxes, (4, 4)) == [lib.paste(m, b, (4, 4)) for m, b in zip(masks, boxes)]
  assert lib.area(lib.paste_all(masks, boxes, (4, 4))).tolist() == [4, 2, 9]
  assert lib.paste_all(np.zeros((0, 28, 28)), np.zeros((0, 4)), (4, 4)) == [] and len(lib.area([])) == 0
  assert lib.area(lib.encode(np.ones((300, 2, 2)))).tolist() == [4] * 300


SQUARE = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]])  # columns: 000 011 011 000
POLYGON = [1, 1, 3, 1, 3, 3, 1, 3]


@pytest.mark.parametrize(
  "segmentation",
  [
    [POLYGON],
    [POLYGON, [0, 0, 1, 1]],  # two points are no polygon, and four numbers no box
    {"size": [3, 4], "counts": [4, 2, 1, 2, 3]},
    {"size": [3, 4], "counts": lib.encode(SQUARE[None])[0]["counts"]},
    {"size": [3, 4], "counts": lib.encode(SQUARE[None])[0]["counts"].decode()},
  ],
)
def test_every_way_to_write_a_mask(segmentation):
  rle = lib.from_segmentation(segmentation, (3, 4))
  np.testing.assert_array_equal(lib.decode(rle), SQUARE.astype(bool))
  again = json.loads(json.dumps(lib.to_json(rle)))
  assert again["size"] == [3, 4] and lib.packed(again) == rle["counts"]


@pytest.mark.parametrize(
  "segmentation",
  [
    None,
    [],
    {},
    "mask",
    [[0, 0, 1, 1]],
    [[0, 0, 1, 1, 2]],
    [[0, 0, 1, 1, 2, float("nan")]],
    [["a", "b", "c", "d", "e", "f"]],
    {"size": [3, 5], "counts": [15]},  # of another picture
    {"size": [3, 4], "counts": [4, 2, 1, 2]},  # too short
    {"size": [3, 4], "counts": [13, -1]},
    {"size": [3, 4], "counts": []},
    {"size": [3, 4], "counts": ["a"]},
    {"size": [3, 4], "counts": lib.encode(np.ones((1, 9, 9)))[0]["counts"]},  # too long
    {"size": [3, 4]},
  ],
)
def test_what_is_no_mask(segmentation):
  assert lib.from_segmentation(segmentation, (3, 4)) is None


def test_rectangle():
  np.testing.assert_array_equal(lib.decode(lib.rectangle((1, 1, 2, 2), (3, 4))), SQUARE.astype(bool))
