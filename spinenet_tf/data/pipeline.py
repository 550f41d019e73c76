"""TFRecord to batches: detection input for training and evaluation.

A training stream is infinite and a pure function of (files, seed): epoch e is read in the order of (seed, e),
example n is augmented with the key (seed, n), and a stream started at example n continues exactly as one
that ran there. Neither the clock, the number of threads nor `tf.random.set_seed` changes it.

B: batch of this input pipeline, M: max_boxes, h, w: network input, K: number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from spinenet_tf.data import augment, meta, preprocess, records, shards
from spinenet_tf.data.diagnose import explain_errors
from spinenet_tf.data.groundtruth import groundtruth
from spinenet_tf.errors import UserError

__all__ = ["detection_dataset", "explain_errors", "groundtruth"]

_GRAPH_SEED = 87654321  # TensorFlow's own default, so that tf.random.set_seed leaves the stream alone
_SHUFFLE, _AUGMENT = 1, 2  # streams of random numbers


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
  seed: int = 0,
  start_example: int = 0,
  shuffle_buffer: int = 10_000,
  cache: bool = False,
  input_context: tf.distribute.InputContext | None = None,
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
    seed: of order and augmentation.
    start_example: examples this input pipeline has delivered before; the stream continues after them.
      Training only.
    shuffle_buffer: encoded records held for shuffling (COCO: 0.16 MB each); 0 shuffles the files only.
    cache: hold all encoded records of this pipeline in memory and shuffle them completely; for small sets.
    input_context: this pipeline's place among several; each reads its own part of the files, or of the
      records where there are fewer files than pipelines. In evaluation all of them give the same number of
      batches.
  Returns: a dataset of dicts, shapes static:
    image float32[B, h, w, 3] normalised, padding 0;
    boxes float32[B, M, 4], (ymin, xmin, ymax, xmax) in input pixels, crowds left out, 0 where padding;
    classes int32[B, M], 0 to K-1, -1 where padding;
    source_id string[B]; original_size int32[B, 2] (height, width);
    scale float32[B, 2], input pixels per original pixel (y, x);
    is_real bool[B], False for what fills up the last evaluation batch.
  Raises: UserError for bad arguments, a pattern without files or records, and files that contradict
    `class_ids`.
  """
  _check_arguments(image_size, batch_size, scale_jitter, max_boxes, start_example, shuffle_buffer)
  files = shards.find(pattern)
  class_ids = tuple(int(i) for i in class_ids) if class_ids is not None else None
  _check_meta(files, class_ids, max_boxes)
  context = input_context or tf.distribute.InputContext()
  pipelines, index = context.num_input_pipelines, context.input_pipeline_id

  @tf.autograph.experimental.do_not_convert
  def load(number: tf.Tensor, file: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    record = records.parse(serialized, file)
    classes = records.class_index(record["labels"], class_ids, file, record["source_id"])
    keep = tf.logical_not(record["is_crowd"])
    if training:
      key = _key(seed, _AUGMENT, number * pipelines + index)
      image, where = augment.decode_window(record["encoded"], augment.draw(key, scale_jitter, flip), image_size)
      boxes, visible = augment.transform_boxes(record["boxes"], where)
      original, scale, keep = where.original, where.scale, tf.logical_and(keep, visible)
    else:
      decoded = decode_exact(record["encoded"])
      original = tf.shape(decoded)[:2]
      image, scale = preprocess.preprocess_image(decoded, image_size)
      boxes = record["boxes"] * tf.tile(tf.cast(original, tf.float32) * scale, [2])
      keep = tf.logical_and(keep, tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1))
    boxes, classes = (tf.boolean_mask(v, keep)[:max_boxes] for v in (boxes, classes))
    missing = max_boxes - tf.size(classes)
    return {
      "image": image,
      "boxes": tf.ensure_shape(tf.pad(boxes, [[0, missing], [0, 0]]), [max_boxes, 4]),
      "classes": tf.ensure_shape(tf.pad(classes, [[0, missing]], constant_values=-1), [max_boxes]),
      "source_id": record["source_id"],
      "original_size": tf.ensure_shape(original, [2]),
      "scale": scale,
      "is_real": tf.constant(True),
    }

  if training:
    stream = _training_stream(files, seed, start_example, shuffle_buffer, cache, pipelines, index)
  else:
    stream, examples = _evaluation_stream(files, pipelines, index)
  dataset = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  if not training:
    if cache:
      dataset = dataset.cache()
    filler = tf.data.Dataset.from_tensors(_filler(image_size, max_boxes)).repeat()
    most = -(-examples // pipelines)  # the pipeline with the most examples
    dataset = dataset.concatenate(filler).take(-(-most // batch_size) * batch_size)
  dataset = dataset.batch(batch_size, drop_remainder=True)
  options = tf.data.Options()
  options.deterministic = True
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF  # done here
  return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def decode_exact(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes string[] (JPEG, PNG, BMP, GIF's first frame) to uint8[H, W, 3], JPEG with the accurate DCT."""
  image = tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
    lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
  )
  return tf.ensure_shape(image, [None, None, 3])


def _training_stream(files, seed, start_example, shuffle_buffer, cache, pipelines, index) -> tf.data.Dataset:
  """Endless (example number int64[], file string[], record string[]), from `start_example` on."""
  by_file = len(files) >= pipelines > 1
  if by_file:
    files = files[index::pipelines]
  by_record = pipelines > 1 and not by_file

  def share(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.shard(pipelines, index) if by_record else dataset

  if cache:
    kept = list(share(_read(files)).as_numpy_iterator())
    if not kept:
      raise UserError(f"no records in {files[0]} and {len(files) - 1} other files for pipeline {index} of {pipelines}")
    names, contents = (tf.constant(column) for column in zip(*kept))
    examples = len(kept)
  else:
    examples = -(-(sum(shards.count(files)) - (index if by_record else 0)) // (pipelines if by_record else 1))
    if examples < 1:
      raise UserError(f"no records in {files[0]} and {len(files) - 1} other files for pipeline {index} of {pipelines}")

  @tf.autograph.experimental.do_not_convert
  def epoch(number: tf.Tensor) -> tf.data.Dataset:
    tf.random.set_seed(_GRAPH_SEED)  # of the function being traced, not the global one
    key = _key(seed, _SHUFFLE, number)
    if cache:
      order = tf.random.experimental.stateless_shuffle(tf.range(examples), key)
      return tf.data.Dataset.from_tensor_slices(order).map(lambda i: (names[i], contents[i]))
    order = tf.random.experimental.stateless_shuffle(tf.constant(files), key)
    dataset = share(_read(order, cycle=min(16, len(files))))
    if shuffle_buffer > 1:
      key = tf.random.experimental.stateless_fold_in(key, tf.constant(1, tf.int64))
      dataset = dataset.shuffle(shuffle_buffer, seed=key[0], reshuffle_each_iteration=False)
    return dataset

  # Skips whole epochs without reading them, and the rest before decoding.
  skipped = start_example // examples
  stream = tf.data.Dataset.range(skipped, tf.int64.max).flat_map(epoch).skip(start_example - skipped * examples)
  return stream.enumerate(start_example).map(lambda number, pair: (number, *pair))


def _evaluation_stream(files, pipelines, index) -> tuple[tf.data.Dataset, int]:
  """(number, file, record) of this pipeline's share, each once in file order; and the records of all
  pipelines.
  """
  examples = sum(shards.count(files))
  if examples < 1:
    raise UserError(f"no records in {files[0]} and {len(files) - 1} other files")
  stream = _read(files).enumerate()
  if pipelines > 1:
    stream = stream.shard(pipelines, index)
  return stream.map(lambda number, pair: (number, *pair)), examples


def _read(files, cycle: int = 1) -> tf.data.Dataset:
  """(file string[], record string[]), `cycle` files at a time, in a fixed order."""

  def one(file: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(file, buffer_size=1 << 20).map(lambda record: (file, record))

  order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True} if cycle > 1 else {}
  return tf.data.Dataset.from_tensor_slices(files).interleave(one, cycle_length=cycle, **order)


def _key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
  """int64[2], the key of item `number` of one stream of random numbers."""
  key = tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), tf.cast(number, tf.int64))
  return tf.ensure_shape(key, [2])


def _filler(image_size: tuple[int, int], max_boxes: int) -> dict[str, tf.Tensor]:
  return {
    "image": tf.zeros([*image_size, 3]),
    "boxes": tf.zeros([max_boxes, 4]),
    "classes": tf.fill([max_boxes], -1),
    "source_id": tf.constant(""),
    "original_size": tf.constant(image_size, tf.int32),
    "scale": tf.ones([2]),
    "is_real": tf.constant(False),
  }


def _check_arguments(image_size, batch_size, scale_jitter, max_boxes, start_example, shuffle_buffer) -> None:
  if len(image_size) != 2 or min(image_size) < 1:
    raise UserError(f"image_size is {image_size}; give (height, width) in pixels, both at least 1")
  if batch_size < 1 or max_boxes < 1:
    raise UserError(f"batch_size {batch_size} and max_boxes {max_boxes} must be at least 1")
  if len(scale_jitter) != 2 or not 0 < scale_jitter[0] <= scale_jitter[1]:
    raise UserError(f"scale_jitter is {scale_jitter}; give (lowest, highest) with 0 < lowest <= highest")
  if start_example < 0 or shuffle_buffer < 0:
    raise UserError(f"start_example {start_example} and shuffle_buffer {shuffle_buffer} must not be negative")


def _check_meta(files: list[str], class_ids: tuple[int, ...] | None, max_boxes: int) -> None:
  """Compares the arguments with meta.json where there is one."""
  if class_ids is not None and (not class_ids or len(set(class_ids)) != len(class_ids)):
    raise UserError(f"class_ids {class_ids} must be unique and not empty")
  known = meta.load(files)
  if known is None:
    return
  unknown = sorted(set(known.ids) - set(class_ids)) if class_ids is not None else []
  if unknown:
    raise UserError(
      f"{meta.directory(files)}: meta.json has class ids {unknown} not among the {len(class_ids)} of "
      f"class_ids; the data set has {known.num_classes} classes: use its meta.json for the experiment"
    )
  for name in sorted({shards.split_of(file) for file in files} & set(known.splits)):
    most = known.splits[name].get("report", {}).get("max_objects_per_image", 0)
    if most > max_boxes:
      logging.warning("%s: up to %d objects per image, max_boxes=%d: the rest is not trained on", name, most, max_boxes)
