"""COCO JSON to TFRecord: what is kept, clipped, dropped, converted, refused."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.data import coco, convert, image_io, meta, pipeline, preprocess, tfrecord
from spinenet_tf.errors import UserError


def prepare(path, folder, output, **options):
  return convert.prepare_coco(path, folder, output, **options)


def rewrite(path, content):
  path.write_text(json.dumps(content))


def truth(output, split="train"):
  return {image["source_id"]: image for image in pipeline.groundtruth(f"{output}/{split}-*.tfrecord")}


def test_encoder_equals_tensorflow():
  features = {
    "b": [b"\x00\xff" * 200, b""],
    "s": ["käse"],
    "i": [0, 1, 300, -5, 2**40],
    "f": [0.0, -1.5, 1e10],
    "none": [],
  }
  kinds = tf.train.Feature
  expected = {
    "b": kinds(bytes_list=tf.train.BytesList(value=features["b"])),
    "s": kinds(bytes_list=tf.train.BytesList(value=["käse".encode()])),
    "i": kinds(int64_list=tf.train.Int64List(value=features["i"])),
    "f": kinds(float_list=tf.train.FloatList(value=features["f"])),
  }
  assert tf.train.Example.FromString(tfrecord.encode(features)) == tf.train.Example(
    features=tf.train.Features(feature=expected)
  )


def test_records_are_model_gardens(make_coco, tmp_path):
  decoder = pytest.importorskip(
    "official.vision.dataloaders.tf_example_decoder", reason="Model Garden is not installed"
  )
  path, folder, _ = make_coco(annotations=((1, [5, 6, 20, 10], 1), (1, [0, 0, 60, 40], 7)))
  prepare(path, folder, tmp_path / "out")
  (file,) = (tmp_path / "out").glob("*.tfrecord")
  decoded = decoder.TfExampleDecoder().decode(next(iter(tf.data.TFRecordDataset(str(file)))))
  np.testing.assert_allclose(decoded["groundtruth_boxes"], [[0.15, 5 / 60, 0.4, 25 / 60], [0, 0, 1, 1]], rtol=1e-6)
  assert decoded["groundtruth_classes"].numpy().tolist() == [1, 7]
  assert decoded["groundtruth_is_crowd"].numpy().tolist() == [False, False]
  assert decoded["groundtruth_area"].numpy().tolist() == [200, 2400]
  assert decoded["source_id"] == b"1" and (decoded["height"], decoded["width"]) == (40, 60)
  np.testing.assert_array_equal(decoded["image"], np.asarray(Image.open(folder / "001.png")))
  example = tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(file)))).numpy())
  assert example.features.feature["image/object/class/text"].bytes_list.value == [b"cat", b"dog"]
  assert example.features.feature["image/format"].bytes_list.value == [b"png"]


def test_meta_and_report(make_coco, tmp_path):
  boxes = [
    (1, [5, 6, 20, 10], 1),
    (1, [-2, 30, 10, 20], 7),  # crosses two borders, by 10 px at most
    (1, [5, 6, 0, 10], 1),  # no area
    (2, [90, 6, 5, 5], 1),  # outside
  ]
  path, folder, content = make_coco(((40, 60), (40, 60), (30, 30)), boxes)
  content["annotations"].append(
    {"id": 9, "image_id": 1, "bbox": [1, 1, 9, 9], "category_id": 1, "iscrowd": 1, "area": 3}
  )
  rewrite(path, content)
  lines = prepare(path, folder, tmp_path / "out", num_shards=2)
  known = meta.load(tmp_path / "out")
  assert known.ids == (1, 7) and known.names == ("cat", "dog") and known.num_classes == 2
  split = known.splits["train"]
  assert (split["pattern"], split["num_examples"], split["num_boxes"]) == ("train-*.tfrecord", 3, 3)
  report = split["report"]
  assert report["clipped_boxes"] == 1 and report["largest_overhang"] == 10
  assert report["dropped_boxes"] == {"zero_area": 1, "outside_image": 1}
  assert report["examples"] == {"clipped": [2], "zero_area": [3], "outside_image": [4]}
  assert report["crowd_boxes"] == 1 and report["images_without_objects"] == 2
  assert report["boxes_per_class"] == {"cat": 1, "dog": 1}
  text = "\n".join(lines)
  assert "1 boxes crossed the border" in text and "annotations 3" in text and "annotations 4" in text
  images = truth(tmp_path / "out")
  assert set(images) == {"1", "2", "3"} and not len(images["3"]["boxes"])
  np.testing.assert_allclose(images["1"]["boxes"], [[6, 5, 16, 25], [30, 0, 40, 8], [1, 1, 10, 10]], atol=1e-4)
  assert images["1"]["is_crowd"].tolist() == [False, False, True]
  with pytest.raises(UserError, match=r"1 zero_area \(annotations 3\).*--strict"):
    prepare(path, folder, tmp_path / "strict", strict=True)
  assert not (tmp_path / "strict").exists()


def edit(content, **changes):
  """A change of the first image / annotation / category, or of a whole list."""
  for key, value in changes.items():
    where, _, field = key.partition("__")
    if not field:
      content[where] = value
    else:
      content[where][0][field] = value


BAD = {
  "no categories": ({"categories": []}, "an empty 'categories'"),
  "malformed list": ({"images": {}}, "a malformed 'images'"),
  "category twice": ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category id 1 occurs"),
  "name twice": ({"categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "a"}]}, "category name a occurs"),
  "text id": ({"categories__id": "7"}, "integer id"),
  "no name": ({"categories__name": " "}, "a name"),
  "image twice": ({"images__id": 2}, "image id 2 occurs"),
  "annotation twice": ({"annotations__id": 2}, "annotation id 2 occurs"),
  "unknown image": ({"annotations__image_id": 77}, "annotation 1 is of image 77"),
  "unknown category": ({"annotations__category_id": 2}, "annotation 1 has category 2"),
  "absent image": ({"images__file_name": "gone.png"}, "1 of 2 images.*gone.png"),
  "nan": ({"annotations__bbox": [1, 2, float("nan"), 4]}, "annotation 1 has bbox.*finite"),
  "inf": ({"annotations__bbox": [1, 2, float("inf"), 4]}, "finite"),
  "three numbers": ({"annotations__bbox": [1, 2, 3]}, "annotation 1 has bbox"),
  "text box": ({"annotations__bbox": ["1", 2, 3, 4]}, "annotation 1 has bbox"),
  "no size": ({"images__height": None}, "height None"),
  "another size": ({"images__height": 41}, "say 60x41 pixels, the file has 60x40"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_json(make_coco, tmp_path, case):
  changes, text = BAD[case]
  path, folder, content = make_coco(((40, 60), (40, 60)), ((1, [1, 2, 3, 4], 1), (2, [1, 2, 3, 4], 1)))
  edit(content, **changes)
  rewrite(path, content)
  with pytest.raises(UserError, match=text):
    prepare(path, folder, tmp_path / "out")
  assert not list(tmp_path.glob("out/*"))


def test_missing_and_invalid_files(make_coco, tmp_path):
  path, folder, content = make_coco()
  with pytest.raises(UserError, match=r"none.json: no such file"):
    prepare(tmp_path / "none.json", folder, tmp_path / "out")
  with pytest.raises(UserError, match="is not a folder"):
    prepare(path, tmp_path / "nowhere", tmp_path / "out")
  del content["annotations"][0]["bbox"]
  rewrite(path, content)
  with pytest.raises(UserError, match="has no bbox"):
    prepare(path, folder, tmp_path / "out")
  path.write_text("{nonsense")
  with pytest.raises(UserError, match="not valid JSON"):
    prepare(path, folder, tmp_path / "out")
  path.write_text("[]")
  with pytest.raises(UserError, match="holds a list"):
    prepare(path, folder, tmp_path / "out")


def test_all_bad_images_are_named_at_once(make_coco, tmp_path):
  path, folder, _ = make_coco(((40, 60),) * 4, suffix=".jpg")
  whole = (folder / "002.jpg").read_bytes()
  (folder / "002.jpg").write_bytes(whole[: len(whole) // 2])
  (folder / "004.jpg").write_bytes(b"text")
  with pytest.raises(UserError, match="2 of 4 images") as caught:
    prepare(path, folder, tmp_path / "out")
  assert "002.jpg: truncated" in str(caught.value) and "004.jpg: not an image" in str(caught.value)
  assert not list((tmp_path / "out").iterdir())


def store(image, kind, **options):
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


def pixels(channels=3, height=24, width=32, dtype=np.uint8):
  ramp = np.linspace(0, np.iinfo(dtype).max, height * width * channels).reshape(height, width, channels)
  return ramp.astype(dtype).squeeze()


def exif(turn):
  tags = Image.Exif()
  tags[0x0112] = turn
  return tags


RGB = Image.fromarray(pixels())
FORMATS = {
  "jpeg": (store(RGB, "JPEG"), "jpeg", True, ()),
  "grey jpeg": (store(RGB.convert("L"), "JPEG"), "jpeg", True, ("greyscale",)),
  "cmyk jpeg": (store(RGB.convert("CMYK"), "JPEG"), "jpeg", False, ("cmyk_converted", "reencoded")),
  "png": (store(RGB, "PNG"), "png", True, ()),
  "palette png": (store(RGB.convert("P"), "PNG"), "png", True, ()),
  "grey png": (store(RGB.convert("L"), "PNG"), "png", True, ("greyscale",)),
  "bitmap png": (store(RGB.convert("1"), "PNG"), "png", True, ("greyscale",)),
  "opaque rgba": (store(RGB.convert("RGBA"), "PNG"), "png", True, ("alpha_dropped",)),
  "rgba": (store(Image.fromarray(pixels(4)), "PNG"), "png", True, ("alpha_dropped", "transparent_pixels")),
  "grey alpha": (store(RGB.convert("LA"), "PNG"), "png", True, ("greyscale", "alpha_dropped")),
  "16 bit png": (
    store(Image.fromarray(pixels(1, dtype=np.uint16)), "PNG"),
    "png",
    True,
    ("greyscale", "sixteen_bit_reduced"),
  ),
  "16 bit tiff": (
    store(Image.fromarray(pixels(1, dtype=np.uint16)), "TIFF"),
    "png",
    False,
    ("greyscale", "sixteen_bit_reduced", "reencoded"),
  ),
  "16 bit rgb png": (tf.io.encode_png(pixels(3, dtype=np.uint16)).numpy(), "png", True, ("sixteen_bit_reduced",)),
  "bmp": (store(RGB, "BMP"), "png", False, ("reencoded",)),
  "gif": (
    store(RGB.convert("P"), "GIF", save_all=True, append_images=[RGB.convert("L").convert("P")]),
    "png",
    False,
    ("first_frame_only", "reencoded"),
  ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_image_formats(case):
  data, kind, kept, notes = FORMATS[case]
  stored = image_io.store(data, case, 24, 32)
  assert stored.image_format == kind and stored.notes == notes
  assert (stored.encoded == data) == kept
  decoded = preprocess.decode_exact(tf.constant(stored.encoded)).numpy().astype(int)
  seen = image_io.decode_image(data).astype(int)
  assert decoded.shape == seen.shape == (24, 32, 3)
  assert np.abs(decoded - seen).max() <= (12 if case == "cmyk jpeg" else 1)  # what a JPEG of quality 95 changes


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation(turn):
  data = store(RGB, "JPEG", exif=exif(turn), quality=95)
  raw = image_io.store(data, "x", 24, 32)
  assert raw.encoded == data and raw.notes == (() if turn == 1 else ("exif_ignored",))
  seen = image_io.decode_image(data)
  if turn < 5:
    assert seen.shape == (24, 32, 3)
    return
  upright = image_io.store(data, "x", 32, 24)
  assert upright.notes == ("exif_upright", "reencoded")
  decoded = preprocess.decode_exact(tf.constant(upright.encoded)).numpy()
  assert decoded.shape == seen.shape == (32, 24, 3)
  assert np.abs(decoded.astype(int) - seen).max() < 12
  with pytest.raises(UserError, match=r"32x24 \(24x32 upright\)"):
    image_io.store(data, "x", 30, 30)


def test_read_image_errors(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    image_io.read_image(tmp_path / "none.jpg")
  with pytest.raises(UserError, match="cannot be read"):
    image_io.read_image(tmp_path)
  with pytest.raises(UserError, match="floating point"):
    image_io.decode_image(store(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "f.tif")


def test_splits_share_categories(make_coco, tmp_path):
  path, folder, content = make_coco()
  output = tmp_path / "out"
  prepare(path, folder, output)
  prepare(path, folder, output, split="val")
  assert set(meta.load(output).splits) == {"train", "val"}
  content["categories"][0]["name"] = "hound"
  rewrite(path, content)
  with pytest.raises(UserError, match="categories of 'test' differ from those of train, val.*7 'dog', 7 'hound'"):
    prepare(path, folder, output, split="test")


def test_existing_output(make_coco, tmp_path):
  path, folder, content = make_coco(((40, 60),) * 3)
  output = tmp_path / "out"
  prepare(path, folder, output, num_shards=3)
  prepare(path, folder, output, num_shards=2)  # the same data again, in other files
  assert len(list(output.glob("*.tfrecord"))) == 2 and len(truth(output)) == 3
  content["annotations"] = []
  rewrite(path, content)
  with pytest.raises(UserError, match="other data.*--overwrite"):
    prepare(path, folder, output)
  prepare(path, folder, output, overwrite=True)
  assert not any(len(image["boxes"]) for image in truth(output).values())
  (output / "meta.json").unlink()
  with pytest.raises(UserError, match="meta.json does not tell of"):
    prepare(path, folder, output)
  (output / "meta.json").write_text('{"format": 99}')
  with pytest.raises(UserError, match="format 99, expected 1"):
    meta.load(output)


@pytest.mark.parametrize("moment", ["write", "rename", "meta"])
def test_killed_run_leaves_nothing_taken_for_whole(make_coco, tmp_path, monkeypatch, moment):
  path, folder, _ = make_coco(((40, 60),) * 4)
  output = tmp_path / "out"

  class Killed(BaseException):
    """Not an Exception, as SIGKILL is none; files stay as they are."""

  def kill(*_, **__):
    raise Killed

  with monkeypatch.context() as patch:
    if moment == "write":
      patch.setattr(convert, "make_record", kill)
      patch.setattr(convert, "_remove", lambda _: None)
    elif moment == "rename":
      real, calls = tf.io.gfile.rename, []
      patch.setattr(tf.io.gfile, "rename", lambda *a, **k: kill() if calls else (calls.append(1), real(*a, **k)))
    else:
      patch.setattr(meta, "save", kill)
    with pytest.raises(Killed):
      prepare(path, folder, output, num_shards=2)
  with pytest.raises(UserError):
    pipeline.groundtruth(f"{output}/train-*")
  assert meta.load(output) is None
  prepare(path, folder, output, num_shards=2)
  assert len(truth(output)) == 4
  assert not list(output.glob("*.incomplete"))


def test_workers_give_the_same_files(make_coco, tmp_path, monkeypatch):
  monkeypatch.setattr(convert, "_SMALL", 0)
  path, folder, _ = make_coco(((16, 16),) * 40)
  for workers in (1, 2):
    prepare(path, folder, tmp_path / str(workers), workers=workers, num_shards=3)
  for file in (tmp_path / "1").glob("*"):
    assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
  with pytest.raises(UserError, match="--workers=0"):
    prepare(path, folder, tmp_path / "0", workers=0)


def test_workers_do_not_import_tensorflow():
  code = "import sys, spinenet_tf.prepare, spinenet_tf.data.convert; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bad_options(make_coco, tmp_path):
  path, folder, _ = make_coco()
  for options in ({"num_shards": 2}, {"num_shards": 0}, {"split": "a-b"}, {"split": ""}, {"runner": "spark"}):
    with pytest.raises(UserError, match="--"):
      prepare(path, folder, tmp_path / "out", **options)


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
def test_beam_missing(make_coco, tmp_path):
  path, folder, _ = make_coco()
  with pytest.raises(UserError, match=r"pip install 'spinenet_tf\[beam\]'"):
    prepare(path, folder, tmp_path / "out", runner="beam")


@pytest.mark.skipif(
  importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed (extra [beam])"
)
def test_beam_equals_local(make_coco, tmp_path):
  path, folder, _ = make_coco(((16, 16),) * 9)
  prepare(path, folder, tmp_path / "beam", runner="beam", num_shards=2)
  prepare(path, folder, tmp_path / "local", num_shards=2)

  def contents(name):
    files = [str(file) for file in (tmp_path / name).glob("*.tfrecord")]
    return sorted(tf.data.TFRecordDataset(files).as_numpy_iterator())

  assert contents("beam") == contents("local")
  beam, local = (meta.load(tmp_path / name).splits["train"] for name in ("beam", "local"))
  assert beam["report"] == local["report"] and beam["num_examples"] == 9
  assert not list((tmp_path / "beam").glob("*.incomplete*"))
  (folder / "003.png").write_bytes(b"no image")
  with pytest.raises(UserError, match=r"003.png: not an image"):
    prepare(path, folder, tmp_path / "broken", runner="beam", num_shards=2)


@pytest.mark.parametrize(
  "name,examples,boxes,crowds,empty", [("bccd", 205, 2804, 0, 0), ("coco_sample", 12, 111, 2, 1)]
)
def test_real_data(shared_data, tmp_path, name, examples, boxes, crowds, empty):
  source = shared_data / name / "annotations" / "instances_train.json"
  prepare(source, shared_data / name / "images", tmp_path / "out", num_shards=2)
  split = meta.load(tmp_path / "out").splits["train"]
  report = split["report"]
  assert (split["num_examples"], split["num_boxes"], report["crowd_boxes"]) == (examples, boxes, crowds)
  assert report["images_without_objects"] == empty and report["dropped_boxes"] == {}
  images = truth(tmp_path / "out")
  content = json.loads(source.read_text())
  for entry in content["annotations"]:
    x, y, w, h = entry["bbox"]
    mine = images[str(entry["image_id"])]["boxes"]
    assert np.abs(mine - [y, x, y + h, x + w]).max(axis=1).min() < 0.01


def test_command(make_coco, tmp_path):
  path, folder, _ = make_coco()

  def run(*arguments):
    command = [sys.executable, "-m", "spinenet_tf.prepare", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

  done = run("coco", f"--annotations={path}", f"--images={folder}", f"--output={tmp_path}/out", "--workers=2")
  assert done.returncode == 0, done.stderr
  assert "1 images, 0 of them without objects" in done.stdout and "cat 1, dog 0" in done.stdout
  done = run("coco", f"--annotations={path}", f"--images={folder}", f"--output={tmp_path}/out", "--nomasks")
  assert done.returncode == 0, done.stderr
  for arguments, text in (
    (["coco", "--output=x"], "needs --annotations, --images"),
    (["coco", "--output=x", "--train=3"], "--train cannot be used with 'coco'"),
    (["synthetic"], "needs --output"),
    (["synthetic", f"--output={tmp_path}/s", "--size=8"], "--size=8"),
    (["synthetic", f"--output={tmp_path}/s", "--val=0"], "each split needs an image"),
    (["synthetic", f"--output={tmp_path}/s", "--nomasks"], "--masks cannot be used with 'synthetic'"),
    (["csv"], "say one of coco, synthetic"),
  ):
    failed = run(*arguments)
    assert failed.returncode == 2 and failed.stderr.strip().splitlines()[-1].startswith("error: "), failed.stderr
    assert text in failed.stderr and "Traceback" not in failed.stderr


def test_coco_reader_is_usable_alone(make_coco):
  path, folder, _ = make_coco()
  data = coco.read(path, folder)
  assert [c.id for c in data.categories] == [1, 7]
  assert data.items[0].objects[0]["box"] == (6.0, 5.0, 16.0, 25.0)
