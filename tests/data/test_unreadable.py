"""Damaged training data: passed over, counted, named; the stream keeps its length and place."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data import pipeline
from spinenet_tf.data.tfrecord import detection_record
from spinenet_tf.data.unreadable import EVERY, Unreadable
from spinenet_tf.errors import UserError

WHOLE = tf.io.encode_jpeg(np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)).numpy()


def record(name, encoded=WHOLE, label=3):
  objects = [{"box": (4, 4, 40, 40), "id": label, "name": "a", "is_crowd": 0, "area": 1296}]
  facts = {"image_format": "jpeg", "height": 48, "width": 48, "file_name": name, "source_id": name}
  return detection_record(encoded=encoded, objects=objects, **facts)


def write(path, *contents):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for content in contents:
      writer.write(content)
  return str(path)


def ids(pattern, count, share=0.5, start=0, counter=None, **arguments):
  arguments = {"shuffle_buffer": 0, "class_ids": [3], "seed": 4, **arguments}
  dataset = pipeline.detection_dataset(
    pattern,
    image_size=(32, 32),
    batch_size=1,
    training=True,
    start_example=start,
    unreadable=counter or Unreadable(share),
    **arguments,
  )
  with pipeline.explain_errors(pattern):
    return [batch["source_id"][0].numpy().decode() for batch in dataset.take(count)]


@pytest.fixture
def cut_jpeg(tmp_path):
  """Ten records, number 4 has half an image."""
  names = [f"img{i}" for i in range(10)]
  half = WHOLE[: len(WHOLE) // 2]
  return write(tmp_path / "a.tfrecord", *(record(n, half if n == "img4" else WHOLE) for n in names))


def test_the_next_takes_its_place_and_it_is_named(cut_jpeg, caplog):
  counter = Unreadable(0.1)
  with caplog.at_level("WARNING"):
    found = ids(cut_jpeg, 20, counter=counter)
  assert found[:10] == [f"img{i}" for i in (0, 1, 2, 3, 5, 5, 6, 7, 8, 9)]
  assert found[10:] == found[:10]  # the second epoch may have as many
  assert counter.total >= 2  # one for each epoch that was prefetched
  assert "a.tfrecord: record 'img4' cannot be decoded" in caplog.text and "1 of at most 1" in caplog.text


@pytest.mark.parametrize("start", [0, 3, 4, 5, 13, 14])
def test_a_stream_started_later_is_the_same(cut_jpeg, start):
  assert ids(cut_jpeg, 12, start=start) == ids(cut_jpeg, start + 12)[start:]


def test_without_damage_nothing_changes(tmp_path):
  path = write(tmp_path / "b.tfrecord", *(record(f"img{i}") for i in range(3 * EVERY + 5)))
  counter = Unreadable(0.5)
  settings = {"image_size": (32, 32), "batch_size": 2, "training": True, "class_ids": [3], "start_example": 7}
  strict = pipeline.detection_dataset(path, **settings).take(2 * EVERY)
  lenient = pipeline.detection_dataset(path, **settings, unreadable=counter).take(2 * EVERY)
  for a, b in zip(strict, lenient):
    assert a["source_id"].numpy().tolist() == b["source_id"].numpy().tolist()
    np.testing.assert_array_equal(a["image"], b["image"])
  assert counter.total == 0 and strict.element_spec == lenient.element_spec


def test_above_the_share_it_stops(cut_jpeg):
  with pytest.raises(UserError, match=r"'img4' cannot be decoded.*1 of 10 records.*max_unreadable=0.05 allows 0"):
    ids(cut_jpeg, 10, share=0.05)


def test_it_stops_when_nothing_can_be_read(tmp_path):
  path = write(tmp_path / "c.tfrecord", *(record(f"img{i}", b"no image") for i in range(5)))
  with pytest.raises(UserError, match="cannot be decoded"):
    ids(path, 5)


def test_a_record_that_somebody_wrote_wrong_is_no_damage(tmp_path):
  path = write(tmp_path / "d.tfrecord", *(record(f"img{i}", label=4 if i == 2 else 3) for i in range(10)))
  with pytest.raises(UserError, match="'img2' has class ids .*4"):
    ids(path, 10)


def damage(path, how):
  """Damages record 5 of 8 in a file, after it was counted."""
  content = bytearray(path.read_bytes())
  size = len(content) // 8
  if how == "bit":
    content[5 * size + size // 2] ^= 4
  path.write_bytes(content[: 5 * size + size // 2] if how == "cut" else content)
  if how == "gone":
    path.unlink()


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(("how", "lost"), [("bit", 3), ("cut", 3), ("gone", 8)])
def test_damaged_shards(tmp_path, monkeypatch, how, lost, cache):
  from spinenet_tf.data import shards

  paths = [tmp_path / f"{name}.tfrecord" for name in "xy"]
  for path in paths:
    write(path, *(record(f"{path.stem}{i}") for i in range(8)))
  files = [str(path) for path in paths]
  damage(paths[1], how)
  monkeypatch.setattr(shards, "find", lambda pattern: files)
  monkeypatch.setattr(shards, "count", lambda files: [8] * len(files))
  counter = Unreadable(0.5)
  found = ids(files, 16, counter=counter, cache=cache)
  good = {f"x{i}" for i in range(8)} | {f"y{i}" for i in range(8 - lost)}
  assert set(found) >= good - {found[-1]} and set(found) <= good
  assert counter.total >= lost - 1
  later = ids(files, 8, start=8, cache=cache)
  assert later == found[8:]
  with pytest.raises(UserError, match=r"y.tfrecord: a record cannot be read.*max_unreadable=0.1 allows 1"):
    ids(files, 16, share=0.1, cache=cache)


def test_bad_share():
  from spinenet_tf.training.settings import DataSettings

  for value in (-0.1, 1, "few", True):
    with pytest.raises(UserError, match="max_unreadable"):
      DataSettings(max_unreadable=value)
