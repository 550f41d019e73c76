"""Which training images are held out: whole files where they fit, records where they do not."""

import pathlib

import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.search import held_out
from spinenet_tf.search.held_out import hold_out, wanted_images


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
  folder = tmp_path / "tmp"
  folder.mkdir()
  monkeypatch.setattr(held_out.tempfile, "tempdir", str(folder))
  return folder


def write(folder, counts):
  """Files with records "FILE.NUMBER"."""
  for i, count in enumerate(counts):
    with tf.io.TFRecordWriter(str(folder / f"train-{i:05d}-of-{len(counts):05d}.tfrecord")) as writer:
      for n in range(count):
        writer.write(f"{i}.{n}".encode())
  return str(folder / "train-*.tfrecord")


def records(files):
  return [record.decode() for record in tf.data.TFRecordDataset(list(files)).as_numpy_iterator()]


def test_the_papers_number_is_sixteen_of_256_files(tmp_path, monkeypatch):
  names = [f"train-{i:05d}-of-00256.tfrecord" for i in range(256)]
  counts = [462 + (i < 15) for i in range(256)]  # 118,287 images
  monkeypatch.setattr(held_out.shards, "find", lambda pattern: names)
  monkeypatch.setattr(held_out.shards, "count", lambda files: counts)
  split = hold_out("train-*", 7392)
  assert (split.num_held_out, split.num_train) == (7392, 110_895) and split.held_out == tuple(names[240:])
  assert split.train == tuple(names[:240])


def test_whole_files_where_they_come_close(tmp_path, own_temporary_folder):
  split = hold_out(write(tmp_path, [10, 10, 10, 10, 9]), 0.2)
  assert [pathlib.Path(file).name for file in split.held_out] == ["train-00004-of-00005.tfrecord"]
  assert (split.num_train, split.num_held_out) == (40, 9) and not list(own_temporary_folder.iterdir())


def test_records_where_files_are_too_large(tmp_path):
  pattern = write(tmp_path, [7, 5])
  split = hold_out(pattern, 3)
  assert (split.num_train, split.num_held_out) == (9, 3)
  # Record n (from 1) is held out where n * 3 / 12 reaches a whole number: the 4th, 8th and 12th.
  assert records(split.held_out) == ["0.3", "1.0", "1.4"]
  assert records(split.train) == ["0.0", "0.1", "0.2", "0.4", "0.5", "0.6", "1.1", "1.2", "1.3"]
  before = pathlib.Path(split.train[0]).stat().st_mtime_ns
  assert hold_out(pattern, 0.25) == split and pathlib.Path(split.train[0]).stat().st_mtime_ns == before
  assert hold_out(pattern, 4) != split


@pytest.mark.parametrize("value", [0, 0.0, 0.01, -1, float("nan"), None, "ten", True])
def test_no_held_out_images(value):
  with pytest.raises(UserError, match=r"no held-out images among the 12 to train on"):
    wanted_images(value, 12)


def test_nothing_left_to_train_on():
  with pytest.raises(UserError, match=r"proxy.held_out is 12, and there are 12 images to train on: none would be left"):
    wanted_images(12, 12)


def test_large_files_are_not_copied(tmp_path, monkeypatch):
  monkeypatch.setattr(held_out, "MOST_BYTES", 100)
  with pytest.raises(
    UserError, match=r"cannot be divided into 9 and 3 images by whole files; run `prepare` again with mor"
  ):
    hold_out(write(tmp_path, [12]), 3)
