"""From annotation file through TFRecord and input pipeline to the metric: the ground truth scores 1, from both sources.

Of masks the run lengths of the records do; the crops that training takes from them, drawn again, almost do.
"""

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


def test_masks_through_the_pipeline(prepared):
  annotations, output = prepared
  pattern, about = str(output / "val-*.tfrecord"), meta.load(output)
  truth = {record["source_id"]: record for record in pipeline.groundtruth(pattern, masks=True)}
  exact = CocoEvaluator(about, truth.values(), masks=True)
  from_file = CocoEvaluator(about, annotation_file=annotations, masks=True)
  crops = CocoEvaluator(about, truth.values(), masks=True)
  dataset = pipeline.detection_dataset(
    pattern, image_size=(256, 192), batch_size=3, training=False, class_ids=about.ids, max_boxes=100, masks=112
  )
  for batch in dataset:
    found = {
      "detection_boxes": batch["boxes"],
      "detection_scores": np.where(batch["classes"] >= 0, 0.9, 0.0).astype(np.float32),
      "detection_classes": batch["classes"],
      "num_detections": np.sum(batch["classes"] >= 0, axis=1),
    }
    # Batches leave crowds out, and have the other objects in the order of the records.
    records = [truth.get(source_id.decode()) for source_id in batch["source_id"].numpy()]
    rles = [r and [mask for mask, crowd in zip(r["masks"], r["is_crowd"]) if not crowd] for r in records]
    exact.update({**found, "detection_rles": rles}, batch)
    from_file.update({**found, "detection_rles": rles}, batch)
    crops.update({**found, "detection_masks": batch["masks"].numpy().astype(np.float32)}, batch)
  for evaluator in (exact, from_file):
    assert evaluator.result()["mask_AP"] == pytest.approx(1.0) and evaluator.result()["AP"] == pytest.approx(1.0)
  result = crops.result()
  assert result["mask_AP75"] > 0.99 and result["mask_AP"] > 0.99
