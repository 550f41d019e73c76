"""What fuzzing found, one case each: these ended in other errors than a UserError, or in none."""

import json

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf import configs, json_text
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.data import coco, meta, records
from spinenet_tf.data.pipeline import explain_errors, groundtruth
from spinenet_tf.errors import UserError
from spinenet_tf.search import journal, state
from spinenet_tf.search.space import SearchSpace
from spinenet_tf.training.checkpoints import best_numbers, read_weights
from spinenet_tf.training.run_directory import RunDirectory
from tests.fuzz.test_records import example

DEEP = b"[" * 100_000


def test_json_nested_too_deeply(tmp_path):
  with pytest.raises(ValueError, match="nested too deeply"):
    json_text.parse(DEEP)
  path = tmp_path / "meta.json"
  path.write_bytes(DEEP)
  for read in (
    lambda: coco.read(path, tmp_path),
    lambda: meta.load(str(tmp_path)),
    lambda: Architecture.from_json(path),
    lambda: SearchSpace.from_json(path),
  ):
    with pytest.raises(UserError, match="nested too deeply"):
      read()


def test_an_architecture_that_is_not_utf8(tmp_path):
  path = tmp_path / "own.json"
  path.write_bytes(b'{"name": "\xa4"}')
  with pytest.raises(UserError, match="is not JSON"):
    Architecture.from_json(path)
  with pytest.raises(UserError, match="an architecture is a list"):
    Architecture.from_dict([])
  with pytest.raises(UserError, match="None in stem is no block"):
    Architecture.from_dict({"name": "own", "stem": [None]})


@pytest.mark.parametrize("name", [5, ["a"], "\0", ""])
def test_a_file_name_that_is_none(tmp_path, name):
  path = tmp_path / "instances.json"
  image = {"id": 1, "file_name": name, "height": 2, "width": 2}
  path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
  with pytest.raises(UserError, match="needs an id and a file_name"):
    coco.read(path, tmp_path)


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (b"\xfe", "is not JSON"),
    (b"[]", "has format 'list'"),
    (b'{"format": 1}', "cannot be understood"),
    (b'{"format": 1, "architecture": null}', "cannot be understood"),
  ],
)
def test_a_damaged_model_json(tmp_path, content, says):
  (tmp_path / "model.json").write_bytes(content)
  with pytest.raises(UserError, match=says):
    RunDirectory(tmp_path).check_same({"format": 1, "architecture": {}})


def test_damaged_metrics(tmp_path):
  run = RunDirectory(tmp_path)
  run.metrics_file.write_bytes(b'[]\n\xff\n{"step": "x"}\n{"step": 2, "kind": "eval"}\n{"st')
  assert run.read_metrics() == [{"step": 2, "kind": "eval"}]
  assert run.evaluated_at(2) and not run.evaluated_at(1)
  run.drop_metrics_after(1)
  assert run.read_metrics() == []


@pytest.mark.parametrize(
  "content", [b"", b"[]", b'{"AP": 0.5}', b'{"step": 3, "AP": null}', b'{"step": 1e400, "AP": 1}']
)
def test_damaged_numbers_of_the_best_checkpoint(tmp_path, content):
  path = tmp_path / "metrics.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match="remove the folder"):
    best_numbers(path)
  path.write_text('{"step": 3, "AP": 0.5}')
  assert best_numbers(path) == {"step": 3, "AP": 0.5}
  assert best_numbers(tmp_path / "none") is None


@pytest.mark.parametrize(
  "split",
  [
    [["a", 1, 2]],
    {"shards": []},
    {"shards": {"a": {"examples": "3", "bytes": 4}}},
    {"shards": {"../a": {"examples": 3, "bytes": 4}}},
    {"num_examples": -1},
    {"pattern": 5},
    {"pattern": "\0"},
    {"report": {"size_quantiles": ["a"]}},
  ],
)
def test_a_split_that_prepare_does_not_write(tmp_path, split):
  content = {"format": 1, "categories": [{"id": 1, "name": "cat"}], "splits": {"train": split}}
  (tmp_path / "meta.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match="malformed"):
    meta.load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_damaged_state_of_a_searcher(tmp_path, content):
  path = tmp_path / "state.npz"
  path.write_bytes(content)
  with pytest.raises(UserError, match="holds no searcher's state"):
    state.read_state(path, "random", "1")
  state.write_state(path, [["a", "b"]], {"x": np.zeros(1)})
  with pytest.raises(UserError, match="is the state of the searcher None"):
    state.read_state(path, "random", "1")


def test_a_journal_nested_too_deeply(tmp_path):
  (tmp_path / journal.FILE_NAME).write_bytes(DEEP + b"\n{}\n")
  with pytest.raises(UserError, match="line 1: nested too deeply"):
    journal.read(tmp_path)


def test_a_gin_file_that_is_not_utf8(tmp_path):
  path = tmp_path / "own.gin"
  path.write_bytes(b"\xb2 = 1")
  with pytest.raises(UserError, match="cannot be read as text"):
    configs.parse([str(path)])


def test_records_whose_texts_are_not_utf8(tmp_path):
  found = records.parse(tf.constant(example(**{"image/source_id": [b"a\x90"]})), tf.constant("file"))
  assert found["source_id"].numpy().decode() == "a\ufffd"
  bad = example().replace(b"image/height", b"image/\x90eight").replace(b"\x1a", b"\x1a")
  path = tmp_path / "bad.tfrecord"
  wrong = example(**{"image/object/class/label": [b"\x90"]})
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(bad)
    writer.write(wrong)
  with pytest.raises(UserError, match=r"bad\.tfrecord: record \d .*cannot be decoded"):
    with explain_errors(str(path)):
      list(groundtruth(str(path)))


@pytest.mark.parametrize("level", ["None", "'7'", "3.0", "True", "10**9", "-1"])
def test_a_level_that_is_none(tmp_path, level):
  path = tmp_path / "own.gin"
  path.write_text(f"model.max_level = {level}")
  with pytest.raises(UserError):
    configs.parse([str(path)])
    configs.experiment()
  configs.gin.clear_config()


@pytest.mark.parametrize("missing", ["space", "fingerprint", "searcher"])
def test_a_journal_without_a_part_of_its_header(tmp_path, missing):
  header = {"kind": "search", "format": 1, "space": {}, "fingerprint": "1", "searcher": "random"}
  del header[missing]
  (tmp_path / journal.FILE_NAME).write_text(json.dumps(header) + "\n")
  with pytest.raises(UserError, match="begins with"):
    journal.read(tmp_path)


def test_a_checkpoint_that_was_cut_off(tmp_path):
  prefix = tf.train.Checkpoint(model=tf.train.Checkpoint(a=tf.Variable(tf.ones([9])))).write(str(tmp_path / "step-1"))
  for name in ("step-1.data-00000-of-00001", "step-1.index"):
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:10])
    with pytest.raises(UserError, match="cannot read checkpoint"):
      read_weights(prefix)
