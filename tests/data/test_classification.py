"""Batches for classification: crops by hand and by statistics, order, resumption, evaluation, errors."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.data import augment, crop, meta, pipeline, preprocess, tfrecord
from spinenet_tf.data.classification import classification_dataset
from spinenet_tf.errors import UserError

IDS = (0, 5, 9)


def smooth_image(height, width, seed=0):
  small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels, kind="PNG", **options):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind, **options)
  return stream.getvalue()


def record(source_id="img7", label=5, pixels=None, **changes):
  encoded = encode(smooth_image(20, 30) if pixels is None else pixels)
  values = {"image_format": "png", "height": 20, "width": 30, "file_name": f"{source_id}.png", "text": "x", **changes}
  return tfrecord.classification_record(**{"encoded": encoded, "source_id": source_id, "label": label, **values})


def write(path, *records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for each in records:
      writer.write(each)
  return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """13 pictures of 3 classes in 3 files, class = number modulo 3."""
  folder = tmp_path_factory.mktemp("photos")
  for shard in range(3):
    numbers = range(shard, 13, 3)
    records = [record(f"{n}", IDS[n % 3], smooth_image(24 + n, 40 - n, n)) for n in numbers]
    write(folder / f"train-{shard:05d}-of-00003.tfrecord", *records)
  return f"{folder}/train-*"


def batches(pattern, count=None, **options):
  options = {"image_size": (16, 24), "batch_size": 4, "training": True, "class_ids": IDS, **options}
  dataset = classification_dataset(pattern, **options)
  return list((dataset if count is None else dataset.take(count)).as_numpy_iterator())


def same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def names(several):
  return [i.decode() for batch in several for i in batch["source_id"]]


def test_batch(photos):
  options = {"image_size": (16, 24), "batch_size": 4, "class_ids": IDS}
  for training in (True, False):
    spec = classification_dataset(photos, training=training, **options).element_spec
    assert {k: (tuple(v.shape), v.dtype) for k, v in spec.items()} == {
      "image": ((4, 16, 24, 3), tf.float32),
      "label": ((4,), tf.int32),
      "source_id": ((4,), tf.string),
      "is_real": ((4,), tf.bool),
    }
  for batch in batches(photos, 4):
    assert [int(name) % 3 for name in batch["source_id"]] == batch["label"].tolist()
    assert batch["is_real"].all() and np.abs(batch["image"]).max() < 3


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"shuffle_buffer": 3}])
def test_epochs_and_resumption(photos, options):
  whole = batches(photos, 13, **options)
  epochs = [names(whole)[i : i + 13] for i in range(0, 52, 13)]
  assert all(len(set(epoch)) == 13 for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 4
  tf.random.set_seed(3)
  for start in (0, 8, 28):
    same(whole[start // 4 :][:3], batches(photos, 3, start_example=start, **options))
  images = {}
  for batch in whole:
    for name, image in zip(batch["source_id"], batch["image"]):
      images.setdefault(name, set()).add(image.tobytes())
  assert all(len(seen) >= 3 for seen in images.values())  # another crop in another epoch
  assert names(whole) != names(batches(photos, 13, seed=1, **options))


def test_hosts_share_the_epoch(photos):
  seen = []
  for host in range(2):
    context = tf.distribute.InputContext(2, host)
    seen += names(batches(photos, 9 if host == 0 else 4, batch_size=1, input_context=context))
  assert sorted(map(int, seen)) == list(range(13))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("hosts,batch_size", [(1, 4), (1, 20), (2, 4), (4, 2)])
def test_evaluation_delivers_each_example_once(photos, hosts, batch_size, cache):
  real, counts = [], set()
  for host in range(hosts):
    context = tf.distribute.InputContext(hosts, host)
    several = batches(photos, training=False, batch_size=batch_size, input_context=context, cache=cache)
    counts.add(len(several))
    for batch in several:
      real += list(batch["source_id"][batch["is_real"]])
      assert (batch["label"][~batch["is_real"]] == -1).all() and (batch["label"][batch["is_real"]] >= 0).all()
  assert len(real) == len(set(real)) == 13 and len(counts) == 1


def test_middle_crop_by_hand():
  """100x200 for a square input: side 87.5, from row 6.25 and column 56.25, all cut to whole pixels."""
  begin, length = preprocess.center_window(tf.constant([100, 200]), (224, 224))
  assert (begin.numpy().tolist(), length.numpy().tolist()) == ([6, 56], [87, 87])
  begin, length = preprocess.center_window(tf.constant([256, 256]), (224, 224))
  assert (begin.numpy().tolist(), length.numpy().tolist()) == ([16, 16], [224, 224])
  begin, length = preprocess.center_window(tf.constant([100, 200]), (50, 100), 0.5)  # the input's shape
  assert (begin.numpy().tolist(), length.numpy().tolist()) == ([25, 50], [50, 100])
  begin, length = preprocess.center_window(tf.constant([1, 3]), (8, 8))
  assert (begin.numpy().tolist(), length.numpy().tolist()) == ([0, 1], [1, 1])
  begin, length = preprocess.center_window(tf.constant([7, 9]), (8, 8), 1.0)
  assert (begin.numpy().tolist(), length.numpy().tolist()) == ([0, 1], [7, 7])


def test_middle_crop_as_model_garden():
  ops = pytest.importorskip("official.vision.ops.preprocess_ops", reason="Model Garden is not installed")
  for size in ((256, 256), (333, 500), (500, 375), (101, 97), (348, 464), (64, 300)):
    pixels = tf.constant(smooth_image(*size))
    begin, length = preprocess.center_window(tf.constant(size), (224, 224))
    window = pixels[begin[0] : begin[0] + length[0], begin[1] : begin[1] + length[1]]
    np.testing.assert_array_equal(window, ops.center_crop_image(pixels))
    theirs = ops.normalize_image(tf.image.resize(ops.center_crop_image(pixels), (224, 224)) / 255)
    np.testing.assert_allclose(preprocess.preprocess_crop(pixels, (224, 224)), theirs, atol=1e-4)


def test_evaluation_pixels_by_hand(tmp_path):
  """An input as large as the crop: the pixels themselves."""
  pixels = smooth_image(32, 48)
  path = write(tmp_path / "a.tfrecord", record(pixels=pixels))
  (batch,) = batches(path, training=False, batch_size=1, image_size=(28, 28))
  np.testing.assert_allclose(
    batch["image"][0], (pixels[2:30, 10:38] / 255 - preprocess.MEAN) / preprocess.STD, atol=1e-5
  )


def draws(size, count=4000, **options):
  keys = tf.stack([tf.fill([count], tf.constant(7, tf.int64)), tf.range(count, dtype=tf.int64)], axis=1)

  @tf.function
  def all_of_them():
    return tf.map_fn(
      lambda key: crop.draw_window(key, tf.constant(size), (32, 32), **options),
      keys,
      fn_output_signature=(tf.int32,) * 2,
    )

  return (values.numpy() for values in all_of_them())


def test_windows_have_the_distribution_of_the_protocol():
  """Ratio r uniform; height uniform from sqrt(0.08 / r) to the largest that fits; so the mean area is an integral over r."""
  begin, length = draws((1000, 1000))
  area, ratio = length.prod(1) / 1e6, length[:, 1] / length[:, 0]
  assert area.min() > 0.0795 and area.max() < 1.0005 and ratio.min() > 0.746 and ratio.max() < 1.338
  grid = np.linspace(3 / 4, 4 / 3, 10_001)
  low, high = np.sqrt(0.08 / grid), np.minimum(np.sqrt(1 / grid), np.minimum(1, 1 / grid))
  expected = (grid * (high**2 + high * low + low**2) / 3).mean()
  assert abs(area.mean() - expected) < 4 * area.std() / len(area) ** 0.5
  assert abs(ratio.mean() - (3 / 4 + 4 / 3) / 2) < 4 * ratio.std() / len(ratio) ** 0.5
  place = begin / np.maximum(1000 - length, 1)
  assert begin.min() >= 0 and (begin + length <= 1000).all()
  assert np.abs(place.mean(0) - 0.5).max() < 0.025 and place.min() < 0.01 and place.max() > 0.99
  assert np.corrcoef(np.column_stack([area, ratio, place]).T)[np.triu_indices(4, 1)].__abs__().max() < 0.07


def test_window_in_the_middle_where_none_fits():
  """A strip: no window of 8 % of its area has an allowed shape."""
  begin, length = draws((30, 900), 20)
  assert (length == 26).all() and (begin == [1, 436]).all()
  _, length = draws((60, 80), 50, area=(0.24, 0.26), ratio=(1.0, 1.0))
  assert (np.abs(length - (0.25 * 60 * 80) ** 0.5) <= 1).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_window_pixels_by_hand(kind, flip):
  """A window as large as the input is copied, flipped or not."""
  data = tf.constant(encode(smooth_image(60, 70), kind))
  pixels = tf.io.decode_jpeg(data, dct_method="INTEGER_FAST").numpy() if kind == "JPEG" else smooth_image(60, 70)
  window = pixels[11:43, 20:68]

  def place(original, reduce):
    return crop.geometry(original, tf.constant([11, 20]), tf.constant([32, 48]), tf.constant(flip), (32, 48), reduce)

  image, where = augment.decode_at(data, place, (32, 48))
  expected = (window[:, ::-1] if flip else window) / 255
  np.testing.assert_allclose(preprocess.denormalize(image) / 255, expected, atol=4 / 255 if kind == "JPEG" else 1e-6)
  assert where.shift.numpy().tolist() == [11, 2 if flip else 20] and where.scale.numpy().tolist() == [1, 1]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("factor", [2.5, 4.2, 9.0])
def test_reduced_jpeg_window_is_in_place(factor, flip):
  """Read at 1/2, 1/4 or 1/8; the same as the resized window of the whole image but for the smoothing."""
  size = (int(40 * factor) + 13, int(50 * factor) + 22)
  data = tf.constant(encode(smooth_image(*size), "JPEG", quality=95))
  begin, length = tf.constant([6, 10]), tf.constant([int(32 * factor), int(32 * factor)])

  def place(original, reduce):
    return crop.geometry(original, begin, length, tf.constant(flip), (32, 32), reduce)

  image, where = augment.decode_at(data, place, (32, 32))
  assert int(where.ratio) == 2 ** int(np.log2(factor))
  first, last = where.begin * where.ratio, where.end * where.ratio
  assert np.abs(first - begin).max() <= where.ratio // 2 and np.abs(last - begin - length).max() <= where.ratio
  whole = tf.io.decode_jpeg(data).numpy()[first[0] : last[0], first[1] : last[1]]
  expected = preprocess.normalize(tf.image.resize(whole[:, ::-1] if flip else whole, (32, 32)))
  difference = np.abs(image - expected)
  assert difference.mean() < 0.05 and difference.max() < 0.4


def test_flip_is_independent_of_the_window():
  """A bright left half: which side of the crop is bright tells the flip, where the crop has both."""
  pixels = np.zeros((64, 64, 3), np.uint8)
  pixels[:, :32] = 255
  data, flipped, area = tf.constant(encode(pixels)), [], []

  @tf.function
  def drawn(key):
    own = tf.unstack(tf.random.experimental.stateless_split(key, 2))[0]
    _, length = crop.draw_window(own, tf.constant([64, 64]), (16, 16))
    return crop.decode_crop(data, key, (16, 16)), tf.reduce_prod(length)

  for number in range(300):
    image, covered = drawn(tf.constant([1, number], tf.int64))
    difference = np.mean(image[:, -1]) - np.mean(image[:, 0])
    if abs(difference) > 1:
      flipped.append(difference > 0)
      area.append(int(covered))
  high = np.array(area) > np.median(area)
  table = np.array([[np.sum((high == a) & (np.array(flipped) == b)) for a in (False, True)] for b in (False, True)])
  expected = table.sum(0, keepdims=True) * table.sum(1, keepdims=True) / table.sum()
  assert 0.4 < np.mean(flipped) < 0.6 and ((table - expected) ** 2 / expected).sum() < 10.83


def raises(path, words, **options):
  with pytest.raises(UserError) as caught:
    with pipeline.explain_errors(path):
      batches(path, 3, batch_size=1, **options)
  assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_bad_records_are_named(tmp_path, training):
  path = write(tmp_path / "odd.tfrecord", record())
  raises(path, ["odd.tfrecord", "img7", "5", "the 2 known"], class_ids=[1, 2], training=training)
  path = write(tmp_path / "zero.tfrecord", record(label=0))
  raises(path, ["zero.tfrecord", "class id 0", "start at 1"], class_ids=None, training=training)
  example = tf.train.Example.FromString(record())
  del example.features.feature["image/class/label"]
  path = write(tmp_path / "none.tfrecord", example.SerializeToString())
  raises(path, ["none.tfrecord", "img7", "has 0 values of image/class/label"], training=training)
  whole = encode(smooth_image(64, 64), "JPEG")
  path = write(tmp_path / "cut.tfrecord", record("broken", encoded=whole[: len(whole) // 2], image_format="jpeg"))
  raises(path, ["cut.tfrecord", "'broken'", "prepare"], training=training)


def test_foreign_records(tmp_path):
  """No source id, no file name, no size; class = id - 1."""
  example = tf.train.Example.FromString(record())
  for key in ("image/source_id", "image/filename", "image/height", "image/width", "image/class/text"):
    del example.features.feature[key]
  path = write(tmp_path / "whatever.record", example.SerializeToString())
  (batch,) = batches(path, training=False, batch_size=1, class_ids=None)
  assert batch["label"].tolist() == [4] and batch["source_id"][0].isdigit()


def test_records_of_the_other_task_are_refused(tmp_path):
  path = write(tmp_path / "train-00000-of-00001.tfrecord", record())
  categories = (meta.Category(5, "x"),)
  meta.save(meta.Meta(categories), tmp_path)
  with pytest.raises(UserError, match="records are for detection, not classification"):
    batches(path)
  meta.save(meta.Meta(categories, task="classification"), tmp_path)
  assert meta.load(tmp_path).task == "classification"
  assert batches(path, 1, class_ids=[5])[0]["label"].tolist() == [0] * 4
  with pytest.raises(UserError, match="records are for classification, not detection"):
    pipeline.detection_dataset(path, image_size=(8, 8), batch_size=1, training=True)
  with pytest.raises(UserError, match=r"class ids \[5\] not among the 2"):
    batches(path, class_ids=[1, 2])
  with pytest.raises(UserError, match="task 'pose'"):
    meta.Meta(categories, task="pose")


@pytest.mark.parametrize(
  "options",
  [
    {"batch_size": 0},
    {"image_size": (0, 4)},
    {"start_example": -1},
    {"class_ids": [1, 1]},
    {"class_ids": []},
    {"crop_area": (0.0, 1.0)},
    {"crop_area": (0.5, 1.1)},
    {"crop_ratio": (2.0, 1.0)},
    {"eval_crop": 0.0},
    {"eval_crop": 1.5},
  ],
)
def test_bad_arguments(photos, options):
  with pytest.raises(UserError):
    batches(photos, 1, **options)
