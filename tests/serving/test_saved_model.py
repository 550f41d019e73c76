"""A SavedModel answers as the run that it was made of, by every signature, with TensorFlow alone."""

import io
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.evaluation.masks import decode
from spinenet_tf.serving.load import load, load_run, task_of_run
from spinenet_tf.serving.module import SIGNATURES
from spinenet_tf.serving.saved_model import export, weights_sha256

SIZES = ((60, 50), (96, 128), (200, 300), (33, 128))


def png(array):
  stream = io.BytesIO()
  Image.fromarray(array).save(stream, "PNG")
  return stream.getvalue()


def pictures(seed=3):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def call(loaded, name, **inputs):
  return {key: value.numpy() for key, value in loaded.signatures[name](**inputs).items()}


def check_detections(found, row, expected):
  count = found["num_detections"][row]
  assert count == len(expected) > 0
  np.testing.assert_allclose(found["detection_boxes"][row, :count], expected.boxes, atol=0.01)
  np.testing.assert_allclose(found["detection_scores"][row, :count], expected.scores, atol=1e-5)
  np.testing.assert_array_equal(found["detection_classes"][row, :count], expected.classes)
  assert not found["detection_boxes"][row, count:].any() and not found["detection_scores"][row, count:].any()
  assert (found["detection_classes"][row, count:] == -1).all()


def test_detections_by_every_signature(runs, exported):
  _, loaded = exported("retinanet")
  images = pictures()
  expected = load(runs("retinanet"))(images)
  for image, one in zip(images, expected):
    check_detections(call(loaded, "serving_default", images=image[None]), 0, one)
  files = [png(image) for image in images]
  example = tf.train.Example()
  examples = []
  for data in files:
    example.features.feature["image/encoded"].bytes_list.value[:] = [data]
    examples.append(example.SerializeToString())
  for found in (
    call(loaded, "image_bytes", image_bytes=tf.constant(files)),
    call(loaded, "tf_example", examples=tf.constant(examples)),
  ):
    assert found["image_error"].tolist() == [b""] * 4
    for row, one in enumerate(expected):
      check_detections(found, row, one)


def test_a_batch_of_eight_equals_eight_batches_of_one(exported):
  _, loaded = exported("retinanet")
  images = np.random.default_rng(5).integers(0, 256, (8, 70, 90, 3), np.uint8)
  together = call(loaded, "serving_default", images=images)
  for row in range(8):
    alone = call(loaded, "serving_default", images=images[row : row + 1])
    for key, value in alone.items():
      assert together[key].dtype == value.dtype
      if value.dtype == object:
        assert together[key][row] == value[0]
      else:
        np.testing.assert_allclose(
          together[key][row], value[0], atol={"detection_boxes": 0.01}.get(key, 1e-5), err_msg=key
        )
  empty = call(loaded, "image_bytes", image_bytes=tf.zeros([0], tf.string))
  assert empty["detection_boxes"].shape == (0, 20, 4)


def test_a_bad_file_does_not_fail_its_batch(runs, exported, bad_files):
  _, loaded = exported("retinanet")
  good = pictures()[0]
  expected = load(runs("retinanet"))(good)
  names = ["text", "nothing", "half a jpeg", "huge png"]
  files = [png(good), *(bad_files[name][0] for name in names), png(good)]
  found = call(loaded, "image_bytes", image_bytes=tf.constant(files))
  for row in (0, 5):
    check_detections(found, row, expected)
  for row, name in enumerate(names, 1):
    assert found["num_detections"][row] == 0 and not found["detection_scores"][row].any(), name
    with pytest.raises(ValueError, match=bad_files[name][1]):
      raise ValueError(found["image_error"][row].decode())


def test_raw_outputs_hold_the_detections(exported):
  _, loaded = exported("retinanet")
  image = pictures()[1]  # of the network's size: nothing is scaled
  mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  raw = call(loaded, "raw", images=tf.constant(((image / 255 - mean) / deviation)[None], tf.float32))
  assert raw["raw_boxes"].shape[1:] == (sum(9 * -(-96 // s) * -(-128 // s) for s in (8, 16, 32, 64, 128)), 4)
  found = call(loaded, "serving_default", images=image[None])
  scores, boxes = raw["raw_scores"][0], raw["raw_boxes"][0]
  for i in range(found["num_detections"][0]):
    label = {2: 0, 9: 1}[int(found["detection_classes"][0, i])]
    near = np.abs(scores[:, label] - found["detection_scores"][0, i]) < 1e-5
    assert np.abs(boxes[near] - found["detection_boxes"][0, i]).max(axis=1).min() < 0.01


@pytest.mark.slow
def test_masks(runs, exported):
  result, loaded = exported("mask_rcnn")
  images = pictures()
  source, again = load(runs("mask_rcnn")), load(result.path)
  assert task_of_run(result.path) == "mask_rcnn"
  for image, one, other in zip(images, source(images), again(images)):
    found = call(loaded, "serving_default", images=image[None])
    check_detections(found, 0, one)
    assert found["detection_masks"].shape[1:] == (20, 28, 28)
    assert found["detection_masks"].min() >= 0 and found["detection_masks"].max() <= 1
    boxes, whole = found["detection_boxes"][0], found["detection_mask_boxes"][0]
    assert (whole[:, 2:] >= boxes[:, 2:]).all(), "cut at the image's end"
    for mask, expected in zip(other.masks, one.masks):
      assert np.mean(decode(mask) != decode(expected)) < 0.01
  raw = loaded.signatures["raw"].structured_outputs
  assert raw["raw_scores"].shape.as_list() == [None, 1000, 2] and raw["raw_boxes"].shape.as_list() == [None, 1000, 2, 4]


def test_classes(runs, exported):
  result, loaded = exported("classification")
  images = pictures()
  source, again = load(runs("classification")), load(result.path)
  expected, features = source.classes_and_features(images)
  files = [png(images[0]), b"no image", png(images[2])]
  found = call(loaded, "image_bytes", image_bytes=tf.constant(files))
  for row, i in ((0, 0), (2, 2)):
    np.testing.assert_array_equal(found["classes"][row], expected[i].classes)
    np.testing.assert_allclose(found["scores"][row], expected[i].scores, atol=1e-5)
    np.testing.assert_allclose(found["features"][row], features[i], atol=1e-4)
  assert found["classes"][1].tolist() == [-1, -1] and not found["scores"][1].any() and found["image_error"][1]
  for one, other in zip(expected, again(images)):
    assert one.names == other.names
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
  np.testing.assert_allclose(again.features(images), features, atol=1e-4)
  assert again.features([]).shape == source.features([]).shape
  assert again(images[0]).names == expected[0].names and len(load(result.path, top=1)(images[0])) == 1


def test_what_is_told_about_it(runs, exported):
  result, _ = exported("retinanet")
  info = json.loads((result.path / "export_info.json").read_text())
  assert (result.path / "assets" / "labels.txt").read_text() == "2\tcat\n9\tdog\n"
  run = load_run(runs("retinanet"))
  assert info["weights_sha256"] == weights_sha256(run.model) != weights_sha256(load_run(runs("classification")).model)
  assert Architecture.from_dict(info["architecture"]) == run.model.architecture
  assert {k: info[k] for k in ("task", "num_classes", "input_size", "step", "target")} == {
    "task": "retinanet",
    "num_classes": 2,
    "input_size": [96, 128],
    "step": 500,
    "target": "cpu",
  }
  assert info["settings"] == {"score_threshold": 0.001, "max_detections": 20}
  assert sorted(info["signatures"]) == sorted(SIGNATURES)
  assert info["signatures"]["image_bytes"]["inputs"] == {"image_bytes": "string[?]"}
  assert info["signatures"]["serving_default"]["inputs"] == {"images": "uint8[?, ?, ?, 3]"}
  assert info["signatures"]["serving_default"]["outputs"]["detection_boxes"] == "float32[?, 20, 4]"
  assert info["verification"]["passed"] and info["verification"]["compared"] > 0
  assert info["versions"]["tensorflow"] == tf.__version__
  assert "step 500" in str(result) and "2 generated pictures" in str(result)


def test_the_graph_is_for_inference_only(exported):
  for task in ("retinanet", "mask_rcnn", "classification"):
    result, _ = exported(task)
    content = saved_model_pb2.SavedModel.FromString((result.path / "saved_model.pb").read_bytes())
    (graph,) = content.meta_graphs
    nodes = [node for function in graph.graph_def.library.function for node in function.node_def]
    operations = {node.op for node in nodes} - {"StopGradient"}
    assert "Conv2D" in operations and "PyFunc" not in operations and "EagerPyFunc" not in operations
    assert not [op for op in operations if "BatchNorm" in op or "Grad" in op or "Backprop" in op or "Random" in op]
    assert not [node for node in nodes if "_gradient_op_type" in node.attr]
    assert {tree.WhichOneof("kind") for tree in graph.object_graph_def.nodes} <= {
      *(
        "user_object",
        "asset",
        "function",
        "variable",
        "constant",
        "captured_tensor",
        "resource",
        "bare_concrete_function",
      ),
    }
    names = {node.user_object.identifier for node in graph.object_graph_def.nodes if node.HasField("user_object")}
    assert not [name for name in names if "keras" in name.lower()], names
    assert not list(result.path.glob("keras*"))


@pytest.mark.slow
def test_it_needs_tensorflow_only(runs, exported, tmp_path):
  result, _ = exported("retinanet")
  image = pictures()[2]
  (tmp_path / "image.png").write_bytes(png(image))
  expected = load(runs("retinanet"))(image)
  code = f"""
    import sys
    for name in ("spinenet_tf", "tf_keras", "official", "gin", "PIL", "pycocotools"):
      sys.modules[name] = None  # importing it raises
    import tensorflow as tf
    loaded = tf.saved_model.load({str(result.path)!r})
    data = open({str(tmp_path / "image.png")!r}, "rb").read()
    found = loaded.signatures["image_bytes"](image_bytes=tf.constant([data]))
    count = int(found["num_detections"][0])
    print(count, *found["detection_boxes"][0, :count].numpy().ravel().tolist())
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "gradient" not in done.stderr, "TensorFlow warns of custom gradients that were not saved"
  assert "remapper failed" not in done.stderr, "convolutions are fused with what follows them"
  count, *numbers = done.stdout.split()
  assert int(count) == len(expected)
  np.testing.assert_allclose(np.array(numbers, float).reshape(-1, 4), expected.boxes, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_real_photos(runs, exported, tmp_path, shared_data, target):
  photos = shared_data / "coco_sample" / "images"
  if target == "cpu":
    path = exported("retinanet")[0].path
  else:
    result = export(runs("retinanet"), tmp_path / "gpu", target="gpu", images=[photos], count=2)
    assert result.verification.passed and "2 of " in result.verification.pictures
    path = result.path
  files = sorted(photos.rglob("*.jpg"))[:4]
  loaded = tf.saved_model.load(str(path))
  found = call(loaded, "image_bytes", image_bytes=tf.constant([file.read_bytes() for file in files]))
  for row, expected in enumerate(load(runs("retinanet"))(files)):
    check_detections(found, row, expected)
