"""Really exported models behind the server: its answers are those of the run."""

import base64

import numpy as np
import pytest

import spinenet_tf as st
from spinenet_tf.data.image_io import decode_image
from spinenet_tf.serving import saved_model
from spinenet_tf.serving.load import load_run
from spinenet_tf.serving.module import ServingModule
from spinenet_tf.serving.server import images
from spinenet_tf.serving.server.model import Place, ServedModel
from spinenet_tf.serving.server.settings import Settings
from tests.serving.server.client import b64, running


@pytest.fixture(scope="module")
def served(runs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported") / "cells"
  run = load_run(runs("mask_rcnn"))
  module = ServingModule.of(run.use())
  saved_model.write(module, folder)
  saved_model.write_info(folder, saved_model.describe(module, run))
  model = ServedModel(Place.find(str(folder)))
  with running(model.place, Settings(), model) as (client, _):
    yield client


@pytest.mark.slow
def test_the_answers_are_those_of_the_run(served, runs, image_files):
  detector = st.load(runs("mask_rcnn"))
  for kind in ("png", "jpeg of orientation 6"):
    pixels = decode_image(image_files[kind])
    expected = detector(pixels)
    status, _, answer = served.request("POST", "/v1/models/cells:image", image_files[kind])
    assert status == 200
    found = answer["detections"]
    assert len(found) == len(expected) > 0
    assert tuple(item["name"] for item in found) == expected.names
    np.testing.assert_allclose([item["box"] for item in found], expected.boxes, atol=0.02)
    np.testing.assert_allclose([item["score"] for item in found], expected.scores, atol=1e-5)
    mask = np.frombuffer(base64.b64decode(found[0]["mask"]["b64"]), np.uint8).reshape(found[0]["mask"]["shape"])
    assert mask.shape == (28, 28) and 0 < mask.mean() < 255
  instances = [b64(image_files[kind]) for kind in ("png", "gif", "bmp")]
  rows = served.predict({"signature_name": "image_bytes", "instances": instances})[2]["predictions"]
  assert [row["image_error"] for row in rows] == ["", "", ""]
  assert np.shape(rows[0]["detection_masks"])[1:] == (28, 28)
  text = served.get("/")[2].decode()
  assert "Mask R-CNN, spinenet49s" in text and "input 128 x 96, 2 classes" in text


@pytest.mark.slow
def test_every_kind_of_file_good_or_bad(served, image_files, bad_files):
  for kind, data in image_files.items():
    height, width = decode_image(data).shape[:2]
    status, _, answer = served.request("POST", "/v1/models/cells:image", data)
    assert (status, answer["image"]) == (200, {"height": height, "width": width}), (kind, answer)
  for kind, (data, _) in bad_files.items():
    status, _, answer = served.request("POST", "/v1/models/cells:image", data)
    assert status == (413 if kind.startswith("huge") else 400) and answer["error"], (kind, answer)
  assert served.get("/readyz")[0] == 200


def test_sizes_agree_with_what_is_decoded(image_files):
  for kind, data in image_files.items():
    assert images.shown_size(data, 10**6) == decode_image(data).shape[:2], kind
