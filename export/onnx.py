"""Writes ONNX files of a run: pictures in, the answer out; the network with suppression; and the network alone.

python export/onnx.py --model_dir=runs/mine --output=exported/mine_onnx [--flavours=images,nms,raw] [--images=photos]

Each file's answer in ONNX Runtime is compared with the run's on --images, or on generated pictures, before anything is kept.
Needs: pip install 'spinenet_tf[onnx]'
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
  flags.DEFINE_string("output", None, "Folder to be made.", required=True)
  flags.DEFINE_bool("overwrite", False, "Replace a folder of ONNX files that is there.")
  flags.DEFINE_list("flavours", None, "Of images, nms and raw; all that the run's task has by default.")
  flags.DEFINE_list("input_size", None, "HEIGHT,WIDTH of the network's input, where not as trained.")
  flags.DEFINE_list("images", [], "Image files or folders to compare on.")
  flags.DEFINE_integer("count", 8, "Images of these that are taken.", 1)
  flags.DEFINE_float("score_threshold", None, "Detection: lower scores are left out; the run's by default.")
  flags.DEFINE_float(
    "iou_threshold", None, "Detection: overlap above which the lower score goes; the run's by default."
  )
  flags.DEFINE_integer("max_detections", None, "Detection: the most for an image; the run's by default.")
  flags.DEFINE_integer(
    "pre_nms_top_k", None, "Detection: candidates of an image before suppression; TensorRT takes 3840 at most."
  )
  flags.DEFINE_integer("top", None, "Classification: classes told of each image; 5 by default.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.serving.onnx import export

  values = flags.FLAGS
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; every option is a flag, as in --model_dir=DIR --output=DIR")
  names = ("score_threshold", "iou_threshold", "max_detections", "pre_nms_top_k", "top")
  settings = {name: values[name].value for name in names}
  result = export(
    values.model_dir,
    values.output,
    flavours=values.flavours,
    overwrite=values.overwrite,
    input_size=size_of(values.input_size),
    images=values.images,
    count=values.count,
    **{name: value for name, value in settings.items() if value is not None},
  )
  print(result)
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
