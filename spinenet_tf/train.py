"""Trains a detector: `python -m spinenet_tf.train --gin_file=FILE.gin --model_dir=DIR`.

The same command again resumes where the run stopped. See docs/train.md.
"""

from __future__ import annotations

import sys

from absl import flags, logging

from spinenet_tf.errors import UserError, run_command

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Registers the command's flags."""
  flags.DEFINE_multi_string("gin_file", [], "Experiment, then overlays; later ones win.")
  flags.DEFINE_multi_string("gin_param", [], "Binding such as 'schedule.learning_rate=0.1'; wins over files.")
  flags.DEFINE_string("model_dir", None, "Folder of the run, made when it does not exist.")
  flags.DEFINE_bool("dry_run", False, "Build everything, run a few steps and an evaluation batch, and say the cost.")
  flags.DEFINE_string("profile", None, "FROM:TO, steps to record for TensorBoard, such as 20:24.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf import configs
  from spinenet_tf.training import loop, setup
  from spinenet_tf.training.dry_run import dry_run
  from spinenet_tf.training.profile import StepRange

  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if argv[1:]:
    raise UserError(
      f"unknown argument {argv[1]!r}; every option is a flag: --gin_file, --gin_param, --model_dir, --dry_run, --profile"
    )
  if not FLAGS.gin_file or not FLAGS.model_dir:
    missing = "--gin_file" if not FLAGS.gin_file else "--model_dir"
    raise UserError(f"{missing} is missing; for example --gin_file=experiments/demo.gin --model_dir=runs/demo")
  profile = StepRange.parse(FLAGS.profile) if FLAGS.profile is not None else None
  if profile and FLAGS.dry_run:
    raise UserError("--profile and --dry_run are both given; a profile is one of a run: leave one of them out")
  configs.parse(FLAGS.gin_file, FLAGS.gin_param)
  experiment = configs.experiment()
  ready = setup.build(experiment, FLAGS.model_dir, writes=not FLAGS.dry_run)
  configs.check_unused(experiment.train.optional_bindings)
  if FLAGS.dry_run:
    dry_run(ready)
    return 0
  try:
    loop.train(ready, config=configs.bound_text(), operative_config=configs.operative_text(), profile=profile)
  except loop.Interrupted as interruption:
    print(interruption, file=sys.stderr)
    return 143
  except loop.WorkerLost as loss:
    print(f"error: {loss}", file=sys.stderr)
    return 75  # "temporary failure" in sysexits.h
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
