"""Segmentations to crops and back: by hand, against pycocotools, and what cannot be meant."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from spinenet_tf.data import masks
from spinenet_tf.data.report import MASK_KEPT, MASK_WORDS
from spinenet_tf.errors import UserError

BOX = (0.0, 0.0, 6.0, 8.0)  # all of an image of 8 x 6


def read(segmentation, box=BOX, height=6, width=8):
  mask, notes = masks.read(segmentation, height, width, box)
  pixels = None if mask is None else np.asarray(Image.open(io.BytesIO(mask.png))).astype(int).tolist()
  return pixels, mask and (mask.ymin, mask.xmin), [note.reason for note in notes]


RECTANGLE = [1, 2, 4, 2, 4, 5, 1, 5]  # x 1 to 4, y 2 to 5


def test_polygons_by_hand():
  assert read([RECTANGLE]) == ([[1, 1, 1]] * 3, (2, 1), [])
  two = [RECTANGLE, [6, 0, 7, 0, 7, 1, 6, 1]]
  assert read(two) == ([[0, 0, 0, 0, 0, 1], [0] * 6, *[[1, 1, 1, 0, 0, 0]] * 3], (0, 1), [])


def test_run_lengths_by_hand():
  """Down the columns: 6 a column, so 8 pixels off is row 2 of column 1."""
  rle = {"size": [6, 8], "counts": [8, 3, 3, 2, 32]}
  expected = [[1, 1], [1, 1], [1, 0]], (2, 1), []
  assert read(rle) == expected
  # 8 3 3, then the differences 2 - 3 = -1 ("O") and 32 - 3 = 29 ("m0": its upper bit alone would be a sign).
  assert read({"size": [6, 8], "counts": "833Om0"}) == expected
  assert read({"size": [6, 8], "counts": b"833Om0"}) == expected
  assert masks.decode_counts("833Om0").tolist() == [8, 3, 3, 2, 32]
  assert read({"size": [6, 8], "counts": [0, 48]}) == ([[1] * 8] * 6, (0, 0), [])
  assert read({"size": [6, 8], "counts": [8, 1, 0, 2, 37]})[0] == [[1], [1], [1]]  # an empty run within


def random_masks(count, seed=0):
  random = np.random.default_rng(seed)
  for _ in range(count):
    height, width = random.integers(1, 40, 2)
    coarse = Image.fromarray(random.random((random.integers(1, 6), random.integers(1, 6))).astype(np.float32))
    yield np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)) > random.uniform(0.2, 0.8)


def test_round_trip_as_pycocotools():
  seen = 0
  for pixels in [*random_masks(200), np.ones((3, 5), bool), np.zeros((3, 5), bool), np.eye(4, dtype=bool)]:
    height, width = pixels.shape
    rle = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    mask, notes = masks.read(rle, height, width, (0, 0, height, width))
    assert (masks.from_pixels(pixels) is None) == (mask is None) == (not pixels.any())
    if mask is None:
      assert [note.reason for note in notes] == ["mask_empty"]
      continue
    x, y, w, h = coco_mask.toBbox(rle).astype(int)
    crop = np.asarray(Image.open(io.BytesIO(mask.png)))
    assert crop.shape == (h, w) and (mask.ymin, mask.xmin) == (y, x)
    np.testing.assert_array_equal(crop, pixels[y : y + h, x : x + w])
    assert masks.from_pixels(pixels) == mask
    assert masks.to_rle(mask, height, width) == rle
    runs = masks.decode_counts(rle["counts"])
    assert coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width) == rle
    seen += 1
  assert seen > 150


def test_polygons_as_pycocotools():
  random = np.random.default_rng(1)
  for _ in range(100):
    parts = [random.uniform(-3, 43, 2 * random.integers(3, 9)).tolist() for _ in range(random.integers(1, 4))]
    mask, _ = masks.read(parts, 30, 40, (0, 0, 30, 40))
    rle = coco_mask.merge(coco_mask.frPyObjects(parts, 30, 40))
    if mask is None:
      assert not coco_mask.area(rle)
    else:
      assert masks.to_rle(mask, 30, 40) == rle


def test_masks_of_other_programs():
  """8 bits, and pixels of 1, count as well."""
  for value in (1, 255):
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, value], [value, value]], np.uint8)).save(stream, "PNG")
    rle = masks.to_rle(masks.Mask(stream.getvalue(), 1, 2), 3, 4)
    assert coco_mask.decode(rle).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
  empty = masks.Mask(masks.encode(np.zeros((2, 2), bool)), 0, 0)
  assert coco_mask.area(masks.to_rle(empty, 3, 4)) == 0
  with pytest.raises(ValueError, match="2x2 pixels at x=3, y=0 is not inside its image of 4x3"):
    masks.to_rle(masks.Mask(stream.getvalue(), 0, 3), 3, 4)


FAULTS = {
  "none": (None, "mask_missing"),
  "empty list": ([], "mask_missing"),
  "empty object": ({}, "mask_missing"),
  "text": ("polygon", "mask_malformed"),
  "flat list": (RECTANGLE, "mask_malformed"),
  "pairs": ([[[1, 2], [4, 2], [4, 5]]], "mask_malformed"),
  "texts": ([["1", "2", "4", "2", "4", "5"]], "mask_malformed"),
  "nulls": ([[1, 2, 4, None, 4, 5]], "mask_malformed"),
  "two points": ([[1, 2, 4, 5]], "mask_few_points"),
  "no points": ([[]], "mask_few_points"),
  "odd": ([[1, 2, 4, 2, 4, 5, 1]], "mask_odd"),
  "nan": ([[1, 2, 4, float("nan"), 4, 5]], "mask_numbers"),
  "infinite": ([[1, 2, 4, float("inf"), 4, 5]], "mask_numbers"),
  "huge": ([[1, 2, 4, 1e12, 4, 5]], "mask_numbers"),
  "huger": ([[1, 2, 4, 10**30, 4, 5]], "mask_malformed"),
  "outside": ([[9, 1, 12, 1, 12, 4]], "mask_outside_image"),
  "above": ([[1, -3, 4, -3, 4, 0]], "mask_outside_image"),
  "line": ([[1, 2, 4, 2, 1, 2]], "mask_empty"),
  "size": ({"size": [8, 6], "counts": [8, 3, 37]}, "mask_size"),
  "no size": ({"counts": [8, 3, 37]}, "mask_size"),
  "short": ({"size": [6, 8], "counts": [8, 3]}, "mask_runs"),
  "long": ({"size": [6, 8], "counts": [8, 3, 38]}, "mask_runs"),
  "negative": ({"size": [6, 8], "counts": [8, -3, 43]}, "mask_runs"),
  "fractions": ({"size": [6, 8], "counts": [8, 3.5, 36.5]}, "mask_runs"),
  "no counts": ({"size": [6, 8]}, "mask_runs"),
  "empty counts": ({"size": [6, 8], "counts": ""}, "mask_runs"),
  "characters": ({"size": [6, 8], "counts": "8 3"}, "mask_runs"),
  "unfinished": ({"size": [6, 8], "counts": "83o"}, "mask_runs"),
  "endless": ({"size": [6, 8], "counts": "o" * 30 + "0"}, "mask_runs"),
  "other characters": ({"size": [6, 8], "counts": "8\u20ac3"}, "mask_runs"),
  "all background": ({"size": [6, 8], "counts": [48]}, "mask_empty"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case):
  segmentation, reason = FAULTS[case]
  assert read(segmentation) == (None, None, [reason])
  assert reason in MASK_WORDS


def test_a_bad_polygon_among_good_ones():
  pixels, corner, reasons = read([[1, 2, 4, 5], RECTANGLE, [1, 2, 3]])
  assert (pixels, corner) == ([[1, 1, 1]] * 3, (2, 1)) and reasons == ["mask_few_points", "mask_odd"]


def test_mask_and_box():
  assert read([RECTANGLE], (0, 5, 2, 8))[2] == ["mask_outside_box"]
  assert read([RECTANGLE], (2.9, 3.9, 6, 8))[2] == ["mask_beyond_box"]  # 2.9 px to the left of it
  assert read([RECTANGLE], (2.5, 1.9, 4.2, 3.2)) == ([[1, 1, 1]] * 3, (2, 1), [])  # by less than 2 px
  assert read([[1, 2, 11, 2, 11, 5, 1, 5]])[2] == ["mask_clipped"]
  assert {"mask_beyond_box", "mask_clipped"} == set(MASK_KEPT)


def test_add():
  objects = [
    {"annotation": 5, "segmentation": [RECTANGLE], "box": BOX},
    {"annotation": 6, "segmentation": [[1, 2, 4, 5]], "box": BOX},
    {"annotation": 7, "box": (0.0, 0.0, 3.0, 3.0), "segmentation": [[1, 2, 7, 2, 7, 5, 1, 5]]},
  ]
  added, notes = masks.add(objects, 6, 8, "a.png")
  assert [one["mask"] is None for one in added] == [False, True, False]
  assert notes == [("mask_few_points", 6), ("mask_beyond_box", 7)]
  with pytest.raises(UserError, match="a.png: annotation 6 has polygon 0 of 2 points.*--strict.*--nomasks"):
    masks.add(objects, 6, 8, "a.png", strict=True)
  masks.add([objects[0], objects[2]], 6, 8, "a.png", strict=True)


def test_imports_no_tensorflow():
  code = "import sys, spinenet_tf.data.masks; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
