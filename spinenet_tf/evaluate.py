"""Evaluates a run: `python -m spinenet_tf.evaluate --model_dir=DIR`.

Takes the run's own config.gin unless gin files are given, and its best checkpoint, else the latest.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from spinenet_tf.errors import UserError, run_command

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Registers the command's flags."""
  flags.DEFINE_multi_string("gin_file", [], "Experiment, then overlays; the run's config.gin when there is none.")
  flags.DEFINE_multi_string("gin_param", [], "Binding such as \"DATA_DIR='data/coco'\"; wins over files.")
  flags.DEFINE_string("model_dir", None, "Folder of the run; results go to its eval/.")
  flags.DEFINE_string("checkpoint", None, "Another checkpoint than the run's best: a prefix or a folder.")
  flags.DEFINE_string("output_dir", None, "Where results go instead of MODEL_DIR/eval.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf import configs
  from spinenet_tf.training import evaluation

  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if argv[1:]:
    raise UserError(
      f"unknown argument {argv[1]!r}; every option is a flag: --gin_file, --gin_param, --model_dir, --checkpoint"
    )
  if not FLAGS.model_dir:
    raise UserError("--model_dir is missing; give the folder of a run, such as --model_dir=runs/demo")
  files = FLAGS.gin_file
  if not files:
    own = pathlib.Path(FLAGS.model_dir) / "config.gin"
    if not own.is_file():
      raise UserError(f"{own} does not exist; give the folder of a run, or --gin_file")
    files = [str(own)]
  configs.parse(files, FLAGS.gin_param)
  output = FLAGS.output_dir or str(pathlib.Path(FLAGS.model_dir) / "eval")
  result = evaluation.evaluate(configs.experiment(), FLAGS.model_dir, checkpoint=FLAGS.checkpoint, output_dir=output)
  print(result.table)
  print(f"checkpoint {result.checkpoint} (step {result.step}); details in {output}")
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
