"""TFRecord files: the contents of records, and the bytes of files."""

import io
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spinenet_tf.data import records, shards, tfrecord
from spinenet_tf.data.pipeline import detection_dataset, explain_errors, groundtruth
from spinenet_tf.data.unreadable import Unreadable
from tests.fuzz import fuzzing

REFUSALS = (tf.errors.InvalidArgumentError, UnicodeDecodeError)  # which `explain_errors` explains


def example(**changes):
  stream = io.BytesIO()
  Image.fromarray(np.arange(24 * 32 * 3, dtype=np.uint32).reshape(24, 32, 3).astype(np.uint8)).save(stream, "PNG")
  features = {
    "image/encoded": [stream.getvalue()],
    "image/height": [24],
    "image/width": [32],
    "image/source_id": ["5"],
    "image/object/bbox/ymin": [0.1, 0.2],
    "image/object/bbox/xmin": [0.1, 0.2],
    "image/object/bbox/ymax": [0.5, 0.6],
    "image/object/bbox/xmax": [0.5, 0.6],
    "image/object/class/label": [1, 2],
    "image/object/is_crowd": [0, 1],
    "image/object/area": [9.0, 9.0],
    "image/class/label": [1],
    **changes,
  }
  return tfrecord.encode({name: values for name, values in features.items() if values})


FIELDS = ("ymin", "xmin", "ymax", "xmax")
FLOATS = st.lists(st.floats(width=32), min_size=0, max_size=3)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
CHANGES = st.fixed_dictionaries(
  {},
  optional={
    **{f"image/object/bbox/{side}": FLOATS for side in FIELDS},
    "image/object/area": FLOATS,
    "image/object/class/label": INTEGERS,
    "image/object/is_crowd": INTEGERS,
    "image/height": INTEGERS,
    "image/width": INTEGERS,
    "image/class/label": INTEGERS,
    "image/encoded": st.lists(st.binary(max_size=30), max_size=2),
    "image/source_id": st.lists(
      st.one_of(st.text(max_size=5).map(lambda t: t.encode("utf-8", "replace")), st.binary(max_size=5)), max_size=2
    ),
    "image/object/mask": st.lists(st.binary(max_size=10), max_size=3),
    "image/object/mask_crop": st.lists(st.binary(max_size=10), max_size=3),
    "image/object/mask_crop/ymin": INTEGERS,
    "image/object/mask_crop/xmin": INTEGERS,
  },
)
RECORDS = st.one_of(CHANGES.map(lambda changes: example(**changes)), fuzzing.changed_bytes([example()]))


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _parse(data):
  found = records.parse(data, tf.constant("file"), masks=True)
  found["index"] = records.class_index(found["labels"], (1, 2, 7), tf.constant("file"), found["source_id"])
  return found


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def _parse_label(data):
  return records.parse_label(data, tf.constant("file"))


@given(RECORDS)
def test_contents(data):
  found = fuzzing.survives("TFRecord contents", lambda: _parse(data), REFUSALS)
  if found is not None:
    boxes = found["boxes"].numpy()
    assert ((boxes >= 0) & (boxes <= 1)).all()
    count = len(boxes)
    assert all(len(found[name]) == count for name in ("labels", "is_crowd", "area", "mask", "mask_corner", "index"))
    assert len(found["source_id"].numpy()) > 0
  fuzzing.survives("TFRecord contents", lambda: _parse_label(data), REFUSALS)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  path = tmp_path_factory.mktemp("records") / "good.tfrecord"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for number in range(3):
      writer.write(example(**{"image/source_id": [str(number)]}))
  return path


@given(st.data())
def test_counting(good, data):
  path = pathlib.Path(good).with_name("changed.tfrecord")
  content = good.read_bytes()
  lengths = st.sampled_from(fuzzing.EXTREMES).map(lambda n: struct.pack("<Q", n % 2**64) + content[8:])
  path.write_bytes(data.draw(st.one_of(fuzzing.changed_bytes([content]), lengths)))
  fuzzing.survives("TFRecord files", lambda: shards.count(shards.find(str(path))))


@settings(max_examples=max(3, fuzzing.EXAMPLES // 20))
@given(st.data())
def test_files(good, data):
  """The whole way; few times, as each builds its pipelines anew."""
  path = pathlib.Path(good).with_name("changed.tfrecord")
  if data.draw(st.booleans()):
    path.write_bytes(data.draw(fuzzing.changed_bytes([good.read_bytes()])))
  else:
    with tf.io.TFRecordWriter(str(path)) as writer:
      for content in data.draw(st.lists(RECORDS, min_size=1, max_size=3)):
        writer.write(content)
  shared = {"image_size": (64, 64), "batch_size": 2}

  def evaluate():
    with explain_errors(str(path)):
      return len(list(groundtruth(str(path)))), len(list(detection_dataset(str(path), training=False, **shared)))

  def train():
    with explain_errors(str(path)):
      stream = detection_dataset(str(path), training=True, shuffle_buffer=0, unreadable=Unreadable(0.5), **shared)
      return len(list(stream.take(3)))

  fuzzing.survives("TFRecord files", evaluate)
  fuzzing.survives("TFRecord files", train)
