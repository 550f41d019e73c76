"""Classifier: pooling against literal up-sampling, counts, names, what is read of which architecture, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.catalog import names as catalog_names
from spinenet_tf.backbones.profile import profile
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.heads.classification import ClassifierHead, repeats
from spinenet_tf.layers.resample import upsample
from spinenet_tf.models.classifier import Classifier, build_classifier
from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.serving.fold import fold

QUICK = ("r0_sp53", "r50_fpn", "spinenet49s_mobile")  # the others are slow


@pytest.fixture(scope="module")
def tiny():
  """A thin SpineNet with every edge of the real one."""
  values = architecture("spinenet49s").to_dict() | {"name": "tiny", "filter_scale": 0.125, "endpoint_filters": 16}
  return architecture(values | {"head_filters": 16})


@pytest.fixture(scope="module")
def model(tiny):
  return build_classifier(tiny, 5, (96, 160))


def pyramid(height, width, channels=6):
  return {
    str(level): tf.random.stateless_normal([2, -(-height // 2**level), -(-width // 2**level), channels], [level, 1])
    for level in range(3, 8)
  }


# 224: levels of 28, 14, 7, 4, 2 pixels; then sizes that divide; then the two sides of different kinds.
@pytest.mark.parametrize("size", [(224, 224), (256, 128), (200, 256), (199, 105)])
def test_features_are_the_mean_of_levels_upsampled_one_by_one(size):
  maps = pyramid(*size)
  features = ClassifierHead(4)(maps)["features"]
  merged = maps["7"]
  for level in (6, 5, 4, 3):
    merged = maps[str(level)] + upsample(merged, 2, maps[str(level)].shape[1:3])
  np.testing.assert_allclose(features, tf.reduce_mean(merged / 5, [1, 2]), atol=1e-6)


def test_repeats_by_hand():
  """7 rows read rows 0 0 1 1 2 2 3 of the 4 above, which read rows 0 0 1 1 of the 2 above."""
  counts = repeats([7, 4, 2])
  np.testing.assert_array_equal(counts[0], [1] * 7)
  np.testing.assert_array_equal(counts[1], [2, 2, 2, 1])
  np.testing.assert_array_equal(counts[2], [4, 3])


def test_logits_by_hand():
  head = ClassifierHead(2, levels=(3, 4))
  maps = {"3": tf.ones([1, 2, 2, 1]), "4": tf.fill([1, 1, 1, 1], 4.0)}
  head(maps)
  head.set_weights([np.array([[2.0, -1.0]]), np.array([0.5, 0.0])])
  outputs = head(maps)
  np.testing.assert_allclose(outputs["features"], [[2.5]])
  np.testing.assert_allclose(outputs["logits"], [[5.5, -2.5]])


def test_kernel_starts_small_and_biases_at_zero():
  head = ClassifierHead(200)
  head(pyramid(64, 64, 64))
  kernel, bias = head.get_weights()
  assert 0.0095 < kernel.std() < 0.0105 and not bias.any()


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in catalog_names()]
)
def test_every_architecture(name):
  """Built thin; parameters as counted from the spec."""
  thin = architecture(name).to_dict() | {"name": "thin", "filter_scale": 0.25, "endpoint_filters": 24}
  model = build_classifier(thin, 7, (72, 104))
  built = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
  assert profile(thin, "classification", 7, (72, 104)).parameters == built
  width = 512 if name.endswith("_fpn") else 24
  assert model.output_shape == {"logits": (None, 7), "features": (None, width)}


def test_a_resnet_is_read_at_its_top_and_has_no_pyramid():
  thin = architecture("r50_fpn").to_dict() | {"name": "thin", "filter_scale": 0.125}
  model = build_classifier(thin, 2, (72, 104))
  assert not [name for name in named_variables(model) if name.startswith("fpn/")]
  images = tf.random.stateless_normal([2, 72, 104, 3], [1, 2])
  top = keras.Model(model.input, model.layers[-2].output)(images)
  assert top.shape == (2, 3, 4, 256)
  np.testing.assert_allclose(model(images)["features"], tf.reduce_mean(top, [1, 2]), atol=1e-5)


def test_names_are_those_of_a_detector_but_for_the_heads(tiny, model):
  """So that a classifier's backbone starts a detector, and the other way round."""
  detector = named_variables(build_retinanet(tiny, 2, (96, 160)))
  backbone = {name for name in detector if not name.startswith(("class_tower/", "box_tower/"))}
  assert set(named_variables(model)) == backbone | {"classifier/predict/kernel", "classifier/predict/bias"}


def test_config_round_trip_with_nothing_at_its_default(tiny):
  model = build_classifier(
    tiny,
    3,
    (96, 72),
    activation="swish",
    stochastic_depth=0.3,
    dropblock_keep=0.8,
    dropblock_size=1,
    synchronized=True,
    norm_momentum=0.8,
    norm_epsilon=1e-2,
    padding="same",
  )
  config = json.loads(json.dumps(model.get_config()))
  again = Classifier.from_config(config)
  assert json.loads(json.dumps(again.get_config())) == config
  assert again.architecture == tiny and again.num_classes == 3 and again.input_size == (96, 72)
  assert again.style.activation == "swish" and again.style.norm_momentum == 0.8
  again.set_weights(model.get_weights())
  images = tf.random.normal([1, 96, 72, 3])
  np.testing.assert_array_equal(model(images)["logits"], again(images)["logits"])


def test_norms_as_in_the_authors_classifier(model):
  assert (model.style.norm_momentum, model.style.norm_epsilon) == (0.9, 1e-5)


def test_folded_weights_give_the_same_scores(tiny, model):
  rng = np.random.default_rng(0)
  weights = {name: np.float32(v + rng.uniform(0.01, 0.2, v.shape)) for name, v in named_variables(model).items()}
  plain, folded = build_classifier(tiny, 5, (96, 160)), build_classifier(tiny, 5, (96, 160), folded=True)
  for network, values in ((plain, weights), (folded, fold(weights, 1e-5))):
    assert set(named_variables(network)) == set(values)
    for name, variable in named_variables(network).items():
      variable.assign(values[name])
  images = tf.random.stateless_normal([2, 96, 160, 3], [1, 2])
  a, b = (network(images)["logits"].numpy() for network in (plain, folded))
  np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


def test_unknown_sizes_give_the_same_network(tiny):
  free, fixed = build_classifier(tiny, 3, (None, None)), build_classifier(tiny, 3, (128, 256))
  free.set_weights(fixed.get_weights())
  images = tf.random.normal([1, 128, 256, 3])
  np.testing.assert_allclose(free(images)["logits"], fixed(images)["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"num_classes": 3, "activation": "tanh"}, "activation is 'tanh'"),
    ({"num_classes": 3, "stochastic_depth": 1.0}, "stochastic_depth is 1.0"),
  ],
)
def test_what_is_refused(tiny, kwargs, text):
  with pytest.raises(UserError, match=text):
    build_classifier(tiny, input_size=(96, 96), **kwargs)
