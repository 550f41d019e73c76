"""Writing one record: tf.train.Example in the TF Object Detection / Model Garden schema, encoded without
TensorFlow.

Worker processes encode; importing TensorFlow in each of them would cost seconds and hundreds of megabytes.
The format is three protocol buffer messages deep: Example{1: Features{1: map<string, Feature>}}, with
Feature one of {1: BytesList, 2: FloatList, 3: Int64List}, numbers packed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Union

Values = Union[Sequence[bytes], Sequence[str], Sequence[int], Sequence[float]]


def encode(features: Mapping[str, Values]) -> bytes:
  """Serialises a tf.train.Example.

  Args:
    features: name -> values, all bytes (or str), all int, or all float; an empty list is left out. Names are
      sorted, so equal
      content gives equal bytes.
  """
  entries = []
  for name in sorted(features):
    if len(features[name]):
      entry = _field(1, name.encode()) + _field(2, _feature(features[name]))
      entries.append(_field(1, entry))
  return _field(1, b"".join(entries))


def detection_record(
  *,
  encoded: bytes,
  image_format: str,
  height: int,
  width: int,
  file_name: str,
  source_id: str,
  objects: Sequence[Mapping[str, Any]],
) -> bytes:
  """One image with its boxes as a serialised tf.train.Example.

  Args:
    encoded: the image file's bytes; image_format: "jpeg" or "png".
    height, width: of the decoded image in pixels.
    file_name, source_id: how people and how scoring call the image.
    objects: dicts with box (ymin, xmin, ymax, xmax) in pixels inside the image, id (original category id),
      name, is_crowd, area; where masks are written also mask, a `masks.Mask` or None.
  """
  boxes = [o["box"] for o in objects]
  with_masks = any("mask" in o for o in objects)
  crops = [o.get("mask") or (b"", 0, 0) for o in objects] if with_masks else []
  return encode(
    {
      "image/encoded": [encoded],
      "image/format": [image_format],
      "image/height": [int(height)],
      "image/width": [int(width)],
      "image/filename": [file_name],
      "image/source_id": [source_id],
      "image/key/sha256": [hashlib.sha256(encoded).hexdigest()],
      "image/object/bbox/ymin": [box[0] / height for box in boxes],
      "image/object/bbox/xmin": [box[1] / width for box in boxes],
      "image/object/bbox/ymax": [box[2] / height for box in boxes],
      "image/object/bbox/xmax": [box[3] / width for box in boxes],
      "image/object/class/label": [int(o["id"]) for o in objects],
      "image/object/class/text": [o["name"] for o in objects],
      "image/object/is_crowd": [int(o["is_crowd"]) for o in objects],
      "image/object/area": [float(o["area"]) for o in objects],
      "image/object/mask_crop": [png for png, _, _ in crops],
      "image/object/mask_crop/ymin": [ymin for _, ymin, _ in crops],
      "image/object/mask_crop/xmin": [xmin for _, _, xmin in crops],
    }
  )


def classification_record(
  *,
  encoded: bytes,
  image_format: str,
  height: int,
  width: int,
  file_name: str,
  source_id: str,
  label: int,
  text: str,
) -> bytes:
  """One image with its class as a serialised tf.train.Example, in ILSVRC's schema.

  Args:
    encoded: the image file's bytes; image_format: "jpeg" or "png".
    height, width: of the decoded image in pixels.
    file_name, source_id: how people and how scoring call the image.
    label: original category id; text: the class's name.
  """
  return encode(
    {
      "image/encoded": [encoded],
      "image/format": [image_format],
      "image/height": [int(height)],
      "image/width": [int(width)],
      "image/filename": [file_name],
      "image/source_id": [source_id],
      "image/key/sha256": [hashlib.sha256(encoded).hexdigest()],
      "image/class/label": [int(label)],
      "image/class/text": [text],
    }
  )


def _feature(values: Values) -> bytes:
  first = values[0]
  if isinstance(first, (bytes, str)):
    return _field(1, b"".join(_field(1, v.encode() if isinstance(v, str) else v) for v in values))
  if isinstance(first, float):
    return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
  return _field(3, _field(1, b"".join(_varint(v & 0xFFFFFFFFFFFFFFFF) for v in values)))


def _field(number: int, payload: bytes) -> bytes:
  """A length-delimited field."""
  return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  out.append(value)
  return bytes(out)
