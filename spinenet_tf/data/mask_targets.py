"""Masks for training: each object's mask within its own box, on a grid of S x S bins.

The mask is sampled bilinearly at the centres of the bins of the box as it lies in the network's input (moved, clipped),
in the pixels of the stored image; 1/2 and more is 1. [2.18: masks are stored as 112 x 112 crops]
Objects are decoded one after the other, so memory is that of one mask beside the result.
"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.data import meta, records, shards
from spinenet_tf.errors import UserError

_HALF = 127.4  # of 255; a little less than one half, so that rounding does not decide ties


def sample(
  masks: tf.Tensor,
  corners: tf.Tensor,
  boxes: tf.Tensor,
  side: int,
  slots: int,
  original: tf.Tensor,
  file: tf.Tensor,
  source_id: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Samples the masks of one image.

  Args:
    masks: string[N], PNG files of crops of the masks, pixels above 0 belong to the object; "" where there is none.
    corners: int32[N, 2], (ymin, xmin) of the crops in the stored image.
    boxes: float32[N, 4], (ymin, xmin, ymax, xmax) in pixels of the stored image; xmin > xmax samples it mirrored.
    side: S, bins along each side of a box.
    slots: M, at least N.
    original: int32[2], (H, W) of the stored image in pixels.
    file, source_id: string[], for error texts.
  Returns: (uint8[M, S, S], 0 or 1, row 0 at ymin, 0 where there is no mask or object; bool[M], whether there is one).
  Raises: tf.errors.InvalidArgumentError at run time for masks that are no PNG files or leave the image.
  """
  rows = tf.where(tf.strings.length(masks) > 0)
  masks, corners, boxes = (tf.gather_nd(v, rows) for v in (masks, corners, boxes))
  sizes = _sizes(masks, file, source_id)
  inside = tf.logical_and(corners >= 0, corners + sizes <= original)
  text = ["has masks of ", sizes, " pixels at ", corners, " (y, x) in an image of ", original, "; they must lie inside"]
  with tf.control_dependencies([records.check(tf.reduce_all(inside), file, source_id, text)]):
    low, high = boxes[:, :2], boxes[:, 2:]
  half_bin = (high - low) * (0.5 / side)
  # A pixel's centre is at its index + 1/2; the crop gets a border of one pixel, beyond which all is 0.
  shift = 0.5 - tf.cast(corners, tf.float32)
  centres = tf.concat([low + half_bin + shift, high - half_bin + shift], axis=1)
  centres /= tf.tile(tf.cast(sizes + 1, tf.float32), [1, 2])

  with tf.control_dependencies([sizes]):  # nothing is decoded before it is known to be PNG
    masks = tf.identity(masks)

  def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    png, where = item
    pixels = tf.minimum(tf.io.decode_png(png, channels=1), 1) * 255
    pixels = tf.pad(pixels, [[1, 1], [1, 1], [0, 0]])[tf.newaxis]
    values = tf.image.crop_and_resize(pixels, where[tf.newaxis], [0], [side, side])
    return tf.cast(values[0, :, :, 0] > _HALF, tf.uint8)

  spec = tf.TensorSpec([side, side], tf.uint8)
  sampled = tf.map_fn(one, (masks, centres), fn_output_signature=spec, parallel_iterations=1)
  given = tf.fill([tf.shape(sampled)[0]], True)
  return tf.scatter_nd(rows, sampled, [slots, side, side]), tf.scatter_nd(rows, given, [slots])


def _sizes(masks: tf.Tensor, file: tf.Tensor, source_id: tf.Tensor) -> tf.Tensor:
  """int32[N, 2], (height, width) of PNG files, from their headers."""
  fine = tf.logical_and(tf.strings.substr(masks, 0, 4) == b"\x89PNG", tf.strings.length(masks) > 24)
  with tf.control_dependencies(
    [records.check(tf.reduce_all(fine), file, source_id, ["has masks that are not PNG files"])]
  ):
    header = tf.strings.substr(masks, 16, 8)
  return tf.reverse(tf.reshape(tf.io.decode_raw(header, tf.int32, little_endian=False), [-1, 2]), [1])


def check_files(files: list[str]) -> None:
  """Raises UserError where no record has a mask: by meta.json, or by looking into the files, to the first mask."""
  known = meta.load(files)
  splits = (
    [known.splits[name] for name in {shards.split_of(file) for file in files} & set(known.splits)] if known else []
  )
  if splits:
    found = any(split.get("num_masks", 0) for split in splits)
  else:
    parsed = tf.data.Dataset.from_tensor_slices(files).flat_map(
      lambda file: tf.data.TFRecordDataset(file).map(lambda record: records.parse(record, file, masks=True)["mask"])
    )
    found = any((masks != b"").any() for masks in parsed.as_numpy_iterator())
  if not found:
    raise UserError(
      f"{files[0]} and {len(files) - 1} other files have no masks, which this experiment trains on; run `prepare coco` "
      "again with annotations that have a segmentation, and without --nomasks"
    )
