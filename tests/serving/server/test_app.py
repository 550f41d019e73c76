"""The server over HTTP: TensorFlow Serving's forms, health, the page's files, hosts."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.server.client import b64, picture, scores_of

COLOUR = (200, 100, 50)


def test_status_and_metadata_are_those_of_tensorflow_serving(client):
  expected = {
    "model_version_status": [
      {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
  }
  for path in ("/v1/models/toy", "/v1/models/toy/versions/1"):
    assert client.get(path)[::2] == (200, expected)
  status, _, metadata = client.get("/v1/models/toy/metadata")
  assert status == 200
  assert metadata["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
  signatures = metadata["metadata"]["signature_def"]["signature_def"]
  assert set(signatures) >= {"serving_default", "image_bytes", "tf_example", "raw"}
  images = signatures["serving_default"]["inputs"]["images"]
  assert images["dtype"] == "DT_UINT8"
  assert [dim["size"] for dim in images["tensor_shape"]["dim"]] == ["-1", "-1", "-1", "3"]
  assert signatures["image_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
  assert signatures["image_bytes"]["outputs"]["num_detections"]["dtype"] == "DT_INT32"
  assert signatures["raw"]["method_name"] == "tensorflow/serving/predict"


def test_metadata_name_the_tensors_of_the_saved_model(client, toy_folder):
  from tensorflow.core.framework.types_pb2 import DataType
  from tensorflow.core.protobuf import saved_model_pb2

  saved = saved_model_pb2.SavedModel.FromString((toy_folder / "saved_model.pb").read_bytes())
  expected = saved.meta_graphs[0].signature_def
  signatures = client.get("/v1/models/toy/metadata")[2]["metadata"]["signature_def"]["signature_def"]
  for name, signature in signatures.items():
    for side in ("inputs", "outputs"):
      for key, tensor in signature[side].items():
        info = getattr(expected[name], side)[key]
        assert tensor["dtype"] == DataType.Name(info.dtype)
        assert tensor["name"] == info.name
        assert [int(dim["size"]) for dim in tensor["tensor_shape"]["dim"]] == [
          dim.size for dim in info.tensor_shape.dim
        ]


def test_rows_in_rows_out(client):
  status, headers, answer = client.predict(
    {
      "signature_name": "several",
      "instances": [{"signal": [1, 2.5], "tag": "a"}, {"signal": [3, 4], "tag": b64(b"\x01b")}],
    }
  )
  assert status == 200 and headers["Content-Type"] == "application/json"
  assert answer == {
    "predictions": [
      {"sum": 3.5, "tag": "a", "tag_bytes": {"b64": "YQ=="}, "even": [False, True]},
      {"sum": 7.0, "tag": "\x01b", "tag_bytes": {"b64": "AWI="}, "even": [False, True]},
    ]
  }


def test_columns_in_columns_out(client):
  inputs = {"signal": [[1, 2.5], [3, 4]], "tag": ["a", "b"]}
  status, _, answer = client.predict({"signature_name": "several", "inputs": inputs})
  assert status == 200
  assert answer["outputs"]["sum"] == [3.5, 7.0]
  assert answer["outputs"]["tag_bytes"] == [{"b64": "YQ=="}, {"b64": "Yg=="}]


def test_a_single_input_and_a_single_output_go_without_names(client):
  rows = client.predict({"signature_name": "half", "instances": [1.0, 2.0, 5.0]})
  assert rows[::2] == (200, {"predictions": [2.5, 3.0, 4.5]})
  columns = client.predict({"signature_name": "half", "inputs": [1.0, 2.0]}, "/versions/1")
  assert columns[::2] == (200, {"outputs": [2.5, 3.0]})
  empty = client.predict({"signature_name": "", "instances": [[[[9, 9, 9]]]], "other": 1})
  assert empty[0] == 200 and empty[2]["predictions"][0]["num_detections"] == 0
  assert client.predict({"signature_name": "half", "instances": [{"x": 0.2}]})[2] == {"predictions": [2.1]}
  assert client.predict({"signature_name": "total", "inputs": [1, 2, 4]})[2] == {"outputs": 7.0}


@pytest.mark.parametrize("form", ["instances", "inputs", "named", "array", "example"])
def test_pictures_in_every_form(client, form):
  data = picture(COLOUR)
  example = tf.train.Example()
  example.features.feature["image/encoded"].bytes_list.value.append(data)
  document = {
    "instances": {"signature_name": "image_bytes", "instances": [b64(data)]},
    "inputs": {"signature_name": "image_bytes", "inputs": [b64(data)]},
    "named": {"signature_name": "image_bytes", "instances": [{"image_bytes": b64(data)}]},
    "array": {"instances": np.full([1, 16, 24, 3], COLOUR, np.uint8).tolist()},
    "example": {"signature_name": "tf_example", "instances": [b64(example.SerializeToString())]},
  }[form]
  status, _, answer = client.predict(document)
  assert status == 200, answer
  found = {key: value[0] for key, value in answer["outputs"].items()} if form == "inputs" else answer["predictions"][0]
  np.testing.assert_allclose(found["detection_scores"], scores_of(COLOUR), rtol=1e-6)
  assert found["detection_classes"] == [7, 3, 11]
  assert found["detection_boxes"][0] == [0, 0, 16, 24]
  assert found["num_detections"] == 3 and found["image_error"] == ""


def test_an_image_as_the_body_is_answered_with_names(client):
  status, _, answer = client.request("POST", "/v1/models/toy:image", picture(COLOUR), {"Content-Type": "image/png"})
  assert status == 200
  assert answer["image"] == {"height": 16, "width": 24}
  assert [found["name"] for found in answer["detections"]] == ["red things", "green things", "blue things"]
  score = answer["detections"][1].pop("score")
  assert answer["detections"][1] == {"name": "green things", "class": 3, "box": [0, 0, 8, 12]}
  np.testing.assert_allclose(score, 100 / 255, rtol=1e-6)
  answer = client.request("POST", "/v1/models/toy:image?min_score=0.5", picture(COLOUR))[2]
  assert [found["class"] for found in answer["detections"]] == [7]


def test_a_photo_that_is_stored_turned_is_told_upright(client):
  exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
  answer = client.request("POST", "/v1/models/toy:image", picture(COLOUR, kind="JPEG", exif=exif))[2]
  assert answer["image"] == {"height": 24, "width": 16}
  assert answer["detections"][0]["box"] == [0, 0, 24, 16]


def test_one_bad_picture_does_not_take_the_others_along(client):
  good, cut, no_picture = picture(COLOUR), picture(size=(80, 80), kind="JPEG")[:-300], b"text"
  status, _, answer = client.predict(
    {"signature_name": "image_bytes", "instances": list(map(b64, (cut, good, no_picture)))}
  )
  assert status == 200
  errors = [row["image_error"] for row in answer["predictions"]]
  assert "truncated" in errors[0] and errors[1] == "" and "not a JPEG" in errors[2]
  assert [row["num_detections"] for row in answer["predictions"]] == [0, 3, 0]


def test_health_and_metrics(client):
  assert client.get("/healthz")[::2] == (200, b"ok\n")
  assert client.get("/readyz")[::2] == (200, b"ok\n")
  client.predict({"signature_name": "half", "instances": [1.0]})
  client.predict("nonsense")
  status, headers, text = client.get("/metrics")
  assert status == 200 and headers["Content-Type"].startswith("text/plain; version=")
  lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
  assert float(lines['spinenet_requests_total{code="200",route="predict"}']) >= 1
  assert float(lines['spinenet_requests_total{code="400",route="predict"}']) >= 1
  assert float(lines['spinenet_request_seconds_count{route="predict"}']) >= 2
  assert float(lines['spinenet_batch_rows_bucket{le="+Inf"}']) >= 1
  assert lines['spinenet_model_info{name="toy",task="retinanet",version="1"}'] == "1.0"
  assert lines["spinenet_ready"] == "1.0" and lines["spinenet_requests_in_flight"] == "0.0"
  assert float(lines["process_resident_memory_bytes"]) > 0


def test_the_page_is_whole_and_shut(client):
  status, headers, text = client.get("/")
  assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
  assert b"RetinaNet, toy&lt;b&gt;, input 4 x 4, 3 classes" in text
  assert "default-src 'none'" in headers["Content-Security-Policy"]
  assert headers["X-Content-Type-Options"] == "nosniff"
  assert "Access-Control-Allow-Origin" not in headers
  for file, kind in (("main.js", "text/javascript"), ("draw.js", "text/javascript"), ("style.css", "text/css")):
    status, headers, text = client.get(f"/page/{file}")
    assert status == 200 and headers.get_content_type() == kind and b"http" not in text.replace(b"http-equiv", b"")


@pytest.mark.parametrize(
  "path", ["/page/__init__.py", "/page/../app.py", "/page/%2e%2e%2fapp.py", "/etc/passwd", "/docs"]
)
def test_no_path_reaches_the_disk(client, path):
  status, _, answer = client.get(path)
  assert status == 404 and set(answer) == {"error"}


def test_other_hosts_are_refused(client):
  status, _, answer = client.request("GET", "/", headers={"Host": "evil.example:8501"})
  assert status == 403 and "--allowed_hosts" in answer["error"]
  assert client.request("GET", "/healthz", headers={"Host": "127.0.0.1:9"})[0] == 200


def test_answers_are_valid_json_with_short_numbers(client):
  body = json.dumps({"signature_name": "half", "instances": [0.2, 1e30]})
  status, _, answer = client.predict(body)
  assert status == 200 and answer == {"predictions": [2.1, 5e29]}
