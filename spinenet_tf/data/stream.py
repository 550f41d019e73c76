"""Encoded examples in the order they are wanted: what all input pipelines have in common.

A training stream is infinite and a pure function of (files, seed): epoch e is read in the order of (seed, e), and a stream
started at example n continues exactly as one that ran there. An evaluation stream gives each example once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from spinenet_tf.data import meta, shards
from spinenet_tf.data.unreadable import Unreadable, load_readable
from spinenet_tf.errors import UserError

SHUFFLE, AUGMENT = 1, 2  # streams of random numbers
_GRAPH_SEED = 87654321  # TensorFlow's own default, so that tf.random.set_seed leaves the stream alone

Example = Mapping[str, tf.Tensor]


def batches(
  files: Sequence[str],
  load: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Example],
  filler: Example,
  *,
  batch_size: int,
  training: bool,
  seed: int,
  start_example: int,
  shuffle_buffer: int,
  cache: bool,
  context: tf.distribute.InputContext,
  unreadable: Unreadable | None = None,
) -> tf.data.Dataset:
  """Batches of loaded examples.

  Args:
    files: all shards, sorted.
    load: (number int64[], file string[], record string[]) -> example; `number` counts over all pipelines in
      training.
    filler: an example that fills up the last evaluation batch.
    batch_size: examples per batch of this pipeline.
    training: shuffled and infinite; or each example once, in file order, the same number of batches in every
      pipeline.
    seed, start_example, shuffle_buffer, cache: as `pipeline.detection_dataset` says.
    context: this pipeline's place among several.
    unreadable: in training, what cannot be read is passed over and told to this; None ends the stream there.
  Raises: UserError where there are no records for this pipeline.
  """
  pipelines, index = context.num_input_pipelines, context.input_pipeline_id
  if training:
    lenient = unreadable is not None
    dataset, examples = _training_stream(files, seed, start_example, shuffle_buffer, cache, pipelines, index, lenient)
  else:
    dataset, examples = _evaluation_stream(files, pipelines, index)
  if training and unreadable:
    dataset = load_readable(dataset, load, filler, start_example, examples, unreadable)
  else:
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  if not training:
    if cache:
      dataset = dataset.cache()
    most = -(-examples // pipelines)  # the pipeline with the most examples
    dataset = dataset.concatenate(tf.data.Dataset.from_tensors(dict(filler)).repeat())
    dataset = dataset.take(-(-most // batch_size) * batch_size)
  dataset = dataset.batch(batch_size, drop_remainder=True)
  options = tf.data.Options()
  options.deterministic = True
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF  # done here
  return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def key(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
  """int64[2], the key of item `number` of one stream of random numbers."""
  folded = tf.random.experimental.stateless_fold_in(tf.constant([seed, stream], tf.int64), tf.cast(number, tf.int64))
  return tf.ensure_shape(folded, [2])


def check_arguments(image_size: tuple[int, int], batch_size: int, start_example: int, shuffle_buffer: int) -> None:
  """Raises UserError for values that make no sense."""
  if len(image_size) != 2 or min(image_size) < 1:
    raise UserError(f"image_size is {image_size}; give (height, width) in pixels, both at least 1")
  if batch_size < 1:
    raise UserError(f"batch_size is {batch_size}; give at least 1")
  if start_example < 0 or shuffle_buffer < 0:
    raise UserError(f"start_example {start_example} and shuffle_buffer {shuffle_buffer} must not be negative")


def check_meta(files: Sequence[str], class_ids: tuple[int, ...] | None, task: str) -> meta.Meta | None:
  """Compares the files and the classes asked for with meta.json.

  Returns: its content, None where there is none.
  Raises: UserError for another task's records, and class ids that are not unique or do not cover the data.
  """
  if class_ids is not None and (not class_ids or len(set(class_ids)) != len(class_ids)):
    raise UserError(f"class_ids {class_ids} must be unique and not empty")
  known = meta.load(files)
  if known is None:
    return None
  folder = meta.directory(files)
  if known.task != task:
    raise UserError(f"{folder}: meta.json says the records are for {known.task}, not {task}; prepare them for {task}")
  unknown = sorted(set(known.ids) - set(class_ids)) if class_ids is not None else []
  if unknown:
    shown = f"{unknown[:10]} and {len(unknown) - 10} more" if len(unknown) > 10 else str(unknown)
    raise UserError(
      f"{folder}: meta.json has class ids {shown} not among the {len(class_ids)} of "
      f"class_ids; the data set has {known.num_classes} classes: use its meta.json for the experiment"
    )
  return known


def _training_stream(files, seed, start_example, shuffle_buffer, cache, pipelines, index, lenient):
  """Endless (example number int64[], file string[], record string[]), from `start_example` on; and an epoch's examples.

  With `lenient` what cannot be read of a file is delivered as empty records.
  """
  by_file = len(files) >= pipelines > 1
  if by_file:
    files = files[index::pipelines]
  by_record = pipelines > 1 and not by_file

  def share(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.shard(pipelines, index) if by_record else dataset

  counts = shards.count(files) if lenient or not cache else []
  sizes = _sizes(files, counts) if lenient else None
  if cache:
    kept = list(share(_read(files, sizes=sizes)).as_numpy_iterator())
    if not kept:
      raise UserError(f"no records in {files[0]} and {len(files) - 1} other files for pipeline {index} of {pipelines}")
    names, contents = (tf.constant(column) for column in zip(*kept))
    examples = len(kept)
  else:
    examples = -(-(sum(counts) - (index if by_record else 0)) // (pipelines if by_record else 1))
    if examples < 1:
      raise UserError(f"no records in {files[0]} and {len(files) - 1} other files for pipeline {index} of {pipelines}")

  @tf.autograph.experimental.do_not_convert
  def epoch(number: tf.Tensor) -> tf.data.Dataset:
    tf.random.set_seed(_GRAPH_SEED)  # of the function being traced, not the global one
    own = key(seed, SHUFFLE, number)
    if cache:
      order = tf.random.experimental.stateless_shuffle(tf.range(examples), own)
      return tf.data.Dataset.from_tensor_slices(order).map(lambda i: (names[i], contents[i]))
    order = tf.random.experimental.stateless_shuffle(tf.constant(files), own)
    dataset = share(_read(order, cycle=min(16, len(files)), sizes=sizes))
    if shuffle_buffer > 1:
      own = tf.random.experimental.stateless_fold_in(own, tf.constant(1, tf.int64))
      dataset = dataset.shuffle(shuffle_buffer, seed=own[0], reshuffle_each_iteration=False)
    return dataset

  # Skips whole epochs without reading them, and the rest before decoding.
  skipped = start_example // examples
  stream = tf.data.Dataset.range(skipped, tf.int64.max).flat_map(epoch).skip(start_example - skipped * examples)
  return stream.enumerate(start_example).map(lambda number, pair: (number, *pair)), examples


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


def _sizes(files: Sequence[str], counts: Sequence[int]) -> tf.lookup.StaticHashTable:
  """File -> its number of records."""
  pairs = tf.lookup.KeyValueTensorInitializer(list(files), list(counts), tf.string, tf.int64)
  return tf.lookup.StaticHashTable(pairs, default_value=0)


def _read(files, cycle: int = 1, sizes: tf.lookup.StaticHashTable | None = None) -> tf.data.Dataset:
  """(file string[], record string[]), `cycle` files at a time, in a fixed order.

  With `sizes` each file gives as many records as it should, empty ones for what cannot be read.
  """

  def one(file: tf.Tensor) -> tf.data.Dataset:
    names = file
    if sizes is not None:  # `ignore_errors` would try to open a file that is gone again and again
      names = tf.repeat(file, tf.minimum(tf.size(tf.io.matching_files(file)), 1))
    found = tf.data.TFRecordDataset(names, buffer_size=1 << 20)
    if sizes is not None:
      rest = tf.data.Dataset.from_tensors("").repeat()
      found = found.ignore_errors(log_warning=False).concatenate(rest).take(sizes.lookup(file))
    return found.map(lambda record: (file, record))

  order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True} if cycle > 1 else {}
  return tf.data.Dataset.from_tensor_slices(files).interleave(one, cycle_length=cycle, **order)
