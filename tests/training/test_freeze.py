"""Freezing by name."""

import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.training.freeze import freeze


@pytest.fixture
def model(tiny):
  return build_retinanet(tiny, 2, (128, 128))


def test_frozen_variables_are_left_out_and_their_norms_stand_still(model):
  everything = len(model.trainable_variables)
  left = freeze(model, ["^stem"])
  assert 0 < len(left) < everything
  assert not any(v.name.startswith("stem") for v in left)
  assert {v.ref() for v in model.trainable_variables} == {v.ref() for v in left}
  before = {v.name: v.numpy() for v in model.non_trainable_variables if "moving_mean" in v.name}
  model(tf.random.normal([2, 128, 128, 3]), training=True)
  moved = {v.name for v in model.non_trainable_variables if v.name in before and (v.numpy() != before[v.name]).any()}
  assert moved and not any(name.startswith("stem") for name in moved)


def test_kernels_alone_can_be_frozen(model):
  left = freeze(model, ["kernel$"])
  assert left and all("kernel" not in v.name for v in left)


@pytest.mark.parametrize(
  "pattern, text", [("sten/", "matches no"), ("(", "no regular expression"), (".", "every variable")]
)
def test_patterns_that_cannot_be_meant(model, pattern, text):
  with pytest.raises(UserError, match=text):
    freeze(model, [pattern])
