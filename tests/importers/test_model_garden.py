"""Checkpoints that Model Garden writes, with every variable random: the same outputs from ours."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.importers import model_garden, run, tensorflow_files
from spinenet_tf.importers.assemble import Choices
from spinenet_tf.models.naming import named_variables

peers = pytest.importorskip("benchmarks.model_garden")

pytestmark = pytest.mark.slow


def _save(peer, prefix):
  step = tf.Variable(7, dtype=tf.int64)
  tf.train.Checkpoint(**peer.checkpoint_items, model=peer, global_step=step).write(str(prefix))
  return str(prefix)


def _retinanet(name, size, randomise, classes=91, **overrides):
  peer = peers.build_task(name, classes, size, **overrides).build_model()
  peer(tf.zeros([1, size, size, 3], keras.backend.floatx()), training=True)
  randomise(peer)
  return peer


def _outputs(peer, images, training):
  scores, boxes, _ = peer.head(peer.backbone(images, training=training), training=training)
  return {"cls_logits": scores, "box_deltas": boxes}


def _agree(ours, theirs, share=1e-4):
  for kind, levels in theirs.items():
    for level, wanted in levels.items():
      error = np.abs(ours[kind][level].numpy() - wanted.numpy()).max()
      assert error <= share * np.abs(wanted.numpy()).max(), f"{kind}, level {level}: {error}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, randomise):
  """A RetinaNet-49S of Model Garden with 256 channels, and its checkpoint; towers have random biases."""
  peer = _retinanet("spinenet49s", 128, randomise)
  return peer, _save(peer, tmp_path_factory.mktemp("garden") / "ckpt-7")


@pytest.fixture(scope="module")
def imported(checkpoint):
  return run.load("model_garden", checkpoint[1], Choices(image_size=128, aspect_ratios=(1.0, 2.0, 0.5)))


def test_every_variable_is_accounted_for(imported, checkpoint):
  account = imported.account
  keys = {k.removesuffix(model_garden.SUFFIX) for k in tensorflow_files.read(checkpoint[1]).shapes} - {
    model_garden.GRAPH
  }
  mapped = {origin for value in account.mapped.values() for origin in value.split(" - ")}
  assert mapped | set(account.skipped) == keys
  assert (len(account.mapped), account.missing, account.wrong_shape) == (822, [], {})
  assert set(account.skipped.values()) == {"counter", "bias before a batch norm: folded into its moving mean"}


def test_model_is_inferred(imported):
  inferred = imported.assembled.inferred
  arch = inferred.architecture
  assert (inferred.task, arch.name, inferred.outputs, inferred.anchors) == ("retinanet", "spinenet49s", 91, 9)
  assert (arch.filter_scale, arch.resample_alpha, arch.block_repeats, arch.endpoint_filters) == (0.65, 0.5, 1, 256)
  assert (inferred.head_convs, inferred.head_width, inferred.levels) == (4, 128, (3, 4, 5, 6, 7))


def test_outputs_agree(imported, checkpoint):
  images = tf.random.stateless_normal([2, 128, 128, 3], [1, 2])
  _agree(imported.model(images, training=False), _outputs(checkpoint[0], images, False))


def test_moving_mean_takes_the_bias(imported, checkpoint):
  head = checkpoint[0].head
  wanted = head._cls_norms[2][1].moving_mean - head._cls_convs[1].bias  # level 5, the second convolution
  np.testing.assert_array_equal(named_variables(imported.model)["class_tower/norm2_level5/moving_mean"], wanted)


def test_outputs_agree_in_training(tmp_path, randomise):
  """In float64: batch statistics of a few pixels magnify float32's rounding."""
  keras.mixed_precision.set_global_policy("float64")
  keras.backend.set_floatx("float64")
  try:
    peer = _retinanet("spinenet49s", 128, randomise)
    prefix = _save(peer, tmp_path / "ckpt")
    ours = run.load("model_garden", prefix, Choices(image_size=128)).model
    images = tf.random.stateless_normal([2, 128, 128, 3], [1, 2], dtype=tf.float64)
    _agree(ours(images, training=True), _outputs(peer, images, True))
  finally:
    keras.backend.set_floatx("float32")
    keras.mixed_precision.set_global_policy("float32")


def test_run_directory_is_used_as_it_is(imported, checkpoint, tmp_path):
  from spinenet_tf.serving.load import load_run

  run.save(imported, "model_garden", checkpoint[1], tmp_path / "run")
  loaded = load_run(tmp_path / "run", fold=False)
  for name, variable in named_variables(loaded.model).items():
    np.testing.assert_array_equal(variable, named_variables(imported.model)[name], name)
  assert loaded.model.style.padding == "same"
  provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
  assert provenance["source"] == "model_garden" and len(provenance["report"]["mapped"]) == 822
  assert sorted(provenance["sha256"]) == ["ckpt-7.data-00000-of-00001", "ckpt-7.index"]
  assert all(len(digest) == 64 for digest in provenance["sha256"].values())
  detect = loaded.use(score_threshold=0.0)
  found = detect(np.zeros([100, 128, 3], np.uint8))
  assert len(found) and detect.class_ids == tuple(range(91)) and detect.categories[90] == "toothbrush"
  with pytest.raises(UserError, match="exists and is not empty"):
    run.save(imported, "model_garden", checkpoint[1], tmp_path / "run")
  assert not list(tmp_path.glob(".*incomplete"))


def test_other_keys_and_names(imported, randomise, tmp_path):
  """The model under `model` alone; synchronised norms; layers numbered from another start; 2 scales; a backbone alone."""
  overrides = {"model": {"norm_activation": {"use_sync_bn": True}, "anchor": {"num_scales": 2}}}
  peer = _retinanet("spinenet49s", 128, randomise, 3, **overrides)
  tf.train.Checkpoint(model=peer).write(str(tmp_path / "model"))
  found = run.load("model_garden", tmp_path / "model", Choices(image_size=128))
  assert (found.assembled.inferred.outputs, found.assembled.inferred.anchors) == (3, 6)
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  _agree(found.model(images), _outputs(peer, images, False))
  tf.train.Checkpoint(backbone=peer.backbone).write(str(tmp_path / "backbone"))
  alone = run.load("model_garden", tmp_path / "backbone", Choices(image_size=128))
  assert alone.assembled.inferred.task == "backbone"
  _agree({"backbone": alone.model(images)}, {"backbone": peer.backbone(images, training=False)})
  run.save(alone, "model_garden", tmp_path / "backbone", tmp_path / "run")
  from spinenet_tf.training import checkpoints

  report = checkpoints.load_matching(imported.model, checkpoints.find(tmp_path / "run"))
  assert len(report.matched) == 650 and not report.unused and not report.wrong_shape


@pytest.mark.parametrize("name", ["spinenet96", "spinenet143", "spinenet190", "spinenet49"])
def test_every_size_is_mapped(name, randomise, tmp_path, monkeypatch):
  """Scaled down: blocks an eighth as wide, the same layers."""
  from official.vision.modeling.backbones import spinenet

  model_id = peers.SPINENET_IDS[name]
  small = {**spinenet.SCALING_MAP[model_id], "filter_size_scale": 0.125, "endpoints_num_filters": 16}
  monkeypatch.setitem(spinenet.SCALING_MAP, model_id, small)
  backbone = spinenet.SpineNet(keras.layers.InputSpec(shape=[None, 128, 128, 3]), **_arguments(small))
  randomise(backbone)
  tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / "ckpt"))
  found = run.load("model_garden", tmp_path / "ckpt", Choices(image_size=128))
  arch = found.assembled.inferred.architecture
  assert (arch.filter_scale, arch.resample_alpha) == (0.125, small["resample_alpha"])
  assert arch.block_repeats == small["block_repeats"]
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  _agree({"pyramid": found.model(images)}, {"pyramid": backbone(images, training=False)})


def _arguments(sizes):
  return {key: sizes[key] for key in ("endpoints_num_filters", "resample_alpha", "block_repeats", "filter_size_scale")}


def test_unknown_size_loses_block_11(randomise, tmp_path):
  """Model Garden's rule then joins no unused block; the block behind it goes, too."""
  from official.vision.modeling.backbones import spinenet

  sizes = {"endpoints_num_filters": 16, "resample_alpha": 0.5, "block_repeats": 1, "filter_size_scale": 0.125}
  backbone = spinenet.SpineNet(keras.layers.InputSpec(shape=[None, None, None, 3]), **sizes)
  randomise(backbone)
  tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / "ckpt"))
  found = run.load("model_garden", tmp_path / "ckpt", Choices(image_size=128))
  assert not found.assembled.inferred.architecture.connect_unused
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  _agree({"pyramid": found.model(images)}, {"pyramid": backbone(images, training=False)})


def test_mobile(randomise, tmp_path):
  """With Model Garden's relu and hard sigmoid in squeeze-and-excitation."""
  peer = _retinanet("spinenet49xs_mobile", 128, randomise)
  found = run.load("model_garden", _save(peer, tmp_path / "ckpt"), Choices(image_size=128))
  assert found.assembled.inferred.architecture.name == "spinenet49xs_mobile"
  assert found.model.style.squeeze == "relu"
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  _agree(found.model(images), _outputs(peer, images, False))
