"""Anchors: hand-worked numbers, order, and agreement with Model Garden."""

import numpy as np
import pytest

from spinenet_tf.compat import TF_VERSION
from spinenet_tf.errors import UserError
from spinenet_tf.ops.anchors import AnchorConfig, anchors, feature_size


def test_hand_worked():
  config = AnchorConfig(min_level=3, max_level=4, num_scales=2, aspect_ratios=(1.0, 4.0), anchor_size=4.0)
  boxes = anchors(config, (16, 32))
  assert set(boxes) == {"3", "4"}
  assert boxes["3"].shape == (2 * 4 * 4, 4) and boxes["3"].dtype == np.float32
  # Centre (4, 4), side 32: square, then w / h = 4, so 64 wide and 16 high.
  np.testing.assert_allclose(boxes["3"][0], [-12, -12, 20, 20])
  np.testing.assert_allclose(boxes["3"][1], [-4, -28, 12, 36])
  half = 16 * np.sqrt(2)  # the next scale, half an octave up
  np.testing.assert_allclose(boxes["3"][2], [4 - half, 4 - half, 4 + half, 4 + half], rtol=1e-6)
  # The second column comes next, then the second row after four columns.
  np.testing.assert_allclose(boxes["3"][4], [-12, -4, 20, 28])
  np.testing.assert_allclose(boxes["3"][16], [-4, -12, 28, 20])
  np.testing.assert_allclose(boxes["4"][0], [-24, -24, 40, 40])


def test_default_count_at_640():
  boxes = anchors(AnchorConfig(), (640, 640))
  assert AnchorConfig().per_location == 9
  assert sum(len(b) for b in boxes.values()) == 76725


@pytest.mark.parametrize("size", [(128, 256), (100, 75), (64, 64)])
def test_same_as_model_garden(size):
  anchor = pytest.importorskip("official.vision.ops.anchor")
  if TF_VERSION < (2, 16) and size != (128, 256):
    pytest.skip("Model Garden 2.15 leaves part of the feature map without anchors where a side does not divide")
  theirs = anchor.Anchor(3, 7, 3, [1.0, 2.0, 0.5], 3.0, list(size)).multilevel_boxes
  ours = anchors(AnchorConfig(), size)
  assert list(ours) == list(theirs)
  for level, boxes in theirs.items():
    assert tuple(boxes.shape[:2]) == feature_size(size, int(level))
    np.testing.assert_allclose(ours[level], boxes.numpy().reshape(-1, 4), atol=1e-3)


@pytest.mark.parametrize(
  "wrong",
  [
    {"min_level": 5, "max_level": 4},
    {"num_scales": 0},
    {"aspect_ratios": ()},
    {"aspect_ratios": (1.0, -1.0)},
    {"anchor_size": 0.0},
  ],
)
def test_refuses(wrong):
  with pytest.raises(UserError, match=next(iter(wrong))):
    AnchorConfig(**wrong)
  with pytest.raises(UserError, match="image_size"):
    anchors(AnchorConfig(), (0, 64))


def test_config_is_a_value():
  assert AnchorConfig(aspect_ratios=[1, 2]) == AnchorConfig(aspect_ratios=(1.0, 2.0))
  assert hash(AnchorConfig()) == hash(AnchorConfig())


def test_side_that_does_not_divide_spreads_evenly():
  # 20 pixels at stride 8 are three rows, 20 / 3 apart; 20 at stride 16 two, 10 apart.
  config = AnchorConfig(min_level=3, max_level=4, num_scales=1, aspect_ratios=(1.0,))
  boxes = anchors(config, (20, 8))
  np.testing.assert_allclose(boxes["3"][:, [0, 2]].mean(1), [20 / 6, 10, 20 * 5 / 6], rtol=1e-5)
  np.testing.assert_allclose(boxes["4"][:, [0, 2]].mean(1), [5, 15], rtol=1e-5)
