"""`python -m spinenet_tf.describe`: what models cost, beside the paper's figures.

  python -m spinenet_tf.describe                          every RetinaNet of the paper's table 2
  python -m spinenet_tf.describe spinenet49 --size=896    one model: blocks, parts, levels
  python -m spinenet_tf.describe my_architecture.json     an architecture of your own

Parameters and multiply-adds are counted from the spec, without building; `--num_classes` defaults to 91, the authors'
count of outputs, so that the figures compare.
"""

from __future__ import annotations

from absl import flags

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.profile import Cost, profile
from spinenet_tf.backbones.published import PUBLISHED_CLASSES, RETINANETS
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError, run_command

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Registers the command's flags."""
  flags.DEFINE_integer("size", None, "Side of the square input in pixels; the paper's when there is one, else 640.")
  flags.DEFINE_integer("num_classes", PUBLISHED_CLASSES, "Class outputs of the RetinaNet.")


def _compare(value: float, published: float | None) -> str:
  return f"{value:9.2f} {published:9.1f} {100 * (value / published - 1):+6.2f}%" if published else f"{value:9.2f}"


def table(num_classes: int = PUBLISHED_CLASSES) -> str:
  """Returns the table of all published RetinaNets: ours, the paper's, the difference."""
  head = f"{'RetinaNet':<12} {'size':>5}  {'10^9 multiply-adds: ours, paper':>27}  {'10^6 parameters: ours, paper':>28}"
  rows = [head]
  for row in RETINANETS:
    cost = profile(row.name, "retinanet", num_classes, (row.size, row.size))
    multiply_adds = _compare(cost.multiply_adds / 1e9, row.multiply_adds)
    parameters = _compare(cost.parameters / 1e6, row.parameters)
    ap = " / ".join("-" if value is None else f"{value}" for value in (row.ap, row.ap_protocol_c))
    rows.append(f"{row.name:<12} {row.size:>5}  {multiply_adds:>27}  {parameters:>28}   AP B/C {ap}")
  rows.append(f"(AP: the paper's, COCO test-dev, protocols B / C. Counted with {num_classes} class outputs.)")
  return "\n".join(rows)


def describe_one(arch: Architecture, cost: Cost, size: int) -> str:
  """Returns blocks, then cost by part and by level, of one RetinaNet."""
  rows = [arch.describe(), ""]
  for field in ("part", "level"):
    rows.append(f"{field:<14} {'parameters':>12} {'multiply-adds':>16}")
    for key, (parameters, multiply_adds) in cost.by(field).items():
      rows.append(f"{key!s:<14} {parameters:>12,} {multiply_adds:>16,}")
  rows.append(f"{'total':<14} {cost.parameters:>12,} {cost.multiply_adds:>16,}   at {size} x {size}")
  rows.append(f"{'as executed':<14} {'':>12} {cost.multiply_adds_run:>16,}   (expanding before up-sampling)")
  for row in RETINANETS:
    if (row.name, row.size) == (arch.name, size):
      rows.append(f"{'paper':<14} {row.parameters:>10} M {row.multiply_adds:>14} B   (91 class outputs)")
  return "\n".join(rows)


def main(argv: list[str]) -> int:
  """Prints the table, or one description for each argument."""
  if FLAGS.num_classes < 1:
    raise UserError(f"--num_classes is {FLAGS.num_classes}; it must be at least 1")
  if FLAGS.size is not None and FLAGS.size < 1:
    raise UserError(f"--size is {FLAGS.size}; it is a number of pixels, such as 640")
  if not argv[1:]:
    print(table(FLAGS.num_classes))
  for name in argv[1:]:
    arch = architecture(name)
    size = FLAGS.size or next((row.size for row in RETINANETS if row.name == arch.name), 640)
    print(describe_one(arch, profile(arch, "retinanet", FLAGS.num_classes, (size, size)), size))
  return 0


if __name__ == "__main__":
  define_flags()
  run_command(main)
