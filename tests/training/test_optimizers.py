"""Weight decay and clipping, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.training import optimizers


@pytest.fixture
def variables():
  names = ("a/conv/kernel", "a/depthwise_kernel", "a/pointwise_kernel", "a/conv/bias", "a/norm/gamma", "a/kernel_x")
  return [tf.Variable([3.0, 4.0], name=name) for name in names]


def test_only_kernels_decay(variables):
  assert [v.name for v in optimizers.decayed(variables)] == [
    "a/conv/kernel:0",
    "a/depthwise_kernel:0",
    "a/pointwise_kernel:0",
  ]


def test_l2_loss_and_its_gradient(variables):
  assert float(optimizers.l2_loss(variables, 0.1)) == pytest.approx(0.1 * 0.5 * 25 * 3)
  assert float(optimizers.l2_loss(variables, 0.0)) == 0
  gradients = optimizers.add_l2_gradients([tf.ones(2)] * 6, variables, 0.1)
  np.testing.assert_allclose(gradients[0], [1.3, 1.4])
  np.testing.assert_allclose(gradients[3], [1, 1])
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(variables[0]) + optimizers.l2_loss(variables, 0.1)
  np.testing.assert_allclose(tape.gradient(loss, variables[0]), gradients[0])


def test_every_kernel_of_a_retinanet_decays_and_nothing_else(tiny):
  from spinenet_tf.models.retinanet import build_retinanet

  model = build_retinanet(tiny, 2, (128, 128))
  decayed = {v.name for v in optimizers.decayed(model.trainable_variables)}
  assert decayed == {v.name for v in model.trainable_variables if v.shape.rank == 4}


def test_clipping():
  gradients = [tf.constant([3.0]), tf.constant([4.0])]
  clipped, norm = optimizers.clip(gradients, 2.5)
  assert float(norm) == 5
  np.testing.assert_allclose(clipped, [[1.5], [2.0]])
  np.testing.assert_allclose(optimizers.clip(gradients, 10.0)[0], [[3], [4]])
  np.testing.assert_allclose(optimizers.clip(gradients, 0)[0], [[3], [4]])


def test_momentum_is_ninety_percent():
  variable = tf.Variable(0.0)
  sgd = optimizers.sgd(lambda: tf.constant(0.5))
  for _ in range(2):
    sgd.apply_gradients([(tf.constant(1.0), variable)])
  assert float(variable) == pytest.approx(-0.5 - 0.5 * 1.9)


def test_loss_scaling_is_for_float16_only():
  plain = optimizers.sgd(lambda: tf.constant(0.5))
  assert optimizers.with_loss_scale(plain, "mixed_bfloat16") is plain
  assert isinstance(optimizers.with_loss_scale(plain, "mixed_float16"), keras.mixed_precision.LossScaleOptimizer)


def test_an_optimizer_instance_is_refused():
  with pytest.raises(UserError, match="@sgd"):
    optimizers.check("sgd")


@pytest.mark.parametrize("classic", [True, False])
def test_lars_scales_kernels_by_their_norm_and_nothing_else(classic):
  rate = lambda: tf.constant(0.5)  # noqa: E731
  lars = optimizers.lars(rate, classic_momentum=classic)
  kernel, gamma = tf.Variable([3.0, 4.0], name="a/conv/kernel"), tf.Variable([3.0, 4.0], name="a/norm/gamma")
  lars._create_all_weights([kernel, gamma])
  gradient = tf.constant([6.0, 8.0])
  lars.apply_gradients([(gradient, kernel), (gradient, gamma)], experimental_aggregate_gradients=False)
  # Kernel: norm 5, gradient's 10, so 0.5 * (0.001 * 5 / 10) * gradient.
  np.testing.assert_allclose(kernel, [3 - 0.0015, 4 - 0.002], rtol=1e-6)
  np.testing.assert_allclose(gamma, [0, 0], atol=1e-6)
