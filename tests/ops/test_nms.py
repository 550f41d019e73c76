"""Detections against the plain per-class algorithm in numpy, ties, padding, export and compilation."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops.anchors import AnchorConfig, anchors, feature_size
from spinenet_tf.ops.nms import detect, detect_regions, suppress

SIZE = (64, 96)
CONFIG = AnchorConfig(num_scales=1)
CLASSES = 4


def random_outputs(rng, batch, mean=-3.0, spread=2.0, decimals=None, num_classes=CLASSES):
  logits, deltas = {}, {}
  for level in CONFIG.levels:
    shape = (batch, *feature_size(SIZE, level))
    values = rng.normal(mean, spread, (*shape, CONFIG.per_location * num_classes))
    logits[str(level)] = np.float32(values if decimals is None else values.round(decimals))
    deltas[str(level)] = np.float32(rng.normal(0, 0.3, (*shape, CONFIG.per_location * 4)))
  return {"cls_logits": logits, "box_deltas": deltas}


def overlap(box, others):
  sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
  common = np.prod(np.maximum(sides, 0), -1)
  union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], -1) - common
  return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def plain(outputs, num_classes, score_threshold=0.05, iou_threshold=0.5, max_detections=100, per_class=5000):
  """One class after the other, all anchors, then the best of all: lists of (score, anchor, class, box) per image."""
  reference = np.concatenate(list(anchors(CONFIG, SIZE).values())).astype(np.float64)
  batch = len(outputs["cls_logits"]["3"])
  images = []
  for i in range(batch):
    logits = np.concatenate([v[i].reshape(-1, num_classes) for v in outputs["cls_logits"].values()]).astype(np.float64)
    codes = np.concatenate([v[i].reshape(-1, 4) for v in outputs["box_deltas"].values()]).astype(np.float64)
    size, centre = reference[:, 2:] - reference[:, :2], (reference[:, 2:] + reference[:, :2]) / 2
    middle, half = codes[:, :2] * size + centre, np.exp(np.minimum(codes[:, 2:], np.log(62.5))) * size / 2
    boxes = np.clip(np.concatenate([middle - half, middle + half], -1), 0, [*SIZE, *SIZE])
    scores = 1 / (1 + np.exp(-logits))
    found = []
    for k in range(num_classes):
      order = np.argsort(-scores[:, k], kind="stable")[:per_class]
      order = order[scores[order, k] > score_threshold]
      kept = []
      while len(order) and len(kept) < max_detections:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlap(boxes[best], boxes[order]) <= iou_threshold]
      found += [(scores[a, k], a, k, boxes[a]) for a in kept]
    images.append(sorted(found, key=lambda d: (-d[0], d[1], d[2]))[:max_detections])
  return images


def check(result, expected, max_detections=100):
  result = {k: v.numpy() for k, v in result.items()}
  for i, wanted in enumerate(expected):
    n = result["num_detections"][i]
    assert n == len(wanted)
    np.testing.assert_allclose(result["detection_scores"][i, :n], [d[0] for d in wanted], rtol=1e-5)
    np.testing.assert_array_equal(result["detection_classes"][i, :n], [d[2] for d in wanted])
    np.testing.assert_allclose(result["detection_boxes"][i, :n], np.reshape([d[3] for d in wanted], (n, 4)), atol=1e-3)
    assert result["detection_scores"].shape == (len(expected), max_detections)
    assert not result["detection_scores"][i, n:].any() and not result["detection_boxes"][i, n:].any()
    assert (result["detection_classes"][i, n:] == -1).all()
  assert result["num_detections"].dtype == result["detection_classes"].dtype == np.int32


@pytest.mark.parametrize("seed", range(4))
def test_same_as_the_plain_algorithm(seed):
  rng = np.random.default_rng(seed)
  outputs = random_outputs(rng, 2, mean=(-3.0, -6.0, 0.0, -1.0)[seed])
  check(detect(outputs, CONFIG, SIZE, num_classes=CLASSES), plain(outputs, CLASSES))


def test_images_of_one_batch_differ():
  rng = np.random.default_rng(0)
  outputs = random_outputs(rng, 3)
  for logits in outputs["cls_logits"].values():
    logits[1] -= 100  # nothing above the threshold
    logits[2] -= 3
  expected = plain(outputs, CLASSES)
  counts = [len(e) for e in expected]
  assert counts[1] == 0 and 0 < counts[2] < counts[0]
  check(detect(outputs, CONFIG, SIZE, num_classes=CLASSES), expected)


def test_all_scores_equal():
  outputs = random_outputs(np.random.default_rng(1), 2, mean=1.0, spread=0.0)
  check(detect(outputs, CONFIG, SIZE, num_classes=CLASSES), plain(outputs, CLASSES))


def test_ties_beyond_the_limit_fall_by_anchor_then_class():
  outputs = random_outputs(np.random.default_rng(2), 1, mean=0.0, decimals=0)
  top = detect(outputs, CONFIG, SIZE, num_classes=CLASSES, pre_nms_top_k=30, iou_threshold=1.0, max_detections=30)
  logits = np.concatenate([v[0].reshape(-1) for v in outputs["cls_logits"].values()])
  order = np.argsort(-logits, kind="stable")[:30]
  np.testing.assert_array_equal(top["detection_classes"][0], order % CLASSES)
  np.testing.assert_allclose(top["detection_scores"][0], 1 / (1 + np.exp(-logits[order])), rtol=1e-6)


def test_every_argument_takes_effect():
  outputs = random_outputs(np.random.default_rng(3), 2, mean=-1.0)
  for change in ({"score_threshold": 0.6}, {"iou_threshold": 0.1}, {"max_detections": 7}, {"iou_threshold": 0.0}):
    result = detect(outputs, CONFIG, SIZE, num_classes=CLASSES, **change)
    check(result, plain(outputs, CLASSES, **change), change.get("max_detections", 100))
  assert detect(outputs, CONFIG, SIZE, num_classes=CLASSES, pre_nms_top_k=3)["num_detections"].numpy().max() <= 3
  usual = detect(outputs, CONFIG, SIZE, num_classes=CLASSES)["detection_boxes"]
  legacy = detect(outputs, CONFIG, SIZE, num_classes=CLASSES, legacy_plus_one=True)["detection_boxes"]
  assert np.abs(usual - legacy).max() > 0.1


def test_limit_gives_the_head_of_the_plain_list():
  # Fewer candidates than needed: what is found is right, only the end of the list is missing.
  outputs = random_outputs(np.random.default_rng(4), 1, mean=0.0)
  result = detect(outputs, CONFIG, SIZE, num_classes=CLASSES, pre_nms_top_k=60, max_detections=100)
  n = int(result["num_detections"][0])
  expected = plain(outputs, CLASSES)[0]
  assert 0 < n < len(expected)
  np.testing.assert_allclose(result["detection_scores"][0, :n], [d[0] for d in expected[:n]], rtol=1e-5)


def test_classes_do_not_suppress_each_other():
  boxes = tf.constant([[[0.0, 0, 10, 10]] * 3])
  result = suppress(
    boxes, tf.constant([[0.9, 0.8, 0.7]]), tf.constant([[1, 2, 1]]), iou_threshold=0.5, max_detections=5
  )
  assert result["num_detections"].numpy().tolist() == [2]
  assert result["detection_classes"].numpy().tolist() == [[1, 2, -1, -1, -1]]


def test_overlap_at_the_threshold_is_kept_and_empty_boxes_do_no_harm():
  boxes = tf.constant([[[0.0, 0, 10, 10], [0, 0, 5, 10], [3, 3, 3, 3], [3, 3, 3, 3]]])
  result = suppress(
    boxes, tf.constant([[0.9, 0.8, 0.7, 0.6]]), tf.zeros([1, 4], tf.int32), iou_threshold=0.5, max_detections=9
  )
  assert result["num_detections"].numpy().tolist() == [4]


def test_half_precision_outputs():
  outputs = random_outputs(np.random.default_rng(5), 1)
  half = tf.nest.map_structure(lambda v: tf.cast(v, tf.bfloat16), outputs)
  rounded = tf.nest.map_structure(lambda v: tf.cast(v, tf.float32).numpy(), half)
  result = detect(half, CONFIG, SIZE, num_classes=CLASSES)
  assert result["detection_boxes"].dtype == result["detection_scores"].dtype == tf.float32
  check(result, plain(rounded, CLASSES))


@pytest.mark.parametrize("jit", [False, True])
def test_compiles(jit):
  outputs = random_outputs(np.random.default_rng(6), 2)
  run = tf.function(lambda o: detect(o, CONFIG, SIZE, num_classes=CLASSES), jit_compile=jit)
  check(run(tf.nest.map_structure(tf.constant, outputs)), plain(outputs, CLASSES))


def test_saved_model_with_any_batch(tmp_path):
  outputs = random_outputs(np.random.default_rng(7), 3)
  module = tf.Module()
  signature = tf.nest.map_structure(lambda v: tf.TensorSpec([None, *v.shape[1:]]), outputs)
  module.detect = tf.function(lambda o: detect(o, CONFIG, SIZE, num_classes=CLASSES), input_signature=[signature])
  tf.saved_model.save(module, str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  for count in (1, 3):
    part = tf.nest.map_structure(lambda v, n=count: tf.constant(v[:n]), outputs)
    check(loaded.detect(part), plain(tf.nest.map_structure(lambda v: v.numpy(), part), CLASSES))


@pytest.mark.parametrize(
  "wrong",
  [
    {"pre_nms_top_k": 0},
    {"max_detections": 0},
    {"score_threshold": 1.0},
    {"score_threshold": -0.1},
    {"iou_threshold": 1.5},
  ],
)
def test_refuses(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    detect(random_outputs(np.random.default_rng(0), 1), CONFIG, SIZE, num_classes=CLASSES, **wrong)


def region_outputs(rng, batch=2, count=30, num_classes=3):
  centre, side = rng.uniform(0, SIZE, (batch, count, 2)), rng.uniform(8, 40, (batch, count, 2))
  regions = np.clip(np.concatenate([centre - side / 2, centre + side / 2], -1), 0, [*SIZE, *SIZE]).astype(np.float32)
  logits = rng.normal(0, 2, (batch, count, num_classes + 1)).astype(np.float32)
  codes = rng.normal(0, 1, (batch, count, num_classes, 4)).astype(np.float32)
  return logits, codes, regions


def test_regions_by_hand():
  regions = np.zeros([1, 4, 4], np.float32)  # the last one is padding
  regions[0, :3] = [[0, 0, 20, 20], [0, 0, 20, 20], [10, 10, 60, 90]]
  logits = np.full([1, 4, 3], -9.0, np.float32)
  logits[0, 0, 1], logits[0, 1, 1], logits[0, 1, 2] = 9, 8, 8  # the second region is as much of class 0 as of class 1
  logits[0, 2, 0] = 9  # background
  logits[0, 3, 1] = 9
  codes = np.zeros([1, 4, 2, 4], np.float32)
  codes[0, 1, 1] = [5, 0, 0, 5 * np.log(2)]  # down by half, twice as wide: -10 to 30, clipped
  found = detect_regions(logits, codes, regions, SIZE, max_detections=5)
  assert found["num_detections"].numpy().tolist() == [2]
  assert found["detection_classes"].numpy().tolist() == [[0, 1, -1, -1, -1]]
  np.testing.assert_allclose(found["detection_boxes"][0, :3], [[0, 0, 20, 20], [10, 0, 30, 30], [0] * 4], atol=1e-4)
  np.testing.assert_allclose(found["detection_scores"][0], [1, 0.5, 0, 0, 0], atol=1e-6)


def test_regions_decoded_as_the_authors_do_by_hand():
  """The region 0 to 20 is 21 long around 10.5: down by half is 21, twice as wide 42, less one at the far ends."""
  logits, codes = np.float32([[[-9, 9]]]), np.float32([[[[5, 0, 0, 5 * np.log(2)]]]])
  found = detect_regions(logits, codes, np.float32([[[0, 0, 20, 20]]]), SIZE, legacy_plus_one=True)
  np.testing.assert_allclose(found["detection_boxes"][0, 0], [10.5, 0, 30.5, 30.5], atol=1e-4)


def test_regions_equal_model_gardens():
  peer = pytest.importorskip("official.vision.modeling.layers.detection_generator")
  logits, codes, regions = region_outputs(np.random.default_rng(0))
  theirs = np.concatenate([np.zeros_like(codes[:, :, :1]), codes], axis=2).reshape(*codes.shape[:2], -1)
  expected = peer.DetectionGenerator()(
    tf.constant(theirs),
    tf.constant(logits),
    tf.constant(regions),
    tf.constant([list(map(float, SIZE))] * 2),
    [10, 10, 5, 5],
  )
  found = detect_regions(logits, codes, regions, SIZE)
  assert found["num_detections"].numpy().tolist() == expected["num_detections"].numpy().tolist()
  for image, count in enumerate(found["num_detections"].numpy()):
    assert count > 20
    for key, shift in (("boxes", 0), ("scores", 0), ("classes", 1)):  # theirs count background
      ours, peers = (x[f"detection_{key}"][image, :count].numpy() for x in (found, expected))
      np.testing.assert_allclose(ours + shift, peers, atol=1e-3, err_msg=key)


def test_regions_with_fewer_pairs_considered():
  logits, codes, regions = region_outputs(np.random.default_rng(1))
  every, few = (detect_regions(logits, codes, regions, SIZE, pre_nms_top_k=k, iou_threshold=1.0) for k in (5000, 12))
  assert few["num_detections"].numpy().tolist() == [12, 12]
  for key in ("detection_boxes", "detection_scores", "detection_classes"):
    np.testing.assert_array_equal(few[key][:, :12], every[key][:, :12])


def test_regions_that_are_not_finite_are_not_found():
  logits, codes, regions = region_outputs(np.random.default_rng(2))
  logits[0], codes[1], regions[1, 3] = np.nan, np.nan, np.nan
  found = detect_regions(logits, codes, regions, SIZE)
  assert found["num_detections"].numpy()[0] == 0


@pytest.mark.parametrize(("name", "value"), [("score_threshold", 1.0), ("max_detections", 0)])
def test_regions_refuse_arguments_out_of_range(name, value):
  with pytest.raises(UserError, match=f"{name} is {value}"):
    detect_regions(*region_outputs(np.random.default_rng(0)), SIZE, **{name: value})
