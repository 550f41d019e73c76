"""The synthetic shapes: reproducible, exactly boxed, learnable."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from spinenet_tf.data import meta, pipeline, synthetic
from spinenet_tf.errors import UserError


def test_depends_on_seed_split_and_number_only():
  first, longer = list(synthetic.generate(3, 64, 5)), list(synthetic.generate(5, 64, 5))
  for a, b in zip(first, longer):
    np.testing.assert_array_equal(a.pixels, b.pixels)
    np.testing.assert_array_equal(a.boxes, b.boxes)
  assert (first[0].pixels != next(synthetic.generate(1, 64, 6)).pixels).any()
  assert (first[0].pixels != next(synthetic.generate(1, 64, 5, "val")).pixels).any()


def test_boxes_are_sizable_and_inside():
  pictures = list(synthetic.generate(120, 64))
  boxes = np.concatenate([p.boxes for p in pictures])
  sides = boxes[:, 2:] - boxes[:, :2]
  assert boxes.min() >= 0 and boxes.max() <= 64
  assert np.quantile(sides, 0.05) > 0.1 * 64 and sides.max() < 0.75 * 64
  assert 1.8 < len(boxes) / 120 < 2.8
  counts = np.bincount(np.concatenate([p.ids for p in pictures]))
  assert counts[0] == 0 and len(counts) == 6 and counts[1:].min() > 25
  assert any(not len(p.boxes) for p in pictures)
  for picture in pictures:
    extent = (picture.boxes[:, 2:] - picture.boxes[:, :2]).prod(axis=1)
    assert (picture.areas > 0).all() and (picture.areas <= extent + 1e-6).all()


def test_boxes_are_the_extents(monkeypatch):
  """A lone shape on a plain ground, without noise: the pixels that differ from the ground fill the box."""
  monkeypatch.setattr(synthetic, "_ground", lambda size, random: np.full((size, size, 3), 128.0))
  monkeypatch.setattr(synthetic, "_COUNT_WEIGHTS", (0, 1, 0, 0, 0))
  for picture in synthetic.generate(30, 96):
    painted = np.abs(picture.pixels.astype(int) - 128).max(axis=2) > 45
    rows, columns = np.flatnonzero(painted.sum(1) > 0), np.flatnonzero(painted.sum(0) > 0)
    found = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    np.testing.assert_allclose(picture.boxes[0], found, atol=2.5)


def test_prepare(tmp_path):
  lines = synthetic.prepare_synthetic(tmp_path / "a", train=6, val=3, size=48, seed=2)
  assert set(lines) == {"train", "val"} and lines["train"][0].startswith("6 images")
  known = meta.load(tmp_path / "a")
  assert known.names == ("circle", "square", "triangle", "star", "ring") and known.ids == (1, 2, 3, 4, 5)
  assert len(list(pipeline.groundtruth(f"{tmp_path}/a/val-*.tfrecord"))) == 3
  synthetic.prepare_synthetic(tmp_path / "a", train=6, val=3, size=48, seed=2)
  with pytest.raises(UserError, match="--overwrite"):
    synthetic.prepare_synthetic(tmp_path / "a", train=7, val=3, size=48, seed=2)
  with pytest.raises(UserError, match="--seed"):
    synthetic.prepare_synthetic(tmp_path / "b", train=7, val=3, size=48, seed=-1)


def test_masks_are_the_visible_shapes():
  """They fill their boxes, have the areas, do not overlap, and come back from the records as they are."""
  for picture in synthetic.generate(20, 64):
    assert picture.masks.shape == (len(picture.ids), 64, 64) and (picture.masks.sum(axis=0) <= 1).all()
    for mask, box, area in zip(picture.masks, picture.boxes, picture.areas):
      rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
      np.testing.assert_allclose([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], box, atol=2.5)
      assert abs(mask.sum() - area) < 0.1 * area + 5


def test_masks_in_the_records(tmp_path):
  lines = synthetic.prepare_synthetic(tmp_path, train=4, val=6, size=48)
  pictures = {str(n + 1): p for n, p in enumerate(synthetic.generate(6, 48, 0, "val"))}
  count = sum(len(picture.ids) for picture in pictures.values())
  assert meta.load(tmp_path).splits["val"]["num_masks"] == count
  assert f"{count} objects with a mask" in lines["val"]
  for image in pipeline.groundtruth(f"{tmp_path}/val-*.tfrecord", masks=True):
    expected = pictures[image["source_id"]].masks
    assert len(expected) == len(image["masks"])
    for rle, mask in zip(image["masks"], expected):
      np.testing.assert_array_equal(coco_mask.decode(rle), mask)
