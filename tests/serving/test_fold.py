"""Folding batch norms into convolutions: by hand, and for whole models of every kind."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import scaled
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.serving.fold import fold


def test_by_hand():
  norm = {"gamma": [2.0], "beta": [1.0], "moving_mean": [5.0], "moving_variance": [3.0]}
  weights = {f"a/norm/{k}": np.array(v) for k, v in norm.items()} | {"a/conv/kernel": np.array([[[[6.0]]]])}
  found = fold(weights | {"b/predict/bias": np.array([7.0])}, epsilon=1.0)
  # scale 2 / sqrt(3 + 1) = 1
  assert {k: v.tolist() for k, v in found.items()} == {
    "a/conv/kernel": [[[[6.0]]]],
    "a/conv/bias": [-4.0],
    "b/predict/bias": [7.0],
  }


def test_a_bias_before_the_norm_and_levels():
  weights = {"t/conv2/kernel": np.ones([1, 1, 1, 1]), "t/conv2/bias": np.array([3.0])}
  for level, gamma in ((3, 2.0), (4, 4.0)):
    norm = {"gamma": [gamma], "beta": [0.0], "moving_mean": [1.0], "moving_variance": [1.0]}
    weights |= {f"t/norm2_level{level}/{k}": np.array(v) for k, v in norm.items()}
  found = {k: float(v.ravel()[0]) for k, v in fold(weights, epsilon=0.0).items()}
  assert found == {
    "t/conv2_level3/kernel": 2.0,
    "t/conv2_level3/bias": 4.0,
    "t/conv2_level4/kernel": 4.0,
    "t/conv2_level4/bias": 8.0,
  }


@pytest.mark.parametrize("name", ["spinenet49", "r50_fpn", "spinenet49_mobile"])
def test_the_folded_model_computes_the_same(name):
  arch = scaled(architecture(name), filter_scale=0.125, endpoint_filters=8)
  arguments = {"num_classes": 2, "input_size": (128, 96), "head_convs": 2, "head_width": 8, "norm_epsilon": 0.01}
  model, folded = build_retinanet(arch, **arguments), build_retinanet(arch, **arguments, folded=True)
  rng = np.random.default_rng(0)
  for variable in model.variables:
    low, high = (0.5, 1.5) if "norm" in variable.name else (-0.3, 0.3)
    variable.assign(rng.uniform(low, high, variable.shape))
  weights = fold({name: variable.numpy() for name, variable in named_variables(model).items()}, epsilon=0.01)
  target = named_variables(folded)
  assert sorted(weights) == sorted(target)
  for key, variable in target.items():
    variable.assign(weights[key])
  images = tf.random.stateless_normal([2, 128, 96, 3], [1, 2])
  for expected, found in zip(tf.nest.flatten(model(images)), tf.nest.flatten(folded(images))):
    assert np.abs(expected - found).max() <= 1e-4 * np.abs(expected).max()
