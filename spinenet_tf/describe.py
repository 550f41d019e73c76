"""`python -m spinenet_tf.describe`: what models are and cost, and the paper's tables recomputed.

  python -m spinenet_tf.describe                                       the paper's table 2: ours, the paper's, difference
  python -m spinenet_tf.describe --table=9                             another one: 1, 2, 3, 5, 6, 8, 9, 10
  python -m spinenet_tf.describe spinenet49 --size=896                 one model: blocks, parts, levels
  python -m spinenet_tf.describe spinenet49 r50_fpn my_own.json        several, and a table of all; `all` is the catalog
  python -m spinenet_tf.describe spinenet49 --task=mask_rcnn           or solo, classification, backbone
  python -m spinenet_tf.describe --diff spinenet49 spinenet96          how two differ
  python -m spinenet_tf.describe spinenet49 --draw=spinenet49.svg      a drawing, PNG or SVG

`--format=markdown` and `--format=json` print the same for papers and programs. Costs are counted from the spec, without
building; `--num_classes` defaults to the authors', 91, 90 or 1001, so that the figures compare.
"""

from __future__ import annotations

from absl import flags

from spinenet_tf.backbones.catalog import architecture, names
from spinenet_tf.backbones.compare import diff
from spinenet_tf.backbones.comparison import describe_model, paper_table, published_rows, summary
from spinenet_tf.backbones.profile import TASKS
from spinenet_tf.backbones.published import IMAGENET, PUBLISHED_CLASSES, REGION_CLASSES
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.backbones.table import FORMATS, Table, render
from spinenet_tf.errors import UserError, run_command
from spinenet_tf.layers.style import ACTIVATIONS

FLAGS = flags.FLAGS
COCO_CLASSES = 80
SIZES = {"classification": 224}  # of the input where the paper has none; otherwise 640
CLASSES = {"classification": IMAGENET, "mask_rcnn": REGION_CLASSES, "solo": COCO_CLASSES}  # otherwise the authors' 91


def define_flags(values: flags.FlagValues = FLAGS) -> None:
  """Registers the command's flags in `values`."""
  flags.DEFINE_integer(
    "size", None, "Side of the square input in pixels; the paper's when there is one, else 640.", flag_values=values
  )
  flags.DEFINE_integer("num_classes", None, "Outputs of the model; the authors' when not given.", flag_values=values)
  flags.DEFINE_string("task", "retinanet", f"What stands on the backbone: {', '.join(TASKS)}.", flag_values=values)
  flags.DEFINE_string("activation", "relu", "relu or swish; training keeps more of swish.", flag_values=values)
  flags.DEFINE_integer("table", None, "Prints this table of the paper.", flag_values=values)
  flags.DEFINE_boolean("diff", False, "Prints how two architectures differ.", flag_values=values)
  flags.DEFINE_string("draw", None, "Draws the architecture to this .png or .svg file.", flag_values=values)
  flags.DEFINE_string("format", "text", f"How it is printed: {', '.join(FORMATS)}.", flag_values=values)


def _difference(arguments: list[str]) -> Table:
  if len(arguments) != 2:
    raise UserError(f"--diff compares two architectures, {len(arguments)} given: {' '.join(arguments) or 'none'}")
  a, b = map(architecture, arguments)
  lines = diff(a, b)
  return Table(f"{a.name} and {b.name}", {"difference": ""}, tuple((line,) for line in lines or ["none"]))


def _size(arch: Architecture, task: str, num_classes: int) -> int:
  """The size that the paper has this model at; its first one where it has several."""
  published = (row.size for _, row in published_rows(arch.name, task) if row.num_classes == num_classes)
  return FLAGS.size or next(published, SIZES.get(task, 640))


def _models(arguments: list[str]) -> list[Table]:
  task = FLAGS.task
  num_classes = FLAGS.num_classes or CLASSES.get(task, PUBLISHED_CLASSES)
  models = []
  for argument in arguments:
    for name in names() if argument == "all" else [argument]:
      arch = architecture(name)
      models.append((arch, task, num_classes, _size(arch, task, num_classes)))
  tables = [table for model in models for table in describe_model(*model, activation=FLAGS.activation)]
  return tables + ([summary(models, FLAGS.activation)] if len(models) > 1 else [])


def _draw(arguments: list[str]) -> None:
  from spinenet_tf.visualize.architecture import draw_architecture  # matplotlib takes a while

  if len(arguments) != 1:
    raise UserError(f"--draw draws one architecture, {len(arguments)} given: {' '.join(arguments) or 'none'}")
  draw_architecture(architecture(arguments[0])).save(FLAGS.draw)


def _check_flags() -> None:
  for flag in ("num_classes", "size"):
    value = getattr(FLAGS, flag)
    if value is not None and value < 1:
      raise UserError(f"--{flag} is {value}; it must be at least 1")
  for flag, choices in (("task", TASKS), ("format", FORMATS), ("activation", tuple(ACTIVATIONS))):
    if getattr(FLAGS, flag) not in choices:
      raise UserError(f"--{flag} is {getattr(FLAGS, flag)!r}; it must be one of {', '.join(choices)}")


def main(argv: list[str]) -> int:
  """Prints a table of the paper, a difference, or one description for each argument."""
  _check_flags()
  arguments = argv[1:]
  if FLAGS.draw is not None:
    _draw(arguments)
  if FLAGS.diff:
    tables = [_difference(arguments)]
  else:
    tables = [paper_table(FLAGS.table, FLAGS.num_classes)] if FLAGS.table is not None else []
    tables += _models(arguments)
  print(render(tables or [paper_table(2, FLAGS.num_classes)], FLAGS.format))
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
