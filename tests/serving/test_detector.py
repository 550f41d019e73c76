"""One object from pictures to named boxes, with a stand-in network whose answer is known."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.ops.anchors import AnchorConfig, anchors
from spinenet_tf.serving.detector import Detector

SIZE = (64, 128)
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
ANCHORS = AnchorConfig(min_level=3, max_level=4, num_scales=1, aspect_ratios=(1.0,))


class Fake:
  """Finds one object of class 1 in every picture: the anchor of cell (3, 5) of level 3, unless the picture is black."""

  num_classes, input_size, anchors = 2, SIZE, ANCHORS

  def __call__(self, images, training):
    assert training is False
    batch = tf.shape(images)[0]
    bright = tf.cast(tf.reduce_max(images, axis=[1, 2, 3]) > 0, tf.float32)[:, None, None, None]
    hot = tf.one_hot([3 * 16 + 5], 8 * 16)[0]
    logits = tf.reshape(hot, [1, 8, 16, 1]) * [-99.0, 3.0] * bright
    logits -= tf.reshape(1 - hot, [1, 8, 16, 1]) * 20.0 + 20.0 * (1 - bright)
    return {
      "cls_logits": {"3": logits, "4": tf.fill([batch, 4, 8, 2], -20.0)},
      "box_deltas": {"3": tf.zeros([batch, 8, 16, 4]), "4": tf.zeros([batch, 4, 8, 4])},
    }


BOX = anchors(ANCHORS, SIZE)["3"][3 * 16 + 5]


def test_box_in_pixels_of_the_picture():
  found = Detector(Fake(), CATEGORIES)(np.full((32, 64, 3), 255, np.uint8))  # half the input's size
  assert len(found) == 1
  np.testing.assert_allclose(found.boxes, [BOX / 2], atol=1e-4)
  np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-3))], rtol=1e-5)
  assert found.classes.tolist() == [3] and found.names == ("dog",)
  assert found.boxes.dtype == np.float32
  assert json.loads(json.dumps(found.to_dict()))["names"] == ["dog"]
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.names = ()


def test_boxes_are_clipped_to_the_picture_and_padding_is_not_searched():
  narrow = Detector(Fake(), CATEGORIES)(np.full((64, 40, 3), 255, np.uint8))  # 40 of 128 columns
  assert narrow.boxes[0, 3] == 40
  narrower = Detector(Fake(), CATEGORIES)(np.full((64, 16, 3), 255, np.uint8))  # the anchor lies in the padding
  assert len(narrower) == 0 and narrower.boxes.shape == (0, 4)


def test_several_pictures_of_any_size(tmp_path):
  Image.new("L", (200, 100), 255).save(tmp_path / "grey.png")
  pictures = [np.full((32, 64, 3), 255, np.uint8), tmp_path / "grey.png", np.zeros((50, 50, 3), np.uint8)]
  detector = Detector(Fake(), CATEGORIES, batch_size=2)
  found = detector(pictures)
  assert [len(f) for f in found] == [1, 1, 0]
  np.testing.assert_allclose(found[1].boxes[0], BOX * 100 / 64, rtol=1e-5)
  assert detector([]) == []
  assert [len(f) for f in detector(np.full((3, 32, 64, 3), 255, np.uint8))] == [1, 1, 1]
  np.testing.assert_array_equal(detector(str(tmp_path / "grey.png")).boxes, found[1].boxes)


def test_score_threshold_and_other_arguments():
  white = np.full((64, 128, 3), 255, np.uint8)
  assert len(Detector(Fake(), CATEGORIES, score_threshold=0.99)(white)) == 0
  with pytest.raises(UserError, match="max_detections is 0"):
    Detector(Fake(), CATEGORIES, max_detections=0)
  with pytest.raises(UserError, match="score_threshold is 2"):
    Detector(Fake(), CATEGORIES, score_threshold=2)
  with pytest.raises(UserError, match="batch_size is 0"):
    Detector(Fake(), CATEGORIES, batch_size=0)


def test_class_ids_by_output():
  white = np.full((64, 128, 3), 255, np.uint8)
  assert Detector(Fake(), CATEGORIES, class_ids=(3, 7))(white).names == ("cat",)
  assert Detector(Fake(), CATEGORIES, class_ids=(3, 99))(white).names == ("99",)


def test_classes_must_fit_the_model():
  with pytest.raises(UserError, match="2 classes, the list of classes has 3"):
    Detector(Fake(), [*CATEGORIES, {"id": 9, "name": "owl"}])


def test_picture_forms_that_are_refused(tmp_path):
  detector = Detector(Fake(), CATEGORIES)
  with pytest.raises(UserError, match=r"float32\[9, 9, 3\] cannot be used"):
    detector(np.zeros((9, 9, 3), np.float32))
  with pytest.raises(UserError, match="no such file"):
    detector(tmp_path / "nowhere.jpg")
