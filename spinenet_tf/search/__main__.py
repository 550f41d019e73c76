"""Architecture search: `python -m spinenet_tf.search --gin_file=FILE.gin --model_dir=DIR`.

The same command again goes on where the search stopped, however it stopped.

  python -m spinenet_tf.search report --model_dir=DIR      curves, statistics, drawings of a search, also of one that runs

See docs/search.md.
"""

from __future__ import annotations

import functools
import os
import sys

from absl import flags, logging

from spinenet_tf.errors import UserError, run_command

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Registers the command's flags."""
  flags.DEFINE_multi_string("gin_file", [], "Search, then overlays; later ones win.")
  flags.DEFINE_multi_string("gin_param", [], "Binding such as 'search.trials=200'; wins over files.")
  flags.DEFINE_string("model_dir", None, "Folder of the search, made when it does not exist.")
  flags.DEFINE_bool("dry_run", False, "Train one random child, and say what the search would take.")
  flags.DEFINE_string("output_dir", None, "report: where it goes instead of MODEL_DIR/report.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  if argv[1:] == ["report"]:
    return _report()
  if argv[1:]:
    raise UserError(f"unknown argument {argv[1]!r}; it may be report, everything else is a flag (--help lists them)")
  missing = [f"--{name}" for name in ("gin_file", "model_dir") if not FLAGS[name].value]
  if FLAGS.dry_run:
    missing = [name for name in missing if name != "--model_dir"]
  if missing:
    raise UserError(
      f"{missing[0]} is missing; for example --gin_file=experiments/search/tiny.gin --model_dir=runs/search"
    )
  return _search()


def _search() -> int:
  from spinenet_tf import configs
  from spinenet_tf.search import command

  configs.parse(FLAGS.gin_file, FLAGS.gin_param)
  made = configs.search()
  made.experiment.train.optimizer(learning_rate=lambda: 0.1)  # its own parameters count as used
  configs.check_unused(made.experiment.train.optional_bindings)
  if FLAGS.dry_run:
    command.dry_run(made)
    return 0
  text = configs.bound_text()
  factory = functools.partial(configs.proxy, text)
  try:
    command.search(made, FLAGS.model_dir, factory, config=text, operative_config=configs.operative_text())
  except KeyboardInterrupt:
    print("stopped; the same command goes on from here", file=sys.stderr)
    return 130
  return 0


def _report() -> int:
  from spinenet_tf.search.report import write_report

  if not FLAGS.model_dir:
    raise UserError("--model_dir is missing; give the folder of a search, such as --model_dir=runs/search")
  output = FLAGS.output_dir or os.path.join(FLAGS.model_dir, "report")
  print(write_report(FLAGS.model_dir, output))
  print(f"pictures, report.md and report.json in {output}")
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
