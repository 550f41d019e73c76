"""Writes a SavedModel of a run: pictures or files in, boxes (masks, classes) out; needs TensorFlow only to run.

python export/saved_model.py --model_dir=runs/mine --output=exported/mine [--images=photos] [--target=gpu] [--overwrite]

The answer is compared with the run's on --images, or on generated pictures, before anything is kept.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

# This folder's onnx.py would stand for the package of that name.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from spinenet_tf.errors import UserError, run_command  # noqa: E402
from spinenet_tf.serving.sizes import size_of  # noqa: E402


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_string("model_dir", None, "Run directory of training, or one of its checkpoints.", required=True)
  flags.DEFINE_string("output", None, "Folder to be made; for TensorFlow Serving MODELS/NAME/VERSION.", required=True)
  flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is there.")
  flags.DEFINE_enum("target", None, ["cpu", "gpu"], "Where it will run; by default what this machine has.")
  flags.DEFINE_list("input_size", None, "HEIGHT,WIDTH of the network's input, where not as trained.")
  flags.DEFINE_integer("max_pixels", 100_000_000, "Image files that claim more are refused by the model.", 1)
  flags.DEFINE_list("images", [], "Image files or folders to compare on.")
  flags.DEFINE_integer("count", 8, "Images of these that are taken.", 1)
  flags.DEFINE_float("score_threshold", None, "Detection: lower scores are left out; the run's by default.")
  flags.DEFINE_float(
    "iou_threshold", None, "Detection: overlap above which the lower score goes; the run's by default."
  )
  flags.DEFINE_integer("max_detections", None, "Detection: the most for an image; the run's by default.")
  flags.DEFINE_integer("top", None, "Classification: classes told of each image; 5 by default.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.serving.saved_model import export

  values = flags.FLAGS
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; every option is a flag, as in --model_dir=DIR --output=DIR")
  settings = {name: values[name].value for name in ("score_threshold", "iou_threshold", "max_detections", "top")}
  result = export(
    values.model_dir,
    values.output,
    overwrite=values.overwrite,
    target=values.target,
    input_size=size_of(values.input_size),
    max_pixels=values.max_pixels,
    images=values.images,
    count=values.count,
    **{name: value for name, value in settings.items() if value is not None},
  )
  print(result)
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
