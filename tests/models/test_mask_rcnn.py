"""Mask R-CNN: outputs, what it finds, names, saving, parameters, refusals."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.profile import profile
from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.heads.sizes import MaskHeads
from spinenet_tf.models.mask_rcnn import MaskRCNN, build_mask_rcnn
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops import nms
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.ops.portable import portable
from spinenet_tf.serving.raw import raw_outputs

SIZES = {"head_convs": 1, "head_width": 8, "dense_width": 12}
SIZE = (128, 160)
THRESHOLD = 0.7  # leaves some of 100 detections


@pytest.fixture(scope="module")
def tiny():
  """A thin SpineNet with every edge of the real one."""
  values = architecture("spinenet49s").to_dict() | {"name": "tiny", "filter_scale": 0.125, "endpoint_filters": 8}
  return architecture(values)


def _randomise(model):
  """Gives kernels values with which scores spread."""
  rng = np.random.default_rng(3)
  for name, variable in named_variables(model).items():
    if name.endswith("kernel"):
      spread = 4 if name.startswith(("rpn", "box_head", "mask_head")) else 1
      variable.assign(rng.normal(0, spread / np.prod(variable.shape[:-1]) ** 0.5, variable.shape))


@pytest.fixture(scope="module")
def model(tiny):
  model = build_mask_rcnn(tiny, 3, SIZE, **SIZES)
  _randomise(model)
  return model


@pytest.fixture(scope="module")
def images():
  return tf.random.stateless_normal([2, *SIZE, 3], [1, 2])


@pytest.fixture(scope="module")
def found(model, images):
  return {key: value.numpy() for key, value in model.find(images, score_threshold=THRESHOLD).items()}


def test_the_first_stage(model):
  outputs = model(tf.zeros([2, *SIZE, 3]))
  for level in range(3, 8):
    size = (2, *(-(-side // 2**level) for side in SIZE))
    assert outputs["pyramid"][str(level)].shape == (*size, 8)
    assert outputs["rpn_scores"][str(level)].shape == (*size, 3)
    assert outputs["rpn_deltas"][str(level)].shape == (*size, 12)


def test_regions_in_training_and_else(model, images):
  outputs = model(images)
  for training, count in ((False, 1000), (True, 1000), (True, 7)):
    boxes, scores = model.propose(outputs, training=training, count=count)
    assert boxes.shape == (2, count, 4) and scores.shape == (2, count)
    assert (np.diff(scores.numpy(), axis=1) <= 0).all() and scores.numpy()[:, 0].min() > 0.5
    assert boxes.numpy().min() >= 0 and (boxes.numpy()[..., 2:] <= SIZE).all()


def test_the_second_stage_treats_regions_one_by_one(model, images):
  pyramid = model(images)["pyramid"]
  corners = np.random.default_rng(0).uniform(0, 60, [2, 2, 5, 2])
  boxes = tf.constant(np.concatenate([corners[0], corners[1] + [60, 90]], axis=-1), tf.float32)
  classes = tf.constant([[0, 1, 2, -1, 0], [2, 2, 1, 0, -1]])
  logits, codes = model.box_outputs(pyramid, boxes)
  masks = model.mask_outputs(pyramid, boxes, classes)
  assert (logits.shape, codes.shape, masks.shape) == ((2, 5, 4), (2, 5, 3, 4), (2, 5, 28, 28))
  one = {level: maps[1:] for level, maps in pyramid.items()}
  for whole, part in (
    *zip((logits, codes), model.box_outputs(one, boxes[1:, 3:4])),
    (masks, model.mask_outputs(one, boxes[1:, 3:4], classes[1:, 3:4])),
  ):
    np.testing.assert_allclose(whole[1:, 3:4], part, rtol=1e-4, atol=1e-4)
  zero = model.mask_outputs(pyramid, boxes, tf.maximum(classes, 0))
  np.testing.assert_array_equal(masks, zero)
  other = model.mask_outputs(pyramid, boxes, 2 - tf.maximum(classes, 0))
  assert np.abs(other - masks).max() > 0.1


def test_what_is_found(model, images, found):
  outputs = model(images)
  regions, _ = model.propose(outputs)
  logits, codes = model.box_outputs(outputs["pyramid"], regions)
  expected = nms.detect_regions(logits, codes, regions, SIZE, score_threshold=THRESHOLD)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value, err_msg=key)
  masks = model.mask_outputs(outputs["pyramid"], expected["detection_boxes"], expected["detection_classes"])
  for image, count in enumerate(found["num_detections"]):
    np.testing.assert_allclose(found["detection_masks"][image, :count], tf.sigmoid(masks)[image, :count], atol=1e-5)
    assert not found["detection_masks"][image, count:].any()
    assert 0 < count < 100


def test_both_stages_are_decoded_as_the_authors_do(model, images, found):
  outputs = model(images)
  regions, _ = model.propose(outputs, legacy_plus_one=True)
  logits, codes = model.box_outputs(outputs["pyramid"], regions)
  expected = nms.detect_regions(logits, codes, regions, SIZE, score_threshold=THRESHOLD, legacy_plus_one=True)
  legacy = model.find(images, score_threshold=THRESHOLD, legacy_plus_one=True)
  np.testing.assert_array_equal(legacy["detection_boxes"], expected["detection_boxes"])
  assert np.abs(legacy["detection_boxes"] - found["detection_boxes"]).max() > 0.1
  raw = raw_outputs(model, images, legacy_plus_one=True)["raw_boxes"]
  boxes = box_ops.decode(codes / np.float32([10, 10, 5, 5]), regions[:, :, None], legacy_plus_one=True)
  np.testing.assert_allclose(raw, box_ops.clip(boxes, SIZE), atol=1e-3)


def test_arguments_of_finding(model, images):
  few = model.find(images, score_threshold=0.01, iou_threshold=0.9, max_detections=4, pre_nms_top_k=50)
  assert few["detection_masks"].shape == (2, 4, 28, 28) and few["num_detections"].numpy().tolist() == [4, 4]
  with pytest.raises(UserError, match="score_threshold is 2"):
    model.find(images, score_threshold=2)


def test_retinanet_finds_what_its_outputs_say(tiny, images):
  retinanet = build_retinanet(tiny, 3, SIZE, head_convs=1, head_width=8)
  outputs = retinanet(images, training=False)
  expected = nms.detect(outputs, retinanet.anchors, SIZE, num_classes=3, score_threshold=0.001, max_detections=5)
  for key, value in retinanet.find(images, score_threshold=0.001, max_detections=5).items():
    np.testing.assert_array_equal(value, expected[key], err_msg=key)
  free = build_retinanet(tiny, 3, (None, None), head_convs=1, head_width=8)
  with pytest.raises(UserError, match=r"input size is \(None, None\)"):
    free.find(images)


def test_finding_as_one_graph_for_any_batch(model, images, found):
  serve = tf.function(lambda x: model.find(x, score_threshold=THRESHOLD), autograph=False)
  concrete = serve.get_concrete_function(tf.TensorSpec([None, *SIZE, 3]))
  assert concrete.structured_outputs["detection_masks"].shape.as_list() == [None, 100, 28, 28]
  for key, value in concrete(images).items():
    np.testing.assert_allclose(value, found[key], atol=1e-3, err_msg=key)


def test_finding_with_plain_operations(model, images, found):
  def traced():
    graph = tf.function(lambda x: model.find(x, score_threshold=THRESHOLD), autograph=False)
    concrete = graph.get_concrete_function(tf.TensorSpec(images.shape))
    return concrete, {op.type for op in concrete.graph.get_operations()}

  special = {"CombinedNonMaxSuppression", "CropAndResize"}
  assert special <= traced()[1]
  with portable():
    plain, kinds = traced()
  assert not special & kinds
  # Proposals of the same score may come in another order, which decides about the later ones.
  for key, value in plain(images).items():
    if key != "num_detections":
      np.testing.assert_allclose(value[:, :3], found[key][:, :3], atol=1e-2, err_msg=key)


def test_boxes_follow_their_regions_and_masks_their_boxes(tiny):
  """With zeroed predictions the only box of a region is the region."""
  model = build_mask_rcnn(tiny, 1, SIZE, **SIZES)
  values = named_variables(model)
  values["box_head/boxes/kernel"].assign(tf.zeros_like(values["box_head/boxes/kernel"]))
  values["box_head/classes/bias"].assign([0.0, 5.0])
  values["mask_head/predict/kernel"].assign(tf.zeros_like(values["mask_head/predict/kernel"]))
  values["mask_head/predict/bias"].assign([np.log(3)])
  images = tf.zeros([1, *SIZE, 3])
  found = model.find(images, iou_threshold=1.0)
  regions, scores = model.propose(model(images))
  inside = tf.boolean_mask(regions, (scores > 0) & (box_ops.area(regions) > 0)).numpy()
  for box in found["detection_boxes"].numpy()[0]:
    assert np.abs(inside - box).max(-1).min() < 1e-3
  np.testing.assert_allclose(found["detection_masks"], 0.75, atol=1e-5)
  np.testing.assert_allclose(found["detection_scores"], tf.sigmoid(5.0), atol=0.02)


def test_every_variable_learns(tiny, images):
  model = build_mask_rcnn(tiny, 3, SIZE, **SIZES)
  with tf.GradientTape() as tape:
    outputs = model(images, training=True)
    boxes, _ = model.propose(outputs, training=True, count=20)
    second = model.box_outputs(outputs["pyramid"], boxes, training=True)
    masks = model.mask_outputs(outputs["pyramid"], boxes[:, :5], tf.ones([2, 5], tf.int32), training=True)
    total = tf.add_n([tf.reduce_sum(t**2) for t in tf.nest.flatten([outputs, second, masks])])
  names = [v.name for v in model.trainable_variables]
  assert len(names) == len(set(names))
  gradients = tape.gradient(total, model.trainable_variables)
  assert not [name for name, gradient in zip(names, gradients) if gradient is None]


def test_statistics_are_those_of_the_regions_in_training_only(tiny, images):
  model = build_mask_rcnn(tiny, 3, SIZE, **SIZES)
  moving = [v for name, v in named_variables(model).items() if "_head/" in name and "moving" in name]
  assert len(moving) == 2 * (2 + 2)  # mean and variance; a convolution and a dense layer, a convolution and a doubling
  before = [v.numpy() for v in moving]
  model.find(images)
  for a, b in zip(before, moving):
    np.testing.assert_array_equal(a, b)
  pyramid, boxes = model(images)["pyramid"], tf.constant([[[0.0, 0.0, 64.0, 64.0], [5.0, 5.0, 90.0, 99.0]]] * 2)
  model.box_outputs(pyramid, boxes, training=True)
  model.mask_outputs(pyramid, boxes, tf.zeros([2, 2], tf.int32), training=True)
  assert all(np.abs(a - b).max() > 0 for a, b in zip(before, moving))


def test_parameters_equal_the_profile(model, tiny):
  built = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
  heads = MaskHeads(convs=1, filters=8, dense=12)
  assert profile(tiny, "mask_rcnn", 3, SIZE, mask_heads=heads).parameters == built


def test_sizes_follow_the_paper():
  model = build_mask_rcnn("spinenet49s", 90, (128, 128))
  config = model.get_config()
  assert (config["head_filters"], config["dense"], config["rpn_convs"], config["head_convs"]) == (128, 512, 1, 4)
  assert model.architecture.endpoint_filters == 128
  assert model.anchors == AnchorConfig(3, 7, num_scales=1, anchor_size=3.0)
  built = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
  assert built == profile("spinenet49s", "mask_rcnn", 90, (128, 128)).parameters
  assert built / 1e6 == pytest.approx(13.9, rel=5e-3)  # table 5


def test_config_round_trip_with_nothing_at_its_default(tiny):
  anchors = AnchorConfig(min_level=3, max_level=6, num_scales=2, aspect_ratios=(1.0, 3.0), anchor_size=5.0)
  model = build_mask_rcnn(
    tiny,
    3,
    (96, 96),
    rpn_convs=2,
    head_convs=1,
    head_width=8,
    dense_width=12,
    endpoint_width=12,
    anchors=anchors,
    activation="swish",
    stochastic_depth=0.3,
    dropblock_keep=0.8,
    dropblock_size=3,
    synchronized=True,
    norm_momentum=0.9,
    norm_epsilon=1e-2,
    padding="same",
  )
  config = json.loads(json.dumps(model.get_config()))
  again = MaskRCNN.from_config(config)
  assert again.get_config() == model.get_config()
  assert again.anchors == anchors and again.style == model.style and again.levels == (3, 4, 5, 6)
  assert again.architecture.endpoint_filters == 12
  assert [(v.name, v.shape) for v in again.variables] == [(v.name, v.shape) for v in model.variables]


def test_golden_names(root, tiny):
  """The names are the checkpoint format: a change here breaks every checkpoint that exists."""
  names = sorted(n for n in named_variables(build_mask_rcnn("spinenet49s", 3, (128, 128))))
  golden = (root / "tests" / "models" / "golden_names_mask_rcnn_spinenet49s.txt").read_text().split()
  assert names == golden
  retinanet = (root / "tests" / "models" / "golden_names_spinenet49s.txt").read_text().split()
  backbone = {n for n in retinanet if not n.startswith(("class_tower", "box_tower"))}
  assert backbone == {n for n in names if not n.startswith(("rpn", "box_head", "mask_head"))}


def test_checkpoint_reads_back_into_a_new_model(tiny, model, images, found, tmp_path):
  path = tf.train.Checkpoint(model=variable_tree(model)).write(str(tmp_path / "ckpt"))
  other = build_mask_rcnn(tiny, 3, SIZE, **SIZES)
  tf.train.Checkpoint(model=variable_tree(other)).read(path).assert_consumed()
  for key, value in other.find(images, score_threshold=THRESHOLD).items():
    np.testing.assert_allclose(value, found[key], atol=1e-4, err_msg=key)


def test_keras_save_and_load(model, images, found, tmp_path):
  model.save(tmp_path / "model.keras")
  again = keras.models.load_model(tmp_path / "model.keras")
  for key, value in again.find(images, score_threshold=THRESHOLD).items():
    np.testing.assert_allclose(value, found[key], atol=1e-4, err_msg=key)


def test_saved_model(model, images, found, tmp_path):
  module = tf.Module()
  module.variables_of_model = list(model.variables)
  module.serve = tf.function(
    lambda x: model.find(x, score_threshold=THRESHOLD),
    input_signature=[tf.TensorSpec([None, *SIZE, 3])],
    autograph=False,
  )
  tf.saved_model.save(module, str(tmp_path))
  again = tf.saved_model.load(str(tmp_path))
  for key, value in again.serve(images).items():
    np.testing.assert_allclose(value, found[key], atol=1e-3, err_msg=key)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_outputs_are_float32_whatever_the_policy(tiny, policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    model = build_mask_rcnn(tiny, 2, (96, 96), **SIZES)
    images = tf.random.stateless_normal([1, 96, 96, 3], [1, 2])
    with tf.GradientTape() as tape:
      outputs = model(images, training=True)
      boxes, scores = model.propose(outputs, training=True, count=8)
      second = model.box_outputs(outputs["pyramid"], boxes, training=True)
      masks = model.mask_outputs(outputs["pyramid"], boxes, tf.zeros([1, 8], tf.int32), training=True)
      total = tf.add_n([tf.reduce_sum(t**2) for t in [*second, masks]])
    found = model.find(images, score_threshold=0.0)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  first = {key: outputs[key] for key in ("rpn_scores", "rpn_deltas")}
  assert {t.dtype for t in tf.nest.flatten([first, boxes, scores, second, masks])} == {tf.float32}
  assert found["detection_masks"].dtype == tf.float32
  gradients = tape.gradient(total, [v for v in model.trainable_variables if "_head/" in v.name])
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_sizes_that_do_not_divide(tiny):
  model = build_mask_rcnn(tiny, 2, (100, 72), **SIZES)
  found = model.find(tf.random.stateless_normal([1, 100, 72, 3], [1, 2]), score_threshold=0.0)
  boxes = found["detection_boxes"].numpy()
  assert (boxes[..., 2] <= 100).all() and (boxes[..., 3] <= 72).all() and found["num_detections"].numpy()[0] == 100


def test_unknown_sizes(tiny, model, images):
  free = build_mask_rcnn(tiny, 3, (None, None), **SIZES)
  free.set_weights(model.get_weights())
  image = tf.random.stateless_normal([1, 128, 256, 3], [1, 2])
  wide = build_mask_rcnn(tiny, 3, (128, 256), **SIZES)
  wide.set_weights(model.get_weights())
  boxes = tf.constant([[[3.0, 5.0, 100.0, 200.0]]])
  for a, b in zip(*(m.box_outputs(m(image)["pyramid"], boxes) for m in (free, wide))):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  with pytest.raises(UserError, match=r"input size is \(None, None\)"):
    free.find(images)


@pytest.mark.parametrize(
  ("kwargs", "text"),
  [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"num_classes": 3, "min_level": 2}, r"levels \[2, 3.*offers \[3, 4, 5, 6, 7\].*\[2\] are missing"),
    ({"num_classes": 3, "head_width": 0}, "filters of Mask R-CNN's heads is 0"),
    ({"num_classes": 3, "activation": "tanh"}, "activation is 'tanh'"),
  ],
)
def test_what_is_refused(tiny, kwargs, text):
  with pytest.raises(UserError, match=text):
    build_mask_rcnn(tiny, input_size=(96, 96), **kwargs)
