"""From annotation file through TFRecord and input pipeline to the metric: the ground truth scores 1, from both sources."""

import json

import numpy as np
import pytest

from spinenet_tf.data import meta, pipeline
from spinenet_tf.data.convert import prepare_coco
from spinenet_tf.evaluation.coco import CocoEvaluator
from spinenet_tf.evaluation.report import METRICS


@pytest.fixture(scope="module")
def prepared(shared_data, tmp_path_factory):
  source = shared_data / "coco_sample"
  output = tmp_path_factory.mktemp("records")
  annotations = source / "annotations" / "instances_val.json"
  prepare_coco(annotations, source / "images", output, split="val", workers=1)
  return annotations, output


def test_ground_truth_through_the_pipeline_scores_one(prepared):
  annotations, output = prepared
  pattern, about = str(output / "val-*.tfrecord"), meta.load(output)
  from_records = CocoEvaluator(about, pipeline.groundtruth(pattern))
  from_file = CocoEvaluator(about, annotation_file=annotations)
  dataset = pipeline.detection_dataset(
    pattern, image_size=(256, 192), batch_size=3, training=False, class_ids=about.ids, max_boxes=100
  )
  for batch in dataset:
    detections = {
      "detection_boxes": batch["boxes"],
      "detection_scores": np.where(batch["classes"] >= 0, 0.9, 0.0).astype(np.float32),
      "detection_classes": batch["classes"],
      "num_detections": np.sum(batch["classes"] >= 0, axis=1),
    }
    from_records.update(detections, batch)
    from_file.update(detections, batch)
  records, file = from_records.result(), from_file.result()
  assert from_records.num_seen == from_records.num_images == len(json.loads(annotations.read_text())["images"])
  assert records["AP"] == pytest.approx(1.0) and records["AR100"] == pytest.approx(1.0)
  np.testing.assert_allclose([records[k] for k in METRICS], [file[k] for k in METRICS], atol=1e-6)
  assert {k: v["objects"] for k, v in records["per_class"].items()} == {
    k: v["objects"] for k, v in file["per_class"].items()
  }
