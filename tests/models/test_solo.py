"""SOLO: outputs, what it finds, what it learns, names, saving, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.losses.solo import SoloLoss
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.models.solo import Solo, build_solo
from spinenet_tf.ops import solo_find, solo_targets
from spinenet_tf.ops.solo_levels import SoloLevels

LEVELS = SoloLevels(
  sources=(3, 3, 4, 6),
  strides=(8, 8, 16, 32),
  grids=(8, 6, 4, 3),
  scales=((1, 32), (16, 48), (32, 96), (64, 256)),
)
SIZES = {"head_convs": 1, "head_width": 8, "solo_levels": LEVELS}
SIZE = (96, 128)
TRUTH = {
  "boxes": tf.constant([[[8, 8, 40, 40], [30, 50, 60, 90], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3], tf.float32),
  "classes": tf.constant([[0, 2, -1], [-1, -1, -1]]),
  "masks": tf.ones([2, 3, 8, 8], tf.uint8),
  "has_mask": tf.constant([[True, False, False], [False] * 3]),
}


@pytest.fixture(scope="module")
def tiny():
  """Four blocks and a feature pyramid, which trace fast."""
  stem = tuple(BlockSpec(level, "bottleneck") for level in (2, 3, 4, 5))
  return Architecture(
    "tiny", stem, (), filter_scale=0.125, endpoint_filters=8, stem_filters=6, stem_kernel=3, pyramid="fpn"
  )


def _randomise(model):
  """Gives the heads values with which scores and masks spread."""
  rng = np.random.default_rng(3)
  for name, variable in named_variables(model).items():
    if name.startswith(("category/predict", "mask_level")):
      variable.assign(rng.normal(0, 1, variable.shape))


@pytest.fixture(scope="module")
def model(tiny):
  model = build_solo(tiny, 3, SIZE, **SIZES)
  _randomise(model)
  return model


@pytest.fixture(scope="module")
def images():
  return tf.random.stateless_normal([2, *SIZE, 3], [1, 2])


@pytest.fixture(scope="module")
def found(model, images):
  return {key: value.numpy() for key, value in model.find(images, score_threshold=0.3).items()}


def test_outputs(model, images):
  outputs = model(images)
  shapes = {key: value.shape[1:] for key, value in outputs["cls_logits"].items()}
  assert shapes == {"0": (8, 8, 3), "1": (6, 6, 3), "2": (4, 4, 3), "3": (3, 3, 3)}
  features = {key: value.shape[1:] for key, value in outputs["mask_features"].items()}
  assert features == {"3_8": (12, 16, 8), "4_16": (6, 8, 8), "6_32": (3, 4, 8)}
  masks = model.mask_outputs(
    outputs["mask_features"], {"1": tf.zeros([2, 5], tf.int32), "3": tf.zeros([2, 1], tf.int32)}
  )
  assert {name: value.shape for name, value in masks.items()} == {"1": (2, 5, 24, 32), "3": (2, 1, 6, 8)}
  assert model.levels == (3, 4, 6) and model.solo_levels == LEVELS and not model.decoupled and model.aligned


def test_what_is_found(model, images, found):
  outputs = model(images)
  count = found["num_detections"]
  assert (count > 0).all() and (count < 100).all()
  expected = solo_find.detect(
    outputs["cls_logits"], outputs["mask_features"], model.mask_outputs, LEVELS, SIZE, score_threshold=0.3
  )
  for key, value in found.items():
    np.testing.assert_allclose(value, expected[key], atol=1e-4, err_msg=key)
  assert found["detection_masks"].shape == (2, 100, 24, 32)
  assert (np.diff(found["detection_scores"]) <= 0).all()
  for image in range(2):
    real = np.arange(100) < count[image]
    assert ((found["detection_classes"][image] >= 0) == real).all()
    assert (found["detection_scores"][image][real] > 0.3).all()


def test_one_image_does_not_mind_the_others(model, images, found):
  alone = model.find(images[1:], score_threshold=0.3)
  for key, value in alone.items():
    np.testing.assert_allclose(value[0], found[key][1], atol=1e-4, err_msg=key)


def test_finding_as_a_saved_model_for_any_batch(model, images, found, tmp_path):
  spec = tf.TensorSpec([None, *SIZE, 3], tf.float32)
  serve = tf.function(lambda x: model.find(x, score_threshold=0.3), input_signature=[spec], autograph=False)
  module = tf.Module()
  module.tree, module.serve = variable_tree(model), serve
  tf.saved_model.save(module, str(tmp_path), signatures=serve.get_concrete_function())
  again = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
  assert again.structured_outputs["detection_masks"].shape.as_list() == [None, 100, 24, 32]
  for key, value in again(images).items():
    np.testing.assert_allclose(value, found[key], atol=1e-3, err_msg=key)
  assert again(images[:0])["detection_masks"].shape == (0, 100, 24, 32)


def _losses(model, images, **options):
  outputs = model(images, training=True)
  targets = solo_targets.assign(model.solo_levels, model.input_size, **TRUTH)
  cells = solo_targets.choose(targets, 16, tf.constant([1, 2]), **options)
  truth = {key: TRUTH[key] for key in ("boxes", "masks", "has_mask")}
  wanted = solo_targets.masks_of(model.solo_levels, model.input_size, cells, **truth)
  masks = model.mask_outputs(outputs["mask_features"], cells.index, training=True)
  return SoloLoss(3)(outputs["cls_logits"], masks, targets, wanted)


@pytest.mark.parametrize(("decoupled", "policy"), [(False, "float32"), (True, "mixed_float16")])
def test_every_variable_learns(tiny, images, decoupled, policy):
  levels = dataclasses.replace(LEVELS, scales=((1, 250), (2, 251), (3, 252), (4, 253)))  # objects of all levels
  keras.mixed_precision.set_global_policy(policy)
  try:
    model = build_solo(tiny, 3, SIZE, **SIZES | {"solo_levels": levels}, decoupled=decoupled, aligned=not decoupled)
    with tf.GradientTape() as tape:
      losses = _losses(model, images, negatives=decoupled)
      goal = losses["total"] * 100
    gradients = tape.gradient(goal, model.trainable_variables)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert all(value.dtype == tf.float32 and np.isfinite(value) and value > 0 for value in losses.values())
  names = [v.name for v in model.trainable_variables]
  assert len(names) == len(set(names))
  assert not [name for name, gradient in zip(names, gradients) if gradient is None]
  heads = [g for name, g in zip(names, gradients) if name.startswith(("category", "mask"))]
  assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in heads)


def test_sizes_that_do_not_divide(tiny):
  size = (70, 101)
  model = build_solo(tiny, 3, size, **SIZES)
  _randomise(model)
  outputs = model(tf.zeros([1, *size, 3]))
  shapes = [LEVELS.feature_size(i, size) for i in (0, 2, 3)]
  assert shapes == [(9, 13), (5, 7), (3, 4)]
  assert [value.shape[1:3].as_list() for value in outputs["mask_features"].values()] == [list(x) for x in shapes]
  found = model.find(tf.random.stateless_normal([1, *size, 3], [1, 2]), score_threshold=0.2)
  assert found["detection_masks"].shape == (1, 100, 18, 26)
  np.testing.assert_array_equal(found["detection_mask_boxes"][0, 0], [0, 0, 72, 104])
  count = int(found["num_detections"][0])
  boxes = found["detection_boxes"][0, :count].numpy()
  assert count and (boxes >= 0).all() and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_every_pyramid_level_can_be_read(tiny, images):
  levels = SoloLevels((3, 4, 5, 6, 7), (8, 8, 16, 32, 32), (6, 5, 4, 3, 2))
  model = build_solo(tiny, 3, SIZE, head_convs=1, head_width=8, solo_levels=levels)
  shapes = {key: tuple(value.shape[1:3]) for key, value in model(images)["mask_features"].items()}
  assert shapes == {"3_8": (12, 16), "4_8": (12, 16), "5_16": (6, 8), "6_32": (3, 4), "7_32": (3, 4)}
  free = build_solo(tiny, 3, (None, None), head_convs=1, head_width=8, solo_levels=levels)
  free.set_weights(model.get_weights())
  wide = tf.random.stateless_normal([1, 128, 256, 3], [1, 2])
  assert free(wide)["mask_features"]["7_32"].shape == (1, 4, 8, 8)
  with pytest.raises(UserError, match=r"input size is \(None, None\)"):
    free.find(wide)


def test_sizes_follow_the_architecture():
  for name, width, endpoints in (("spinenet49s", 128, 256), ("r50_fpn", 256, 256)):
    config = build_solo(name, 2, (128, 128)).get_config()
    assert (config["head_convs"], config["head_filters"]) == (7, width)
    assert config["backbone"]["architecture"]["endpoint_filters"] == endpoints
    assert SoloLevels(**config["solo_levels"]) == SoloLevels()


def test_config_round_trip_with_nothing_at_its_default(tiny):
  model = build_solo(
    tiny,
    3,
    (96, 96),
    **SIZES,
    decoupled=True,
    aligned=False,
    prior=0.1,
    endpoint_width=12,
    activation="swish",
    stochastic_depth=0.3,
    dropblock_keep=0.8,
    dropblock_size=3,
    synchronized=True,
    norm_momentum=0.9,
    norm_epsilon=1e-2,
    padding="same",
  )
  again = Solo.from_config(json.loads(json.dumps(model.get_config())))
  assert again.get_config() == model.get_config()
  assert again.solo_levels == LEVELS and again.style == model.style and again.decoupled and not again.aligned
  assert [(v.name, v.shape) for v in again.variables] == [(v.name, v.shape) for v in model.variables]


def test_golden_names(root):
  """The names are the checkpoint format: a change here breaks every checkpoint that exists."""
  for decoupled in (False, True):
    names = set(named_variables(build_solo("spinenet49s", 3, (128, 128), decoupled=decoupled)))
    retinanet = (root / "tests" / "models" / "golden_names_spinenet49s.txt").read_text().split()
    unread = ("block_15", "endpoint_7")  # level 7, which nothing else reads
    expected = {n for n in retinanet if not n.startswith(("class_tower", "box_tower", *unread))}
    for branch in ("category", "mask"):
      parts = ("conv{}/kernel", "norm{}/gamma", "norm{}/beta")
      expected |= {f"{branch}/{part.format(i)}" for i in range(1, 8) for part in parts}
    expected |= {"category/predict/kernel", "category/predict/bias"}
    for level in range(5):
      for part in ("rows_", "columns_") if decoupled else ("",):
        expected |= {f"mask_level{level}/{part}kernel", f"mask_level{level}/{part}bias"}
    assert sorted(names) == sorted(expected)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"head_convs": 0}, "head_convs of SOLO's heads is 0"),
    ({"head_width": 2.5}, "head_width of SOLO's heads is 2.5"),
    ({"prior": 1.0}, "prior is 1.0"),
    ({"solo_levels": dataclasses.replace(LEVELS, sources=(2, 3, 4, 6))}, r"levels \[2, 3, 4, 6\].*\[2\] are missing"),
    ({"endpoint_width": 0}, "endpoint"),
  ],
)
def test_bad_arguments(tiny, kwargs, text):
  with pytest.raises(UserError, match=text):
    build_solo(tiny, **{"num_classes": 3, "input_size": SIZE, **SIZES, **kwargs})
