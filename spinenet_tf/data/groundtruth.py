"""Ground truth of TFRecord files, for scoring: original pixels and ids, no image decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from spinenet_tf.data import masks as mask_files
from spinenet_tf.data import meta, records, shards
from spinenet_tf.errors import UserError


class groundtruth:
  """One dict per image, in file order; iterate as often as you like.

  Each has source_id (str), height and width (int, pixels), boxes float32[N, 4] (ymin, xmin, ymax, xmax) in
  original
  pixels, class_ids int64[N] original ids, is_crowd bool[N], area float32[N] in pixels^2 (of the box where
  the record has none). With `masks` also masks: for each object COCO's compressed run lengths {"size": [H, W],
  "counts": bytes}, exactly the mask that was prepared, or None where there is none.

  Raises: UserError where the pattern has no files; with `diagnose.explain_errors` around the loop also for
  bad records.
  """

  def __init__(self, pattern: meta.Pattern, masks: bool = False) -> None:
    """Takes a TFRecord pattern or list of files, and whether to read masks."""
    self.files, self.masks = shards.find(pattern), masks

  def __iter__(self) -> Iterator[dict[str, Any]]:
    """Reads the files."""

    def load(file, serialized):
      record = records.parse(serialized, file, self.masks)
      encoded = record.pop("encoded")
      record["size"] = tf.cond(tf.reduce_all(record["size"] > 0), lambda: record["size"], lambda: _size(encoded))
      return record

    def read(file):
      return tf.data.TFRecordDataset(file).map(lambda serialized: load(file, serialized))

    for record in tf.data.Dataset.from_tensor_slices(self.files).flat_map(read).as_numpy_iterator():
      height, width = (int(side) for side in record["size"])
      boxes = record["boxes"] * [height, width, height, width]
      sides = boxes[:, 2:] - boxes[:, :2]
      area = record["area"]
      masks = {"masks": _masks(record, height, width)} if self.masks else {}
      yield {
        **masks,
        "source_id": record["source_id"].decode(),
        "height": height,
        "width": width,
        "boxes": boxes.astype("float32"),
        "class_ids": record["labels"],
        "is_crowd": record["is_crowd"],
        "area": area if (area >= 0).all() else sides.prod(axis=1).astype("float32"),
      }


def _masks(record: dict[str, Any], height: int, width: int) -> list[dict[str, Any] | None]:
  masks = (mask_files.Mask(png, *map(int, corner)) for png, corner in zip(record["mask"], record["mask_corner"]))
  try:
    return [mask_files.to_rle(mask, height, width) if mask.png else None for mask in masks]
  except ValueError as error:
    raise UserError(f"record {record['source_id'].decode()!r}: {error}; run `prepare` again") from error


def _size(encoded: tf.Tensor) -> tf.Tensor:
  return tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: tf.io.extract_jpeg_shape(encoded)[:2],
    lambda: tf.shape(tf.io.decode_image(encoded, channels=3, expand_animations=False))[:2],
  )
