"""COCO JSON with segmentations to TFRecord: what is written, what is named, and that scoring gets exactly the source."""

import json

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from spinenet_tf.data import beam, convert, meta, pipeline
from spinenet_tf.errors import UserError


def with_masks(content, segmentations):
  for entry, segmentation in zip(content["annotations"], segmentations):
    if segmentation is not None:
      entry["segmentation"] = segmentation


def test_masks(make_coco, tmp_path):
  """Polygons and run lengths are written; what cannot be used is named, its box kept; all the rest is as without."""
  rectangle = [6, 7, 24, 7, 24, 15, 6, 15]
  many = (
    (1, [5, 6, 20, 10], 1),
    (1, [5, 6, 20, 10], 7),
    (2, [0, 0, 5, 5], 1),
    (2, [0, 0, 5, 5], 1),
    (2, [1, 1, 4, 4], 1),
  )
  path, folder, content = make_coco(((40, 60), (20, 30)), many)
  runs = {"size": [20, 30], "counts": [21, 3, 576]}
  with_masks(content, ([rectangle], None, [[1, 2, 3, 4]], runs, [[20, 15, 29, 15, 29, 19]]))
  content["annotations"][3]["iscrowd"] = 1
  path.write_text(json.dumps(content))
  lines = convert.prepare_coco(path, folder, tmp_path / "out")
  split = meta.load(tmp_path / "out").splits["train"]
  assert (split["num_boxes"], split["num_masks"]) == (5, 2)
  notes = {"mask_missing": 1, "mask_few_points": 1, "mask_outside_box": 1}
  assert split["report"]["mask_notes"] == notes and split["report"]["masks"] == 2
  assert [split["report"]["examples"][reason] for reason in notes] == [[2], [3], [5]]
  text = "\n".join(lines)
  assert "2 objects with a mask; 3 without, used for their boxes only" in text
  assert "1 objects without a mask (annotations 2)" in text and "fewer than 3 points (annotations 3)" in text
  images = {i["source_id"]: i for i in pipeline.groundtruth(f"{tmp_path}/out/train-*", masks=True)}
  polygon, none = images["1"]["masks"]
  x, y, w, h = coco_mask.toBbox(polygon)
  assert (x, y, w, h, coco_mask.area(polygon)) == (6, 7, 18, 8, 144) and none is None
  assert images["2"]["masks"][0] is None and images["2"]["masks"][2] is None
  assert np.argwhere(coco_mask.decode(images["2"]["masks"][1])).tolist() == [[1, 1], [2, 1], [3, 1]]
  with pytest.raises(
    UserError, match=r"2 of 2 images.*annotation 2 has no segmentation.*annotation 3 has polygon 0 of 2 p"
  ):
    convert.prepare_coco(path, folder, tmp_path / "strict", strict=True)
  plain = convert.prepare_coco(path, folder, tmp_path / "plain", masks=False)
  assert meta.load(tmp_path / "plain").splits["train"]["num_masks"] == 0 and "mask" not in "\n".join(plain)
  for image in pipeline.groundtruth(f"{tmp_path}/plain/train-*", masks=True):
    assert image["masks"] == [None] * len(image["boxes"])
    np.testing.assert_array_equal(image["boxes"], images[image["source_id"]]["boxes"])
  convert.prepare_coco(path, folder, tmp_path / "plain", masks=False, strict=True)


def test_no_segmentation_anywhere_is_no_fault(make_coco, tmp_path):
  path, folder, content = make_coco()
  with_masks(content, [[]])
  path.write_text(json.dumps(content))
  assert "mask" not in "\n".join(convert.prepare_coco(path, folder, tmp_path / "out", strict=True))
  (file,) = (tmp_path / "out").glob("*.tfrecord")
  example = tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(file)))).numpy())
  assert not [name for name in example.features.feature if "mask" in name]


def test_beam_sums_masks():
  """As the report counts them one by one, with ids of the first few."""
  several = [convert.Record(b"", masks=n, mask_notes=(("mask_odd", n), ("mask_empty", -n))) for n in range(15)]
  halves = [beam._merge(map(beam._facts, half)) for half in (several[:7], several[7:])]
  merged = beam._merge(halves)
  assert merged["masks"] == 105 and merged["mask_notes"]["mask_odd"] == [15, list(range(10))]
  assert merged["mask_notes"]["mask_empty"][0] == 15


@pytest.mark.parametrize("name,count", [("coco_sample", 111), ("nuclei", 5530)])
def test_real_masks(shared_data, tmp_path, name, count):
  """What scoring gets is what pycocotools reads from the source, every object."""
  source = shared_data / name / "annotations" / "instances_train.json"
  convert.prepare_coco(source, shared_data / name / "images", tmp_path / "out")
  split = meta.load(tmp_path / "out").splits["train"]
  assert split["num_masks"] == count and split["report"]["mask_notes"] == {}
  content = json.loads(source.read_text())
  expected = {}
  for entry in content["annotations"]:
    expected.setdefault(str(entry["image_id"]), []).append(entry)
  for image in pipeline.groundtruth(f"{tmp_path}/out/train-*.tfrecord", masks=True):
    entries = expected.get(image["source_id"], [])
    assert len(entries) == len(image["masks"])
    for entry, rle, area in zip(entries, image["masks"], image["area"]):
      parts, size = entry["segmentation"], (image["height"], image["width"])
      rles = coco_mask.frPyObjects(parts, *size)
      assert rle == (coco_mask.merge(rles) if isinstance(parts, list) else rles)
      np.testing.assert_allclose(area, entry["area"], rtol=1e-6)
