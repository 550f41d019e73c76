"""A run directory becomes a detector that computes what the trained model computed."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import scaled
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.masks import decode
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.naming import named_variables, variable_tree
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.load import load, task_of_run

CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 9, "name": "dog"}]


def describe(model, **more):
  return {
    "format": 1,
    "task": "retinanet",
    "architecture": model.architecture.to_dict(),
    "model": {"num_classes": 2, "input_size": [96, 96], "head_convs": 1, "head_width": 8, "synchronized": True, **more},
    "categories": CATEGORIES,
    "detection": {"score_threshold": 0.001, "max_detections": 7},
  }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  model = build_retinanet("spinenet49s", 2, (96, 96), head_convs=1, head_width=8)
  (path / "model.json").write_text(json.dumps(describe(model)))
  rng = np.random.default_rng(0)
  for variable in model.variables:
    variable.assign_add(rng.normal(0, 0.02, variable.shape).astype(variable.dtype.as_numpy_dtype))
  optimizer, step = tf.Variable(1.0), tf.Variable(500, dtype=tf.int64)
  checkpoint = tf.train.Checkpoint(model=variable_tree(model), optimizer=optimizer, global_step=step)
  tf.train.CheckpointManager(checkpoint, str(path / "checkpoints"), 3, checkpoint_name="step").save(500)
  return path, model


def test_same_detections_as_the_model(run):
  path, model = run
  picture = np.random.default_rng(1).integers(0, 255, (50, 64, 3), np.uint8)
  loaded = load(path)
  assert not any("norm" in name for name in named_variables(loaded.model)), "folded into the convolutions"
  for name, variable in named_variables(load(path, fold=False).model).items():
    np.testing.assert_array_equal(variable, named_variables(model)[name])
  expected = Detector(model, CATEGORIES, score_threshold=0.001, max_detections=7)(picture)
  found = loaded(picture)
  assert 0 < len(found) <= 7, "the run's settings of detection"
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
  assert loaded.categories == {2: "cat", 9: "dog"}


def test_a_run_of_mask_rcnn(tmp_path):
  arch = scaled(architecture("spinenet49s"), filter_scale=0.25, endpoint_filters=16)
  sizes = {"head_convs": 1, "head_width": 8, "dense_width": 16, "endpoint_width": 16}
  model = build_mask_rcnn(arch, 2, (96, 96), **sizes)
  about = {**describe(model, **sizes), "task": "mask_rcnn"}
  del about["model"]["synchronized"]
  (tmp_path / "model.json").write_text(json.dumps(about))
  rng = np.random.default_rng(0)
  for variable in model.variables:
    variable.assign_add(rng.normal(0, 0.02, variable.shape).astype(variable.dtype.as_numpy_dtype))
  checkpoint = tf.train.Checkpoint(model=variable_tree(model), global_step=tf.Variable(5, dtype=tf.int64))
  tf.train.CheckpointManager(checkpoint, str(tmp_path / "best"), 1, checkpoint_name="step").save(5)
  picture = rng.integers(0, 255, (40, 50, 3), np.uint8)
  assert task_of_run(tmp_path) == "mask_rcnn"
  loaded = load(tmp_path)
  assert not any("norm" in name for name in named_variables(loaded.model)), "folded into the convolutions"
  found, expected = loaded(picture), Detector(model, CATEGORIES, score_threshold=0.001, max_detections=7)(picture)
  assert 0 < len(found) == len(expected) == len(found.masks) <= 7
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
  pixels = [[decode(mask) for mask in one.masks] for one in (found, expected)]
  assert np.shape(pixels) == (2, len(found), 40, 50)
  assert np.mean(np.not_equal(*pixels)) < 0.01, "equal up to rounding"
  for mask, (ymin, xmin, ymax, xmax) in zip(pixels[0], found.boxes):
    rows, columns = np.nonzero(mask)
    if len(rows):
      assert ymin <= rows.min() + 0.5 and rows.max() + 0.5 <= ymax and xmin <= columns.min() + 0.5 <= xmax


def test_best_is_preferred_and_one_checkpoint_can_be_named(run, tmp_path):
  path, model = run
  (tmp_path / "model.json").write_text((path / "model.json").read_text())
  for folder, value in (("checkpoints", 1.0), ("best", 2.0)):
    next(iter(model.variables)).assign(tf.fill(model.variables[0].shape, value))
    checkpoint = tf.train.Checkpoint(model=variable_tree(model), global_step=tf.Variable(3, dtype=tf.int64))
    tf.train.CheckpointManager(checkpoint, str(tmp_path / folder), 3, checkpoint_name="step").save(3)
  name = next(iter(named_variables(model)))

  def first(where):
    return np.asarray(named_variables(load(where, fold=False).model)[name]).flat[0]

  assert first(tmp_path) == 2.0
  assert first(tmp_path / "checkpoints" / "step-3") == 1.0


def test_arguments_take_the_place_of_the_runs(run):
  assert len(load(run[0], score_threshold=0.0, max_detections=3)(np.zeros((64, 64, 3), np.uint8))) == 3
  with pytest.raises(UserError, match="score_threshold is 1.5"):
    load(run[0], score_threshold=1.5)


def test_what_is_not_a_run(run, tmp_path):
  with pytest.raises(UserError, match="nowhere' does not exist"):
    load(tmp_path / "nowhere")
  with pytest.raises(UserError, match="no model.json"):
    load(tmp_path)
  (tmp_path / "saved_model.pb").write_text("")
  with pytest.raises(UserError, match="is a SavedModel"):
    load(tmp_path)
  (tmp_path / "model.json").write_text((run[0] / "model.json").read_text())
  with pytest.raises(UserError, match="has no checkpoint .* yet"):
    load(tmp_path)


@pytest.mark.parametrize(
  ("change", "text"),
  [
    ({"task": "panoptic"}, "task is 'panoptic'"),
    ({"architecture": None}, "lacks .*architecture"),
    ({"model": {"num_classes": 2, "input_size": [96, 96], "wings": 2}}, "wings"),
  ],
)
def test_bad_model_json(run, tmp_path, change, text):
  content = {**json.loads((run[0] / "model.json").read_text()), **change}
  content = {key: value for key, value in content.items() if value is not None}
  (tmp_path / "model.json").write_text(json.dumps(content))
  (tmp_path / "checkpoints").symlink_to(run[0] / "checkpoints")
  with pytest.raises(UserError, match=text):
    load(tmp_path)


def test_checkpoint_of_another_model_names_variables(run, tmp_path):
  (tmp_path / "model.json").write_text(json.dumps(describe(run[1], head_width=16)))
  (tmp_path / "checkpoints").symlink_to(run[0] / "checkpoints")
  with pytest.raises(UserError, match=r"not a checkpoint of this model(.|\n)*box_tower.*model \[.*checkpoint \["):
    load(tmp_path)
