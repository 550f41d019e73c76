"""`prepare ... --runner=beam`: the same record function on Apache Beam, for data sets too large for one
machine.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from spinenet_tf.data import convert, shards
from spinenet_tf.errors import UserError

_ERRORS_KEPT = 5
_IDS_KEPT = 10  # of annotations with a note on their mask, as in the report


def write(
  items: Sequence[Any],
  output: str,
  names: Sequence[str],
  report: convert.Facts,
  options: Sequence[str] = (),
  make: Callable[[Any], convert.Record] = convert.make_record,
  on_bad: convert.OnBad | None = None,
) -> dict[str, int]:
  """Writes shards under temporary names, as `convert.write` does; the order of records is Beam's.

  Args:
    items: images to convert; their paths must be readable by the workers.
    output: folder, on a file system that Beam's runner and TensorFlow both know.
    names: of the shards.
    report: gets the notes of all images.
    options: flags of the Beam pipeline, such as "--runner=DataflowRunner".
    make: item -> record.
    on_bad: is told of bad images, which are left out then; after the first few only of their number and classes.
  Returns: {shard name: records in it}.
  Raises: UserError without Apache Beam, and for bad images (where they are left out: if none is good).
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise UserError(
      "--runner=beam needs Apache Beam, which is not installed; run: pip install 'spinenet_tf[beam]'"
    ) from error
  import tensorflow as tf

  tf.io.gfile.makedirs(output)
  split = shards.split_of(names[0])
  prefix = os.path.join(output, f"{split}.beam{shards.MARKER}")
  for left in tf.io.gfile.glob(prefix + "*"):
    tf.io.gfile.remove(left)
  pipeline_options = PipelineOptions(list(options), save_main_session=False)
  with beam.Pipeline(options=pipeline_options) as pipeline:
    records = pipeline | "Items" >> beam.Create(items) | beam.Reshuffle() | "Convert" >> beam.Map(make)
    _ = (
      records
      | "Good" >> beam.Filter(_is_good)
      | "Serialized" >> beam.Map(_serialized)
      | "Write"
      >> beam.io.WriteToTFRecord(
        prefix, num_shards=len(names), shard_name_template="-SSSSS-of-NNNNN", coder=beam.coders.BytesCoder()
      )
    )
    _ = (
      records
      | "Facts" >> beam.Map(_facts)
      | "Sum" >> beam.CombineGlobally(_merge)
      | "Json" >> beam.Map(json.dumps)
      | "Summary" >> beam.io.WriteToText(prefix + ".summary", shard_name_template="")
    )
  with tf.io.gfile.GFile(prefix + ".summary") as file:
    summary = json.loads(file.read())
  bad = sum(summary["bad"].values())
  if bad and (not on_bad or bad == len(items)):
    for left in tf.io.gfile.glob(prefix + "*"):
      tf.io.gfile.remove(left)
    hidden = bad - len(summary["errors"])
    convert.raise_image_errors(summary["errors"] + ["..."] * hidden, len(items))
  report.add_notes(note for note, count in summary["notes"].items() for _ in range(count))
  faults = summary["mask_notes"].items()
  report.add_masks(summary["masks"], [(r, i) for r, (count, ids) in faults for i in ids + [None] * (count - len(ids))])
  errors = iter(summary["errors"])
  for category, count in summary["bad"].items():
    for _ in range(count):
      on_bad(next(errors, "..."), category)
  tf.io.gfile.remove(prefix + ".summary")
  counts = {}
  for number, name in enumerate(names):
    written = f"{prefix}-{number:05d}-of-{len(names):05d}"
    counts[name] = shards.count([written])[0]
    tf.io.gfile.rename(written, os.path.join(output, name + shards.MARKER), overwrite=True)
  if sum(counts.values()) != len(items) - bad:
    raise UserError(
      f"Beam wrote {sum(counts.values())} of {len(items) - bad} records; run again with an empty --output"
    )
  return counts


def _is_good(record: convert.Record) -> bool:
  return not record.error


def _serialized(record: convert.Record) -> bytes:
  return record.serialized


def _facts(record: convert.Record) -> dict:
  errors = [record.error] if record.error else []
  bad = {record.category: 1} if record.error else {}
  masks: dict[str, list] = {}
  for reason, identity in record.mask_notes:
    masks.setdefault(reason, [0, []])[0] += 1
    masks[reason][1].append(identity)
  return {
    "notes": dict.fromkeys(record.notes, 1),
    "errors": errors,
    "bad": bad,
    "masks": record.masks,
    "mask_notes": {reason: [count, ids[:_IDS_KEPT]] for reason, (count, ids) in masks.items()},
  }


def _merge(parts: Iterable[dict]) -> dict:
  """Sums what `_facts` gives; associative, and keeps the first few errors and ids only."""
  notes: collections.Counter = collections.Counter()
  bad: collections.Counter = collections.Counter()
  errors: list[str] = []
  masks, faults = 0, {}
  for part in parts:
    masks += part["masks"]
    for reason, (count, ids) in part["mask_notes"].items():
      known = faults.get(reason, [0, []])
      faults[reason] = [known[0] + count, (known[1] + ids)[:_IDS_KEPT]]
    notes.update(part["notes"])
    errors = (errors + part["errors"])[:_ERRORS_KEPT]
    bad.update(part["bad"])
  return {"notes": dict(notes), "errors": errors, "bad": dict(bad), "masks": masks, "mask_notes": faults}
