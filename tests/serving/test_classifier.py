"""From pictures to names and vectors, with a stand-in network whose answer is known."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.data.preprocess import denormalize
from spinenet_tf.errors import UserError
from spinenet_tf.serving.classifier import ImageClassifier

CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}, {"id": 5, "name": "blue"}]


class Fake:
  """Scores are the mean red, green and blue of what it sees, over 100; features the same and one more."""

  num_classes, input_size = 3, (32, 64)

  @property
  def output_shape(self):
    return {"logits": (None, 3), "features": (None, 4)}

  def __call__(self, images, training):
    assert training is False
    mean = tf.reduce_mean(tf.cast(denormalize(images), tf.float32), [1, 2])
    return {"logits": mean / 100, "features": tf.pad(mean, [[0, 0], [0, 1]])}


def picture(color, size=(50, 80)):
  return np.broadcast_to(np.uint8(color), (*size, 3)).copy()


def test_names_by_falling_probability():
  found = ImageClassifier(Fake(), CATEGORIES)(picture((100, 200, 0)))
  scores = np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum()
  assert found.names == ("green", "red", "blue") and found.classes.tolist() == [3, 7, 5]
  np.testing.assert_allclose(found.scores, scores, atol=1e-5)
  assert len(found) == 3
  assert json.loads(json.dumps(found.to_dict()))["names"] == ["green", "red", "blue"]


def test_the_middle_is_classified():
  """Of 64 x 128 pixels the crop of 87.5 % has 56 x 112: a border of 4 and 8 pixels is not seen."""
  image = picture((255, 255, 255), (64, 128))
  image[4:-4, 8:-8] = (0, 0, 200)
  np.testing.assert_allclose(ImageClassifier(Fake(), CATEGORIES).features(image), [[0, 0, 200, 0]], atol=0.01)
  assert ImageClassifier(Fake(), CATEGORIES, crop=1.0).features(image)[0, 0] > 40


def test_several_pictures_of_any_size(tmp_path):
  Image.new("RGB", (90, 30), (0, 250, 0)).save(tmp_path / "green.png")
  pictures = [picture((200, 0, 0)), tmp_path / "green.png", picture((0, 0, 90), (33, 20))]
  classify = ImageClassifier(Fake(), CATEGORIES, batch_size=2, top=1)
  assert [found.names for found in classify(pictures)] == [("red",), ("green",), ("blue",)]
  features = classify.features(pictures)
  assert features.dtype == np.float32
  np.testing.assert_allclose(features, [[200, 0, 0, 0], [0, 250, 0, 0], [0, 0, 90, 0]], atol=0.01)
  assert classify(str(tmp_path / "green.png")).names == ("green",)
  assert classify([]) == [] and classify.features([]).shape == (0, 4)
  assert len(classify(np.zeros((2, 40, 40, 3), np.uint8))) == 2


def test_class_ids_by_output():
  white = picture((9, 0, 0))
  assert ImageClassifier(Fake(), CATEGORIES, class_ids=(5, 3, 99), top=1)(white).names == ("blue",)
  assert ImageClassifier(Fake(), CATEGORIES, class_ids=(99, 3, 5), top=1)(white).names == ("99",)


def test_what_is_refused(tmp_path):
  with pytest.raises(UserError, match="3 classes, the list of classes has 2"):
    ImageClassifier(Fake(), CATEGORIES[:2])
  with pytest.raises(UserError, match="top is 0"):
    ImageClassifier(Fake(), CATEGORIES, top=0)
  with pytest.raises(UserError, match="crop is 1.5"):
    ImageClassifier(Fake(), CATEGORIES, crop=1.5)
  classify = ImageClassifier(Fake(), CATEGORIES)
  with pytest.raises(UserError, match=r"float32\[9, 9, 3\] cannot be used"):
    classify(np.zeros((9, 9, 3), np.float32))
  with pytest.raises(UserError, match="no such file"):
    classify(tmp_path / "nowhere.jpg")
