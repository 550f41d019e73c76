"""Model Garden's weights become ours and go back, bit by bit, and what it cannot have; every variable random, tiny widths."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers import model_garden, run, tensorflow_files, to_model_garden
from spinenet_tf.importers.assemble import Choices, assemble
from spinenet_tf.models.classifier import build_classifier
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet

pytest.importorskip("official.vision")

pytestmark = pytest.mark.slow

SIZE = (128, 128)
TINY = dataclasses.replace(architecture("spinenet49"), name="tiny", filter_scale=0.125, endpoint_filters=8)


def _there_and_back(template, randomise, folder, check):
  """A checkpoint of Model Garden's model becomes ours, ours one of Model Garden's, and that is read by both again.

  Args:
    template: of ours, of the sizes.
    check: called with ours and Model Garden's model each time that they should say the same.

  Returns: ours, imported.
  """
  peer = to_model_garden.peer(template)
  randomise(peer)  # biases before norms, and what belongs to background, too
  items = tf.train.Checkpoint(**peer.checkpoint_items, model=peer)
  items.write(str(folder / "theirs"))
  choices = Choices(image_size=128, aspect_ratios=(1.0, 2.0, 0.5))
  imported = run.load("model_garden", folder / "theirs", choices)
  check(imported.model, peer)
  ours = {name: variable.numpy() for name, variable in named_variables(imported.model).items()}
  to_model_garden.write(ours, peer, str(folder / "back"))
  back = assemble(model_garden.read(str(folder / "back")), choices).weights
  for name, value in ours.items():
    np.testing.assert_array_equal(back[name], value, name)
  items.read(str(folder / "back")).assert_existing_objects_matched()
  check(imported.model, peer)
  return imported


def _agree(ours, theirs):
  theirs = tf.reshape(theirs, ours.shape)
  assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_retinanet(randomise, tmp_path):
  images = tf.random.stateless_normal([1, *SIZE, 3], [1, 2])

  def check(ours, peer):
    scores, boxes, _ = peer.head(peer.backbone(images, training=False), training=False)
    found = ours(images)
    for level in "34567":
      _agree(found["cls_logits"][level], scores[level])
      _agree(found["box_deltas"][level], boxes[level])

  template = build_retinanet(TINY, 3, SIZE, head_convs=2, head_width=8, padding="same")
  _there_and_back(template, randomise, tmp_path, check)


def test_mask_rcnn(randomise, tmp_path):
  """The first stage, and the second on the same features of regions."""
  images = tf.random.stateless_normal([1, *SIZE, 3], [1, 2])
  crops, mask_crops = (tf.random.stateless_normal([1, n, side, side, 8], [3, n]) for n, side in ((5, 7), (3, 14)))

  def check(ours, peer):
    scores, deltas = peer.rpn_head(peer.backbone(images, training=False), training=False)
    found = ours(images)
    for level in "34567":
      _agree(found["rpn_scores"][level], scores[level])
      _agree(found["rpn_deltas"][level], deltas[level])
    heads = peer.detection_head
    logits, codes = (heads if callable(heads) else heads[0])(crops, training=False)
    mine, boxes = ours.box_head(crops[0], training=False)
    _agree(mine, logits)
    _agree(tf.reshape(boxes, [5, 2, 4]), tf.reshape(codes, [5, 3, 4])[:, 1:])
    masks = peer.mask_head([mask_crops, tf.constant([[1, 2, 1]])], training=False)
    _agree(ours.mask_head(mask_crops[0], tf.constant([0, 1, 0]), training=False), masks)

  sizes = {"rpn_convs": 2, "head_convs": 1, "head_width": 8, "dense_width": 12, "endpoint_width": 8}
  imported = _there_and_back(build_mask_rcnn(TINY, 2, SIZE, padding="same", **sizes), randomise, tmp_path, check)
  inferred = imported.assembled.inferred
  assert (inferred.task, inferred.outputs, inferred.anchors) == ("mask_rcnn", 3, 3)
  assert (inferred.rpn_convs, inferred.head_convs, inferred.head_width, inferred.dense_width) == (2, 1, 8, 12)


def test_classifier(randomise, tmp_path):
  """It reads the coarsest level; the convolutions of the others are left out."""
  images = tf.random.stateless_normal([2, *SIZE, 3], [1, 2])
  peers = []

  def check(ours, peer):
    _agree(ours(images)["logits"], peer(images, training=False))
    peers[:] = [peer]

  imported = _there_and_back(build_classifier(TINY, 5, SIZE, padding="same", levels=(7,)), randomise, tmp_path, check)
  assert (imported.assembled.inferred.task, imported.assembled.inferred.outputs) == ("classification", 5)
  unread = [why for why in imported.account.skipped.values() if why == "nothing in this model reads it"]
  assert len(unread) == len(peers[0].variables) - len(imported.account.mapped)
  # The model under `model` alone: its backbone is its first layer.
  tf.train.Checkpoint(model=peers[0]).write(str(tmp_path / "alone"))
  whole, alone = (model_garden.read(str(tmp_path / name)).weights for name in ("back", "alone"))
  assert set(whole) == set(alone) and all(np.array_equal(whole[name], alone[name]) for name in whole)
  _averages(tmp_path / "alone", tmp_path / "averaged")


def _averages(plain, averaged):
  """Model Garden's averages of two weights, and a momentum."""
  tensors = tensorflow_files.read(str(plain))
  content = {key: tensors.get(key) for key in tensors.shapes}
  places, _ = model_garden.names(
    [key.removesuffix(model_garden.SUFFIX) for key in content if key.endswith(model_garden.SUFFIX)],
    model_garden.full_names(content[model_garden.GRAPH]),
    "here",
  )
  taken = ("stem/conv/kernel", "endpoint_7/norm/gamma")
  keys = {name: key for key, name in places.items() if name in taken}
  for key in keys.values():
    slot = f"{key}/.OPTIMIZER_SLOT/optimizer"
    content[f"{slot}/average{model_garden.SUFFIX}"] = content[key + model_garden.SUFFIX] + np.float32(1)
    content[f"{slot}/ema_base_optimizer/momentum{model_garden.SUFFIX}"] = np.zeros(1, np.float32)
  tensorflow_files.write(str(averaged), content)
  usual, found = (model_garden.read(str(averaged), average=average) for average in (False, True))
  for name, value in usual.weights.items():
    np.testing.assert_array_equal(found.weights[name], value + np.float32(name in taken), name)
  for name, key in keys.items():
    assert found.skipped[key] == "its moving average is taken"
    assert found.origin[name] == f"{key}/.OPTIMIZER_SLOT/optimizer/average"
    assert usual.skipped[found.origin[name]].startswith("moving average of a weight: give --average")
  with pytest.raises(UserError, match="--average was given, and .* holds no moving averages of weights"):
    model_garden.read(str(plain), average=True)


def test_what_model_garden_cannot_have_is_refused():
  heads = {"head_convs": 1, "head_width": 8}
  with pytest.raises(UserError, match=r"would compute something else; train it with model.padding = 'same'"):
    to_model_garden.peer(build_retinanet(TINY, 2, SIZE, **heads))
  with pytest.raises(UserError, match=r"reads all levels, Model Garden's the coarsest; train it with .* = \[7\]"):
    to_model_garden.peer(build_classifier(TINY, 5, SIZE, padding="same"))
  others = dataclasses.replace(TINY, connect_unused=False, allow_disconnected=True)
  with pytest.raises(UserError, match="Model Garden has no tiny; it has the blocks and connections of spinenet49"):
    to_model_garden.peer(build_retinanet(others, 2, SIZE, padding="same", **heads))
