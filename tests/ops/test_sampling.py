"""Balanced sampling: counts, order, chance, places that stay empty."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.ops.sampling import sample

SEED = tf.constant([3, 4])


def masks(kinds):
  """+, - and . for positive, negative and neither."""
  return tf.constant([[c == "+" for c in row] for row in kinds]), tf.constant(
    [[c == "-" for c in row] for row in kinds]
  )


def test_counts_and_order():
  positive, negative = masks(["+-" * 10, "+" + "-" * 19, "." * 18 + "+-", "." * 20])
  taken = sample(positive, negative, 8, 0.25, SEED)
  np.testing.assert_array_equal(tf.reduce_sum(tf.cast(taken.positive, tf.int32), 1), [2, 1, 1, 0])
  np.testing.assert_array_equal(tf.reduce_sum(tf.cast(taken.negative, tf.int32), 1), [6, 7, 1, 0])
  for row in range(4):
    kinds = (2 * taken.positive[row].numpy() + taken.negative[row].numpy()).tolist()
    assert kinds == sorted(kinds, reverse=True)  # positives, negatives, empty
    filled = taken.index[row].numpy()[np.array(kinds) > 0]
    assert len(set(filled.tolist())) == len(filled)
    assert positive.numpy()[row][taken.index[row].numpy()[taken.positive[row]]].all()
    assert negative.numpy()[row][taken.index[row].numpy()[taken.negative[row]]].all()
  np.testing.assert_array_equal(taken.index[3], 0)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_fewer_examples_than_places(count):
  taken = sample(*masks(["+-+"]), count, 0.5, SEED)
  assert taken.index.shape == taken.positive.shape == taken.negative.shape == [1, count]
  assert tf.reduce_sum(tf.cast(taken.positive, tf.int32)) == min(2, count // 2)
  assert tf.reduce_sum(tf.cast(taken.negative, tf.int32)) == 1


def test_each_example_has_the_same_chance():
  positive, negative = masks(["++++" + "-" * 8])
  draws = [sample(positive, negative, 4, 0.5, tf.constant([0, i])).index.numpy()[0] for i in range(600)]
  counts = np.bincount(np.concatenate(draws), minlength=12)
  # 600 draws of 2 among 4 and of 2 among 8; five deviations around the mean.
  np.testing.assert_array_less(np.abs(counts[:4] - 300), 62)
  np.testing.assert_array_less(np.abs(counts[4:] - 150), 54)


@pytest.mark.parametrize("jit", [False, True])
def test_same_seed_same_sample(jit):
  positive, negative = masks(["+-+-+-+-.+" * 3])
  run = tf.function(lambda seed: sample(positive, negative, 9, 0.4, seed), jit_compile=jit)
  first, second, other = run(SEED), run(SEED), run(SEED + 1)
  np.testing.assert_array_equal(first.index, second.index)
  assert (first.index.numpy() != other.index.numpy()).any()
