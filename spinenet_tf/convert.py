"""Brings weights in from elsewhere, and back.

python -m spinenet_tf.convert --source=model_garden|tpu_detection|mmdet CHECKPOINT --output=DIR
python -m spinenet_tf.convert --to=model_garden RUN --output=DIR

The output of the first is a run directory: `evaluate`, `predict`, `st.load`, fine-tuning and export take it. What the
checkpoint does not say has flags: [--activation=swish] [--norm_epsilon=0.0001] [--image_size=640] [--anchor_size=4]
[--aspect_ratios=1,2,0.5] [--meta=FOLDER], [--architecture=FILE.json] for other connections.
"""

from __future__ import annotations

import pathlib

from absl import flags

from spinenet_tf.errors import UserError, run_command


def define_flags() -> None:
  """Registers the command's flags."""
  flags.DEFINE_string("source", None, "Where CHECKPOINT comes from: model_garden, tpu_detection or mmdet.")
  flags.DEFINE_string("to", None, "Write a run's weights for another code base instead: model_garden.")
  flags.DEFINE_string("output", None, "Folder to write, which must not be there yet.", required=True)
  flags.DEFINE_string("architecture", None, "Name, which is checked, or a JSON file with other connections.")
  flags.DEFINE_bool("average", False, "Take the moving averages of weights that Model Garden evaluates with.")
  flags.DEFINE_string("activation", None, "relu or swish; relu by default, swish for mobile networks.")
  flags.DEFINE_float("norm_epsilon", None, "Of batch norms: 0.001 by default, 0.00001 for classifiers.")
  flags.DEFINE_list("image_size", None, "Side, or height and width, in pixels; 640, 384 or 224 by default.")
  flags.DEFINE_float("anchor_size", None, "Base anchor in strides; that of the architecture by default.")
  flags.DEFINE_list("aspect_ratios", None, "Width by height of the anchors, in their order; the source's by default.")
  flags.DEFINE_string("meta", None, "Folder with the meta.json of the data; COCO's classes, or numbers, by default.")


def main(argv: list[str]) -> int:
  """Runs the command. Returns: exit code."""
  from spinenet_tf.data import meta
  from spinenet_tf.importers import run, to_model_garden
  from spinenet_tf.importers.assemble import Choices

  values = flags.FLAGS
  if len(argv) != 2:
    raise UserError(f"{len(argv) - 1} paths are given; give one, the checkpoint to convert")
  if (values.source is None) == (values.to is None):
    raise UserError(
      f"give --source, one of {list(run.SOURCES)}, to bring weights in, or --to=model_garden, and not both"
    )
  run.check_output(pathlib.Path(values.output))
  if values.to is not None:
    if values.to != "model_garden":
      raise UserError(f"--to is {values.to!r}; weights can be written for model_garden")
    prefix = to_model_garden.export(argv[1], values.output)
    print(f"wrote {prefix}, in Model Garden's layout")
    return 0
  size = _numbers("image_size", int)
  known = meta.load(values.meta) if values.meta else None
  if values.meta and known is None:
    raise UserError(f"--meta={values.meta}: there is no meta.json; give the folder that `prepare` wrote")
  choices = Choices(
    activation=values.activation,
    norm_epsilon=values.norm_epsilon,
    image_size=size[0] if size and len(size) == 1 else size,
    anchor_size=values.anchor_size,
    aspect_ratios=_numbers("aspect_ratios", float),
    categories=known and known.categories,
  )
  imported = run.load(values.source, argv[1], choices, architecture=values.architecture, average=values.average)
  print(f"{argv[1]} ({values.source})\n{imported.describe()}\n{imported.account}")
  run.save(imported, values.source, argv[1], values.output)
  print(f"wrote {values.output}")
  return 0


def _numbers(name: str, kind: type) -> tuple | None:
  """Returns a flag's numbers, None when it is not given."""
  texts = flags.FLAGS[name].value
  if texts is None:
    return None
  try:
    return tuple(kind(text) for text in texts)
  except ValueError as error:
    raise UserError(f"--{name}={','.join(texts)} is not a list of numbers such as 640 or 1,2,0.5") from error


if __name__ == "__main__":
  define_flags()
  run_command(main)
