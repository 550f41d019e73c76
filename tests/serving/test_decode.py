"""Image files decoded in a graph: the pixels that `read_image` gives, and a reason instead of an exception."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.data.image_io import decode_image
from spinenet_tf.serving.decode import decode, decode_example


def _graph(function, **options):
  spec = tf.TensorSpec([], tf.string)
  return tf.function(lambda text: function(text, **options), input_signature=[spec], autograph=False)


@pytest.fixture(scope="module")
def run():
  return _graph(decode)


def test_the_pixels_that_people_see(run, image_files):
  for name, data in image_files.items():
    image, error = run(data)
    assert error == b"", name
    np.testing.assert_array_equal(image, decode_image(data), name)
  assert run(image_files["jpeg of orientation 6"])[0].shape == (60, 45, 3)


def test_a_reason_for_each_bad_file(run, bad_files):
  for name, (data, reason) in bad_files.items():
    image, error = run(data)
    assert image.shape == (1, 1, 3) and not image.numpy().any(), name
    with pytest.raises(ValueError, match=reason):
      raise ValueError(error.numpy().decode())


def test_a_broken_exif_block_is_as_good_as_none(run, image_files):
  data = image_files["jpeg of orientation 6"]
  place = data.index(b"Exif\0\0") + 6
  for change in (b"MM", b"XX"):  # of another byte order, or none
    image, error = run(data[:place] + change + data[place + 2 :])
    assert error == b"" and image.shape in ((45, 60, 3), (60, 45, 3))
  far = data[: place + 4] + b"\xff\xff\xff\x7f" + data[place + 8 :]  # the directory lies beyond the end
  assert run(far)[1] == b"" and run(far)[0].shape == (45, 60, 3)


def test_the_limit_of_pixels(image_files):
  small = _graph(decode, max_pixels=45 * 60 - 1)
  for kind in ("jpeg", "png", "gif", "bmp"):
    assert small(image_files[kind])[1] == b"60 x 45 pixels; at most 2699 are taken: scale the image down"
  assert _graph(decode, max_pixels=45 * 60)(image_files["png"])[1] == b""


def test_only_the_first_frame_of_an_animation_counts(run, image_files):
  data = image_files["gif of three frames"]
  first = run(data)[0]
  np.testing.assert_array_equal(run(data[: len(data) * 2 // 3])[0], first)  # what follows may even be missing


def test_examples(image_files, bad_files):
  run = _graph(decode_example)

  def example(**features):
    values = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()

  image, error = run(example(**{"image/encoded": image_files["png"], "image/format": b"png"}))
  assert error == b""
  np.testing.assert_array_equal(image, decode_image(image_files["png"]))
  assert b"one image/encoded" in run(example(other=b"x"))[1].numpy()
  assert b"one image/encoded" in run(b"no proto")[1].numpy()
  assert b"truncated" in run(example(**{"image/encoded": bad_files["half a png"][0]}))[1].numpy()
