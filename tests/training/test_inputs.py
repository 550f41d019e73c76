"""Classes of an experiment: contiguous outputs, or the authors' layout in which the id is the index."""

import pytest

from spinenet_tf.data.meta import load
from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.training import inputs
from spinenet_tf.training.settings import DataSettings, ModelSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(path, train=4, val=2, size=64)
  return str(path)


def _resolve(folder, num_classes=None, **data):
  return inputs.resolve(DataSettings(directory=folder, **data), ModelSettings(num_classes=num_classes, image_size=64))


def test_contiguous_outputs_are_the_categories_in_order(folder):
  found, meta = _resolve(folder), load(folder)
  assert found.num_classes == meta.num_classes
  assert found.class_ids == meta.ids and found.class_names == list(meta.names)


def test_original_layout_makes_the_id_the_index(folder):
  found, meta = _resolve(folder, class_layout="original"), load(folder)
  assert found.num_classes == max(meta.ids) + 1
  assert found.class_ids == tuple(range(max(meta.ids) + 1))
  assert found.class_names[meta.ids[0]] == meta.names[0] and found.class_names[0] == "no class 0"
  assert len(found.categories) == meta.num_classes


def test_original_layout_scores_with_the_original_ids(folder):
  import numpy as np

  found = _resolve(folder, class_layout="original")
  evaluator = found.evaluator()
  records = list(inputs.groundtruth(found.eval_pattern))
  for record in records:
    boxes, ids = np.asarray(record["boxes"], np.float32), np.asarray(record["class_ids"])
    detections = {
      "detection_boxes": boxes[None],
      "detection_classes": ids[None],  # the index is the id
      "detection_scores": np.ones([1, len(ids)], np.float32),
      "num_detections": np.array([len(ids)]),
    }
    size = np.array([[record["height"], record["width"]]])
    facts = {"source_id": np.array([record["source_id"]]), "original_size": size}
    evaluator.update(detections, {**facts, "scale": np.ones([1, 2], np.float32), "is_real": np.array([True])})
  assert evaluator.result()["AP"] == pytest.approx(1)


def test_a_number_of_classes_that_differs_is_refused_with_both(folder):
  with pytest.raises(UserError, match=r"num_classes is 91.*has 5 classes.*class_layout = 'original'"):
    _resolve(folder, num_classes=91)
  with pytest.raises(UserError, match=r"num_classes is 91.*ids up to 5, so 6 outputs"):
    _resolve(folder, num_classes=91, class_layout="original")


def test_unknown_layout():
  with pytest.raises(UserError, match="class_layout is 'dense'"):
    DataSettings(class_layout="dense")
