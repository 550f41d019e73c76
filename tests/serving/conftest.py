"""Small runs of every task with fixed random weights, and image files good and bad."""

import io
import json

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 9, "name": "dog"}]
SMALL = {
  "retinanet": {"head_convs": 1, "head_width": 8},
  "mask_rcnn": {"head_convs": 1, "head_width": 8, "dense_width": 16, "endpoint_width": 16},
  "solo": {
    "head_convs": 1,
    "head_width": 8,
    "prior": 0.5,
    "solo_levels": {"sources": (3, 4), "strides": (8, 16), "grids": (6, 4), "scales": ((1, 64), (32, 256))},
  },
  "classification": {},
}


def make_run(path, task, size=(96, 128), seed=0, arch=None, **more):
  """Writes a run directory with one checkpoint, of step 500; `more` are further arguments of the model's builder."""
  import tensorflow as tf

  from spinenet_tf.backbones.catalog import architecture
  from spinenet_tf.backbones.edit import scaled
  from spinenet_tf.models.classifier import build_classifier
  from spinenet_tf.models.mask_rcnn import build_mask_rcnn
  from spinenet_tf.models.naming import variable_tree
  from spinenet_tf.models.retinanet import build_retinanet
  from spinenet_tf.models.solo import build_solo

  build = {
    "retinanet": build_retinanet,
    "mask_rcnn": build_mask_rcnn,
    "solo": build_solo,
    "classification": build_classifier,
  }[task]
  arch = arch or scaled(architecture("spinenet49s"), filter_scale=0.25, endpoint_filters=16)
  sizes = {**SMALL[task], **more}
  model = build(arch, 2, size, **sizes)
  about = {
    "format": 1,
    "task": task,
    "architecture": model.architecture.to_dict(),
    "model": {"num_classes": 2, "input_size": list(size), **sizes},
    "categories": CATEGORIES,
  }
  if task == "classification":
    about["classification"] = {"crop": 0.9}
  else:
    about["detection"] = {"score_threshold": 0.001, "max_detections": 20}
  path.mkdir(parents=True, exist_ok=True)
  (path / "model.json").write_text(json.dumps(about))
  rng = np.random.default_rng(seed)
  for variable in model.variables:
    variable.assign_add(rng.normal(0, 0.02, variable.shape).astype(variable.dtype.as_numpy_dtype))
  checkpoint = tf.train.Checkpoint(model=variable_tree(model), global_step=tf.Variable(500, dtype=tf.int64))
  tf.train.CheckpointManager(checkpoint, str(path / "checkpoints"), 3, checkpoint_name="step").save(500)
  return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
  """Task -> run directory, made at the first use."""
  folder, made = tmp_path_factory.mktemp("runs"), {}

  def get(task):
    if task not in made:
      made[task] = make_run(folder / task, task)
    return made[task]

  return get


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
  """(Task, mobile or not) -> run directory of a network of four blocks on levels 3 to 5, which converters take in seconds."""
  from spinenet_tf.backbones.spec import Architecture, BlockSpec

  folder, made = tmp_path_factory.mktemp("tiny"), {}

  def get(task, mobile=False):
    kind = "mbconv" if mobile else "residual"
    rows = ((4, kind, (0,)), (3, kind, (0, 1), True), (4, kind, (1, 2), True), (5, kind, (2, 3), True))
    if (task, mobile) not in made:
      blocks = tuple(BlockSpec(*row) for row in rows)
      arch = Architecture(
        "tiny", (BlockSpec(2, kind),), blocks, filter_scale=0.25, endpoint_filters=16, stem_filters=8, separable=mobile
      )
      levels = {} if task in ("classification", "solo") else {"min_level": 3, "max_level": 5}
      made[task, mobile] = make_run(folder / f"{task}_{mobile}", task, (64, 96), arch=arch, **levels)
    return made[task, mobile]

  return get


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
  """Task -> (result of exporting its run, the SavedModel as TensorFlow loads it), made at the first use."""
  import tensorflow as tf

  from spinenet_tf.serving.saved_model import export

  folder, made = tmp_path_factory.mktemp("exported"), {}

  def get(task):
    if task not in made:
      result = export(runs(task), folder / task, target="cpu", count=2)
      made[task] = result, tf.saved_model.load(str(result.path))
    return made[task]

  return get


@pytest.fixture(scope="session")
def blocks():
  """uint8[45, 60, 3]: squares of random colours, which a JPEG keeps roughly and a PNG exactly."""
  return np.kron(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8), np.ones((5, 5, 1), np.uint8))


@pytest.fixture(scope="session")
def image_files(blocks):
  """Image files of all kinds that are read, by name."""

  def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()

  rgb = Image.fromarray(blocks)
  deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16))
  palette = rgb.convert("P")
  files = {
    "jpeg": saved(rgb, "JPEG", quality=95),
    "progressive jpeg": saved(rgb, "JPEG", progressive=True),
    "grey jpeg": saved(rgb.convert("L"), "JPEG"),
    "cmyk jpeg": saved(rgb.convert("CMYK"), "JPEG"),
    "png": saved(rgb, "PNG"),
    "png with alpha": saved(rgb.convert("RGBA"), "PNG"),
    "grey png with alpha": saved(rgb.convert("LA"), "PNG"),
    "png of a palette": saved(palette, "PNG"),
    "png of one bit": saved(rgb.convert("1"), "PNG"),
    "png of 16 bits": saved(deep, "PNG"),
    "gif": saved(palette, "GIF"),
    "gif of three frames": saved(
      palette, "GIF", save_all=True, append_images=[palette.rotate(90), palette.rotate(180)], comment=b"x" * 600
    ),
    "bmp": saved(rgb, "BMP"),
    "bmp of 32 bits": saved(rgb.convert("RGBA"), "BMP"),
  }
  for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    files[f"jpeg of orientation {orientation}"] = saved(rgb, "JPEG", exif=exif.tobytes(), quality=95)
  return files


@pytest.fixture(scope="session")
def bad_files(image_files):
  """Files that cannot be read, by name: (bytes, part of the reason)."""
  jpeg, png, gif, bmp = (image_files[kind] for kind in ("jpeg", "png", "gif", "bmp"))
  start = jpeg.index(b"\xff\xc0") + 5
  side, swapped = b"\xc3\x50", b"\x50\xc3\0\0"  # 50,000
  return {
    "nothing": (b"", r"not an image file \(0 bytes\)"),
    "text": (b"no image", r"not an image file \(8 bytes\): JPEG, PNG, GIF and BMP are read"),
    "zeros": (bytes(500), "not an image file"),
    "half a jpeg": (jpeg[: len(jpeg) // 2], "truncated or corrupt JPEG"),
    "a jpeg's first bytes": (jpeg[:3], "truncated or corrupt JPEG"),
    "half a png": (png[:200], "truncated or corrupt PNG"),
    "a png's first bytes": (png[:8], "truncated or corrupt PNG"),
    "half a gif": (gif[:300], "truncated or corrupt GIF"),
    "a gif's first bytes": (gif[:6], "truncated or corrupt GIF"),
    "half a bmp": (bmp[:300], "truncated or corrupt BMP"),
    "huge jpeg": (jpeg[:start] + side * 2 + jpeg[start + 4 :], "50000 x 50000 pixels; at most 100000000 are taken"),
    "huge png": (png[:16] + (b"\0\0" + side) * 2 + png[24:], "50000 x 50000 pixels; at most"),
    "huge gif": (gif[:6] + b"\xff" * 4 + gif[10:], "65535 x 65535 pixels; at most"),
    "huge bmp": (bmp[:18] + swapped * 2 + bmp[26:], "50000 x 50000 pixels; at most"),
    "bmp of 8 bits": (bmp[:28] + b"\x08\0" + bmp[30:], "BMP file of 8 bits"),
  }
