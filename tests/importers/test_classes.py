"""Which output of a checkpoint is which class: 91, 81 and 80 outputs, and what --meta says."""

import numpy as np
import pytest

from spinenet_tf.data.meta import Category
from spinenet_tf.errors import UserError
from spinenet_tf.importers.classes import COCO, class_layout
from spinenet_tf.importers.found import Found
from spinenet_tf.importers.infer import Inferred
from spinenet_tf.importers.wiring import SPINENET

NUMBERED = tuple(Category(i, f"class {i}") for i in range(1, 81))


def _layout(source, task, outputs, given=None):
  """The layout of a checkpoint with 2 anchors, whose class biases are 0, 1, 2, ..., and what is left of these."""
  found = Found(source, SPINENET)
  found.add("class_tower/predict/bias", np.arange(2 * outputs), "theirs")
  found.add("box_head/boxes/bias", np.arange(4 * outputs), "theirs")
  classes, layout, categories = class_layout(found, Inferred(task, SPINENET, outputs, 2), given)
  return classes, layout, categories, found.weights


@pytest.mark.parametrize("source", ["tpu_detection", "model_garden", "mmdet"])
@pytest.mark.parametrize("given", [None, COCO])
def test_coco_with_background_first(source, given):
  classes, layout, categories, weights = _layout(source, "retinanet", 81, given)
  assert (classes, layout, categories[-1].id) == (80, "contiguous", 90)
  np.testing.assert_array_equal(weights["class_tower/predict/bias"], [*range(1, 81), *range(82, 162)])


@pytest.mark.parametrize(
  "source, task, outputs, given, wanted",
  [
    ("tpu_detection", "retinanet", 91, None, (91, "original", COCO)),
    ("model_garden", "retinanet", 91, COCO, (91, "original", COCO)),
    ("tpu_detection", "retinanet", 80, None, (80, "contiguous", COCO)),
    ("mmdet", "retinanet", 80, None, (80, "contiguous", COCO)),
    ("tpu_detection", "retinanet", 81, NUMBERED, (81, "original", NUMBERED)),  # of one's own, ids 1 to 80
    ("model_garden", "retinanet", 4, None, (4, "original", NUMBERED[:3])),
    ("mmdet", "retinanet", 3, None, (3, "contiguous", NUMBERED[:3])),
    ("tpu_detection", "mask_rcnn", 91, None, (90, "from_one", COCO)),
    ("tpu_detection", "mask_rcnn", 81, None, (80, "contiguous", COCO)),
    ("model_garden", "mask_rcnn", 81, NUMBERED, (80, "from_one", NUMBERED)),
    ("model_garden", "mask_rcnn", 4, None, (3, "from_one", NUMBERED[:3])),
    ("tpu_detection", "classification", 81, None, (81, "original", NUMBERED)),
    ("model_garden", "backbone", 0, None, (80, "contiguous", COCO)),
  ],
)
def test_layouts(source, task, outputs, given, wanted):
  *got, weights = _layout(source, task, outputs, given)
  assert tuple(got) == wanted
  assert weights["class_tower/predict/bias"].size == 2 * outputs
  if task == "mask_rcnn":
    np.testing.assert_array_equal(weights["box_head/boxes/bias"], range(4, 4 * outputs))


@pytest.mark.parametrize(
  "source, task, outputs, words",
  [
    ("tpu_detection", "retinanet", 6, "has 80, ids up to 90, which needs 80 or 81 or 91 outputs; the checkpoint has 6"),
    ("mmdet", "retinanet", 91, "needs 80 or 81 outputs; the checkpoint has 91"),
    ("model_garden", "mask_rcnn", 6, "needs 80 or 90 outputs; the checkpoint has 5"),
    ("model_garden", "classification", 1001, "needs 91 outputs; the checkpoint has 1001"),
  ],
)
def test_other_categories_are_refused(source, task, outputs, words):
  with pytest.raises(UserError, match=words):
    _layout(source, task, outputs, COCO)
