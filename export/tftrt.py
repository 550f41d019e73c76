"""Writes a SavedModel of a run with TensorRT engines, for the kind of GPU that this runs on: TensorFlow 2.15 to 2.17.

python export/tftrt.py --model_dir=runs/mine --output=exported/mine_trt --precision=FP16 --batches=1,8 [--images=photos]

Needs TensorRT 8.6. INT8 is calibrated on --images. The answer is compared with the run's before anything is kept.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

# This folder's onnx.py would stand for the package of that name.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from spinenet_tf.errors import UserError, run_command  # noqa: E402

_SETTINGS = ("score_threshold", "iou_threshold", "max_detections", "top")


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_string("model_dir", None, "Run directory of training, or one of its checkpoints.", required=True)
  flags.DEFINE_string("output", None, "Folder to be made; for TensorFlow Serving MODELS/NAME/VERSION.", required=True)
  flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is there.")
  flags.DEFINE_enum("precision", "FP16", ["FP32", "FP16", "INT8"], "Of the engines.")
  flags.DEFINE_list("batches", ["1", "8"], "Batch sizes that engines are built for, and all between them.")
  flags.DEFINE_enum("signature", "serving_default", ["serving_default", "image_bytes", "raw"], "The one that is kept.")
  flags.DEFINE_enum(
    "suppression", "loop", ["loop", "combined"], "NMS by TensorFlow, or by an operation that TensorRT has."
  )
  flags.DEFINE_list("images", [], "Image files or folders to calibrate and to compare on.")
  flags.DEFINE_integer("calibration", 64, "Images of these that INT8 is calibrated on.", 1)
  flags.DEFINE_integer("count", 8, "Images of these that are compared on.", 1)
  flags.DEFINE_float("minimum", None, "Least agreement with the run that is let pass, an average precision.", 0.0, 1.0)
  flags.DEFINE_float("workspace_gb", 4.0, "Memory that TensorRT may use in an engine.", 0.1)
  flags.DEFINE_list("input_size", None, "HEIGHT,WIDTH of the network's input, where not as trained.")
  flags.DEFINE_float("score_threshold", None, "Detection: lower scores are left out; the run's by default.")
  flags.DEFINE_float(
    "iou_threshold", None, "Detection: overlap above which the lower score goes; the run's by default."
  )
  flags.DEFINE_integer("max_detections", None, "Detection: the most for an image; the run's by default.")
  flags.DEFINE_integer("top", None, "Classification: classes told of each image; 5 by default.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.serving.sizes import size_of
  from spinenet_tf.serving.tftrt import export

  values = flags.FLAGS
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; every option is a flag, as in --model_dir=DIR --output=DIR")
  settings = {name: values[name].value for name in _SETTINGS}
  result = export(
    values.model_dir,
    values.output,
    overwrite=values.overwrite,
    precision=values.precision,
    batches=whole_numbers(values.batches),
    signature=values.signature,
    suppression=values.suppression,
    images=values.images,
    calibration=values.calibration,
    count=values.count,
    minimum=values.minimum,
    workspace_gb=values.workspace_gb,
    input_size=size_of(values.input_size),
    **{name: value for name, value in settings.items() if value is not None},
  )
  print(result)
  return 0


def whole_numbers(texts: list[str]) -> list[int]:
  """Returns the values of --batches.

  Raises: UserError when one is no whole number.
  """
  try:
    return [int(text) for text in texts]
  except ValueError as error:
    raise UserError(
      f"--batches={','.join(texts)} holds something that is no whole number, unlike --batches=1,8"
    ) from error


if __name__ == "__main__":
  define_flags()
  run_command(main)
