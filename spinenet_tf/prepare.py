"""Data to TFRecord: `python -m spinenet_tf.prepare coco|synthetic|images|imagenet|inaturalist --output=DIR ...`.

  coco         boxes: an instances JSON and its images:   --annotations --images [--nomasks]
  synthetic    textured shapes from a seed:               [--train --val --size --seed]
  images       labels: a folder per class, or a list:     --images [--annotations=CSV|JSON --classes]
  imagenet     labels: the ILSVRC-2012 layout:            --images [--synsets --ground_truth]
  inaturalist  labels: the 2017 JSON, or crops of boxes:  --annotations --images [--bbox]

All but synthetic also take [--split --shards --workers --strict --runner --beam_options]. Writes shards and meta.json
into --output, and prints what was clipped, left out and converted. See docs/data.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from absl import flags

from spinenet_tf.errors import UserError, run_command

_COMMON = ("images", "split", "shards", "workers", "strict", "runner", "beam_options")
_KINDS = {  # flags of each kind beside --output and --overwrite
  "coco": ("annotations", "masks", *_COMMON),
  "synthetic": ("train", "val", "size", "seed"),
  "images": ("annotations", "classes", *_COMMON),
  "imagenet": ("synsets", "ground_truth", *_COMMON),
  "inaturalist": ("annotations", "bbox", *_COMMON),
}
_NEEDED = {
  "coco": ("annotations", "images"),
  "synthetic": (),
  "images": ("images",),
  "imagenet": ("images",),
  "inaturalist": ("annotations", "images"),
}


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("output", None, "Folder to write to.")
  flags.DEFINE_bool("overwrite", False, "Replace another data set in --output.")
  flags.DEFINE_string("annotations", None, "coco, inaturalist: the JSON. images: a CSV (image,label) or JSON.")
  flags.DEFINE_string("images", None, "The folder of the images, or of the class folders.")
  flags.DEFINE_string("classes", None, "images: text file, a class name a line; others are left out.")
  flags.DEFINE_string("synsets", None, "imagenet: text file, a line 'n01440764 tench, Tinca tinca' per class.")
  flags.DEFINE_string("ground_truth", None, "imagenet: the list of labels of a flat folder.")
  flags.DEFINE_bool("bbox", False, "inaturalist: a crop around each box, enlarged 1.5 times.")
  flags.DEFINE_bool("masks", True, "coco: write instance masks where the JSON has any.")
  flags.DEFINE_string("split", "train", "Name of this part: train, val, ...")
  flags.DEFINE_integer("shards", None, "Files to write; by default one per 500 images, at most 256.")
  flags.DEFINE_integer("workers", min(8, os.cpu_count() or 1), "Processes.")
  flags.DEFINE_bool("strict", False, "What would be left out is an error.")
  flags.DEFINE_enum("runner", "local", ["local", "beam"], "This machine, or Apache Beam (extra [beam]).")
  flags.DEFINE_multi_string("beam_options", [], "A flag of the Beam pipeline, such as --runner=DataflowRunner.")
  flags.DEFINE_integer("train", 400, "synthetic: training images.")
  flags.DEFINE_integer("val", 100, "synthetic: validation images.")
  flags.DEFINE_integer("size", 128, "synthetic: side of the images in pixels.")
  flags.DEFINE_integer("seed", 0, "synthetic: of everything.")


def main(argv: list[str]) -> int:
  """Runs one of the sub-commands."""
  values = flags.FLAGS
  if len(argv) != 2 or argv[1] not in _KINDS:
    raise UserError(f"arguments {argv[1:]}; say one of {', '.join(_KINDS)}, then --flags (--help lists them)")
  kind = argv[1]
  known = dict.fromkeys(name for names in _KINDS.values() for name in names)
  foreign = [f"--{name}" for name in known if name not in _KINDS[kind] and values[name].present]
  if foreign:
    raise UserError(f"{', '.join(foreign)} cannot be used with {kind!r}")
  missing = [f"--{name}" for name in ("output", *_NEEDED[kind]) if not values[name].value]
  if missing:
    raise UserError(f"{kind} needs {', '.join(missing)}")
  os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # nothing here is for a GPU
  options = {name: values[name].value for name in ("overwrite", *_KINDS[kind])}
  if "shards" in options:
    options["num_shards"] = options.pop("shards")
  reports = _run(kind, values.output, options)
  for split, lines in reports.items():
    print(f"{split}:")
    print("\n".join(f"  {line}" for line in lines))
  print(f"wrote {', '.join(os.path.join(values.output, f'{s}-*.tfrecord') for s in reports)} and meta.json")
  return 0


def _run(kind: str, output: str, options: Mapping[str, Any]) -> dict[str, list[str]]:
  """Returns: {split: report, line by line}."""
  if kind == "synthetic":
    from spinenet_tf.data.synthetic import prepare_synthetic

    return prepare_synthetic(output, **options)
  if kind == "coco":
    from spinenet_tf.data.convert import prepare_coco as prepare
  elif kind == "images":
    from spinenet_tf.data.image_folder import prepare_images as prepare
  elif kind == "imagenet":
    from spinenet_tf.data.imagenet import prepare_imagenet as prepare
  else:
    from spinenet_tf.data.label_json import prepare_inaturalist as prepare
  return {options["split"]: prepare(output=output, **options)}


if __name__ == "__main__":
  define_flags()
  run_command(main)
