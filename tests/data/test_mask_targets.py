"""Masks in batches: sampled within their own boxes, moved with their image."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.data import augment, mask_targets, masks, meta, pipeline, synthetic, tfrecord
from spinenet_tf.errors import UserError


def sample(crop, corner, box, side, original=(20, 30)):
  crop, text = np.array(crop, bool), tf.constant("")
  png, corners = tf.constant([masks.encode(crop)]), tf.constant([corner])
  boxes = tf.constant([box], tf.float32)
  sampled, given = mask_targets.sample(png, corners, boxes, side, 1, tf.constant(original), text, text)
  assert given.numpy().tolist() == [True]
  return sampled[0].numpy().tolist()


def test_bins_on_pixels_take_their_values():
  crop = [[1, 0], [1, 1]]
  assert sample(crop, [4, 5], [4, 5, 6, 7], 2) == crop
  assert sample(crop, [4, 5], [4, 7, 6, 5], 2) == [[0, 1], [1, 1]]  # mirrored
  assert sample(crop, [4, 5], [3, 5, 7, 7], 4) == [[0] * 4, [1, 1, 0, 0], [1, 1, 1, 1], [0] * 4]
  assert sample(crop, [4, 5], [4, 6, 6, 9], 2) == [[0, 0], [1, 0]]  # 1 + 1/2 px wide: at x = 6.75 and 8.25
  assert sample(crop, [4, 5], [10, 10, 12, 12], 2) == [[0, 0], [0, 0]]  # nothing of the mask in the box


def test_bins_between_pixels_are_interpolated():
  # x: 0.25, 0.75, 1.25, ... of a mask that covers 1 to 3: weights 0, .25 | .75, 1 | 1, .75 | .25, 0.
  assert sample([[1, 1]] * 9, [0, 1], [2, 0, 3, 4], 8)[4] == [0, 0, 1, 1, 1, 1, 0, 0]
  # Half covered: exactly 1/2 at x = 1.
  assert sample([[1]] * 9, [0, 1], [2, 0.5, 3, 1.5], 1) == [[1]]


def test_objects_without_a_mask():
  png, text = masks.encode(np.ones((2, 2), bool)), tf.constant("")
  crops, corners = tf.constant(["", png, ""]), tf.constant([[0, 0], [1, 1], [0, 0]])
  boxes = tf.constant([[1.0, 1, 3, 3]] * 3)
  sampled, given = mask_targets.sample(crops, corners, boxes, 2, 5, tf.constant([9, 9]), text, text)
  assert given.numpy().tolist() == [False, True, False, False, False]
  assert sampled.numpy().sum(axis=(1, 2)).tolist() == [0, 4, 0, 0, 0]
  none, given = mask_targets.sample(crops[:0], corners[:0], boxes[:0], 2, 3, tf.constant([9, 9]), text, text)
  assert none.shape == (3, 2, 2) and not given.numpy().any()


def disc(height, width, centre, radius):
  y, x = np.mgrid[:height, :width] + 0.5
  return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def of_pixels(pixels, source_id="img7", number=3, **changes):
  """A record whose objects are the given masks, with the boxes of their pixels; the image shows the first one."""
  height, width = pixels[0].shape
  objects = []
  for each in pixels:
    rows, columns = np.flatnonzero(each.any(1)), np.flatnonzero(each.any(0))
    box = tuple(map(float, (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)))
    mask = masks.from_pixels(each)
    objects.append({"box": box, "id": number, "name": "x", "is_crowd": 0, "area": float(each.sum()), "mask": mask})
  image = np.repeat(pixels[0][..., np.newaxis] * np.uint8(255), 3, axis=-1)
  values = {
    "encoded": tf.io.encode_png(image).numpy(),
    "image_format": "png",
    "height": height,
    "width": width,
    "file_name": "a.png",
    "source_id": source_id,
    "objects": objects,
    **changes,
  }
  return tfrecord.detection_record(**values)


def write(path, *records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for each in records:
      writer.write(each)
  return str(path)


def batches(pattern, count=None, **options):
  defaults = {"image_size": (40, 40), "batch_size": 1, "training": True, "class_ids": [3], "masks": 16, "max_boxes": 4}
  dataset = pipeline.detection_dataset(pattern, **{**defaults, **options})
  return list((dataset if count is None else dataset.take(count)).as_numpy_iterator())


def test_batch(tmp_path):
  pixels = [disc(20, 30, (8, 12), 6), disc(20, 30, (10, 20), 4)]
  path = write(tmp_path / "a.tfrecord", of_pixels(pixels))
  dataset = pipeline.detection_dataset(path, image_size=(40, 40), batch_size=2, training=True, masks=112, max_boxes=7)
  assert dataset.element_spec["masks"] == tf.TensorSpec([2, 7, 112, 112], tf.uint8)
  assert dataset.element_spec["has_mask"] == tf.TensorSpec([2, 7], tf.bool)
  plain = pipeline.detection_dataset(path, image_size=(40, 40), batch_size=2, training=True)
  assert set(plain.element_spec) == set(dataset.element_spec) - {"masks", "has_mask"}
  (batch,) = batches(path, 1, flip=False)
  assert batch["has_mask"].tolist() == [[True, True, False, False]]
  assert set(np.unique(batch["masks"])) == {0, 1} and not batch["masks"][0, 2:].any()
  np.testing.assert_allclose(batch["masks"][0, :2].mean(axis=(1, 2)), np.pi / 4, atol=0.05)  # discs in their boxes


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_and_plain_training_agree_by_hand(tmp_path, training):
  """An L of pixels in an image that is doubled: each pixel is 4 x 4 bins of its box of 2 x 2 pixels."""
  pixels = np.zeros((20, 20), bool)
  pixels[5:7, 9] = pixels[6, 10] = True
  path = write(tmp_path / "a.tfrecord", of_pixels([pixels]))
  (batch,) = batches(path, 1, training=training, flip=False, masks=8)
  np.testing.assert_allclose(batch["boxes"][0, 0], [10, 18, 14, 22])
  expected = np.kron([[1, 0], [1, 1]], np.ones((4, 4)))
  found = batch["masks"][0, 0]
  assert np.abs(found - expected)[1:-1, 1:-1].sum() <= 2  # the inner corner is rounded by interpolation
  assert found[1:-1, 1:3].all() and found[5:7, 1:-1].all() and not found[:3, 5:].any()


def test_masks_move_with_flip_crop_and_scale(tmp_path):
  """A mask, laid into its box, covers the pixels of its object, through every draw."""
  pixels = disc(60, 90, (20, 60), 18)
  pixels[22:, :] = False  # so that neither side is like the other
  pixels[:, 70:] = False
  path = write(tmp_path / "a.tfrecord", of_pixels([pixels]))
  seen = {"cut": 0, "whole": 0}
  for batch in batches(path, 40, scale_jitter=(0.5, 2.5), masks=28, image_size=(80, 80)):
    if batch["classes"][0, 0] < 0:
      continue
    box, mask = batch["boxes"][0, 0], batch["masks"][0, 0]
    seen["whole" if np.isclose((box[3] - box[1]) / (box[2] - box[0]), 28 / 20, atol=0.01) else "cut"] += 1
    drawn = batch["image"][0, :, :, 0] * 0.229 + 0.485
    where = [(box[i] + (np.arange(28) + 0.5) / 28 * (box[i + 2] - box[i])) for i in (0, 1)]
    indices = [np.clip(np.floor(v).astype(int), 0, 79) for v in where]
    shown = drawn[np.ix_(*indices)] > 0.5
    assert (shown != mask.astype(bool)).mean() < 0.12, (box, batch["scale"])
    rim = np.abs(drawn[np.ix_(*indices)] - 0.5) > 0.49  # sure pixels are all right
    assert (shown != mask.astype(bool))[rim].mean() < 0.06
  assert seen["cut"] >= 5 and seen["whole"] >= 5


@pytest.mark.parametrize("flip", [False, True])
def test_crop_that_cuts_the_object_by_hand(flip):
  """A window of the right half sees the right half of the mask (the left one when flipped)."""
  draws = augment.Draw(tf.constant(flip), tf.constant(2.0), tf.constant([0.5, 1.0]))
  where = augment.geometry(tf.constant([20, 40]), draws, (20, 20))  # 40 x 20 pixels seen 1 : 1
  box = tf.constant([[0.25, 0.25, 0.75, 0.75]])  # x 10 to 30, y 5 to 15
  moved, _ = augment.transform_boxes(box, where)
  np.testing.assert_allclose(moved, [[5, 0, 15, 10]])
  stored = augment.stored_boxes(moved, where).numpy()
  np.testing.assert_allclose(stored, [[5, 20, 15, 10] if flip else [5, 20, 15, 30]])
  crop = np.zeros((10, 20), bool)
  crop[:, 4:13] = True  # x 14 to 22
  sampled = np.array(sample(crop, [5, 10], stored[0], 10, (20, 40)))
  expected = np.arange(10) < 6 if flip else np.arange(10) < 3
  assert (sampled == expected).all()


def test_stored_boxes_invert():
  for number in range(20):
    draws = augment.draw(tf.constant([1, number], tf.int64), (0.5, 1.0), True)
    where = augment.geometry(tf.constant([50, 70]), draws, (64, 64))
    boxes = tf.constant([[0.1, 0.2, 0.5, 0.9]])
    stored = augment.stored_boxes(augment.transform_boxes(boxes, where)[0], where).numpy()
    flipped = [5, 63, 25, 14] if draws.flip else [5, 14, 25, 63]
    np.testing.assert_allclose(stored, [flipped], atol=1e-3)


def test_rows_match_boxes_when_objects_are_left_out(tmp_path):
  """A crowd goes, and what lies outside max_boxes; the masks of the others stay with their boxes."""
  pixels = [disc(20, 30, (8, 12), 6), np.ones((20, 30), bool), disc(20, 30, (10, 20), 4)]
  pixels[1][:10] = False
  record = tf.train.Example.FromString(of_pixels(pixels))
  record.features.feature["image/object/is_crowd"].int64_list.value[:] = [1, 0, 0]
  path = write(tmp_path / "a.tfrecord", record.SerializeToString())
  for training in (True, False):
    (batch,) = batches(path, 1, training=training, flip=False)
    assert batch["has_mask"].tolist() == [[True, True, False, False]]
    assert batch["masks"][0, 0].all() and 0.7 < batch["masks"][0, 1].mean() < 0.85
    (batch,) = batches(path, 1, training=training, flip=False, max_boxes=1)
    assert batch["masks"].shape == (1, 1, 16, 16) and batch["masks"].all()


def whole_image_masks(pixels, value=255):
  """The schema of Model Garden: a PNG of the whole image for each object."""
  record = tf.train.Example.FromString(of_pixels(pixels))
  feature = record.features.feature
  for key in [key for key in feature if "mask_crop" in key]:
    del feature[key]
  for each in pixels:
    stream = io.BytesIO()
    Image.fromarray(each * np.uint8(value)).save(stream, "PNG")
    feature["image/object/mask"].bytes_list.value.append(stream.getvalue())
  return record


@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_whole_images(tmp_path, value):
  pixels = [disc(20, 30, (8, 12), 6), disc(20, 30, (10, 20), 4)]
  ours = write(tmp_path / "ours.tfrecord", of_pixels(pixels))
  theirs = write(tmp_path / "theirs.tfrecord", whole_image_masks(pixels, value).SerializeToString())
  for options in ({"training": False}, {"scale_jitter": (0.5, 2.0)}):
    for a, b in zip(batches(ours, 6, **options), batches(theirs, 6, **options)):
      for key in a:
        np.testing.assert_array_equal(a[key], b[key])
  (a,), (b,) = pipeline.groundtruth(ours, masks=True), pipeline.groundtruth(theirs, masks=True)
  assert a["masks"] == b["masks"] and len(a["masks"]) == 2


def test_records_written_by_model_garden(tmp_path):
  """Their converter's feature names, their PNG; and their decoder reads the same masks."""
  lib = pytest.importorskip("official.vision.data.tfrecord_lib", reason="Model Garden is not installed")
  decoder = pytest.importorskip("official.vision.dataloaders.tf_example_decoder")
  pixels = disc(20, 30, (8, 12), 6)
  features = tf.train.Example.FromString(of_pixels([pixels])).features.feature
  written = {key: features[key] for key in features if "mask_crop" not in key}
  stream = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
  written["image/object/mask"] = lib.convert_to_feature([stream.getvalue()], "bytes_list")
  serialized = tf.train.Example(features=tf.train.Features(feature=written)).SerializeToString()
  decoded = decoder.TfExampleDecoder(include_mask=True).decode(tf.constant(serialized))
  np.testing.assert_array_equal(decoded["groundtruth_instance_masks"][0], pixels)
  theirs = write(tmp_path / "theirs.tfrecord", serialized)
  ours = write(tmp_path / "ours.tfrecord", of_pixels([pixels]))
  np.testing.assert_array_equal(*(batches(path, 1, training=False)[0]["masks"] for path in (theirs, ours)))


def test_evaluation_filler(tmp_path):
  path = write(tmp_path / "a.tfrecord", of_pixels([disc(20, 30, (8, 12), 6)]))
  (batch,) = batches(path, training=False, batch_size=3)
  assert batch["is_real"].tolist() == [True, False, False]
  assert batch["has_mask"][1:].sum() == 0 and batch["masks"][1:].sum() == 0 and batch["masks"][0].sum() > 0


def raises(path, words, **options):
  with pytest.raises(UserError) as caught:
    with pipeline.explain_errors(path):
      batches(path, 2, **options)
  assert all(word in str(caught.value) for word in words), str(caught.value)


def change(record, name, values):
  record = tf.train.Example.FromString(record) if isinstance(record, bytes) else record
  feature = record.features.feature[name]
  kind = feature.WhichOneof("kind")
  getattr(feature, kind).value[:] = values
  return record.SerializeToString()


@pytest.mark.parametrize("training", [True, False])
def test_bad_masks_name_file_and_record(tmp_path, training):
  good = of_pixels([disc(20, 30, (8, 12), 6)])
  crop = "image/object/mask_crop"
  png = masks.from_pixels(disc(20, 30, (8, 12), 6)).png
  for name, values, words in (
    (f"{crop}/ymin", [15], ["12 12", "15 6", "20 30", "inside"]),
    (f"{crop}/xmin", [-1], ["-1", "inside"]),
    (f"{crop}/ymin", [1, 2], ["1 labels but", "1 2 1", "one per object"]),
    (crop, [png, png, png], ["1 labels but", "one per object"]),
    (crop, [b"not a picture, but some text"], ["not PNG files"]),
    (crop, [png[:40]], ["'img7'", "cannot be decoded", "prepare"]),
  ):
    path = write(tmp_path / "odd.tfrecord", change(good, name, values))
    raises(path, ["odd.tfrecord", "img7", *words], training=training)
  small = whole_image_masks([disc(20, 30, (8, 12), 6)])
  stream = io.BytesIO()
  Image.fromarray(np.ones((40, 60), np.uint8)).save(stream, "PNG")
  path = write(tmp_path / "odd.tfrecord", change(small, "image/object/mask", [stream.getvalue()]))
  raises(path, ["40 60", "20 30"], training=training)


def test_records_without_masks(tmp_path):
  plain = whole_image_masks([disc(20, 30, (8, 12), 6)])
  del plain.features.feature["image/object/mask"]
  path = write(tmp_path / "a.tfrecord", plain.SerializeToString())
  with pytest.raises(UserError, match="a.tfrecord.*no masks.*prepare coco.*--nomasks"):
    batches(path, 1)
  with pytest.raises(UserError, match="no masks"):
    batches(path, training=False)
  (truth,) = pipeline.groundtruth(path, masks=True)
  assert truth["masks"] == [None]
  (truth,) = pipeline.groundtruth(path)
  assert "masks" not in truth
  path = write(tmp_path / "b.tfrecord", plain.SerializeToString(), of_pixels([disc(20, 30, (8, 12), 6)]))
  assert sorted(b["has_mask"].sum() for b in batches(path, 2, shuffle_buffer=0)) == [0, 1]
  with pytest.raises(UserError, match="masks is -1"):
    batches(path, masks=-1)


def test_meta_says_that_there_are_no_masks(tmp_path):
  synthetic.prepare_synthetic(tmp_path, train=2, val=2, size=48)
  known = meta.load(tmp_path)
  for split in known.splits.values():
    split.pop("num_masks", None)  # as an earlier version wrote it
  meta.save(known, tmp_path)
  with pytest.raises(UserError, match="no masks"):
    batches(f"{tmp_path}/train-*.tfrecord", class_ids=None)
