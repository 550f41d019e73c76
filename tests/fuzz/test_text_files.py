"""JSON and journals: architectures, COCO annotations, meta.json, run directories, searches."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spinenet_tf.backbones.catalog import CATALOG
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.data import convert, meta
from spinenet_tf.search import journal, state
from spinenet_tf.search.presets import find_space
from spinenet_tf.training import inputs, settings
from spinenet_tf.training.checkpoints import best_numbers
from spinenet_tf.training.run_directory import RunDirectory
from tests.fuzz import fuzzing

ARCHITECTURES = [CATALOG[name].to_dict() for name in ("spinenet49", "spinenet49_mobile")]
ARCHITECTURES.append(next(found.to_dict() for found in CATALOG.values() if found.pyramid == "fpn"))
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
COCO = [
  {
    "categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}],
    "images": [{"id": 5, "file_name": "0.png", "height": 24, "width": 32}],
    "annotations": [
      {"id": 1, "image_id": 5, "category_id": 1, "bbox": [10, 10, 10, 10], "segmentation": SQUARE, "area": 100},
      {
        "id": 2,
        "image_id": 5,
        "category_id": 7,
        "bbox": [0, 0, 5.5, 5],
        "iscrowd": 1,
        "segmentation": {"size": [24, 32], "counts": [0, 5, 763]},
      },
      {
        "id": 3,
        "image_id": 5,
        "category_id": 7,
        "bbox": [0, 0, 5, 5],
        "segmentation": {"size": [24, 32], "counts": "05ge0"},
      },
    ],
  }
]
META = [
  {
    "format": 1,
    "categories": [{"id": 1, "name": "cat"}],
    "splits": {
      "train": {
        "pattern": "train-*.tfrecord",
        "num_examples": 3,
        "shards": {"train-00000-of-00001.tfrecord": {"examples": 3, "bytes": 4}},
        "report": {"max_objects_per_image": 3},
      }
    },
  }
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("fuzz")


@given(fuzzing.json_bytes(ARCHITECTURES))
def test_architectures(folder, data):
  path = folder / "architecture.json"
  path.write_bytes(data)
  found = fuzzing.survives("architecture JSON", lambda: Architecture.from_json(path))
  if found is not None:
    assert Architecture.from_json(found.to_json()) == found
    fuzzing.survives("architecture JSON", lambda: (found.describe(), found.used(), found.output_levels))


@given(fuzzing.changed_json(ARCHITECTURES))
def test_architectures_from_dictionaries(values):
  if isinstance(values, dict):
    fuzzing.survives("architecture JSON", lambda: Architecture.from_dict(values))


@given(fuzzing.json_bytes(COCO), st.booleans())
def test_coco_annotations(folder, data, strict):
  images = folder / "images"
  if not images.exists():
    images.mkdir()
    Image.new("RGB", (32, 24), (200, 10, 10)).save(images / "0.png")
  (folder / "instances.json").write_bytes(data)
  fuzzing.survives(
    "COCO JSON",
    lambda: convert.prepare_coco(
      folder / "instances.json", images, folder / "records", strict=strict, workers=1, overwrite=True
    ),
  )


@given(fuzzing.json_bytes(META))
def test_meta(folder, data):
  place = folder / "meta"
  place.mkdir(exist_ok=True)
  (place / "train-00000-of-00001.tfrecord").write_bytes(b"1234")
  (place / "meta.json").write_bytes(data)

  def use():
    found = meta.load(str(place))
    found.share_smaller("train", 1.0, 64)
    data = settings.DataSettings(directory=str(place), eval_split=None)
    return inputs.resolve(data, settings.ModelSettings(image_size=128))

  fuzzing.survives("meta.json", use)


MODEL = [
  {
    "format": 1,
    "task": "retinanet",
    "architecture": ARCHITECTURES[0],
    "model": {"num_classes": 2, "input_size": [128, 128]},
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "class_ids": [1, 2],
  }
]


@given(fuzzing.json_bytes(MODEL), fuzzing.json_bytes([{"step": 3, "kind": "eval", "AP": 0.5}]))
def test_run_directories(folder, model, line):
  run = RunDirectory(folder / "run")
  run.prepare()
  (run.path / "model.json").write_bytes(model)
  fuzzing.survives("run directory", lambda: run.check_same(MODEL[0]))
  run.metrics_file.write_bytes(line + b"\n" + b'{"step": 1, "kind": "train"}\n')
  fuzzing.survives("run directory", lambda: run.evaluated_at(3))
  fuzzing.survives("run directory", lambda: run.drop_metrics_after(2))
  (run.path / "numbers.json").write_bytes(line)
  fuzzing.survives("run directory", lambda: best_numbers(run.path / "numbers.json"))


SPACE = find_space("tiny")


@pytest.fixture(scope="module")
def journal_lines(tmp_path_factory):
  """The lines of a journal with a result, a failure and a lost worker."""
  made = journal.Journal(tmp_path_factory.mktemp("search"), SPACE, "random", 3, say=lambda _: None)
  point = SPACE.random_point(np.random.default_rng(0))
  made.start(0, point, "a", 1)
  made.end(0, "ok", 0.5, seconds=1.0, metrics={"AP": 0.5})
  made.start(1, point, "b", 1)
  made.lost(1, "died")
  made.start(1, point, "b", 2)
  made.end(1, "failed", 0.0, reason="why")
  made.close()
  return [json.loads(line) for line in made.path.read_text().splitlines()]


@given(st.data())
def test_journals_of_searches(folder, journal_lines, data):
  lines = data.draw(fuzzing.changed_json([journal_lines]))
  text = b"\n".join(json.dumps(line).encode() for line in (lines if isinstance(lines, list) else [lines]))
  text = data.draw(st.one_of(st.just(text + b"\n"), st.just(text), fuzzing.changed_bytes([text])))
  path = folder / "search" / journal.FILE_NAME
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(text)

  def use():
    _, trials, _ = journal.read(path.parent)
    for trial in trials.values():
      SPACE.is_valid(trial.point)

  fuzzing.survives("search journal", use)
  path.write_bytes(text)
  opened = fuzzing.survives(
    "search journal", lambda: journal.Journal(path.parent, SPACE, "random", 3, say=lambda _: None)
  )
  if opened:
    opened.close()
    fuzzing.survives("search journal", lambda: journal.read(path.parent))


@given(st.data())
def test_states_of_searchers(folder, data):
  path = folder / "state.npz"
  state.write_state(path, {"searcher": "random", "space": "1", "n": [1, 2]}, {"weights": np.zeros(3, np.float32)})
  path.write_bytes(data.draw(fuzzing.changed_bytes([path.read_bytes()])))
  fuzzing.survives("searcher's state", lambda: state.read_state(path, "random", "1"))
