"""Reading one record: the TF Object Detection / Model Garden schema, and ILSVRC's for whole images.

Everything but the image and its boxes or label may be missing, so that files made by other programs work as they are.
"""

from __future__ import annotations

import tensorflow as tf

USER_ERROR = "spinenet_tf data error: "  # marks, inside TensorFlow's error text, what `explain_errors` shows
_MASK_CROP, _MASK = "image/object/mask_crop", "image/object/mask"
_IMAGE = {
  name: tf.io.FixedLenFeature([], tf.string, "") for name in ("image/encoded", "image/source_id", "image/filename")
}


def parse(serialized: tf.Tensor, file: tf.Tensor, masks: bool = False) -> dict[str, tf.Tensor]:
  """Parses one record without decoding its image.

  Args:
    serialized: string[], a tf.train.Example.
    file: string[], the shard it came from, for error texts.
    masks: whether to read the masks of the objects.
  Returns: a dict of
    encoded string[], source_id string[] (else the file name, else a hash of the image),
    size int32[2] (height, width in pixels as the record says, -1 unknown),
    boxes float32[N, 4] (ymin, xmin, ymax, xmax) as fractions of the image in [0, 1],
    labels int64[N] original category ids, is_crowd bool[N], area float32[N] pixels^2 (-1 unknown);
    with `masks` also mask string[N], PNG files, "" where there is none, each of the whole image or a part of it,
    mask_corner int32[N, 2], (y, x) of that part in pixels.
  Raises: tf.errors.InvalidArgumentError at run time, naming shard and record.
  """

  def sequence(dtype):
    return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)

  features = {
    **_IMAGE,
    "image/height": tf.io.FixedLenFeature([], tf.int64, -1),
    "image/width": tf.io.FixedLenFeature([], tf.int64, -1),
    "image/object/class/label": sequence(tf.int64),
    "image/object/is_crowd": sequence(tf.int64),
    "image/object/area": sequence(tf.float32),
  }
  sides = [f"image/object/bbox/{side}" for side in ("ymin", "xmin", "ymax", "xmax")]
  features.update({side: sequence(tf.float32) for side in sides})
  if masks:
    features.update({name: sequence(tf.string) for name in (_MASK, _MASK_CROP)})
    features.update({f"{_MASK_CROP}/{side}": sequence(tf.int64) for side in ("ymin", "xmin")})
  record = tf.io.parse_single_example(serialized, features)

  encoded, source_id = record["image/encoded"], _identity(record)
  labels = record["image/object/class/label"]
  count = tf.size(labels)
  lengths = tf.stack([tf.size(record[side]) for side in sides])
  checks = [
    _check_encoded(encoded, file, source_id),
    check(
      tf.reduce_all(lengths == count),
      file,
      source_id,
      [
        "has ",
        count,
        " labels but box sides of lengths ",
        lengths,
        "; write one label and four sides per object",
      ],
    ),
  ]
  with tf.control_dependencies(checks):
    boxes = tf.stack([tf.identity(record[side]) for side in sides], axis=-1)
  in_range = tf.logical_and(boxes >= -0.5, boxes <= 1.5)  # false for NaN as well
  text = [
    "has boxes from ",
    tf.reduce_min(boxes),
    " to ",
    tf.reduce_max(boxes),
    "; sides are fractions of the image, 0 to 1",
  ]
  with tf.control_dependencies([check(tf.reduce_all(in_range), file, source_id, text)]):
    boxes = tf.clip_by_value(boxes, 0.0, 1.0)

  def optional(name: str, missing: int) -> tf.Tensor:
    values = record[name]
    return tf.cond(tf.size(values) == count, lambda: values, lambda: tf.fill([count], tf.cast(missing, values.dtype)))

  return {
    **(_masks(record, count, file, source_id) if masks else {}),
    "encoded": encoded,
    "source_id": source_id,
    "size": tf.cast(tf.stack([record["image/height"], record["image/width"]]), tf.int32),
    "boxes": boxes,
    "labels": labels,
    "is_crowd": optional("image/object/is_crowd", 0) > 0,
    "area": optional("image/object/area", -1),
  }


def _masks(record: dict[str, tf.Tensor], count: tf.Tensor, file: tf.Tensor, source_id: tf.Tensor) -> dict:
  """The masks of the objects: crops, else whole images, else none."""
  crops, whole = record[_MASK_CROP], record[_MASK]
  corners = [record[f"{_MASK_CROP}/{side}"] for side in ("ymin", "xmin")]
  lengths = tf.stack([tf.size(v) for v in (crops, *corners)])
  fits = [tf.reduce_all(tf.logical_or(n == 0, n == count)) for n in (lengths, tf.size(whole))]
  fits.append(tf.reduce_all(lengths == lengths[0]))
  text = ["has ", count, " labels but ", lengths, " mask crops and corners, ", tf.size(whole), " masks; one per object"]
  with tf.control_dependencies([check(tf.reduce_all(fits), file, source_id, text)]):
    has_crops = tf.size(crops) > 0
  none = tf.fill([count], "")
  mask = tf.cond(has_crops, lambda: crops, lambda: tf.cond(tf.size(whole) > 0, lambda: whole, lambda: none))
  corner = tf.cond(
    has_crops, lambda: tf.cast(tf.stack(corners, axis=1), tf.int32), lambda: tf.zeros([count, 2], tf.int32)
  )
  return {"mask": tf.ensure_shape(mask, [None]), "mask_corner": tf.ensure_shape(corner, [None, 2])}


def parse_label(serialized: tf.Tensor, file: tf.Tensor) -> dict[str, tf.Tensor]:
  """Parses one record of an image with one label, without decoding the image.

  Args:
    serialized: string[], a tf.train.Example.
    file: string[], the shard it came from, for error texts.
  Returns: a dict of encoded string[], source_id string[] (as in `parse`), label int64[] original category id.
  Raises: tf.errors.InvalidArgumentError at run time, naming shard and record.
  """
  name = "image/class/label"
  features = {**_IMAGE, name: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)}
  record = tf.io.parse_single_example(serialized, features)
  encoded, source_id, labels = record["image/encoded"], _identity(record), record[name]
  text = ["has ", tf.size(labels), f" values of {name}; a record for classification needs one"]
  checks = [_check_encoded(encoded, file, source_id), check(tf.size(labels) == 1, file, source_id, text)]
  with tf.control_dependencies(checks):
    return {"encoded": tf.identity(encoded), "source_id": source_id, "label": tf.reshape(labels[:1], [])}


def _identity(record: dict[str, tf.Tensor]) -> tf.Tensor:
  """string[]: the source id, else the file name, else a hash of the image."""
  source_id = record["image/source_id"]
  source_id = tf.where(tf.strings.length(source_id) > 0, source_id, record["image/filename"])
  # Errors cite it, and Python cannot read an error that is not UTF-8.
  source_id = tf.strings.unicode_transcode(source_id, "UTF-8", "UTF-8", errors="replace")
  return tf.cond(
    tf.strings.length(source_id) > 0,
    lambda: source_id,
    lambda: tf.strings.as_string(tf.strings.to_hash_bucket_fast(record["image/encoded"], 2**22 - 1)),
  )


def _check_encoded(encoded: tf.Tensor, file: tf.Tensor, source_id: tf.Tensor) -> tf.Operation:
  return check(tf.strings.length(encoded) > 0, file, source_id, ["has no image/encoded; every record needs an image"])


def class_index(
  labels: tf.Tensor, class_ids: tuple[int, ...] | None, file: tf.Tensor, source_id: tf.Tensor
) -> tf.Tensor:
  """Original category ids int64[N] to model classes int32[N], 0 to K-1; without `class_ids` id - 1.

  Raises: tf.errors.InvalidArgumentError at run time for an id that is not in `class_ids` (or below 1).
  """
  if class_ids is None:
    text = ["has class id ", tf.reduce_min(labels), "; ids start at 1 unless class_ids lists them"]
    with tf.control_dependencies([check(tf.reduce_all(labels >= 1), file, source_id, text)]):
      return tf.cast(labels - 1, tf.int32)
  same = labels[:, tf.newaxis] == tf.constant(class_ids, tf.int64)
  known = tf.reduce_any(same, axis=1)
  text = [
    "has class ids ",
    tf.boolean_mask(labels, tf.logical_not(known)),
    f" which are not among the {len(class_ids)} known ones ({_some(class_ids)}); "
    "give class_ids (meta.json) the classes of these files",
  ]
  with tf.control_dependencies([check(tf.reduce_all(known), file, source_id, text)]):
    return tf.argmax(same, axis=1, output_type=tf.int32)


def check(condition: tf.Tensor, file: tf.Tensor, source_id: tf.Tensor, text: list) -> tf.Operation:
  """Stops the input with `<shard>: record <source_id> <text>` where `condition` is false."""

  def fail():
    parts = [p if isinstance(p, str) else tf.strings.format("{}", p) for p in text]
    message = tf.strings.join([USER_ERROR, file, ": record '", source_id, "' ", *parts, "."])
    return tf.debugging.Assert(False, [message], summarize=-1)

  return tf.cond(condition, tf.no_op, fail)


def _some(ids: tuple[int, ...]) -> str:
  return ", ".join(map(str, ids)) if len(ids) <= 12 else f"{', '.join(map(str, ids[:10]))}, ... {ids[-1]}"
