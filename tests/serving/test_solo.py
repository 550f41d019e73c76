"""A run of SOLO: loaded, exported as a SavedModel, and refused where it cannot be exported."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.coordinates import rescale
from spinenet_tf.evaluation.masks import decode, paste_all
from spinenet_tf.serving import onnx
from spinenet_tf.serving.load import load, load_run, task_of_run
from spinenet_tf.serving.module import ServingModule
from spinenet_tf.serving.saved_model import export
from spinenet_tf.serving.server.page import describe

PICTURE = np.kron(np.random.default_rng(4).integers(0, 256, (10, 7, 3), np.uint8), np.ones((9, 9, 1), np.uint8))


def test_masks_lie_over_the_whole_picture(tiny_runs):
  path = tiny_runs("solo")
  assert task_of_run(path) == "solo"
  detect = load(path)
  found = detect(PICTURE)
  assert len(found) > 3 and all(mask["size"] == [90, 63] for mask in found.masks)
  # Put together by hand: the whole mask into the whole input, without cutting it to its box.
  inputs, scale = detect._preprocess(PICTURE)
  raw = {key: value[0].numpy() for key, value in detect.model.find(inputs[None], **detect.settings).items()}
  place = rescale(raw["detection_mask_boxes"][None], scale.numpy()[None])[0]
  whole = paste_all(raw["detection_masks"], place, PICTURE.shape[:2])[: raw["num_detections"]]
  masks = {decode(mask).tobytes() for mask in whole}
  assert all(decode(mask).tobytes() in masks for mask in found.masks)
  for box, mask in zip(found.boxes, found.masks):
    inside = np.argwhere(decode(mask))
    if len(inside):
      assert (inside.min(0) + 1 >= box[:2] - 1).all() and (inside.max(0) <= box[2:] + 1).all()


def test_a_saved_model_answers_as_the_run(tiny_runs, tmp_path):
  path = tiny_runs("solo")
  result = export(path, tmp_path / "saved", target="cpu", count=2)
  assert result.verification.passed and result.verification.compared > 3 and "masks" in result.verification.largest
  expected, found = load(path)(PICTURE), load(result.path)(PICTURE)
  assert len(expected) == len(found) > 0
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
  outputs = tf.saved_model.load(str(result.path)).signatures["serving_default"](images=PICTURE[None])
  assert outputs["detection_masks"].shape[2:] == (16, 24)  # 64 x 96 at half of stride 8
  count = int(outputs["num_detections"][0])
  # 90 x 63 pixels become 64 x 45, and the input's 96 columns are 96 * 63 / 45 of the picture's.
  np.testing.assert_allclose(outputs["detection_mask_boxes"][0, :count], [[0, 0, 90, 134.4]] * count, rtol=1e-5)
  raw = ServingModule.of(load_run(path).use()).raw(tf.zeros([1, 64, 96, 3]))
  assert raw["raw_scores"].shape == (1, 6 * 6 + 4 * 4, 2)
  assert describe(result.info).startswith("SOLO, tiny")


def test_another_input_size_that_strides_do_not_divide(tiny_runs):
  run = load_run(tiny_runs("solo"), input_size=(70, 50))
  found = run.use()(PICTURE)
  assert len(found) > 0 and (found.boxes[:, 2:] <= (90, 63)).all()


def test_refused(tiny_runs, tmp_path):
  path = tiny_runs("solo")
  with pytest.raises(UserError, match="a run of solo, which has no ONNX file; export it to a SavedModel"):
    onnx.export(path, tmp_path / "new")
  with pytest.raises(UserError, match=r"a run of solo cannot be loaded with \['iou_threshold'\]"):
    load(path, iou_threshold=0.5)
