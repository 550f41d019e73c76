"""The stream of batches: order, resumption, hosts, evaluation, errors."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data import convert, meta, pipeline, synthetic, tfrecord
from spinenet_tf.errors import UserError

IDS = [c.id for c in synthetic.CATEGORIES]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
  """13 training pictures in 3 shards, 5 for validation."""
  folder = tmp_path_factory.mktemp("shapes")
  original, convert._SHARD_IMAGES = convert._SHARD_IMAGES, 4
  synthetic.prepare_synthetic(folder, train=13, val=5, size=48)
  convert._SHARD_IMAGES = original
  assert len(list(folder.glob("train-*.tfrecord"))) == 3
  return folder


def batches(pattern, count=None, **options):
  options = {"image_size": (32, 48), "batch_size": 4, "training": True, "class_ids": IDS, **options}
  dataset = pipeline.detection_dataset(pattern, **options)
  return list((dataset if count is None else dataset.take(count)).as_numpy_iterator())


def same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def ids(several):
  return [i for batch in several for i in batch["source_id"]]


JITTER = {"scale_jitter": (0.5, 2.0)}


def test_batch(shapes):
  dataset = pipeline.detection_dataset(
    f"{shapes}/train-*.tfrecord", image_size=(32, 48), batch_size=4, training=True, class_ids=IDS, max_boxes=7
  )
  spec = dataset.element_spec
  assert {k: (tuple(v.shape), v.dtype) for k, v in spec.items()} == {
    "image": ((4, 32, 48, 3), tf.float32),
    "boxes": ((4, 7, 4), tf.float32),
    "classes": ((4, 7), tf.int32),
    "source_id": ((4,), tf.string),
    "original_size": ((4, 2), tf.int32),
    "scale": ((4, 2), tf.float32),
    "is_real": ((4,), tf.bool),
  }
  batch = next(dataset.as_numpy_iterator())
  np.testing.assert_allclose(batch["scale"], 32 / 48)
  assert (batch["classes"] >= -1).all() and (batch["classes"] < 5).all()
  assert not batch["boxes"][batch["classes"] == -1].any()
  assert not batch["image"][:, :, 32:].any()


@pytest.mark.parametrize("cache", [False, True])
def test_epochs_are_complete_and_different(shapes, cache):
  seen = ids(batches(f"{shapes}/train-*.tfrecord", 13, cache=cache))
  epochs = [seen[i : i + 13] for i in range(0, 52, 13)]
  assert all(len(set(epoch)) == 13 for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"shuffle_buffer": 3}, {"shuffle_buffer": 0}])
@pytest.mark.parametrize("start", [0, 8, 13, 28, 52])
def test_continues_exactly(shapes, options, start):
  whole = batches(f"{shapes}/train-*.tfrecord", 16, **JITTER, **options)
  tf.random.set_seed(start)
  later = batches(f"{shapes}/train-*.tfrecord", 16 - start // 4, start_example=start, **JITTER, **options)
  if start % 4 == 0:
    same(whole[start // 4 :], later)
  else:
    assert ids(whole)[start : start + 8] == ids(later)[:8]


def test_seed_changes_order_and_augmentation(shapes):
  first, second = (batches(f"{shapes}/train-*.tfrecord", 4, seed=s, **JITTER) for s in (0, 1))
  assert ids(first) != ids(second)
  assert not np.allclose(first[0]["scale"], second[0]["scale"])


def test_the_same_image_differs_between_epochs(shapes):
  several = batches(f"{shapes}/train-*.tfrecord", 13, **JITTER)
  scales = {}
  for batch in several:
    for name, scale in zip(batch["source_id"], batch["scale"]):
      scales.setdefault(name, set()).add(float(scale[0]))
  assert all(len(values) >= 3 for values in scales.values())


def test_batch_larger_than_the_data(shapes):
  (batch,) = batches(f"{shapes}/val-*.tfrecord", 1, batch_size=12)
  assert len(set(batch["source_id"][:5])) == 5 and batch["is_real"].all()


def context(count, index):
  return tf.distribute.InputContext(num_input_pipelines=count, input_pipeline_id=index)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_hosts_share_the_epoch(shapes, hosts, cache):
  """5 hosts read 3 shards by record, fewer hosts read whole shards; resuming works on each."""
  seen = []
  for host in range(hosts):
    options = {"batch_size": 1, "cache": cache, "input_context": context(hosts, host), **JITTER}
    stream = batches(f"{shapes}/train-*.tfrecord", 9, **options)
    names = ids(stream)
    mine = names[: len(set(names))] if hosts < 5 or cache else names[:2]
    assert len(set(mine)) == len(mine)
    seen += mine
    if host == hosts - 1:
      same(stream[7:], batches(f"{shapes}/train-*.tfrecord", 2, start_example=7, **options))
  assert len(set(seen)) == len(seen)
  assert len(seen) == 13 or hosts == 5


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [2, 4, 13, 20])
def test_evaluation_delivers_each_example_once(shapes, hosts, batch_size):
  real, counts = [], set()
  for host in range(hosts):
    several = batches(
      f"{shapes}/train-*.tfrecord", training=False, batch_size=batch_size, input_context=context(hosts, host)
    )
    counts.add(len(several))
    for batch in several:
      assert batch["image"].shape[0] == batch_size
      real += list(batch["source_id"][batch["is_real"]])
      assert (batch["classes"][~batch["is_real"]] == -1).all()
  assert len(real) == 13 and len(set(real)) == 13
  assert len(counts) == 1  # all hosts take part in the same number of steps


def test_groundtruth_and_evaluation_boxes_agree(shapes):
  truth = {image["source_id"]: image for image in pipeline.groundtruth(f"{shapes}/val-*.tfrecord")}
  (batch,) = batches(f"{shapes}/val-*.tfrecord", training=False, batch_size=5)
  assert len(truth) == 5
  for n, name in enumerate(batch["source_id"]):
    image = truth[name.decode()]
    count = len(image["boxes"])
    assert (image["height"], image["width"]) == (48, 48)
    np.testing.assert_allclose(batch["boxes"][n, :count], image["boxes"] * np.tile(batch["scale"][n], 2), rtol=1e-5)
    np.testing.assert_array_equal(batch["classes"][n, :count], image["class_ids"] - 1)
  pictures = {str(n + 1): p for n, p in enumerate(synthetic.generate(5, 48, 0, "val"))}
  for name, picture in pictures.items():
    np.testing.assert_allclose(truth[name]["boxes"], picture.boxes, atol=1e-4)
    np.testing.assert_allclose(truth[name]["area"], picture.areas, rtol=1e-5)


def record(**changes):
  values = {
    "encoded": tf.io.encode_png(np.zeros((20, 30, 3), np.uint8)).numpy(),
    "image_format": "png",
    "height": 20,
    "width": 30,
    "file_name": "a.png",
    "source_id": "img7",
    "objects": [{"box": (1.0, 2.0, 11.0, 17.0), "id": 3, "name": "x", "is_crowd": 0, "area": 50.0}],
    **changes,
  }
  return tfrecord.detection_record(**values)


def write(path, *records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for each in records:
      writer.write(each)
  return str(path)


def test_foreign_files_without_meta(tmp_path):
  """Made elsewhere: no meta.json, no crowd flags, no areas, no sizes, any file name."""
  full = tf.train.Example.FromString(record())
  for key in ("is_crowd", "area"):
    del full.features.feature[f"image/object/{key}"]
  for key in ("image/height", "image/width", "image/source_id"):
    del full.features.feature[key]
  path = write(tmp_path / "whatever.record", full.SerializeToString())
  (batch,) = batches(path, training=False, batch_size=1, class_ids=[5, 3], image_size=(20, 30))
  np.testing.assert_allclose(batch["boxes"][0, 0], [1, 2, 11, 17], rtol=1e-5)
  assert batch["classes"][0, 0] == 1 and batch["source_id"][0] == b"a.png"
  (batch,) = batches(path, 1, class_ids=None, batch_size=1, flip=False)
  assert batch["classes"][0, 0] == 2  # id - 1
  (truth,) = pipeline.groundtruth(path)
  assert (truth["height"], truth["width"]) == (20, 30)
  np.testing.assert_allclose(truth["area"], [150], rtol=1e-5)


def test_crowds_do_not_train_but_score(tmp_path):
  crowd = {"box": (0.0, 0.0, 5.0, 5.0), "id": 3, "name": "x", "is_crowd": 1, "area": 9.0}
  path = write(tmp_path / "a.tfrecord", record(objects=[crowd]))
  (batch,) = batches(path, 1, class_ids=[3], batch_size=1)
  assert (batch["classes"] == -1).all()
  (truth,) = pipeline.groundtruth(path)
  assert truth["is_crowd"].tolist() == [True] and truth["area"].tolist() == [9.0]


def test_many_objects_are_cut_at_max_boxes(tmp_path):
  one = {"box": (1.0, 2.0, 11.0, 17.0), "id": 3, "name": "x", "is_crowd": 0, "area": 50.0}
  path = write(tmp_path / "a.tfrecord", record(objects=[one] * 9))
  (batch,) = batches(path, 1, class_ids=[3], batch_size=1, max_boxes=4, flip=False)
  assert batch["classes"].tolist() == [[0, 0, 0, 0]]


def raises(path, words, **options):
  with pytest.raises(UserError) as caught:
    with pipeline.explain_errors(path):
      batches(path, 3, batch_size=1, **options)
  assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_class_names_id_file_and_count(tmp_path):
  path = write(tmp_path / "odd.tfrecord", record())
  raises(path, ["odd.tfrecord", "img7", "3", "the 2 known", "class_ids"], class_ids=[1, 2])
  path = write(
    tmp_path / "zero.tfrecord", record(objects=[{"box": (0, 0, 1, 1), "id": 0, "name": "", "is_crowd": 0, "area": 1}])
  )
  raises(path, ["zero.tfrecord", "class id 0", "start at 1"], class_ids=None)


def test_meta_contradicting_class_ids_is_found_at_once(shapes):
  with pytest.raises(UserError, match=r"class ids \[4, 5\] not among the 3"):
    pipeline.detection_dataset(
      f"{shapes}/train-*.tfrecord", image_size=(32, 32), batch_size=1, training=True, class_ids=[1, 2, 3]
    )


def test_pixel_boxes_are_refused(tmp_path):
  wrong = record(height=1, width=1)  # so that the sides stay pixels
  raises(write(tmp_path / "pixels.tfrecord", wrong), ["pixels.tfrecord", "img7", "0 to 1"], class_ids=[3])


@pytest.mark.parametrize("training", [True, False])
def test_corrupt_jpeg_is_named(tmp_path, training):
  whole = tf.io.encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).numpy()
  good = record(encoded=whole, image_format="jpeg", source_id="fine")
  bad = record(encoded=whole[: len(whole) // 2], image_format="jpeg", source_id="broken")
  path = write(tmp_path / "jpeg.tfrecord", good, bad)
  raises(path, ["jpeg.tfrecord", "'broken'", "prepare"], class_ids=[3], training=training)


def test_corrupt_record_is_named(tmp_path):
  path = write(tmp_path / "bits.tfrecord", record(), record())
  content = bytearray((tmp_path / "bits.tfrecord").read_bytes())
  content[-20] ^= 0xFF
  (tmp_path / "bits.tfrecord").write_bytes(content)
  raises(path, ["bits.tfrecord", "record 1", "prepare"], class_ids=[3])


def test_cut_short_file_is_named(tmp_path):
  path = write(tmp_path / "short.tfrecord", record(), record())
  content = (tmp_path / "short.tfrecord").read_bytes()
  (tmp_path / "short.tfrecord").write_bytes(content[:-9])
  raises(path, ["short.tfrecord", "inside record 1"], class_ids=[3])


def test_other_errors_pass_unchanged(shapes):
  with pytest.raises(tf.errors.InvalidArgumentError):
    with pipeline.explain_errors(f"{shapes}/train-*.tfrecord"):
      tf.reshape(tf.zeros([3]), [2])


@pytest.mark.parametrize("pattern", ["", [], "  "])
def test_empty_pattern(pattern):
  with pytest.raises(UserError, match="pattern"):
    batches(pattern)


def test_pattern_that_matches_nothing(shapes, tmp_path):
  with pytest.raises(UserError, match="no file matches.*4 .tfrecord files, train-00000-of-00003.tfrecord"):
    batches(f"{shapes}/test-*.tfrecord")
  with pytest.raises(UserError, match="is not a folder"):
    batches(f"{tmp_path}/none/train-*")
  with pytest.raises(UserError, match="is a folder"):
    batches(str(shapes))
  with pytest.raises(UserError, match="no records"):
    batches(write(tmp_path / "empty.tfrecord"))


@pytest.mark.parametrize(
  "options",
  [
    {"batch_size": 0},
    {"image_size": (0, 4)},
    {"scale_jitter": (2.0, 1.0)},
    {"scale_jitter": (0.0, 1.0)},
    {"max_boxes": 0},
    {"start_example": -1},
    {"class_ids": [1, 1, 2, 3, 4, 5]},
    {"class_ids": []},
  ],
)
def test_bad_arguments(shapes, options):
  with pytest.raises(UserError):
    batches(f"{shapes}/train-*.tfrecord", 1, **options)


def test_interrupted_or_changed_sets_are_refused(shapes, tmp_path):
  import shutil

  folder = tmp_path / "copy"
  shutil.copytree(shapes, folder)
  (folder / "train.incomplete").write_text("")
  with pytest.raises(UserError, match="interrupted"):
    batches(f"{folder}/train-*.tfrecord")
  batches(f"{folder}/val-*.tfrecord", 1)
  (folder / "train.incomplete").unlink()
  with open(folder / "train-00001-of-00003.tfrecord", "ab") as file:
    file.write(b"x")
  with pytest.raises(UserError, match="train-00001-of-00003.tfrecord has"):
    batches(f"{folder}/train-*.tfrecord")
  (folder / "train-00001-of-00003.tfrecord").unlink()
  with pytest.raises(UserError, match="is missing"):
    batches(f"{folder}/train-*.tfrecord")


def test_small_object_share(shapes):
  known = meta.load(shapes)
  assert known.share_smaller("train", 1, 48) == 0 and known.share_smaller("train", 48, 48) == 1
  assert 0 < known.share_smaller("train", 12, 48) < 1
  assert known.share_smaller("test", 12, 48) is None


def test_in_a_distribution_strategy(shapes):
  strategy = tf.distribute.MirroredStrategy(["CPU:0"])
  dataset = strategy.distribute_datasets_from_function(
    lambda given: pipeline.detection_dataset(
      f"{shapes}/train-*.tfrecord", image_size=(32, 32), batch_size=2, training=True, input_context=given
    )
  )
  assert next(iter(dataset))["image"].shape == (2, 32, 32, 3)
