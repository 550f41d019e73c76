"""What went wrong in the input: finds the record behind TensorFlow's error."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import tensorflow as tf

from spinenet_tf.data import meta, records, shards
from spinenet_tf.errors import UserError


@contextlib.contextmanager
def explain_errors(pattern: meta.Pattern) -> Iterator[None]:
  """Turns an error of the input pipeline into a UserError that names shard and record; wrap the training
  loop in it.

  A corrupt record or image is looked for in the files of `pattern` after the failure (each image is decoded
  once, on all cores); errors that the files do not explain pass unchanged.
  """
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
    text = explanation(error, pattern)
    if text is None:
      raise
    raise UserError(text) from error


def explanation(error: Exception, pattern: meta.Pattern) -> str | None:
  """The text for a person, or None where the files are in order."""
  message = str(error)
  if records.USER_ERROR in message:
    text = message.split(records.USER_ERROR, 1)[1].split("\n")[0]
    return text.rstrip("']\" ")
  image_words = ("JPEG", "jpeg", "PNG", "GIF", "BMP", "image", "Image")
  # An error whose text is not UTF-8, as it cites the record, reaches Python as one of decoding it.
  is_data = isinstance(error, (tf.errors.DataLossError, UnicodeDecodeError))
  if not is_data and not any(word in message for word in image_words):
    return None
  for file, masks in itertools.product(shards.find(pattern), (False, True)):
    bad = _first_bad_record(file, masks)
    if bad:
      return f"{file}: {bad}; run `prepare` again, or copy the file again, or remove the image"
  return None


def _first_bad_record(file: str, masks: bool) -> str | None:
  """Reads a file and decodes its images, or its masks. Returns: what is wrong with the first bad record, or None."""

  def decodes(number, serialized):
    record = records.parse(serialized, tf.constant(file), masks)
    if masks:
      given = tf.boolean_mask(record["mask"], tf.strings.length(record["mask"]) > 0)
      return number, tf.map_fn(lambda png: tf.size(tf.io.decode_png(png)), given, fn_output_signature=tf.int32)
    image = tf.io.decode_image(record["encoded"], channels=3, expand_animations=False)
    return number, tf.size(image)

  numbered = tf.data.TFRecordDataset(file).enumerate()
  good = -1
  try:
    for number, _ in numbered.map(decodes, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True):
      good = int(number)
    return None
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    reason = str(error).split("\n")[0]
  try:
    for _, serialized in numbered.skip(good + 1).take(1):
      example = tf.train.Example.FromString(serialized.numpy())
      name = example.features.feature["image/source_id"].bytes_list.value
      called = repr(name[0].decode()) if name else "missing"
      return f"record {good + 1} (source_id {called}) {'has a mask that ' * masks}cannot be decoded: {_short(reason)}"
  except Exception as error:
    return f"record {good + 1} cannot be read: {_short(str(error))}"
  return None


def _short(reason: str) -> str:
  return reason.split("}} ", 1)[-1].split(" [Op:")[0][:200]
