"""Folding batch norms into convolutions: by hand, and for whole models of every kind."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import scaled
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
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


def test_a_dense_layer_and_a_doubling():
  weights = {"h/dense/kernel": np.array([[1.0, 2.0]]), "h/double/kernel": np.ones([1, 2, 2, 2])}
  for unit in ("dense", "double"):
    norm = {"gamma": [2.0, 6.0], "beta": [1.0, 0.0], "moving_mean": [3.0, 1.0], "moving_variance": [4.0, 9.0]}
    weights |= {f"h/{unit}_norm/{k}": np.array(v) for k, v in norm.items()}
  found = fold(weights, epsilon=0.0)
  assert sorted(found) == ["h/dense/bias", "h/dense/kernel", "h/double/bias", "h/double/kernel"]
  # scales 2 / sqrt(4) = 1 and 6 / sqrt(9) = 2
  assert found["h/dense/kernel"].tolist() == [[1, 4]] and found["h/dense/bias"].tolist() == [-2, -2]
  assert found["h/double/kernel"][0].tolist() == [[[1, 2], [1, 2]]] * 2 and found["h/double/bias"].tolist() == [-2, -2]


BUILDERS = {"retinanet": build_retinanet, "mask_rcnn": build_mask_rcnn}


@pytest.mark.parametrize(
  ("task", "name"),
  [
    ("retinanet", "spinenet49"),
    ("retinanet", "r50_fpn"),
    ("retinanet", "spinenet49_mobile"),
    ("mask_rcnn", "spinenet49"),
    ("mask_rcnn", "spinenet49_mobile"),
  ],
)
def test_the_folded_model_computes_the_same(task, name):
  arch = scaled(architecture(name), filter_scale=0.125, endpoint_filters=8)
  arguments = {"num_classes": 2, "input_size": (128, 96), "head_convs": 2, "head_width": 8, "norm_epsilon": 0.01}
  build = BUILDERS[task]
  model, folded = build(arch, **arguments), build(arch, **arguments, folded=True)
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

  def outputs(network):
    first = network(images)
    if task == "retinanet":
      return tf.nest.flatten(first)
    boxes = tf.constant([[[0.0, 0.0, 90.0, 80.0], [9.0, 30.0, 44.0, 39.0]]] * 2)
    masks = network.mask_outputs(first["pyramid"], boxes, tf.constant([[0, 1]] * 2))
    return tf.nest.flatten([first, network.box_outputs(first["pyramid"], boxes), masks])

  for expected, found in zip(outputs(model), outputs(folded)):
    assert np.abs(expected - found).max() <= 1e-4 * np.abs(expected).max()
