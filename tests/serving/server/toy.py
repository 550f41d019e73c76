"""A small SavedModel with the signatures of an exported detector, and some that only servers care about.

Its detections tell of the picture: scores and a box follow from its mean colour and its size, so each picture has its own.
"""

import json
import pathlib

import tensorflow as tf

from spinenet_tf.serving.decode import decode, decode_example

NAMES = {7: "red things", 3: "green things", 11: "blue things"}


class Toy(tf.Module):
  """Finds the three colours, the strongest first; above half the image, the last below 0.1 is padding."""

  def _find(self, means, sizes, errors):
    ok = errors == ""
    order = tf.argsort(means, axis=-1, direction="DESCENDING", stable=True)
    scores = tf.gather(means, order, batch_dims=1) / 255.0
    height, width = tf.split(tf.cast(sizes, tf.float32), 2, axis=-1)
    zeros = tf.zeros_like(height)
    boxes = tf.stack([tf.concat([zeros, zeros, height / k, width / k], -1) for k in (1, 2, 3)], axis=1)
    real = ok[:, None] & (scores >= 0.1)
    return {
      "detection_boxes": tf.where(real[..., None], boxes, 0.0),
      "detection_scores": tf.where(real, scores, 0.0),
      "detection_classes": tf.where(
        real, tf.gather(tf.constant(list(NAMES), tf.int64), order), tf.constant(-1, tf.int64)
      ),
      "num_detections": tf.reduce_sum(tf.cast(real, tf.int32), -1),
      "image_error": errors,
    }

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False)
  def from_images(self, images):
    sizes = tf.tile(tf.shape(images)[None, 1:3], [tf.shape(images)[0], 1])
    return self._find(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]), sizes, tf.fill([tf.shape(images)[0]], ""))

  def _from_files(self, files, read):
    def one(data):
      image, error = read(data)
      return tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]), tf.shape(image)[:2], error

    specs = (tf.TensorSpec([3]), tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.string))
    return self._find(*tf.map_fn(one, files, fn_output_signature=specs))

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
  def from_files(self, image_bytes):
    return self._from_files(image_bytes, decode)

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
  def from_examples(self, examples):
    return self._from_files(examples, decode_example)

  @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)], autograph=False)
  def raw(self, images):
    return {"raw_scores": tf.reduce_mean(images, [2, 3])}

  @tf.function(
    input_signature=[tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None], tf.string)], autograph=False
  )
  def several(self, signal, tag):
    return {"sum": tf.reduce_sum(signal, -1), "tag_bytes": tag, "tag": tag, "even": tf.cast(signal, tf.int32) % 2 == 0}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
  def half(self, x):
    return {"y": x / 2 + 2}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
  def total(self, x):
    return {"total": tf.reduce_sum(x)}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
  def wait(self, seconds):
    """Keeps the model's thread for so many seconds."""
    end = tf.timestamp() + tf.cast(tf.reduce_max(seconds), tf.float64)
    tf.while_loop(lambda i: tf.timestamp() < end, lambda i: (i + 1,), (tf.constant(0, tf.int64),))
    return {"waited": seconds}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
  def picky(self, x):
    with tf.control_dependencies([tf.debugging.assert_less(x, 10.0, "x is above ten")]):
      return {"y": tf.identity(x)}


def export_toy(folder: pathlib.Path) -> pathlib.Path:
  """Writes the SavedModel with labels and information. Returns: the folder."""
  toy = Toy()
  signatures = {
    "serving_default": toy.from_images,
    "image_bytes": toy.from_files,
    "tf_example": toy.from_examples,
    "raw": toy.raw,
    "several": toy.several,
    "half": toy.half,
    "total": toy.total,
    "wait": toy.wait,
    "picky": toy.picky,
  }
  tf.saved_model.save(toy, str(folder), signatures=signatures)
  (folder / "assets").mkdir(exist_ok=True)
  (folder / "assets" / "labels.txt").write_text("".join(f"{key}\t{name}\n" for key, name in NAMES.items()))
  info = {"task": "retinanet", "architecture": {"name": "toy<b>"}, "input_size": [4, 4], "num_classes": 3}
  (folder / "export_info.json").write_text(json.dumps(info))
  return folder
