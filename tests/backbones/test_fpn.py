"""The feature pyramid network: values worked by hand, sizes, what is dropped in its ResNet."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone
from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.fpn import TopDown, feature_pyramid
from spinenet_tf.compat import keras
from spinenet_tf.layers.style import ConvStyle


@pytest.fixture(scope="module")
def thin():
  """R50-FPN with thin blocks and two of them at level 4."""
  r50 = architecture("r50_fpn")
  stem = tuple(spec for i, spec in enumerate(r50.stem) if i not in (1, 2, 4, 5, 6, 9, 10, 11, 12, 14, 15))
  return dataclasses.replace(r50, name="thin", stem=stem, filter_scale=0.0625, endpoint_filters=6, stem_filters=4)


def test_pyramid_by_hand():
  """One channel: identities but for a norm of gain 5 on level 5 and a bias of -150 on level 6."""
  style = ConvStyle(norm_epsilon=1e-12)
  inputs = {level: keras.Input((size, size, 1)) for level, size in ((3, 8), (4, 4), (5, 2))}
  model = keras.Model(inputs, feature_pyramid(inputs, 1, dict.fromkeys(range(3, 8)), style))
  for weight in model.weights:
    if "kernel" in weight.name:
      kernel = np.zeros(weight.shape)
      kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
      weight.assign(kernel)
  weights = {w.name.split(":")[0]: w for w in model.weights}
  weights["fpn/norm_5/gamma"].assign([5.0])
  weights["fpn/coarser_6/conv/bias"].assign([-150.0])
  weights["fpn/coarser_7/norm/beta"].assign([0.5])
  values = {3: tf.ones([1, 8, 8, 1]), 4: 10 * tf.ones([1, 4, 4, 1]), 5: 100 * tf.ones([1, 2, 2, 1])}
  result = {level: p.numpy().ravel() for level, p in model(values).items()}
  np.testing.assert_allclose(result[3], [111] * 64)
  np.testing.assert_allclose(result[4], [110] * 16)
  np.testing.assert_allclose(result[5], [500] * 4)  # the next level reads it before its norm, and
  np.testing.assert_allclose(result[6], [-50])  # is itself not activated,
  np.testing.assert_allclose(result[7], [0.5])  # but is when level 7 reads it


def test_top_down_takes_the_size_of_the_lateral():
  above = tf.reshape([1.0, 2.0, 3.0], [1, 3, 1, 1])
  result = TopDown((5, 1))([tf.zeros([1, 5, 1, 1]), above])
  np.testing.assert_array_equal(result[0, :, 0, 0], [1, 1, 2, 2, 3])  # floor(i * 3 / 5)


def test_biases_stand_where_no_norm_follows_at_once(thin):
  names = {w.name.split(":")[0] for w in Backbone(thin, (128, 128)).weights if w.name.startswith("fpn")}
  with_bias = {name.split("/")[1] for name in names if name.endswith("bias")}
  assert with_bias == {"lateral_3", "lateral_4", "lateral_5", "post_hoc_5", "coarser_6"}
  assert {name.split("/")[1] for name in names if name.endswith("gamma")} == {
    "post_hoc_3",
    "post_hoc_4",
    "norm_5",
    "norm_6",
    "coarser_7",
  }


@pytest.mark.parametrize("size", [(128, 256), (100, 72), (65, 90)])
def test_sizes(thin, size):
  model = Backbone(thin, size)
  outputs = model(tf.zeros([1, *size, 3]))
  assert list(outputs) == ["3", "4", "5", "6", "7"]
  for level, features in outputs.items():
    assert features.shape == (1, *(-(-side // 2 ** int(level)) for side in size), 6)


def test_unknown_sizes_give_the_same_network(thin):
  fixed, free = Backbone(thin, (128, 256)), Backbone(thin, (None, None))
  free.set_weights(fixed.get_weights())
  images = tf.random.stateless_normal([1, 128, 256, 3], [1, 2])
  for a, b in zip(tf.nest.flatten(fixed(images)), tf.nest.flatten(free(images))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_drops_of_a_plain_resnet(thin):
  """Stochastic depth rises along the chain; DropBlock's rate is a quarter for each level below 5."""
  model = Backbone(thin, (128, 128), stochastic_depth=0.4, dropblock_keep=0.8, dropblock_size=3)
  levels = [spec.level for spec in thin.stem]
  assert levels == [2, 3, 4, 4, 5]
  blocks = [model.get_layer(f"block_{i:02d}/repeat_0") for i in range(5)]
  assert [b.drop_rate for b in blocks] == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4])
  assert [1 - b.dropblock_keep for b in blocks] == pytest.approx([0.2 / 64, 0.2 / 16, 0.2 / 4, 0.2 / 4, 0.2])
  assert all(b.dropblock_size == 3 for b in blocks)
  assert len({b.salt // 8 for b in blocks}) == 5
