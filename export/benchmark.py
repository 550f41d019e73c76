"""Measures how fast artefacts answer, end to end and in parts: SavedModels (TF-TRT's too), ONNX files, TFLite files.

python export/benchmark.py --images=photos exported/mine exported/mine_onnx/images.onnx exported/mine_tflite/int8_nms.tflite

Prints a table and writes it with --output=latency (latency.md, latency.json); --table=4 prints the layout of the paper's
table of latencies, with its numbers beside. Each artefact runs in processes of its own, in turn with the others.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags

# This folder's onnx.py would stand for the package of that name.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from spinenet_tf.errors import UserError, run_command  # noqa: E402


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_list("images", [], "Image files or folders; noise by default, which is harder to decode than photos.")
  flags.DEFINE_list("batches", ["1", "2", "4", "8"], "Numbers of images that go together.")
  flags.DEFINE_integer("threads", 0, "Threads of the runtime; 0 leaves the choice to it.", 0)
  flags.DEFINE_integer("warmup", 3, "Calls before the first that counts.", 1)
  flags.DEFINE_integer("calls", 10, "Calls that count, in each round.", 1)
  flags.DEFINE_integer("rounds", 3, "Processes for each artefact.", 1)
  flags.DEFINE_list("picture_size", ["480", "640"], "HEIGHT,WIDTH of the JPEG files that are made of the images.")
  flags.DEFINE_enum("table", None, ["4"], "4 for the layout of the paper's table.")
  flags.DEFINE_string("output", None, "Where the table goes too: OUTPUT.md and OUTPUT.json.")
  flags.DEFINE_bool("overwrite", False, "Replace these files.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.serving import latency, latency_report

  values = flags.FLAGS
  if not argv[1:]:
    raise UserError("no artefacts were given; name SavedModel folders, .onnx files or .tflite files after the flags")
  try:
    batches, size = (tuple(int(text) for text in texts) for texts in (values.batches, values.picture_size))
  except ValueError as error:
    raise UserError(f"--batches and --picture_size take whole numbers: {error}") from error
  settings = latency.Settings(
    batches=batches,
    threads=values.threads,
    warmup=values.warmup,
    calls=values.calls,
    rounds=values.rounds,
    picture_size=size,
  )
  places = [pathlib.Path(f"{values.output}{suffix}") for suffix in (".md", ".json")] if values.output else []
  latency_report.check_places(places, values.overwrite)
  result = latency.measure(argv[1:], values.images, settings)
  text = latency_report.paper_layout(result) if values.table else latency_report.markdown(result)
  print(text)
  for place, content in zip(places, (text + "\n", json.dumps(result, indent=1) + "\n")):
    latency_report.write(place, content)
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
