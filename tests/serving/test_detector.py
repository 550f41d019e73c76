"""One object from pictures to named boxes, with a stand-in network whose answer is known."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.ops import nms
from spinenet_tf.ops.anchors import AnchorConfig, anchors
from spinenet_tf.serving.detector import Detector

SIZE = (64, 128)
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
ANCHORS = AnchorConfig(min_level=3, max_level=4, num_scales=1, aspect_ratios=(1.0,))


class Fake:
  """Finds one object of class 1 in every picture: the anchor of cell (3, 5) of level 3, unless the picture is black."""

  num_classes, input_size, anchors = 2, SIZE, ANCHORS

  def find(self, images, **detection):
    return nms.detect(self(images, training=False), ANCHORS, SIZE, num_classes=2, **detection)

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


class Masked(Fake):
  """The upper half of its object's box is the mask."""

  def find(self, images, **detection):
    found = super().find(images, **detection)
    half = tf.constant([[0.9], [0.1]]) * tf.ones([2, 2])
    return {**found, "detection_masks": tf.where((found["detection_scores"] > 0)[..., None, None], half, 0.0)}


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


def test_masks_in_pixels_of_the_picture():
  detector = Detector(Masked(), CATEGORIES)
  white = np.full((64, 128, 3), 255, np.uint8)
  (mask,) = detector(white).masks
  ymin, xmin, ymax, xmax = BOX  # (12, 28, 44, 60): anchors of level 3 are 32 pixels
  expected = np.zeros((64, 128), bool)
  expected[round(ymin) : round((ymin + ymax) / 2), round(xmin) : round(xmax)] = True
  np.testing.assert_array_equal(mask_lib.decode(mask), expected)
  # The picture ends in the middle of the box: the box is clipped, the mask is cut.
  found = detector(white[:, :40])
  assert found.boxes[0, 3] == 40
  np.testing.assert_array_equal(mask_lib.decode(found.masks[0]), expected[:, :40])
  # Half the size, another picture beside it.
  half, black = detector([white[:32, :64], white * 0])
  assert abs(int(mask_lib.area(half.masks)[0]) - expected.sum() / 4) < 16 and black.masks == ()
  plain = json.loads(json.dumps(found.to_dict()))
  assert plain["segmentations"] == [mask_lib.to_json(found.masks[0])] and plain["segmentations"][0]["size"] == [64, 40]
  assert "segmentations" not in Detector(Fake(), CATEGORIES)(white).to_dict()


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
