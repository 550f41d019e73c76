"""Folders, lists, ImageNet and iNaturalist to TFRecord: labels, crops, what is left out and named."""

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

from spinenet_tf.data import convert, image_io, label_json, meta
from spinenet_tf.data.classification import classification_dataset
from spinenet_tf.data.image_folder import prepare_images
from spinenet_tf.data.imagenet import prepare_imagenet, read_synsets
from spinenet_tf.data.label_json import prepare_inaturalist
from spinenet_tf.errors import UserError


def picture(path, height=12, width=16, kind=None, seed=0, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8))
  small.resize((width, height), Image.Resampling.BICUBIC).save(path, kind, **options)


def write(path, *lines):
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


def labels(output, split="train"):
  """File name -> (label, class name) of the records, each once."""
  found = {}
  for serialized in tf.data.TFRecordDataset(sorted(map(str, output.glob(f"{split}-*.tfrecord")))):
    feature = tf.train.Example.FromString(serialized.numpy()).features.feature
    name = feature["image/filename"].bytes_list.value[0].decode()
    assert name not in found
    text = feature["image/class/text"].bytes_list.value[0].decode()
    found[name] = (feature["image/class/label"].int64_list.value[0], text)
  return found


def left_out(output, split="train"):
  return meta.load(output).splits[split]["report"]["left_out"]


@pytest.fixture
def folders(tmp_path):
  """3 cats (one deeper), 2 dogs; the output folder beside."""
  for number, name in enumerate(("cat/1.png", "cat/2.PNG", "cat/deep/3.png", "dog/1.png", "dog/b.webp")):
    picture(tmp_path / "images" / name, seed=number)
  return tmp_path / "images", tmp_path / "out"


def test_folder_per_class(folders):
  images, output = folders
  lines = prepare_images(images, output)
  assert labels(output) == {
    "cat/1.png": (1, "cat"),
    "cat/2.PNG": (1, "cat"),
    "cat/deep/3.png": (1, "cat"),
    "dog/1.png": (2, "dog"),
    "dog/b.webp": (2, "dog"),
  }
  known = meta.load(output)
  assert known.task == "classification" and known.names == ("cat", "dog") and known.ids == (1, 2)
  split = known.splits["train"]
  assert split["num_examples"] == 5 and "num_boxes" not in split and split["report"]["conversions"] == {"reencoded": 1}
  assert lines[0] == "5 images of 2 classes, 2 to 3 of each" and "nothing was left out" in lines
  assert "images per class: cat 3, dog 2" in lines
  (batch,) = classification_dataset(
    f"{output}/train-*", image_size=(8, 8), batch_size=5, training=False, class_ids=known.ids
  ).as_numpy_iterator()
  assert sorted(batch["label"].tolist()) == [0, 0, 0, 1, 1]
  before = {file.name: file.read_bytes() for file in output.iterdir()}
  prepare_images(images, output, strict=True)  # the same again: the same files
  assert before == {file.name: file.read_bytes() for file in output.iterdir()}


def spoil(images):
  """One of each fault."""
  (images / "bird").mkdir()  # an empty class
  (images / "cat" / "notes.txt").write_text("no image")
  (images / "cat" / ".DS_Store").write_text("hidden: not looked at")
  (images / "dog" / "text.jpg").write_text("no image")
  (images / "dog" / "cut.png").write_bytes((images / "dog" / "1.png").read_bytes()[:60])
  picture(images / "stray.png")


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_are_named_counted_and_left_out(folders, workers, monkeypatch):
  monkeypatch.setattr(convert, "_SMALL", 0)
  images, output = folders
  spoil(images)
  lines = prepare_images(images, output, workers=workers, num_shards=7)
  assert len(labels(output)) == 5 and meta.load(output).names == ("cat", "dog")
  split = meta.load(output).splits["train"]
  assert split["num_examples"] == split["report"]["images"] == 5 and len(split["shards"]) == 7
  assert left_out(output) == {"empty_class": 1, "no_image_file": 1, "outside_classes": 1, "unreadable": 2}
  assert split["report"]["images_per_class"] == {"cat": 3, "dog": 2}
  text = "\n".join(lines)
  for words in ("1 class folders without images (bird)", "no images, going by their names (cat/notes.txt)"):
    assert words in text
  for words in ("stray.png", "text.jpg: not an image file", "cut.png: truncated or corrupt"):
    assert words in text
  dataset = classification_dataset(
    f"{output}/train-*", image_size=(8, 8), batch_size=5, training=True, class_ids=(1, 2), shuffle_buffer=0
  )
  assert len(set(next(dataset.as_numpy_iterator())["source_id"])) == 5  # shards without records do no harm


FAULTS = {
  "empty class": (lambda d: (d / "bird").mkdir(), "1 class folders without images .bird"),
  "no image": (lambda d: (d / "cat" / "a.txt").write_text(""), "1 files that are no images.*cat/a.txt"),
  "stray": (lambda d: picture(d / "stray.png"), "1 images that lie in no class folder .stray.png"),
  "unreadable": (lambda d: (d / "cat" / "a.jpg").write_text("x"), "cat/a.jpg: not an image file"),
  "one class": (lambda d: [f.unlink() for f in (d / "dog").iterdir()] and (d / "dog").rmdir(), "one class only, 'cat'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_strict_makes_each_an_error(folders, case):
  images, output = folders
  spoiling, words = FAULTS[case]
  spoiling(images)
  with pytest.raises(UserError, match=words):
    prepare_images(images, output, strict=True)
  assert not list(output.glob("*")) if output.exists() else True
  assert any("one class only" in line for line in prepare_images(images, output)) == (case == "one class")


def test_nothing_usable(folders, tmp_path):
  images, output = folders
  with pytest.raises(UserError, match="is not a folder"):
    prepare_images(tmp_path / "none", output)
  with pytest.raises(UserError, match="has no folders"):
    prepare_images(images / "dog", output)
  (tmp_path / "empty" / "cat").mkdir(parents=True)
  with pytest.raises(UserError, match="no image with a known label: 1 class folders without images .cat"):
    prepare_images(tmp_path / "empty", output)
  (tmp_path / "empty" / "cat" / "a.jpg").write_text("x")
  with pytest.raises(UserError, match="a.jpg: not an image"):
    prepare_images(tmp_path / "empty", output)
  assert not meta.load(output)


def test_other_splits_and_lists_of_classes(folders, tmp_path):
  """Validation takes the classes of training: a class that it lacks keeps its number, one more is left out."""
  images, output = folders
  prepare_images(images, output)
  picture(tmp_path / "val" / "dog" / "1.png")
  picture(tmp_path / "val" / "horse" / "1.png")
  lines = prepare_images(tmp_path / "val", output, split="val")
  assert labels(output, "val") == {"dog/1.png": (2, "dog")} and left_out(output, "val") == {"unknown_label": 1}
  assert any("1 labels that are not in the list of classes (horse of horse/1.png)" in line for line in lines)
  assert any("1 of 2 classes have no image here: cat" in line for line in lines)
  with pytest.raises(UserError, match="horse of horse/1.png"):
    prepare_images(tmp_path / "val", output, split="val", strict=True)
  classes = write(tmp_path / "classes.txt", "dog", "", " cat ", "ant")
  with pytest.raises(UserError, match="categories of 'test' differ"):
    prepare_images(images, output, split="test", classes=classes)
  prepare_images(images, tmp_path / "listed", classes=classes)
  assert labels(tmp_path / "listed")["dog/1.png"] == (1, "dog") and meta.load(tmp_path / "listed").num_classes == 3
  with pytest.raises(UserError, match="repeats dog"):
    prepare_images(images, output, classes=write(tmp_path / "twice.txt", "dog", "cat", "dog"))
  with pytest.raises(UserError, match="is empty"):
    prepare_images(images, output, classes=write(tmp_path / "none.txt", ""))


def test_folder_with_boxes_is_kept(folders, make_coco):
  images, output = folders
  path, folder, _ = make_coco()
  convert.prepare_coco(path, folder, output)
  with pytest.raises(UserError, match="holds a data set for detection"):
    prepare_images(images, output, split="val")
  prepare_images(images, output.parent / "labels")
  with pytest.raises(UserError, match="holds train for classification"):
    convert.prepare_coco(path, folder, output.parent / "labels", split="val")


def test_csv(folders, tmp_path):
  images, output = folders
  rows = [
    "\ufeffImage, label,who",
    "cat/1.png,tabby,me",
    "dog/1.png,poodle,me",
    '"dog/b.webp","poodle, small",me',
    "cat/2.PNG,tabby,me",
    "cat/2.PNG,tabby,you",  # twice
    "cat/deep/3.png,tabby,me",
    "cat/deep/3.png,poodle,you",  # another opinion
    "cat/9.png,tabby,me",
    "notes.txt,tabby,me",
    "dog/1.png,,you",
    "",
  ]
  prepare_images(images, output, annotations=write(tmp_path / "list.csv", *rows))
  assert labels(output) == {
    "cat/1.png": (3, "tabby"),
    "dog/1.png": (1, "poodle"),
    "dog/b.webp": (2, "poodle, small"),
    "cat/2.PNG": (3, "tabby"),
  }
  assert left_out(output) == {"missing": 1, "no_image_file": 1, "no_label": 1, "repeated": 1, "several_labels": 1}
  report = meta.load(output).splits["train"]["report"]
  assert report["examples"]["several_labels"] == ["cat/deep/3.png: poodle, tabby"]
  with pytest.raises(UserError, match="must name the columns image,label"):
    prepare_images(images, output, annotations=write(tmp_path / "bare.csv", "cat/1.png,tabby"))
  with pytest.raises(UserError, match=r"give a .csv"):
    prepare_images(images, output, annotations=tmp_path / "list.txt")


def content(images=(), annotations=(), categories=((0, "cat"), (7, "dog")), sizes=None):
  return {
    "images": [{"id": n, "file_name": name, **(sizes or {})} for n, name in images],
    "annotations": [
      {"id": n, "image_id": image, "category_id": label, **({"bbox": box} if box else {})}
      for n, (image, label, box) in enumerate(annotations, start=1)
    ],
    "categories": [{"id": n, "name": name} for n, name in categories],
  }


def dump(path, value):
  path.write_text(json.dumps(value))
  return path


FILES = ((1, "cat/1.png"), (2, "cat/2.PNG"), (3, "dog/1.png"), (4, "cat/none.png"), (5, "dog/b.webp"))


def test_json_without_boxes(folders, tmp_path):
  images, output = folders
  marks = ((1, 0, None), (2, 0, [1, 1, 3, 3]), (2, 0, None), (3, 9, None), (4, 0, None), (99, 0, None))
  path = dump(tmp_path / "labels.json", content(FILES, marks))
  prepare_images(images, output, annotations=path)
  assert labels(output) == {"cat/1.png": (0, "cat"), "cat/2.PNG": (0, "cat")}  # the ids of the JSON
  assert left_out(output) == {"missing": 1, "no_label": 1, "repeated": 1, "unknown_image": 1, "unknown_label": 1}
  assert meta.load(output).ids == (0, 7)
  for change, words in (
    ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "image id 1 occurs more than once"),
    ({"images": [{"id": 1}]}, "needs an id and a file_name"),
    ({"annotations": [{"image_id": 1}]}, "needs an image_id and a category_id"),
    ({"annotations": [{"image_id": 1, "category_id": [1]}]}, "neither a number nor a text"),
    ({"categories": []}, "an empty 'categories'"),
  ):
    with pytest.raises(UserError, match=words):
      prepare_images(images, output, annotations=dump(path, {**content(FILES, marks), **change}), overwrite=True)
  with pytest.raises(UserError, match="--classes cannot be used with a JSON"):
    prepare_images(images, output, annotations=path, classes=path)


@pytest.mark.parametrize(
  "box,expected",
  [
    ((40, 40, 60, 60), (35, 35, 65, 65)),  # 20 px become 30
    ((40, 10, 60, 50), (35, 0, 65, 60)),  # 60 columns around 30
    ((0, 80, 10, 100), (0, 75, 13, 100)),  # cut above and right; 12.5 touches row 12
    ((10.2, 20, 10.4, 20.2), (10, 19, 11, 21)),
    ((-5, 95, 5, 130), (0, 86, 8, 100)),
  ],
)
def test_enlarged_box_by_hand(box, expected):
  """In an image of 100 x 100."""
  assert label_json.enlarged(box, 100, 100, 1.5) == expected


def test_inaturalist_boxes(tmp_path):
  random = np.random.default_rng(0)
  pixels = random.integers(0, 255, (100, 100, 3), dtype=np.uint8)
  pixels = np.kron(pixels[:10, :10], np.ones((10, 10, 1), np.uint8))
  (tmp_path / "images").mkdir()
  for name in ("a.png", "b.png"):
    Image.fromarray(pixels).save(tmp_path / "images" / name)
  marks = (
    (1, 0, [40, 40, 20, 20]),
    (1, 7, [8, 40, 40, 20]),
    (1, 7, [10, 40, 0, 20]),
    (1, 7, [200, 40, 10, 20]),
    (2, 7, None),
  )
  names = ((0, "cat"), (7, "dog"), (8, "ant"), (9, "ant"))
  value = content(((1, "a.png"), (2, "b.png")), marks, names, {"height": 100, "width": 100})
  path, output = dump(tmp_path / "train.json", value), tmp_path / "out"
  lines = prepare_inaturalist(path, tmp_path / "images", output, bbox=True)
  assert lines[1] == "2 crops around boxes, 1 of them cut at the border of their image; 1 images have no box"
  assert left_out(output) == {"outside_image": 1, "zero_area": 1} and meta.load(output).ids == (0, 7)
  crops = {}
  for serialized in tf.data.TFRecordDataset(str(next(output.glob("*.tfrecord")))):
    feature = tf.train.Example.FromString(serialized.numpy()).features.feature
    image = image_io.decode_image(feature["image/encoded"].bytes_list.value[0])
    size = tuple(feature[f"image/{side}"].int64_list.value[0] for side in ("height", "width"))
    assert size == image.shape[:2]
    crops[feature["image/source_id"].bytes_list.value[0].decode()] = image
  np.testing.assert_array_equal(crops["1_1"], pixels[35:65, 35:65])
  np.testing.assert_array_equal(crops["1_2"], pixels[35:65, 0:58])
  del value["annotations"][1:4]
  value["annotations"][1]["bbox"] = [0, 0, 100, 100]
  value["annotations"][1]["category_id"] = 8
  prepare_inaturalist(dump(path, value), tmp_path / "images", output, bbox=True, split="val")
  assert left_out(output, "val") == {"unknown_label": 1}  # without a box in train: not one of the classes
  plain = tmp_path / "plain"
  prepare_inaturalist(path, tmp_path / "images", plain)
  assert meta.load(plain).names == ("cat", "dog", "ant (8)", "ant (9)")  # all classes, whole images
  assert labels(plain) == {"a.png": (0, "cat"), "b.png": (8, "ant (8)")}
  value["images"][0]["height"] = 90
  prepare_inaturalist(dump(path, value), tmp_path / "images", tmp_path / "other", bbox=True)
  assert left_out(tmp_path / "other") == {"unreadable": 1}  # of another size: the crop would be misplaced
  for change, words in ((None, "no annotation has a bbox"), ([1, 2, float("nan"), 3], "finite numbers")):
    for entry in value["annotations"]:
      entry["bbox"] = change
    with pytest.raises(UserError, match=words):
      prepare_inaturalist(dump(path, value), tmp_path / "images", tmp_path / "none", bbox=True)


SYNSETS = ("n02012849 crane", "n01440764 tench, Tinca tinca", "n03126707 crane, lifting device")


@pytest.fixture
def ilsvrc(tmp_path):
  """Two images of each of three synsets, three of validation."""
  root = tmp_path / "ilsvrc"
  for synset in ("n01440764", "n02012849", "n03126707"):
    for number in range(2):
      picture(root / "train" / synset / f"{synset}_{number}.JPEG", kind="JPEG")
  for number in (3, 1, 2):
    picture(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", kind="JPEG")
  return root


def test_imagenet(ilsvrc, tmp_path):
  synsets, output = write(tmp_path / "synsets.txt", *SYNSETS), tmp_path / "out"
  prepare_imagenet(ilsvrc, output, synsets=synsets)
  assert labels(output)["n02012849/n02012849_1.JPEG"] == (2, "crane (n02012849)")
  known = meta.load(output)
  assert known.ids == (1, 2, 3) and known.names == ("tench", "crane (n02012849)", "crane (n03126707)")
  expected = {f"ILSVRC2012_val_{n:08d}.JPEG": i for n, i in ((1, 3), (2, 1), (3, 1))}

  def check(ground_truth, names=synsets):
    prepare_imagenet(ilsvrc, output, split="val", synsets=names, ground_truth=ground_truth, strict=True, overwrite=True)
    assert {name: label for name, (label, _) in labels(output, "val").items()} == expected

  check(write(tmp_path / "a.txt", "n03126707", "n01440764", "n01440764"))
  stem = "ILSVRC2012_val_0000000"
  check(write(tmp_path / "b.txt", f"{stem}3.JPEG n01440764", f"{stem}1.JPEG n03126707", f"{stem}2.JPEG n01440764"))
  rows = (f"{stem}2,n01440764 1 2 3 4 n01440764 5 6 7 8", f"{stem}1,n03126707 1 2 3 4", f"{stem}3,n01440764 1 2 3 4")
  check(write(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString", *rows))
  numbers = write(tmp_path / "numbers.txt", "1", "3", "3")
  kit = write(tmp_path / "kit.txt", "1 n03126707 crane", "2 n02012849 crane", "3 n01440764 tench, Tinca tinca")
  check(numbers, kit)  # the kit's order is not that of the synsets
  with pytest.raises(UserError, match="numbers of the development kit"):
    check(numbers)
  with pytest.raises(UserError, match="2 lines for the 3 images"):
    check(write(tmp_path / "short.txt", "n03126707", "n01440764"))
  with pytest.raises(UserError, match="1 images that do not exist .*0009"):
    check(write(tmp_path / "more.csv", *rows, f"{stem}9,n01440764 1 2 3 4"))
  with pytest.raises(UserError, match="1 labels that are not in the list.*n99999999"):
    check(write(tmp_path / "odd.txt", "n03126707", "n01440764", "n99999999"))
  with pytest.raises(UserError, match="flat images need --ground_truth"):
    prepare_imagenet(ilsvrc, output, split="val", synsets=synsets)
  prepare_imagenet(ilsvrc / "train", tmp_path / "bare")
  assert meta.load(tmp_path / "bare").names == ("n01440764", "n02012849", "n03126707")
  prepare_imagenet(ilsvrc, tmp_path / "bare", split="val", ground_truth=tmp_path / "a.txt")
  assert {name: label for name, (label, _) in labels(tmp_path / "bare", "val").items()} == expected


def test_synset_files(tmp_path):
  for lines, words in (
    (("n01440764 tench", "goldfish"), "line 'goldfish'"),
    (("n01440764 tench", "n01440764 tench"), "occurs more than once"),
    (("a", "b"), "no synsets"),
  ):
    with pytest.raises(UserError, match=words):
      read_synsets(write(tmp_path / "synsets.txt", *lines))
  classes, numbers = read_synsets(write(tmp_path / "synsets.txt", "id,synset", "2,n02012849,crane", "1,n01440764"))
  assert classes["n01440764"] == meta.Category(1, "n01440764") and numbers == {1: "n01440764", 2: "n02012849"}


def test_rotated_photos(tmp_path):
  """People see a photo upright, so it is stored upright; ImageNet's and iNaturalist's are as they were published."""
  exif = Image.Exif()
  exif[0x0112] = 3  # upside down: the sizes do not tell
  stream = io.BytesIO()
  rows = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], 32, 1).repeat(3, 2)
  Image.fromarray(rows).save(stream, "JPEG", exif=exif, quality=95)
  upright = image_io.store(stream.getvalue(), "x", upright=True)
  assert upright.notes == ("exif_upright", "reencoded")
  seen = image_io.decode_image(upright.encoded)
  assert seen[0].mean() > 200 and seen[-1].mean() < 30
  kept = image_io.store(stream.getvalue(), "x")
  assert kept.notes == ("exif_ignored",) and kept.encoded == stream.getvalue()


def test_records_are_model_gardens(folders):
  decoder = pytest.importorskip(
    "official.vision.dataloaders.classification_input", reason="Model Garden is not installed"
  )
  images, output = folders
  prepare_images(images, output)
  for serialized in tf.data.TFRecordDataset(str(next(output.glob("*.tfrecord")))):
    decoded = decoder.Decoder("image/encoded", "image/class/label").decode(serialized)
    assert int(decoded["image/class/label"]) in (1, 2)
    assert tf.io.decode_image(decoded["image/encoded"]).shape == (12, 16, 3)


@pytest.mark.skipif(
  importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed (extra [beam])"
)
def test_beam_equals_local(folders):
  images, output = folders
  spoil(images)
  for runner in ("beam", "local"):
    prepare_images(images, output / runner, runner=runner, num_shards=2)
  beam, local = (meta.load(output / runner).splits["train"] for runner in ("beam", "local"))
  assert labels(output / "beam") == labels(output / "local")
  for report in (beam["report"], local["report"]):
    report["examples"] = {reason: sorted(names) for reason, names in report["examples"].items()}
  assert beam["report"] == local["report"] and beam["num_examples"] == 5
  with pytest.raises(UserError, match="2 of 7 images cannot be used"):
    for fault in ("bird", "cat/notes.txt", "stray.png"):
      (images / fault).rmdir() if fault == "bird" else (images / fault).unlink()
    prepare_images(images, output / "strict", runner="beam", strict=True)


@pytest.mark.parametrize("split,each", [("train", 12), ("val", 5)])
def test_real_data(shared_data, tmp_path, split, each):
  source = shared_data / "grocery_fruit"
  annotations = source / "annotations" / f"classification_{split}.json"
  lines = prepare_images(source / "images", tmp_path, annotations=annotations, split=split, strict=True, workers=2)
  assert lines[0] == f"{28 * each} images of 28 classes, {each} of each"
  assert meta.load(tmp_path).ids == tuple(range(28))
  truth = json.loads(annotations.read_text())
  names = {entry["id"]: entry["file_name"] for entry in truth["images"]}
  expected = {names[entry["image_id"]]: entry["category_id"] for entry in truth["annotations"]}
  assert {name: label for name, (label, _) in labels(tmp_path, split).items()} == expected
  dataset = classification_dataset(
    f"{tmp_path}/{split}-*", image_size=(64, 64), batch_size=14, training=False, class_ids=range(28)
  )
  counts = np.bincount(np.concatenate([batch["label"] for batch in dataset.take(28 * each // 14).as_numpy_iterator()]))
  assert counts.tolist() == [each] * 28


def test_command(folders, ilsvrc, tmp_path):
  images, output = folders

  def run(*arguments):
    command = [sys.executable, "-m", "spinenet_tf.prepare", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

  done = run("images", f"--images={images}", f"--output={output}", "--shards=2", "--nostrict")
  assert done.returncode == 0, done.stderr
  assert "5 images of 2 classes" in done.stdout and len(list(output.glob("train-*-of-00002.tfrecord"))) == 2
  done = run("imagenet", f"--images={ilsvrc}", f"--output={tmp_path}/imagenet")
  assert done.returncode == 0 and "6 images of 3 classes, 2 of each" in done.stdout, done.stderr
  marks = ((1, 0, [2, 2, 4, 4]), (3, 7, [2, 2, 4, 4]))
  path = dump(tmp_path / "boxes.json", content(FILES[:3:2], marks, sizes={"height": 12, "width": 16}))
  done = run("inaturalist", f"--annotations={path}", f"--images={images}", f"--output={tmp_path}/i", "--bbox")
  assert done.returncode == 0 and "2 crops around boxes, 0 of them cut" in done.stdout, done.stderr
  for arguments, text in (
    (["images", "--output=x"], "needs --images"),
    (["inaturalist", "--output=x", "--images=y"], "needs --annotations"),
    (["imagenet", "--output=x", "--images=y", "--bbox"], "--bbox cannot be used with 'imagenet'"),
    (["imagenet", "--output=x", f"--images={tmp_path}/none"], "is not a folder"),
  ):
    failed = run(*arguments)
    assert failed.returncode == 2 and failed.stderr.strip().splitlines()[-1].startswith("error: "), failed.stderr
    assert text in failed.stderr and "Traceback" not in failed.stderr
