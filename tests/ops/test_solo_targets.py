"""What SOLO trains on, worked by hand; its masks against the pasting of the evaluation."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.ops import solo_targets
from spinenet_tf.ops.solo_levels import SoloLevels, solo_levels

SIZE = (64, 128)
# Cells of 8 x 16 and 16 x 32 pixels.
LEVELS = SoloLevels(sources=(3, 4), strides=(8, 16), grids=(8, 4), scales=((1, 40), (20, 100)))


def _truth(boxes, classes=None, masks=None, has_mask=None):
  """One image."""
  count = len(boxes)
  masks = np.ones([count, 4, 4], np.uint8) if masks is None else masks
  return {
    "boxes": tf.constant([boxes], tf.float32),
    "classes": tf.constant([range(count) if classes is None else classes], tf.int32),
    "masks": tf.constant(masks[None], tf.uint8),
    "has_mask": tf.constant([[True] * count if has_mask is None else has_mask]),
  }


def _cells(targets, name="0"):
  """{(row, column): object} of the image."""
  grid = LEVELS.grids[int(name)]
  objects = targets.objects[name][0].numpy()
  return {divmod(int(i), grid): int(objects[i]) for i in np.flatnonzero(objects >= 0)}


def test_levels_by_hand():
  levels = SoloLevels()
  assert levels.names == ("0", "1", "2", "3", "4") and levels.pyramid == (3, 4, 5, 6)
  assert levels.features == ("3_8", "3_8", "4_16", "5_32", "6_32")
  cuts = [low for low, _ in levels.ranges(multi_level=False)]
  np.testing.assert_allclose(cuts, [1, 48 * 2**0.5, 96 * 2**0.5, 192 * 2**0.5, 384 * 2**0.5])
  assert levels.ranges() == levels.scales and levels.ranges(False)[-1][1] == 2048
  assert levels.feature_size(3, (640, 100)) == (20, 4) and levels.mask_size(0, (640, 100)) == (160, 26)
  assert levels.extent(3, (640, 100)) == (640, 128)
  assert solo_levels(json.loads(json.dumps(dataclasses.asdict(LEVELS)))) == LEVELS and solo_levels(None) == levels


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"grids": (40, 36)}, r"'grids': 2"),
    ({"strides": (8, 8, 16, 32, 24)}, r"strides is \(8, 8, 16, 32, 24\); give powers of two"),
    ({"strides": (16, 8, 16, 32, 32)}, "do not fall"),
    ({"sources": (3, 3, 4, 5, 6.5)}, "sources is .*levels of the pyramid"),
    ({"grids": (40, 36, 24, 16, 0)}, "grids is .*whole numbers"),
    ({"scales": ((1, 96), (48, 192), (96, 384), (192, 768), (2048, 384))}, "scales is"),
    ({"scales": ((1, 40), (48, 192), (96, 384), (192, 768), (384, 2048))}, r"scales \(1.0, 40.0\) and \(48.0, 192.0\)"),
  ],
)
def test_levels_that_are_none(kwargs, text):
  with pytest.raises(UserError, match=text):
    SoloLevels(**kwargs)


def test_the_middle_of_a_box_claims_cells():
  # 30 x 30 round (20, 40): its middle is 17 to 23 by 37 to 43. Rows of 8: 2; columns of 16: 2. Level 1: row 1, column 1.
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[5, 25, 35, 55]], [1]))
  assert _cells(targets) == {(2, 2): 0} and _cells(targets, "1") == {(1, 1): 0}
  assert targets.classes["0"][0, 2 * 8 + 2] == 1 and targets.classes["0"].numpy().sum() == 1 - 63
  assert targets.num_positives.numpy().tolist() == [2]
  # With sigma 0.6 it is 11 to 29 by 31 to 49: rows 1 to 3, columns 1 to 3.
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[5, 25, 35, 55]], [1]), sigma=0.6)
  assert sorted(_cells(targets)) == [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]
  centres = np.flatnonzero(targets.centres["0"][0])
  assert centres.tolist() == [2 * 8 + 2]


def test_no_more_than_three_by_three_cells():
  # 60 x 120 with sigma 1 touches all cells of level 1; those beside row 2 and column 2, of the centre, are its own.
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[4, 8, 64, 128]]), sigma=1.0)
  assert not _cells(targets)  # 84 pixels are too many for level 0
  assert sorted(_cells(targets, "1")) == [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]


def test_mass_and_box_centre():
  # The mask is the lowest quarter of rows and the right half: its mass is at 7/8 of the height, 3/4 of the width.
  mask = np.zeros([1, 4, 4], np.uint8)
  mask[0, 3, 2:] = 1
  truth = _truth([[8, 16, 40, 48]], masks=mask)  # 32 x 32: the mass is at (36, 40), the centre at (24, 32)
  assert list(_cells(solo_targets.assign(LEVELS, SIZE, **truth, sigma=0.0))) == [(4, 2)]
  assert list(_cells(solo_targets.assign(LEVELS, SIZE, **truth, sigma=0.0, centre="box"))) == [(3, 2)]
  truth["has_mask"] = tf.constant([[False]])
  assert list(_cells(solo_targets.assign(LEVELS, SIZE, **truth, sigma=0.0))) == [(3, 2)]


def test_the_smaller_object_wins_and_the_loss_is_counted():
  boxes = [[8, 16, 40, 48], [20, 28, 28, 36], [8, 16, 40, 48]]  # all round (24, 32)
  masks = np.ones([3, 4, 4], np.uint8)
  masks[2, [0, 0, 3, 3], [0, 3, 0, 3]] = 0  # 3/4 of the box
  targets = solo_targets.assign(LEVELS, SIZE, **_truth(boxes, [4, 5, 6], masks))
  # Level 0: both large ones claim rows 2 to 3, columns 1 to 2 (20.8 to 27.2 by 28.8 to 35.2); the small one, 23.2 to 24.8 by
  # 31.2 to 32.8, claims the same four. Level 1: the large ones claim row 1, columns 0 and 1; the small one is too small.
  assert _cells(targets) == {(r, c): 1 for r in (2, 3) for c in (1, 2)}
  assert _cells(targets, "1") == {(1, 0): 2, (1, 1): 2}
  assert targets.lost.numpy().tolist() == [8 + 2]
  assert targets.without_cell.numpy().tolist() == [1]
  assert targets.num_positives.numpy().tolist() == [6]


def test_one_level_for_each_object():
  cut = (20 * 40) ** 0.5  # 28.28
  for side, levels in ((27, ("0",)), (30, ("1",))):
    truth = _truth([[10, 10, 10 + side, 10 + side]])
    both = solo_targets.assign(LEVELS, SIZE, **truth)
    assert _cells(both) and _cells(both, "1")
    one = solo_targets.assign(LEVELS, SIZE, **truth, multi_level=False)
    assert [name for name in ("0", "1") if _cells(one, name)] == list(levels), cut


def test_padding_and_objects_of_no_size():
  boxes = [[0, 0, 0.5, 0.5], [10, 10, 30, 30], [20, 20, 20, 40], [0, 0, 0, 0]]
  targets = solo_targets.assign(LEVELS, SIZE, **_truth(boxes, [0, -1, 1, -1]))
  assert not targets.num_positives.numpy().any()
  assert targets.without_cell.numpy().tolist() == [1]  # smaller than a pixel; the third has no area: padding
  assert not targets.lost.numpy().any()
  assert (targets.classes["1"].numpy() == -1).all()


def test_an_object_at_the_border_keeps_its_cell():
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[62, 126, 64, 128]]))
  assert _cells(targets) == {(7, 7): 0}


def test_sizes_that_do_not_divide():
  # 60 pixels are rounded up to 64 at stride 8 and 16: the grid covers what the features do.
  targets = solo_targets.assign(LEVELS, (60, 121), **_truth([[5, 25, 35, 55]], [1]))
  assert _cells(targets) == {(2, 2): 0}


def test_choosing_cells():
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[5, 25, 35, 55], [40, 80, 60, 100]]), sigma=0.6)
  objects = _cells(targets)
  everything = solo_targets.choose(targets, 128, tf.constant([1, 2]))
  assert everything.index["0"].shape == (1, 64) and everything.index["1"].shape == (1, 16)
  kept = everything.positive["0"][0].numpy()
  chosen = everything.index["0"][0].numpy()[kept]
  assert sorted(divmod(int(i), 8) for i in chosen) == sorted(objects)
  assert [objects[divmod(int(i), 8)] for i in chosen] == everything.objects["0"][0].numpy()[kept].tolist()
  assert not everything.index["0"][0].numpy()[~kept].any() and not everything.negative["0"].numpy().any()
  centres = np.flatnonzero(targets.centres["0"][0])
  few = solo_targets.choose(targets, 2, tf.constant([1, 2]))
  assert sorted(few.index["0"][0].numpy()) == sorted(centres) and len(centres) == 2
  other = [solo_targets.choose(targets, 4, tf.constant([1, i])).index["0"][0].numpy().tolist() for i in range(5)]
  assert len({tuple(sorted(index)) for index in other}) > 1
  first = solo_targets.choose(targets, 4).index["0"][0].numpy()
  ordered = [int(r * 8 + c) for r, c in sorted(objects) if r * 8 + c not in centres]
  assert first.tolist() == [*centres, *ordered[:2]]


def test_as_many_negative_cells():
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[5, 25, 35, 55]]), sigma=0.6)
  cells = solo_targets.choose(targets, 16, tf.constant([1, 2]), negatives=True)
  for name, count in (("0", 9), ("1", len(_cells(targets, "1")))):
    negative = cells.index[name][0].numpy()[cells.negative[name][0].numpy()]
    assert len(set(negative)) == len(negative) == count == cells.positive[name].numpy().sum()
    assert (targets.objects[name][0].numpy()[negative] < 0).all()


def test_masks_are_those_that_evaluation_pastes():
  rng = np.random.default_rng(0)
  count, side = 12, 28
  corners = np.stack([rng.uniform(0, 40, count), rng.uniform(0, 90, count)], axis=1)
  boxes = np.concatenate([corners, corners + rng.uniform(9, 30, [count, 2])], axis=1).clip(0, [64, 128, 64, 128])
  blocks = rng.integers(0, 2, [count, 7, 7])
  masks = np.kron(blocks, np.ones([1, 4, 4], np.uint8)).astype(np.uint8)
  truth = _truth(boxes, masks=masks)
  cells = {
    "index": {"0": tf.zeros([1, count], tf.int32)},
    "objects": {"0": tf.range(count)[None]},
    "positive": {"0": tf.fill([1, count], True)},
    "negative": {"0": tf.fill([1, count], False)},
  }
  one = SoloLevels((3,), (8,), (8,), ((1, 100),))
  del truth["classes"]
  wanted = solo_targets.masks_of(one, SIZE, solo_targets.SoloCells(**cells), **truth)
  assert wanted.masks["0"].shape == (1, count, 16, 32)
  pasted = mask_lib.paste_all(masks.astype(np.float32), boxes / 4, (16, 32))  # a pixel of the mask is 4 of the input
  for i, rle in enumerate(pasted):
    np.testing.assert_array_equal(wanted.masks["0"][0, i].numpy() > 0, mask_lib.decode(rle), err_msg=str(i))
  assert side == masks.shape[1] and wanted.positive["0"].numpy().all()


def test_masks_that_do_not_train():
  boxes = [[5, 25, 35, 55], [40, 80, 60, 100], [40.1, 10.1, 41.2, 11.2]]
  truth = _truth(boxes, has_mask=[True, False, True])
  targets = solo_targets.assign(LEVELS, SIZE, **truth)
  cells = solo_targets.choose(targets, 8)
  wanted = solo_targets.masks_of(LEVELS, SIZE, cells, truth["boxes"], truth["masks"], truth["has_mask"])
  by_object = {}
  for objects, real, positive, mask in zip(
    *(x["0"][0].numpy() for x in (cells.objects, cells.positive, wanted.positive, wanted.masks))
  ):
    if real:
      by_object.setdefault(int(objects), set()).add((bool(positive), int(mask.sum())))
  # 30 x 30 holds the middles of 8 x 8 pixels of 4: 6 ... 34 by 26 ... 54. No mask; and no middle at all.
  assert by_object == {0: {(True, 8 * 8)}, 1: {(False, 0)}, 2: {(False, 0)}}
  assert targets.without_cell.numpy().tolist() == [0]


@pytest.mark.parametrize(
  ("kwargs", "text"), [({"centre": "corner"}, "centre is 'corner'"), ({"sigma": 1.5}, "sigma is 1.5")]
)
def test_bad_arguments(kwargs, text):
  with pytest.raises(UserError, match=text):
    solo_targets.assign(LEVELS, SIZE, **_truth([[0, 0, 10, 10]]), **kwargs)


def test_a_count_below_one():
  targets = solo_targets.assign(LEVELS, SIZE, **_truth([[0, 0, 10, 10]]))
  with pytest.raises(UserError, match="count of cells is 0"):
    solo_targets.choose(targets, 0)


def test_shapes_are_static_and_xla_compiles_the_targets():
  truth = _truth([[5, 25, 35, 55], [0, 0, 0, 0]], [0, -1])

  @tf.function(jit_compile=True, autograph=False)
  def compiled(boxes, classes, masks, has_mask):
    targets = solo_targets.assign(LEVELS, SIZE, boxes, classes, masks, has_mask)
    cells = solo_targets.choose(targets, 8, tf.constant([1, 2]), negatives=True)
    wanted = solo_targets.masks_of(LEVELS, SIZE, cells, boxes, masks, has_mask)
    assert cells.index["0"].shape == (1, 16) and wanted.masks["1"].shape == (1, 16, 8, 16)
    return targets.num_positives, wanted.masks["0"]

  count, masks = compiled(**truth)
  assert count.numpy().tolist() == [2] and masks.numpy().sum() == 64
