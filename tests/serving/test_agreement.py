"""How far two detectors agree, where nothing is certain too."""

import numpy as np
import pytest

from spinenet_tf.serving.agreement import agreement
from spinenet_tf.serving.detector import Detections


def _detections(scores):
  """Objects in a row, by falling score."""
  left = 10.0 * np.arange(len(scores))
  boxes = np.stack([np.zeros_like(left), left, np.full_like(left, 8), left + 8], axis=1).astype(np.float32)
  return Detections(boxes, np.float32(scores), np.ones(len(scores), np.int64), ("cell",) * len(scores))


def test_a_detector_agrees_with_itself():
  certain = [_detections([0.9, 0.8, 0.2, 0.1]), _detections([0.5])]
  assert agreement(certain, certain, [(8, 100)] * 2) == {"AP": 1, "AP50": 1, "AP75": 1, "objects": 3}
  # An untrained one: all of the first picture are above the second's. The cuts lie behind 0.26 and 0.10.
  unsure = [_detections([0.29, 0.28, 0.27, 0.26, 0.20, 0.19]), _detections([0.12, 0.11, 0.10, 0.04])]
  found = agreement(unsure, unsure, [(8, 100)] * 2)
  assert found["objects"] == 7 and found["AP"] == pytest.approx(1)


def test_one_of_two_is_not_found():
  found = agreement([_detections([0.9, 0.8])], [_detections([0.9])], [(8, 100)])
  assert found["AP"] == pytest.approx(51 / 101)  # recall 0.5, at 51 of COCO's 101 points


def test_equal_scores_at_the_edge_change_places():
  """Of an untrained one the ground truth ends where scores drop, so that equal ones stand on one side of the edge."""
  scores = np.float32([0.20, 0.19, 0.18, 0.17, 0.16, 0.16, 0.10, 0.09])
  first, other = _detections(scores), _detections(scores)
  swapped = [0, 1, 2, 3, 5, 4, 6, 7]
  other = Detections(other.boxes[swapped], other.scores, other.classes, other.names)
  assert agreement([first], [other], [(8, 100)]) == {"AP": 1, "AP50": 1, "AP75": 1, "objects": 6}
