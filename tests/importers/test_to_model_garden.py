"""Our weights in Model Garden's layout and back, bit by bit, and what it cannot have; every variable random, tiny widths."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers import run, to_model_garden
from spinenet_tf.importers.assemble import Choices
from spinenet_tf.models.classifier import build_classifier
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet

pytest.importorskip("official.vision")

pytestmark = pytest.mark.slow

SIZE = (128, 128)
TINY = dataclasses.replace(architecture("spinenet49"), name="tiny", filter_scale=0.125, endpoint_filters=8)


def _there_and_back(model, randomise, folder):
  """Returns Model Garden's model, which read the file, and ours again."""
  randomise(model)
  ours = {name: variable.numpy() for name, variable in named_variables(model).items()}
  peer = to_model_garden.peer(model)
  to_model_garden.write(ours, peer, str(folder / "back"))
  again = run.load("model_garden", folder / "back", Choices(image_size=128, aspect_ratios=(1.0, 2.0, 0.5)))
  back = named_variables(again.model)
  assert set(back) == set(ours)
  for name, variable in back.items():
    np.testing.assert_array_equal(variable, ours[name], name)
  status = tf.train.Checkpoint(**peer.checkpoint_items, model=peer).read(str(folder / "back"))
  status.assert_existing_objects_matched()
  return peer, again


def _agree(ours, theirs):
  assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_mask_rcnn(randomise, tmp_path):
  sizes = {"rpn_convs": 2, "head_convs": 1, "head_width": 8, "dense_width": 12, "endpoint_width": 8}
  model = build_mask_rcnn(TINY, 2, SIZE, padding="same", **sizes)
  peer, again = _there_and_back(model, randomise, tmp_path)
  inferred = again.assembled.inferred
  assert (inferred.rpn_convs, inferred.head_convs, inferred.head_width, inferred.dense_width) == (2, 1, 8, 12)
  images = tf.random.stateless_normal([1, *SIZE, 3], [1, 2])
  scores, deltas = peer.rpn_head(peer.backbone(images, training=False), training=False)
  found = model(images)
  for level in "34567":
    _agree(found["rpn_scores"][level].numpy(), scores[level].numpy())
    _agree(found["rpn_deltas"][level].numpy(), deltas[level].numpy())
  crops = tf.random.stateless_normal([1, 5, 7, 7, 8], [3, 4])
  logits, codes = peer.detection_head[0](crops, training=False)
  ours, boxes = model.box_head(crops[0], training=False)
  _agree(ours.numpy(), logits[0].numpy())
  _agree(boxes.numpy().ravel(), tf.reshape(codes[0], [5, 3, 4])[:, 1:].numpy().ravel())
  assert not tf.reshape(codes[0], [5, 3, 4])[:, 0].numpy().any(), "background"
  crops, classes = tf.random.stateless_normal([1, 3, 14, 14, 8], [5, 6]), tf.constant([[1, 2, 1]])
  masks = peer.mask_head([crops, classes], training=False)
  _agree(model.mask_head(crops[0], classes[0] - 1, training=False).numpy(), masks[0].numpy())


def test_classifier(randomise, tmp_path):
  model = build_classifier(TINY, 5, SIZE, padding="same", levels=(7,))
  peer, _ = _there_and_back(model, randomise, tmp_path)
  images = tf.random.stateless_normal([2, *SIZE, 3], [1, 2])
  _agree(model(images)["logits"].numpy(), peer(images, training=False).numpy())


def test_what_model_garden_cannot_have_is_refused():
  heads = {"head_convs": 1, "head_width": 8}
  with pytest.raises(UserError, match=r"would compute something else; train it with model.padding = 'same'"):
    to_model_garden.peer(build_retinanet(TINY, 2, SIZE, **heads))
  with pytest.raises(UserError, match=r"reads all levels, Model Garden's the coarsest; train it with .* = \[7\]"):
    to_model_garden.peer(build_classifier(TINY, 5, SIZE, padding="same"))
  others = dataclasses.replace(TINY, connect_unused=False, allow_disconnected=True)
  with pytest.raises(UserError, match="Model Garden has no tiny; it has the blocks and connections of spinenet49"):
    to_model_garden.peer(build_retinanet(others, 2, SIZE, padding="same", **heads))
