"""Input pipelines side by side: images per second of ours and of Model Garden's RetinaNet parser, same records.

  python -m benchmarks.input_pipeline --data='data/coco/train-*.tfrecord' [--size=640 --batch=8 --rounds=5 --images=240]

Both read the same TFRecords (cached in memory, so that the disk does not matter), flip, jitter by [0.5, 2.0] and batch; Model
Garden's assigns anchors on the host as well, which is how it is used, while ours leaves that to the training step. Decoding
with a plain resize, and nothing else, is the third row. The pipelines run in turn, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import time

import tensorflow as tf
from absl import app, flags

from spinenet_tf.data import pipeline, shards

FLAGS = flags.FLAGS
JITTER = (0.5, 2.0)


def ours(files: list[str], size: int, batch: int) -> tf.data.Dataset:
  return pipeline.detection_dataset(
    files, image_size=(size, size), batch_size=batch, training=True, scale_jitter=JITTER, cache=True
  )


def records(files: list[str]) -> tf.data.Dataset:
  return tf.data.TFRecordDataset(files).cache().shuffle(1000).repeat()


def model_garden(files: list[str], size: int, batch: int) -> tf.data.Dataset:
  from official.vision.dataloaders import retinanet_input, tf_example_decoder

  decoder = tf_example_decoder.TfExampleDecoder()
  parser = retinanet_input.Parser(
    output_size=[size, size],
    min_level=3,
    max_level=7,
    num_scales=3,
    aspect_ratios=[1.0, 2.0, 0.5],
    anchor_size=3.0,
    aug_rand_hflip=True,
    aug_scale_min=JITTER[0],
    aug_scale_max=JITTER[1],
    dtype="float32",
  )
  parse = parser.parse_fn(is_training=True)
  dataset = records(files).map(lambda r: parse(decoder.decode(r)), num_parallel_calls=tf.data.AUTOTUNE)
  return dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def decode_and_resize(files: list[str], size: int, batch: int) -> tf.data.Dataset:
  feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}

  def load(serialized):
    image = tf.io.decode_jpeg(tf.io.parse_single_example(serialized, feature)["image/encoded"], channels=3)
    return tf.image.resize(image, (size, size))

  dataset = records(files).map(load, num_parallel_calls=tf.data.AUTOTUNE)
  return dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _images_per_second(dataset: tf.data.Dataset, steps: int, batch: int) -> float:
  """Runs a pipeline from nothing, first until its buffers are full and its parallelism has settled; then stops it."""
  iterator = iter(dataset)
  for _ in range(max(steps // 2, 8)):
    next(iterator)
  begin = time.perf_counter()
  for _ in range(steps):
    next(iterator)
  speed = steps * batch / (time.perf_counter() - begin)
  del iterator  # else it goes on filling its buffers while the others are timed
  return speed


def main(_):
  files = shards.find(FLAGS.data)
  kinds = {"spinenet_tf": ours, "Model Garden": model_garden, "decode + resize": decode_and_resize}
  datasets = {name: make(files, FLAGS.size, FLAGS.batch) for name, make in kinds.items()}
  speeds = {name: [] for name in kinds}
  for _ in range(FLAGS.rounds):
    for name, dataset in datasets.items():
      speeds[name].append(_images_per_second(dataset, FLAGS.images // FLAGS.batch, FLAGS.batch))
  medians = {name: statistics.median(values) for name, values in speeds.items()}
  print(f"TensorFlow {tf.__version__}, {FLAGS.size} px, batch {FLAGS.batch}, median of {FLAGS.rounds} rounds")
  print(f"{'pipeline':18}{'images/s':>10}{'lowest':>10}{'highest':>10}")
  for name, values in speeds.items():
    print(f"{name:18}{medians[name]:10.1f}{min(values):10.1f}{max(values):10.1f}")
  print(f"ours / Model Garden: {medians['spinenet_tf'] / medians['Model Garden']:.1f}")


if __name__ == "__main__":
  flags.DEFINE_string("data", None, "TFRecord pattern (JPEG images).", required=True)
  flags.DEFINE_integer("size", 640, "Input size in pixels.")
  flags.DEFINE_integer("batch", 8, "Images per batch.")
  flags.DEFINE_integer("rounds", 5, "Rounds of which the median counts.")
  flags.DEFINE_integer("images", 240, "Images per round.")
  app.run(main)
