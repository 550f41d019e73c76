"""From SOLO's outputs to detections: peaks, candidates, and a whole image worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.ops import portable, solo_find
from spinenet_tf.ops.matrix_nms import matrix_nms
from spinenet_tf.ops.solo_levels import SoloLevels

LEVELS = SoloLevels(sources=(3, 4), strides=(8, 16), grids=(4, 2), scales=((1, 40), (20, 100)))
SIZE = (30, 50)  # 4 x 7 and 2 x 4 pixels of features; 8 x 13 pixels of masks


def _logit(p):
  return np.log(p / (1 - np.asarray(p, "f")))


def test_peaks_by_hand_and_by_loops():
  values = np.random.default_rng(0).integers(0, 6, [2, 7, 7, 3]).astype("f")
  found = solo_find.is_peak(tf.constant(values)).numpy()
  for b, y, x, k in np.ndindex(values.shape):
    window = values[b, max(0, y - 1) : y + 1, max(0, x - 1) : x + 1, k]
    assert found[b, y, x, k] == (values[b, y, x, k] == window.max())
  ridge = tf.constant([[[[1.0], [3.0]], [[2.0], [2.5]]]])
  assert solo_find.is_peak(ridge)[0, :, :, 0].numpy().tolist() == [[True, True], [True, False]]


def test_candidates():
  rng = np.random.default_rng(1)
  logits = {"0": rng.normal(-1, 2, [2, 4, 4, 3]).astype("f"), "1": rng.normal(-1, 2, [2, 2, 2, 3]).astype("f")}
  found = solo_find.best_points(logits, LEVELS, 12, 0.3)
  assert found.scores.shape == (2, 12)
  for b in range(2):
    expected = []
    for level, values in enumerate(logits.values()):
      peaks = solo_find.is_peak(tf.constant(values)).numpy()[b]
      for y, x, k in np.argwhere(peaks):
        score = 1 / (1 + np.exp(-values[b, y, x, k]))
        if score > 0.3:
          expected.append((score, level, y * values.shape[2] + x, k))
    expected.sort(key=lambda row: -row[0])
    assert len(expected) > 4
    rows = list(zip(*(column[b].numpy() for column in found)))
    for row, wanted in zip(rows, expected[:12]):
      np.testing.assert_allclose(row, wanted, rtol=1e-5)
    assert all(row[0] == -1 for row in rows[len(expected) :])


def _outputs(points):
  """Category logits with (level, cell, class, probability) and -9 elsewhere, for one image."""
  logits = {"0": np.full([1, 16, 3], -9.0, "f"), "1": np.full([1, 4, 3], -9.0, "f")}
  for level, cell, label, probability in points:
    logits[str(level)][0, cell, label] = _logit(probability)
  grids = dict(zip(LEVELS.names, LEVELS.grids))
  return {name: tf.constant(v.reshape(1, grids[name], grids[name], 3)) for name, v in logits.items()}


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def compiled(request):
  """Whether detections come from one XLA program, whose shapes are all known beforehand."""
  return request.param


def _detect(points, masks, compiled=False, **kwargs):
  """Detections where the mask of (level, cell) is `masks[level][cell]`, as many images as one."""
  tables = {
    "0": np.zeros([16, 8, 14], "f"),
    "1": np.zeros([4, 4, 8], "f"),
  }
  for (level, cell), mask in masks.items():
    tables[str(level)][cell] = mask
  features = {key: tf.zeros([1, *LEVELS.feature_size(i, SIZE), 1]) for i, key in enumerate(LEVELS.features)}

  def masks_of(features, cells):
    assert features["3_8"].shape == (1, 4, 7, 1)
    return {name: tf.gather(tables[name], index) for name, index in cells.items()}

  graph = tf.function(
    lambda logits, features: solo_find.detect(logits, features, masks_of, LEVELS, SIZE, **kwargs),
    autograph=False,
    jit_compile=compiled,
  )
  with portable.portable(compiled):
    return {key: value[0].numpy() for key, value in graph(_outputs(points), features).items()}


def _box(shape, rows, columns, value=1.0):
  mask = np.zeros(shape, "f")
  mask[rows[0] : rows[1], columns[0] : columns[1]] = value
  return mask


def test_an_image_by_hand(compiled):
  first = _box((8, 14), (0, 4), (0, 6), 0.8)  # 24 pixels of 4 x 4
  near = _box((8, 14), (0, 4), (0, 5), 0.85)  # 20 of these
  small = _box((8, 14), (6, 8), (9, 12))  # 6 pixels: fewer than the stride of 8
  coarse = _box((4, 8), (2, 4), (4, 7), 0.6)  # 4 x 6 pixels of 4; what lies beyond row 8 and column 13 is cut off
  points = [(0, 0, 1, 0.9), (0, 10, 1, 0.8), (0, 15, 2, 0.95), (1, 3, 1, 0.7), (1, 0, 0, 0.09)]
  masks = {(0, 0): first, (0, 10): near, (0, 15): small, (1, 3): coarse}
  found = _detect(points, masks, compiled, mask_threshold=0.3, max_detections=5)
  # 0.9 x 0.8 = 0.72 lowers 0.8 x 0.85 = 0.68, of IoU 20 / 24, below 0.7 x the mean of the resized mask.
  assert found["num_detections"] == 3
  large = tf.image.resize(coarse[..., None], [8, 16])[:, :13, 0].numpy()
  mean = large[large >= 0.3].mean()
  expected = [0.72, 0.7 * mean, 0.68 * np.exp(-2 * (20 / 24) ** 2)]
  np.testing.assert_allclose(found["detection_scores"], [*expected, 0, 0], rtol=1e-5)
  assert found["detection_classes"].tolist() == [1, 1, 1, -1, -1]
  np.testing.assert_allclose(found["detection_masks"][0], first[:, :13], rtol=1e-6)
  np.testing.assert_allclose(found["detection_masks"][1], large, rtol=1e-6)
  np.testing.assert_allclose(found["detection_masks"][2], near[:, :13], rtol=1e-6)
  assert not found["detection_masks"][3:].any() and not found["detection_mask_boxes"][3:].any()
  np.testing.assert_array_equal(found["detection_mask_boxes"][:3], [[0, 0, 32, 52]] * 3)
  # From 0.8 to 0 between the middles of rows 3 and 4, 0.3 is reached 5/8 of the way: at (3.5 + 0.625) x 4.
  np.testing.assert_allclose(found["detection_boxes"][0], [0, 0, 16.5, 24.5], rtol=1e-6)
  assert (found["detection_boxes"][1, 2:] <= SIZE).all()


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_many_masks_against_the_steps_one_by_one(kernel, compiled):
  rng = np.random.default_rng(2)
  points, masks = [], {}
  for level, cells, shape in ((0, 16, (8, 14)), (1, 4, (4, 8))):
    for cell in range(cells):
      points += [(level, cell, int(rng.integers(3)), rng.uniform(0.05, 0.95))]
      ends = np.sort(rng.uniform(0, [[shape[0]], [shape[1]]], [2, 2]), axis=1)
      mask = _box(shape, *np.stack([np.floor(ends[:, 0]), np.ceil(ends[:, 1])], axis=1).astype(int))
      masks[level, cell] = mask * rng.uniform(0.2, 1, shape)
  arguments = {"suppression": kernel, "suppression_sigma": 1.0, "max_detections": 9, "score_threshold": 0.1}
  found = _detect(points, masks, compiled, **arguments)
  rows = []
  candidates = solo_find.best_points(_outputs(points), LEVELS, 500, 0.1)
  for score, level, cell, label in zip(*(column[0].numpy() for column in candidates)):
    if score < 0:
      continue
    mask = masks[level, cell]
    if level:
      mask = tf.image.resize(mask[..., None], [8, 16])[..., 0].numpy()
    mask = mask[:8, :13]
    inside = mask >= 0.5
    if inside.sum() >= LEVELS.strides[level]:
      rows.append((score * mask[inside].mean(), label, mask))
  rows.sort(key=lambda row: -row[0])
  scores, labels, kept = (np.stack(column) for column in zip(*rows))
  lowered = matrix_nms(kept.reshape(len(kept), -1) >= 0.5, scores.astype("f"), labels, kernel, 1.0).numpy()
  order = [i for i in np.argsort(-lowered, kind="stable") if lowered[i] > 0.1][:9]
  assert 2 < len(order)
  np.testing.assert_allclose(found["detection_scores"][: len(order)], lowered[order], rtol=1e-5)
  np.testing.assert_allclose(found["detection_masks"][: len(order)], kept[order], atol=1e-6)
  assert found["num_detections"] == len(order)
  # Boxes hold what their masks are in the picture, and no more than a pixel of the masks beside it.
  count = len(order)
  whole = found["detection_mask_boxes"][:count]
  for mask, box in zip(mask_lib.paste_all(found["detection_masks"][:count], whole, SIZE), found["detection_boxes"]):
    y, x = np.nonzero(mask_lib.decode(mask))
    inner = np.array([y.min() + 0.5, x.min() + 0.5, y.max() + 0.5, x.max() + 0.5])
    assert (box[:2] <= inner[:2] + 1e-4).all() and (inner[2:] <= box[2:] + 1e-4).all()
    assert (np.abs(box - inner) <= 4.5).all()


def test_masks_cut_to_their_boxes_are_the_same():
  rng = np.random.default_rng(3)
  masks = {(0, cell): tf.image.resize(rng.random([4, 5, 1]), [8, 14])[..., 0].numpy() for cell in range(16)}
  found = _detect([(0, cell, cell % 3, 0.9) for cell in range(0, 16, 2)], masks, score_threshold=0.0)
  count = int(found["num_detections"])
  assert count > 3
  masks, boxes, whole = (found[f"detection_{key}"][:count] for key in ("masks", "boxes", "mask_boxes"))
  parts, places = mask_lib.cropped(masks, boxes, whole)
  for scale in (1.0, 3.7):  # also in pixels of another picture
    size = [round(side * scale) for side in SIZE]
    expected = mask_lib.paste_all(masks, whole * scale, size)
    assert mask_lib.paste_all(parts, np.array(places) * scale, size) == expected
  assert any(part.size < mask.size for part, mask in zip(parts, masks))


def test_an_image_without_anything():
  found = _detect([], {})
  assert found["num_detections"] == 0 and (found["detection_classes"] == -1).all()
  assert found["detection_masks"].shape == (100, 8, 13) and not found["detection_masks"].any()


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"pre_nms_top_k": 0}, "pre_nms_top_k is 0"),
    ({"max_detections": 0}, "max_detections is 0"),
    ({"score_threshold": 1}, "score_threshold is 1"),
    ({"candidate_threshold": -0.1}, "candidate_threshold is -0.1"),
    ({"mask_threshold": 1.0}, "mask_threshold is 1.0"),
    ({"suppression": "soft"}, "suppression is 'soft'"),
    ({"suppression_sigma": -1}, "suppression_sigma is -1"),
  ],
)
def test_bad_arguments(kwargs, text):
  with pytest.raises(UserError, match=text):
    _detect([], {}, **kwargs)
