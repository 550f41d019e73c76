"""Convolutions of many small maps with fewer multiplications equal the direct sum, gradients too."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.heads.box import BoxHead
from spinenet_tf.heads.mask import MaskHead
from spinenet_tf.ops import winograd, winograd_crops


def _draw(*shape, seed=0):
  return tf.random.stateless_normal(shape, [seed, 1])


def _close(actual, expected, tolerance=5e-5):
  assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def _direct(features, kernel):
  maps = tf.transpose(features, [2, 0, 1, 3])
  return tf.transpose(tf.nn.conv2d(maps, kernel, 1, "SAME"), [1, 2, 0, 3])


@pytest.mark.parametrize("side", [1, 4, 7])
def test_an_axis_by_hand(side):
  maps, from_points = winograd_crops._axis(side)
  values, filters = np.arange(1.0, side + 1), np.array([2.0, -1.0, 3.0])
  products = (maps @ values) * np.tile(winograd.KERNEL @ filters, -(-side // 4))
  before, after = np.array([0, *values[:-1]]), np.array([*values[1:], 0])
  np.testing.assert_allclose(from_points @ products, 2 * before - values + 3 * after, atol=1e-5)


@pytest.mark.parametrize("rows", [3, 4])
def test_a_piece_of_rows_by_hand(rows):
  piece = winograd_crops._PIECES[rows]
  values, filters = np.arange(1.0, rows + 3), np.array([2.0, -1.0, 3.0])
  expected = [2 * values[i] - values[i + 1] + 3 * values[i + 2] for i in range(rows)]
  np.testing.assert_allclose(piece.output @ ((piece.input @ values) * (piece.kernel @ filters)), expected, atol=1e-12)


@pytest.mark.parametrize(
  ("height", "pieces"),
  [
    (7, [(0, 4), (4, 3)]),
    (14, [(0, 4), (4, 4), (8, 3), (11, 3)]),
    (5, [(0, 3), (3, 3)]),
    (8, [(0, 4), (4, 4)]),
    (1, [(0, 3)]),
  ],
)
def test_pieces_of_rows(height, pieces):
  assert list(winograd_crops._rows(height)) == pieces


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (1, 3), (5, 10), (2, 6)])
def test_equals_the_direct_sum_with_gradients(size):
  features, kernel, upstream = _draw(*size, 3, 6), _draw(3, 3, 6, 5, seed=1), _draw(*size, 3, 5, seed=2)
  found = []
  for convolve in (winograd_crops.conv2d, _direct):
    with tf.GradientTape() as tape:
      tape.watch([features, kernel])
      result = convolve(features, kernel)
    found.append([result, *tape.gradient(result, [features, kernel], upstream)])
  for actual, expected in zip(*found):
    _close(actual.numpy(), expected.numpy())


@pytest.mark.parametrize("jit", [False, True])
def test_a_number_of_maps_that_is_not_known(jit):
  kernel = _draw(3, 3, 4, 4, seed=1)
  traced = tf.function(
    lambda x: winograd_crops.conv2d(x, kernel),
    input_signature=[tf.TensorSpec([7, 7, None, 4])],
    autograph=False,
    jit_compile=jit,
  )
  for count in (1, 3):
    features = _draw(7, 7, count, 4)
    _close(traced(features).numpy(), _direct(features, kernel).numpy())
  assert traced.get_concrete_function().output_shapes.as_list() == [7, 7, None, 4]


def test_where_it_pays():
  def pays(shape, channels=128, dtype=tf.float32, kernel=3):
    return winograd_crops.pays(tf.zeros([*shape, channels], dtype), tf.zeros([kernel, kernel, channels, 128]))

  assert not pays([2, 7, 7])
  with winograd.enabled():
    assert pays([2, 7, 7]) and pays([2, 14, 14])
    assert not pays([2, 33, 7])
    assert not pays([2, 7, 7], channels=64)
    assert not pays([2, 7, 7], dtype=tf.bfloat16)
    assert not pays([2, 7, 7], kernel=1)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("kind", "side"), [(BoxHead, 7), (MaskHead, 14)])
def test_heads_are_the_same_with_it(kind, side, folded):
  head = kind(3, convs=2, filters=128, style={"folded": folded, "activation": "swish"})  # smooth
  crops = _draw(6, side, side, 128)
  head(crops)
  for variable in head.trainable_variables:
    if variable.name.endswith(("bias:0", "beta:0")):
      variable.assign(_draw(*variable.shape, seed=3))
  found = []
  for enabled in (False, True):
    with winograd.enabled(enabled), tf.GradientTape() as tape:
      outputs = tf.nest.flatten(head(crops, training=not folded))
      total = sum(tf.reduce_sum(x * _draw(*x.shape, seed=4)) for x in outputs)
    found.append([*outputs, *tape.gradient(total, head.trainable_variables)])
  for actual, expected in zip(*found):
    _close(actual.numpy(), expected.numpy(), 2e-3)
