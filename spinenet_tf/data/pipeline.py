"""TFRecord to batches: detection input for training and evaluation.

A training stream is a pure function of (files, seed), see `stream`; example n is augmented with the key (seed, n).
Neither the clock, the number of threads nor `tf.random.set_seed` changes it.

B: batch of this input pipeline, M: max_boxes, S: masks, h, w: network input, K: number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from spinenet_tf.data import augment, mask_targets, meta, preprocess, records, shards, stream
from spinenet_tf.data.diagnose import explain_errors
from spinenet_tf.data.groundtruth import groundtruth
from spinenet_tf.data.unreadable import Unreadable
from spinenet_tf.errors import UserError

__all__ = ["detection_dataset", "explain_errors", "groundtruth"]


def detection_dataset(
  pattern: meta.Pattern,
  *,
  image_size: tuple[int, int],
  batch_size: int,
  training: bool,
  class_ids: Sequence[int] | None = None,
  scale_jitter: tuple[float, float] = (1.0, 1.0),
  flip: bool = True,
  max_boxes: int = 100,
  masks: int = 0,
  seed: int = 0,
  start_example: int = 0,
  shuffle_buffer: int = 10_000,
  cache: bool = False,
  input_context: tf.distribute.InputContext | None = None,
  unreadable: Unreadable | None = None,
) -> tf.data.Dataset:
  """Batches of images and boxes.

  Args:
    pattern: TFRecord files, a glob pattern or a list of them.
    image_size: (h, w) of the network input in pixels.
    batch_size: examples per batch of this input pipeline (the global batch / `num_input_pipelines`).
    training: augmented, shuffled and infinite; or each example once, exact, the last batch filled up.
    class_ids: original category ids by class index (`Meta.ids`); without it class = id - 1.
    scale_jitter: (lowest, highest) factor on the input size, training only.
    flip: flip half of the images left-right, training only.
    max_boxes: boxes kept per image (M), the first ones.
    masks: bins (S) along each side of a mask, 112 for Mask R-CNN; 0 reads no masks.
    seed: of order and augmentation.
    start_example: examples this input pipeline has delivered before; the stream continues after them.
      Training only.
    shuffle_buffer: encoded records held for shuffling (COCO: 0.16 MB each); 0 shuffles the files only.
    cache: hold all encoded records of this pipeline in memory and shuffle them completely; for small sets.
    input_context: this pipeline's place among several; each reads its own part of the files, or of the
      records where there are fewer files than pipelines. In evaluation all of them give the same number of
      batches.
    unreadable: in training, records that cannot be read are passed over and counted here; None stops at the first.
  Returns: a dataset of dicts, shapes static:
    image float32[B, h, w, 3] normalised, padding 0;
    boxes float32[B, M, 4], (ymin, xmin, ymax, xmax) in input pixels, crowds left out, 0 where padding;
    classes int32[B, M], 0 to K-1, -1 where padding;
    source_id string[B]; original_size int32[B, 2] (height, width);
    scale float32[B, 2], input pixels per original pixel (y, x);
    is_real bool[B], False for what fills up the last evaluation batch;
    with `masks` also masks uint8[B, M, S, S], 0 or 1, an object's mask within its own box, row 0 at ymin, and
    has_mask bool[B, M]; all 0 and False where there is no mask or padding (see `mask_targets`).
  Raises: UserError for bad arguments, a pattern without files or records, files that contradict `class_ids`, and
    records without any mask where `masks` are wanted.
  """
  stream.check_arguments(image_size, batch_size, start_example, shuffle_buffer)
  _check_arguments(scale_jitter, max_boxes, masks)
  files = shards.find(pattern)
  class_ids = tuple(int(i) for i in class_ids) if class_ids is not None else None
  _check_meta(files, class_ids, max_boxes)
  if masks:
    mask_targets.check_files(files)
  context = input_context or tf.distribute.InputContext()

  @tf.autograph.experimental.do_not_convert
  def load(number: tf.Tensor, file: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    record = records.parse(serialized, file, masks=masks > 0)
    classes = records.class_index(record["labels"], class_ids, file, record["source_id"])
    keep = tf.logical_not(record["is_crowd"])
    if training:
      key = stream.key(seed, stream.AUGMENT, number * context.num_input_pipelines + context.input_pipeline_id)
      image, where = augment.decode_window(record["encoded"], augment.draw(key, scale_jitter, flip), image_size)
      boxes, visible = augment.transform_boxes(record["boxes"], where)
      original, scale, keep = where.original, where.scale, tf.logical_and(keep, visible)
    else:
      decoded = preprocess.decode_exact(record["encoded"])
      original = tf.shape(decoded)[:2]
      image, scale = preprocess.preprocess_image(decoded, image_size)
      boxes = record["boxes"] * tf.tile(tf.cast(original, tf.float32) * scale, [2])
      keep = tf.logical_and(keep, tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1))
    rows = tf.where(keep)[:max_boxes]
    boxes, classes = (tf.gather_nd(v, rows) for v in (boxes, classes))
    missing = max_boxes - tf.size(classes)
    crops = {}
    if masks:
      stored = augment.stored_boxes(boxes, where) if training else boxes / tf.tile(scale, [2])
      given = (tf.gather_nd(record[name], rows) for name in ("mask", "mask_corner"))
      sampled = mask_targets.sample(*given, stored, masks, max_boxes, original, file, record["source_id"])
      crops = dict(zip(("masks", "has_mask"), sampled))
    return {
      **crops,
      "image": image,
      "boxes": tf.ensure_shape(tf.pad(boxes, [[0, missing], [0, 0]]), [max_boxes, 4]),
      "classes": tf.ensure_shape(tf.pad(classes, [[0, missing]], constant_values=-1), [max_boxes]),
      "source_id": record["source_id"],
      "original_size": tf.ensure_shape(original, [2]),
      "scale": scale,
      "is_real": tf.constant(True),
    }

  return stream.batches(
    files,
    load,
    _filler(image_size, max_boxes, masks),
    batch_size=batch_size,
    training=training,
    seed=seed,
    start_example=start_example,
    shuffle_buffer=shuffle_buffer,
    cache=cache,
    context=context,
    unreadable=unreadable,
  )


def _filler(image_size: tuple[int, int], max_boxes: int, masks: int) -> dict[str, tf.Tensor]:
  crops = {"masks": tf.zeros([max_boxes, masks, masks], tf.uint8), "has_mask": tf.fill([max_boxes], False)}
  return {
    **(crops if masks else {}),
    "image": tf.zeros([*image_size, 3]),
    "boxes": tf.zeros([max_boxes, 4]),
    "classes": tf.fill([max_boxes], -1),
    "source_id": tf.constant(""),
    "original_size": tf.constant(image_size, tf.int32),
    "scale": tf.ones([2]),
    "is_real": tf.constant(False),
  }


def _check_arguments(scale_jitter: tuple[float, float], max_boxes: int, masks: int) -> None:
  if masks < 0:
    raise UserError(f"masks is {masks}; give the bins along a side, such as 112, or 0 for none")
  if max_boxes < 1:
    raise UserError(f"max_boxes is {max_boxes}; give at least 1")
  if len(scale_jitter) != 2 or not 0 < scale_jitter[0] <= scale_jitter[1]:
    raise UserError(f"scale_jitter is {scale_jitter}; give (lowest, highest) with 0 < lowest <= highest")


def _check_meta(files: list[str], class_ids: tuple[int, ...] | None, max_boxes: int) -> None:
  known = stream.check_meta(files, class_ids, "detection")
  for name in sorted({shards.split_of(file) for file in files} & set(known.splits if known else ())):
    most = known.splits[name].get("report", {}).get("max_objects_per_image", 0)
    if most > max_boxes:
      logging.warning("%s: up to %d objects per image, max_boxes=%d: the rest is not trained on", name, most, max_boxes)
