"""The predict command on folders of good, bad and oddly named pictures."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.masks import decode, paste_all
from spinenet_tf.models.naming import variable_tree
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.predict import make_report, predict
from spinenet_tf.serving.classifier import Classes
from spinenet_tf.serving.detector import Detections
from spinenet_tf.serving.image_files import find_images, output_names
from spinenet_tf.serving.reports import FoundObjects, LikelyClasses


def detector(image):
  """Finds the whole picture, twice."""
  box = [0, 0, *image.shape[:2]]
  return Detections(np.array([box, box], np.float32), np.array([0.9, 0.5]), np.array([3, 3]), ("cat", "cat"))


def crowd(image):
  """Finds 30 boxes, each twice, with masks of their upper halves."""
  corners = [(10 * y, 6 * x) for y in range(3) for x in range(10)] * 2
  boxes = np.array([(y, x, y + 8, x + 4) for y, x in corners], np.float32)
  masks = paste_all([[[1], [0]]] * 60, boxes, image.shape[:2])
  return Detections(boxes, np.full(60, 0.9), np.full(60, 3), ("nucleus of a cell",) * 60, tuple(masks))


@pytest.fixture
def pictures(tmp_path):
  folder = tmp_path / "pictures"
  (folder / "more").mkdir(parents=True)
  for name in ("a.png", "more/a.jpg", "b.JPG"):
    Image.new("RGB", (40, 30), (90, 200, 90)).save(folder / name)
  (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
  (folder / "notes.txt").write_text("no picture either")
  return folder


def test_all_good_pictures_are_done_and_bad_ones_counted(pictures, tmp_path, capsys):
  output = tmp_path / "out"
  images = find_images([pictures], output)
  assert [str(p.relative_to(pictures)) for p in images] == ["a.png", "b.JPG", "broken.jpg", "more/a.jpg"]
  assert predict(FoundObjects(detector), images, output) == 1
  said = capsys.readouterr()
  assert "2 objects (2 cat)" in said.out and "broken.jpg" in said.err and "1 of 4 files" in said.err
  report = json.loads((output / "detections.json").read_text())
  assert [r["picture"] for r in report["images"]] == ["a.jpg", "b.jpg", "a_2.jpg"]
  assert report["images"][0]["boxes"][0] == [0, 0, 30, 40] and report["images"][0]["names"] == ["cat", "cat"]
  assert [f["file"] for f in report["failed"]] == [str(pictures / "broken.jpg")]
  assert sorted(p.name for p in output.iterdir()) == ["a.jpg", "a_2.jpg", "b.jpg", "detections.json", "overview.jpg"]


def test_masks_are_drawn_and_written(tmp_path):
  Image.new("RGB", (60, 30), (90, 90, 90)).save(tmp_path / "a.png")
  sharp = {}
  for labels in (None, True):
    output = tmp_path / str(labels)
    assert predict(FoundObjects(crowd, labels), [tmp_path / "a.png"], output) == 0
    sharp[labels] = np.asarray(Image.open(output / "a.jpg"))
  assert sharp[None].shape == (320, 640, 3)
  assert np.abs(sharp[None][60:80, 10:30].astype(int) - 90).max() < 30, (
    "lower half of the first: no mask, no box, no label"
  )
  assert (np.abs(sharp[None][20:30, 10:30].astype(int) - 90).max(axis=-1) > 20).all(), "upper half: filled"
  assert np.abs(sharp[None].astype(int) - sharp[True]).max() > 100, "labels where they are asked for"
  report = json.loads((tmp_path / "None" / "detections.json").read_text())
  assert "COCO's RLE" in report["segmentations"] and len(report["images"][0]["segmentations"]) == 60
  first = decode(report["images"][0]["segmentations"][0])
  assert first.shape == (30, 60) and first[:4, :4].all() and first.sum() == 16


def test_output_may_not_be_the_folder_itself_but_one_above(pictures):
  with pytest.raises(UserError, match="is the folder of the images"):
    find_images([pictures], pictures)
  assert len(find_images([pictures], pictures.parent)) == 4


def test_output_beside_the_images(pictures):
  images = find_images([pictures / "more" / "a.jpg", pictures / "a.png"], "elsewhere")
  places = output_names(images, pictures / "more")
  assert [p.name for p in places] == ["a_2.jpg", "a_3.jpg"]


def test_results_inside_the_folder_are_left_out(pictures):
  Image.new("RGB", (40, 30)).save(pictures / "more" / "old.jpg")
  assert len(find_images([pictures], pictures / "more")) == 3


def test_each_file_once(pictures):
  assert len(find_images([pictures, pictures / "a.png", pictures / "more" / ".." / "a.png"], "out")) == 4


@pytest.mark.parametrize(("path", "text"), [("nowhere.jpg", "does not exist"), ("empty", "has no images")])
def test_bad_paths(tmp_path, path, text):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=text):
    find_images([tmp_path / path], "out")


def test_no_paths_and_bad_output(tmp_path):
  with pytest.raises(UserError, match="no images were given"):
    find_images([], "out")
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be made"):
    predict(FoundObjects(detector), [], pathlib.Path(tmp_path / "file"))


class Classifier:
  """Takes green for a frog; the features are the mean colour."""

  def classes_and_features(self, images):
    features = self.features(images)
    return [Classes(np.array([7, 9]), np.array([0.75, 0.0004]), ("frog", "toad"))] * len(features), features

  def features(self, images):
    return np.reshape([image.mean((0, 1)) for image in images], (-1, 3)).astype(np.float32)


def test_classes_and_features(pictures, tmp_path, capsys):
  output = tmp_path / "out"
  report = LikelyClasses(Classifier(), tmp_path / "new" / "vectors.npy")
  assert predict(report, find_images([pictures], output), output) == 1
  said = capsys.readouterr()
  assert "frog 75%, toad <0.1%" in said.out and "broken.jpg" in said.err and "float32[3, 3] features" in said.out
  told = json.loads((output / "classes.json").read_text())
  assert [r["picture"] for r in told["images"]] == ["a.jpg", "b.jpg", "a_2.jpg"]
  assert (told["images"][0]["names"], told["images"][0]["classes"]) == (["frog", "toad"], [7, 9])
  assert [f["file"] for f in told["failed"]] == [str(pictures / "broken.jpg")]
  names = sorted(p.name for p in output.iterdir())
  assert names == ["a.jpg", "a_2.jpg", "b.jpg", "classes.json", "overview.jpg"]
  assert Image.open(output / "a.jpg").size[1] > 240  # enlarged to 320 x 240, with lines below
  features = np.load(tmp_path / "new" / "vectors.npy")
  np.testing.assert_allclose(features, [[90, 200, 90]] * 3, atol=2)
  beside = json.loads((tmp_path / "new" / "vectors.json").read_text())
  assert beside["files"] == [r["file"] for r in told["images"]] and beside["shape"] == [3, 3]


def test_features_of_no_readable_picture(pictures, tmp_path):
  report = LikelyClasses(Classifier(), tmp_path / "vectors.npy")
  assert predict(report, [pictures / "broken.jpg"], tmp_path / "out") == 1
  assert np.load(tmp_path / "vectors.npy").shape == (0, 3)


def test_no_features_unless_asked_for(pictures, tmp_path):
  assert predict(LikelyClasses(Classifier()), [pictures / "a.png"], tmp_path / "out") == 0
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpg", "classes.json"]


@pytest.mark.parametrize(("name", "text"), [("a.txt", "must end in .npy"), ("file/a.npy", "cannot be made")])
def test_bad_places_for_features(tmp_path, name, text):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=text):
    LikelyClasses(Classifier(), tmp_path / name)


def test_flags_of_the_other_task(tmp_path):
  (tmp_path / "model.json").write_text(json.dumps({"format": 1, "task": "classification"}))
  with pytest.raises(UserError, match="run of classification, for which --score_threshold means nothing"):
    make_report(tmp_path, score_threshold=0.0)
  with pytest.raises(UserError, match="for which --labels means nothing"):
    make_report(tmp_path, labels=False)
  (tmp_path / "model.json").write_text(json.dumps({"format": 1, "task": "retinanet"}))
  with pytest.raises(UserError, match="run of retinanet, for which --top, --features means nothing"):
    make_report(tmp_path, top=3, features="a.npy")


@pytest.mark.slow
def test_command(pictures, tmp_path):
  """In a process of its own: exit codes, one line for an error of the user, pictures for the rest."""
  run = tmp_path / "run"
  model = build_retinanet("spinenet49s", 2, (96, 96), head_convs=1, head_width=8)
  checkpoint = tf.train.Checkpoint(model=variable_tree(model))
  tf.train.CheckpointManager(checkpoint, str(run / "best"), 1, checkpoint_name="step").save(1)
  about = {
    "format": 1,
    "task": "retinanet",
    "architecture": model.architecture.to_dict(),
    "model": {"num_classes": 2, "input_size": [96, 96], "head_convs": 1, "head_width": 8},
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "detection": {"max_detections": 3},
  }
  (run / "model.json").write_text(json.dumps(about))

  def command(*arguments):
    line = [sys.executable, "-m", "spinenet_tf.predict", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)

  done = command(f"--model_dir={run}", f"--output={tmp_path / 'out'}", "--score_threshold=0", pictures)
  assert done.returncode == 1, done.stderr
  assert "3 objects" in done.stdout and "error: 1 of 4 files could not be read" in done.stderr
  assert len(json.loads((tmp_path / "out" / "detections.json").read_text())["images"]) == 3
  wrong = command(f"--model_dir={tmp_path / 'nothing'}", pictures / "a.png")
  assert wrong.returncode == 2 and "nothing' does not exist" in wrong.stderr and "Traceback" not in wrong.stderr
