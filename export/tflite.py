"""Writes TFLite files of a run, for phones and small boards: float32, float16 and int8, with suppression and without.

python export/tflite.py --model_dir=runs/mine --output=exported/mine_tflite --images=photos [--precisions=float32,int8]

int8 is calibrated on --images, photos like those it will see. Each file's answer in the interpreter is compared with the
run's before anything is kept.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

# This folder's onnx.py would stand for the package of that name.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from spinenet_tf.errors import UserError, run_command  # noqa: E402
from spinenet_tf.serving.sizes import size_of  # noqa: E402

_PRECISIONS = ["float32", "float16", "int8"]


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_string("model_dir", None, "Run directory of training, or one of its checkpoints.", required=True)
  flags.DEFINE_string("output", None, "Folder to be made.", required=True)
  flags.DEFINE_bool("overwrite", False, "Replace a folder of TFLite files that is there.")
  flags.DEFINE_list("precisions", _PRECISIONS, "Of float32, float16 and int8.")
  flags.DEFINE_list("forms", None, "Of raw and nms; all that the run's task has by default.")
  flags.DEFINE_list("input_size", None, "HEIGHT,WIDTH of the network's input, where not as trained.")
  flags.DEFINE_list("images", [], "Image files or folders, to calibrate int8 on and to compare on.")
  flags.DEFINE_integer("count", 8, "Images of these that are compared on.", 1)
  flags.DEFINE_integer("calibration_count", 100, "Images of these that are calibrated on.", 1)
  flags.DEFINE_float("least", None, "Least agreement of int8 with the run that is accepted; 0.5 by default.", 0.0, 1.0)
  flags.DEFINE_float("score_threshold", None, "Detection: lower scores are left out; the run's by default.")
  flags.DEFINE_float(
    "iou_threshold", None, "Detection: overlap above which the lower score goes; the run's by default."
  )
  flags.DEFINE_integer("max_detections", None, "Detection: the most for an image; the run's by default.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.serving.tflite import export

  values = flags.FLAGS
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; every option is a flag, as in --model_dir=DIR --output=DIR")
  settings = {name: values[name].value for name in ("score_threshold", "iou_threshold", "max_detections")}
  result = export(
    values.model_dir,
    values.output,
    precisions=values.precisions,
    forms=values.forms,
    overwrite=values.overwrite,
    input_size=size_of(values.input_size),
    images=values.images,
    count=values.count,
    calibration_count=values.calibration_count,
    least=None if values.least is None else {"int8": values.least},
    **{name: value for name, value in settings.items() if value is not None},
  )
  print(result)
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
