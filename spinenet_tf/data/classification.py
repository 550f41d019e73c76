"""TFRecord to batches: images with one label each, for training and evaluation.

A training stream is a pure function of (files, seed), see `stream`; example n is cropped and flipped with the key (seed, n).

B: batch of this input pipeline, h, w: network input, K: number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from spinenet_tf.data import crop, meta, preprocess, records, shards, stream
from spinenet_tf.data.unreadable import Unreadable
from spinenet_tf.errors import UserError


def classification_dataset(
  pattern: meta.Pattern,
  *,
  image_size: tuple[int, int],
  batch_size: int,
  training: bool,
  class_ids: Sequence[int] | None = None,
  crop_area: tuple[float, float] = (0.08, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: bool = True,
  eval_crop: float = 0.875,
  seed: int = 0,
  start_example: int = 0,
  shuffle_buffer: int = 10_000,
  cache: bool = False,
  input_context: tf.distribute.InputContext | None = None,
  unreadable: Unreadable | None = None,
) -> tf.data.Dataset:
  """Batches of images and labels.

  Args:
    pattern: TFRecord files, a glob pattern or a list of them.
    image_size: (h, w) of the network input in pixels.
    batch_size: examples per batch of this input pipeline (the global batch / `num_input_pipelines`).
    training: cropped at random, shuffled and infinite; or each example once, exact, the last batch filled up.
    class_ids: original category ids by class index (`Meta.ids`); without it class = id - 1.
    crop_area: (lowest, highest) share of the image that a crop covers, training only.
    crop_ratio: (lowest, highest) width / height of a crop in stored pixels, training only.
    flip: flip half of the images left-right, training only.
    eval_crop: side of the middle crop / the largest of the input's shape, for evaluation and for images of which
      no random crop can be taken.
    seed: of order and augmentation.
    start_example: examples this input pipeline has delivered before; the stream continues after them.
      Training only.
    shuffle_buffer: encoded records held for shuffling (ImageNet: 0.11 MB each); 0 shuffles the files only.
    cache: hold all encoded records of this pipeline (in evaluation: its decoded images) in memory; for small sets.
    input_context: this pipeline's place among several, as in `pipeline.detection_dataset`.
    unreadable: in training, records that cannot be read are passed over and counted here; None stops at the first.
  Returns: a dataset of dicts, shapes static:
    image float32[B, h, w, 3] normalised;
    label int32[B], class index 0 to K-1, -1 where padding;
    source_id string[B];
    is_real bool[B], False for what fills up the last evaluation batch.
  Raises: UserError for bad arguments, a pattern without files or records, and files that contradict
    `class_ids` or hold records of another task.
  """
  stream.check_arguments(image_size, batch_size, start_example, shuffle_buffer)
  _check_crops(crop_area, crop_ratio, eval_crop)
  files = shards.find(pattern)
  class_ids = tuple(int(i) for i in class_ids) if class_ids is not None else None
  stream.check_meta(files, class_ids, "classification")
  context = input_context or tf.distribute.InputContext()

  @tf.autograph.experimental.do_not_convert
  def load(number: tf.Tensor, file: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    record = records.parse_label(serialized, file)
    label = records.class_index(record["label"][tf.newaxis], class_ids, file, record["source_id"])
    if training:
      key = stream.key(seed, stream.AUGMENT, number * context.num_input_pipelines + context.input_pipeline_id)
      image = crop.decode_crop(record["encoded"], key, image_size, crop_area, crop_ratio, flip, eval_crop)
    else:
      image = preprocess.preprocess_crop(preprocess.decode_exact(record["encoded"]), image_size, eval_crop)
    return {
      "image": image,
      "label": tf.ensure_shape(label, [1])[0],
      "source_id": record["source_id"],
      "is_real": tf.constant(True),
    }

  filler = {
    "image": tf.zeros([*image_size, 3]),
    "label": tf.constant(-1),
    "source_id": tf.constant(""),
    "is_real": tf.constant(False),
  }
  return stream.batches(
    files,
    load,
    filler,
    batch_size=batch_size,
    training=training,
    seed=seed,
    start_example=start_example,
    shuffle_buffer=shuffle_buffer,
    cache=cache,
    context=context,
    unreadable=unreadable,
  )


def _check_crops(area: tuple[float, float], ratio: tuple[float, float], eval_crop: float) -> None:
  if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
    raise UserError(f"crop_area is {area}; give (lowest, highest) with 0 < lowest <= highest <= 1")
  if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
    raise UserError(f"crop_ratio is {ratio}; give (lowest, highest) width / height with 0 < lowest <= highest")
  if not 0 < eval_crop <= 1:
    raise UserError(f"eval_crop is {eval_crop}; give the share of the image's side, above 0 and at most 1")
