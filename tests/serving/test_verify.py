"""Comparing answers: order among equals and the edge of a list do not count, everything else does."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.masks import encode
from spinenet_tf.serving.classifier import Classes
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.verify import VerificationError, as_files, compare, pictures, worst

SETTINGS = {"score_threshold": 0.1, "max_detections": 4}


def detections(scores, boxes=None, classes=None, masks=None):
  count = len(scores)
  boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(count)] if boxes is None else boxes
  classes = np.ones(count, np.int64) if classes is None else np.array(classes)
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  return Detections(boxes, np.array(scores, np.float32), classes, ("x",) * count, masks)


def check(one, other, **tolerance):
  return compare([one], [other], "1 picture", settings=SETTINGS, **tolerance)


def test_equal_answers_and_small_differences():
  one = detections([0.9, 0.5])
  assert check(one, one).passed and check(one, one).compared == 2
  near = dataclasses.replace(one, boxes=one.boxes + 0.004)
  assert check(one, near).passed and check(one, near).largest["boxes"] == pytest.approx(0.004, abs=1e-5)
  assert not check(one, near, boxes=0.003).passed
  far = dataclasses.replace(one, scores=one.scores + np.float32(1e-3))
  with pytest.raises(
    VerificationError, match=r"the file answers otherwise .* scores differ by 0.001 \(at most 1e-05\)"
  ):
    check(one, far).check("the file")
  nothing = detections([])
  assert check(nothing, nothing).passed


def test_nothing_found_is_nothing_compared():
  none = detections([])
  assert "nothing was compared" in str(check(none, none))
  assert "1 are in one answer only" in str(check(none, detections([0.9])))


def test_several_comparisons_have_the_largest_difference_of_each_output():
  one = detections([0.9, 0.5])
  moved = dataclasses.replace(one, boxes=one.boxes + 0.004)
  fewer = [part(one, slice(1)), part(dataclasses.replace(one, scores=one.scores + np.float32(5e-6)), slice(1))]
  both = worst([check(one, moved), check(*fewer)])
  assert both.compared == 2 and both.passed
  assert both.largest == pytest.approx({"boxes": 0.004, "scores": 5e-6}, abs=1e-6)
  assert not worst([check(one, one), check(one, detections([np.nan, 0.5]))]).passed


def part(found, rows):
  return Detections(found.boxes[rows], found.scores[rows], found.classes[rows], found.names[rows], None)


def test_order_among_equals():
  one = detections([0.5, 0.5])
  assert check(one, dataclasses.replace(one, boxes=one.boxes[::-1])).passed
  other = detections([0.5, 0.5], classes=[1, 2])
  assert check(one, other).missing == 2, "a class of its own"


def test_the_edge_of_the_answer():
  full = detections([0.9, 0.5, 0.4, 0.3])
  swapped = dataclasses.replace(full, boxes=np.concatenate([full.boxes[:3], [[90, 90, 99, 99]]]).astype(np.float32))
  assert check(full, swapped).passed, "another object of the same score on the last place"
  assert not check(full, detections([0.9, 0.5, 0.4])).missing
  assert check(full, detections([0.9, 0.5])).missing == 1
  assert check(detections([0.9]), detections([])).missing == 1
  assert check(detections([]), detections([0.9])).missing == 1
  assert check(detections([0.9, 0.100001]), detections([0.9])).passed, "at the threshold"


def test_what_is_no_number_does_not_pass():
  one = detections([0.9])
  assert not check(one, dataclasses.replace(one, boxes=one.boxes * np.nan)).passed
  assert not check(one, dataclasses.replace(one, scores=one.scores * np.nan)).passed


def test_masks():
  mask = np.zeros((1, 20, 20), bool)
  mask[0, :10] = True
  one, same = (detections([0.9], masks=tuple(encode(mask))) for _ in range(2))
  assert check(one, same).passed and check(one, same).largest["masks"] == 0
  mask[0, 9] = False
  assert check(one, detections([0.9], masks=tuple(encode(mask)))).largest["masks"] == pytest.approx(0.1)


def test_classes():
  one = Classes(np.array([4, 7, 1]), np.array([0.6, 0.3, 0.1], np.float32), ("a", "b", "c"))
  two = Classes(np.array([4, 1, 7]), np.array([0.6, 0.3, 0.1], np.float32), ("a", "c", "b"))
  assert check(one, one).passed
  assert check(one, two).largest["scores"] == pytest.approx(0.2)
  other = Classes(np.array([4, 7, 2]), one.scores, one.names)
  assert check(one, other).passed, "another class of the same score on the last place"


def test_pictures(tmp_path):
  made = pictures((), 8)
  assert made.origin == "4 generated pictures" and len({array.shape for array in made.arrays}) == 4
  assert pictures((), 1).arrays[0].shape == made.arrays[0].shape
  for i in range(6):
    Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
  some = pictures([tmp_path], 3)
  assert [int(array[0, 0, 0]) for array in some.arrays] == [0, 2, 4] and some.origin.startswith("3 of 6 images of ")
  assert as_files(some)[1].startswith(b"\x89PNG")
  (tmp_path / "3.png").write_text("no image")
  with pytest.raises(UserError, match="not an image file"):
    pictures([tmp_path / "3.png"])
