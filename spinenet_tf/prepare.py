"""Data to TFRecord: `python -m spinenet_tf.prepare coco|synthetic --output=DIR ...`.

  coco        a COCO instances JSON and its images:  --annotations --images [--split --shards --workers
  --strict --runner]
  synthetic   textured shapes from a seed:           [--train --val --size --seed]

Writes shards and meta.json into --output, and prints what was clipped, dropped and converted. See
docs/data.md.
"""

from __future__ import annotations

import os

from absl import flags

from spinenet_tf.errors import UserError, run_command

_COCO = ("annotations", "images", "split", "shards", "workers", "strict", "runner", "beam_options")
_SYNTHETIC = ("train", "val", "size", "seed")


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("output", None, "Folder to write to.")
  flags.DEFINE_bool("overwrite", False, "Replace another data set in --output.")
  flags.DEFINE_string("annotations", None, "coco: the instances JSON.")
  flags.DEFINE_string("images", None, "coco: the folder of the images.")
  flags.DEFINE_string("split", "train", "coco: name of this part: train, val, ...")
  flags.DEFINE_integer("shards", None, "coco: files to write; by default one per 500 images, at most 256.")
  flags.DEFINE_integer("workers", min(8, os.cpu_count() or 1), "coco: processes.")
  flags.DEFINE_bool("strict", False, "coco: boxes without area or outside their image are errors.")
  flags.DEFINE_enum("runner", "local", ["local", "beam"], "coco: this machine, or Apache Beam (extra [beam]).")
  flags.DEFINE_multi_string("beam_options", [], "coco: a flag of the Beam pipeline, such as --runner=DataflowRunner.")
  flags.DEFINE_integer("train", 400, "synthetic: training images.")
  flags.DEFINE_integer("val", 100, "synthetic: validation images.")
  flags.DEFINE_integer("size", 128, "synthetic: side of the images in pixels.")
  flags.DEFINE_integer("seed", 0, "synthetic: of everything.")


def main(argv: list[str]) -> int:
  """Runs one of the sub-commands."""
  values, kinds = flags.FLAGS, {"coco": _COCO, "synthetic": _SYNTHETIC}
  if len(argv) != 2 or argv[1] not in kinds:
    raise UserError(f"arguments {argv[1:]}; say one of {', '.join(kinds)}, then --flags (--help lists them)")
  kind = argv[1]
  foreign = [f"--{name}" for k, names in kinds.items() if k != kind for name in names if values[name].present]
  if foreign:
    raise UserError(f"{', '.join(foreign)} cannot be used with {kind!r}")
  needed = ("output",) if kind == "synthetic" else ("output", "annotations", "images")
  missing = [f"--{name}" for name in needed if not values[name].value]
  if missing:
    raise UserError(f"{kind} needs {', '.join(missing)}")
  os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # nothing here is for a GPU
  if kind == "synthetic":
    from spinenet_tf.data.synthetic import prepare_synthetic

    reports = prepare_synthetic(
      values.output, train=values.train, val=values.val, size=values.size, seed=values.seed, overwrite=values.overwrite
    )
  else:
    from spinenet_tf.data.convert import prepare_coco

    lines = prepare_coco(
      values.annotations,
      values.images,
      values.output,
      split=values.split,
      num_shards=values.shards,
      workers=values.workers,
      strict=values.strict,
      overwrite=values.overwrite,
      runner=values.runner,
      beam_options=values.beam_options,
    )
    reports = {values.split: lines}
  for split, lines in reports.items():
    print(f"{split}:")
    print("\n".join(f"  {line}" for line in lines))
  print(f"wrote {', '.join(os.path.join(values.output, f'{s}-*.tfrecord') for s in reports)} and meta.json")
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
