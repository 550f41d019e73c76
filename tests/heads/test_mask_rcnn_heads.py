"""Heads of Mask R-CNN: the same weights give the same numbers as Model Garden's, sizes, refusals, picked classes."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.heads.box import BoxHead
from spinenet_tf.heads.mask import Doubling, MaskHead, assembled
from spinenet_tf.heads.rpn import RegionProposalHead
from spinenet_tf.heads.sizes import MaskHeads

LEVELS = (3, 4, 5)
CLASSES = 5


def _randomised(layer, *inputs):
  layer(*inputs)
  rng = np.random.default_rng(0)
  for weight in layer.weights:
    low, high = (0.5, 1.5) if "gamma" in weight.name or "variance" in weight.name else (-0.5, 0.5)
    weight.assign(rng.uniform(low, high, weight.shape))
  return layer


def _copy(own, peer):
  """Assigns a convolution or dense layer, of any rank of kernel; a bias that ours lacks becomes 0."""
  peer.kernel.assign(tf.reshape(own.kernel, peer.kernel.shape))
  peer.bias.assign(own.bias if own.bias is not None else tf.zeros_like(peer.bias))


def _copy_norm(own, peer):
  for name in ("gamma", "beta", "moving_mean", "moving_variance"):
    getattr(peer, name).assign(getattr(own, name))


def _same(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def instance_heads():
  return pytest.importorskip("official.vision.modeling.heads.instance_heads")


@pytest.mark.parametrize("training", [False, True])
def test_rpn_equals_model_gardens(training):
  dense_heads = pytest.importorskip("official.vision.modeling.heads.dense_prediction_heads")
  pyramid = {str(n): tf.random.stateless_normal([2, 2 ** (7 - n), 24, 6], [n, 1]) for n in LEVELS}
  head = _randomised(RegionProposalHead(2, 8, 3, LEVELS), pyramid)
  peer = dense_heads.RPNHead(3, 5, 3, num_convs=2, num_filters=8)
  peer(pyramid)
  for i, conv in enumerate(head.tower):
    _copy(conv, peer._convs[i])
    for n in range(len(LEVELS)):
      _copy_norm(head.norms[n * 2 + i], peer._norms[n][i])
  _copy(head.scores, peer._classifier)
  _copy(head.deltas, peer._box_regressor)
  keras.backend.set_learning_phase(training)
  try:
    expected = peer(pyramid)  # it passes no `training` on
  finally:
    keras.backend.set_learning_phase(0)
  for own, theirs in zip(head(pyramid, training=training), expected):
    assert list(own) == list(theirs)
    for level in own:
      _same(own[level], theirs[level].numpy())


@pytest.mark.parametrize("training", [False, True])
def test_box_head_equals_model_gardens(instance_heads, training):
  crops = tf.random.stateless_normal([8, 7, 7, 6], [1, 2])
  head = _randomised(BoxHead(CLASSES, 2, 8, 12), crops)
  peer = instance_heads.DetectionHead(CLASSES + 1, num_convs=2, num_filters=8, num_fcs=1, fc_dims=12)
  inputs = tf.reshape(crops, [2, 4, 7, 7, 6])
  peer(inputs)
  for i in range(2):
    _copy(head.tower[i], peer._convs[i])
    _copy_norm(head.norms[i], peer._conv_norms[i])
  _copy(head.dense, peer._fcs[0])
  _copy_norm(head.dense_norm, peer._fc_norms[0])
  _copy(head.classes, peer._classifier)
  regressor = peer._box_regressor  # it has codes of the background, too
  regressor.kernel.assign(tf.concat([tf.zeros([12, 4]), head.boxes.kernel], axis=1))
  regressor.bias.assign(tf.concat([tf.zeros([4]), head.boxes.bias], axis=0))
  keras.backend.set_learning_phase(training)
  try:
    logits, codes = peer(inputs, training=training)
  finally:
    keras.backend.set_learning_phase(0)
  own_logits, own_codes = head(crops, training=training)
  assert own_logits.shape == (8, CLASSES + 1) and own_codes.shape == (8, CLASSES, 4)
  _same(own_logits, tf.reshape(logits, own_logits.shape).numpy())
  _same(own_codes, tf.reshape(codes, [8, CLASSES + 1, 4])[:, 1:].numpy())


@pytest.mark.parametrize("training", [False, True])
def test_mask_head_equals_model_gardens(instance_heads, training):
  crops = tf.random.stateless_normal([6, 14, 14, 6], [1, 2])
  head = _randomised(MaskHead(CLASSES, 2, 8), crops)
  peer = instance_heads.MaskHead(CLASSES, num_convs=2, num_filters=8)
  inputs = [tf.reshape(crops, [2, 3, 14, 14, 6]), tf.constant([[0, 4, 1], [2, 2, 3]])]
  peer(inputs)
  for i in range(2):
    _copy(head.tower[i], peer._convs[i])
    _copy_norm(head.norms[i], peer._conv_norms[i])
  peer._deconv.kernel.assign(tf.transpose(head.double.kernel, [1, 2, 3, 0]))
  peer._deconv.bias.assign(tf.zeros_like(peer._deconv.bias))
  _copy_norm(head.double_norm, peer._deconv_bn)
  _copy(head.predict, peer._mask_regressor)
  keras.backend.set_learning_phase(training)
  try:
    expected = peer(inputs, training=training)
  finally:
    keras.backend.set_learning_phase(0)
  classes = tf.reshape(inputs[1], [-1])
  every = head(crops, training=training)
  own = head(crops, classes, training=training)
  assert every.shape == (6, 28, 28, CLASSES) and own.shape == (6, 28, 28)
  _same(own, tf.reshape(expected, own.shape).numpy())
  _same(own, tf.gather(every, classes, axis=3, batch_dims=1).numpy())


def test_gradients_of_picked_classes_are_those_of_all():
  crops = tf.random.stateless_normal([3, 14, 14, 4], [1, 2])
  head = _randomised(MaskHead(CLASSES, 1, 4), crops)
  classes, upstream = tf.constant([4, 0, 4]), tf.random.stateless_normal([3, 28, 28], [3, 4])

  def slopes(function):
    with tf.GradientTape() as tape:
      tape.watch(crops)
      masks = function()
    return tape.gradient(masks, [crops, *head.trainable_variables], output_gradients=upstream)

  expected = slopes(lambda: tf.gather(head(crops), classes, axis=3, batch_dims=1))
  for a, b in zip(slopes(lambda: head(crops, classes)), expected):
    _same(tf.convert_to_tensor(a), tf.convert_to_tensor(b).numpy())


def test_doubling_by_hand():
  layer = Doubling(2)
  layer(tf.zeros([1, 1, 1, 1]))
  layer.kernel.assign(np.arange(8.0).reshape([1, 2, 2, 2]))  # [in, row, column, out]
  layer.bias.assign([100.0, 200.0])
  pixels = layer(tf.constant([1.0, 10.0], shape=[1, 1, 2, 1]))
  assert pixels[0, 0, 0].numpy().tolist() == [100, 201, 102, 203, 104, 205, 106, 207]
  found = assembled(tf.reshape(pixels, [1, 1, 2, 4, 2]))
  assert found[0, :, :, 0].numpy().tolist() == [[100, 102, 100, 120], [104, 106, 140, 160]]
  assert found[0, :, :, 1].numpy().tolist() == [[201, 203, 210, 230], [205, 207, 250, 270]]


def test_initial_values(instance_heads):
  """The deviations of Model Garden's heads, which are the authors', but for the mask's prediction."""
  crops = tf.zeros([1, 14, 14, 32])
  mask, peer = MaskHead(80, 1, 64), instance_heads.MaskHead(80, num_convs=1, num_filters=64)
  mask(crops)
  peer([crops[None], tf.zeros([1, 1], tf.int32)])
  box, box_peer = BoxHead(80, 1, 64, 128), instance_heads.DetectionHead(81, 1, 64, num_fcs=1, fc_dims=128)
  box(crops)
  box_peer(crops[None])
  pairs = [
    (mask.tower[0], peer._convs[0]),
    (mask.double, peer._deconv),
    (box.tower[0], box_peer._convs[0]),
    (box.dense, box_peer._fcs[0]),
    (box.classes, box_peer._classifier),
    (box.boxes, box_peer._box_regressor),
  ]
  for own, theirs in pairs:
    assert np.std(own.kernel) == pytest.approx(np.std(theirs.kernel), rel=0.05), own.name
    assert own.bias is None or not own.bias.numpy().any()
  assert np.std(mask.predict.kernel) == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_sizes_of_the_paper():
  assert MaskHeads.of("spinenet49") == MaskHeads.of("mine") == MaskHeads(None, 1, 4, 256, 1024, 3, 3.0)
  small, large = MaskHeads.of("spinenet49s"), MaskHeads.of("spinenet190")
  assert (small.endpoints, small.rpn_convs, small.convs, small.filters, small.dense) == (128, 1, 4, 128, 512)
  assert (large.rpn_convs, large.convs, large.filters, large.dense, large.anchor_size) == (7, 7, 384, 1024, 5.0)


@pytest.mark.parametrize(("field", "value"), [("convs", 0), ("dense", 1.5), ("endpoints", -1), ("rpn_convs", True)])
def test_sizes_that_are_none(field, value):
  with pytest.raises(UserError, match=f"{field} of Mask R-CNN's heads is {value!r}"):
    MaskHeads(**{field: value})
