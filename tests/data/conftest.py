"""Small COCO data sets made on the spot."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_coco(tmp_path):
  """`make_coco(sizes, boxes)` writes noise images and a JSON; returns (json path, image folder, the content to edit)."""

  def make(sizes=((40, 60),), annotations=((1, [5, 6, 20, 10], 1),), suffix=".png", save=None):
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(sizes, start=1):
      name = f"{number:03d}{suffix}"
      small = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
      small.resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
      images.append({"id": number, "file_name": name, "height": height, "width": width})
    content = {
      "images": images,
      "annotations": [
        {"id": n, "image_id": image, "bbox": box, "category_id": category, "iscrowd": 0, "area": box[2] * box[3]}
        for n, (image, box, category) in enumerate(annotations, start=1)
      ],
      "categories": [{"id": 7, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path, folder, content

  return make
