"""Our weights in Model Garden's layout, so that they serve in its tools."""

from __future__ import annotations

import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.importers import model_garden, tensorflow_files
from spinenet_tf.importers.garden_peers import peer
from spinenet_tf.models.naming import named_variables

PREFIX = "ckpt-0"


def export(run: str | os.PathLike, output: str | os.PathLike) -> str:
  """Writes the checkpoint of a run.

  Args:
    run: a run directory, as `serving.load.load_run` takes it.
    output: folder to write.

  Returns: the prefix of the checkpoint.

  Raises: UserError when the run is of no network that Model Garden has.
  """
  from spinenet_tf.serving.load import load_run

  loaded = load_run(run, fold=False)
  weights = {name: v.numpy() for name, v in named_variables(loaded.model).items()}
  folder = pathlib.Path(output)
  write(weights, peer(loaded.model), str(folder / PREFIX))
  (folder / "checkpoint").write_text(f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n')
  return str(folder / PREFIX)


def write(weights: dict[str, np.ndarray], made: keras.Model, prefix: str) -> None:
  """Writes weights by our names as a checkpoint of a Model Garden model.

  Biases before a batch norm, which ours lacks, are 0, and so are background's box codes and masks. What a classifier does not
  read stays at Model Garden's initial values.

  Raises: UserError when a variable has no counterpart, or another shape.
  """
  with tempfile.TemporaryDirectory() as folder:
    fresh = os.path.join(folder, "fresh")
    step = tf.Variable(0, dtype=tf.int64)
    tf.train.Checkpoint(**made.checkpoint_items, model=made, global_step=step).write(fresh)
    tensors = tensorflow_files.read(fresh)
    content = {key: tensors.get(key) for key in tensors.shapes}
    keys = [key[: -len(model_garden.SUFFIX)] for key in content if key.endswith(model_garden.SUFFIX)]
    places, _ = model_garden.names(keys, model_garden.full_names(content[model_garden.GRAPH]), "the new model")
  weights = _laid_out(weights)
  left = set(weights)
  # A classifier reads one level; ours has no blocks and endpoints that only others need, Model Garden's has and ignores them.
  ignored = ("block_", "endpoint_") if "classifier/predict/kernel" in weights else ()
  for key, name in places.items():
    old = content[key + model_garden.SUFFIX]
    if name not in weights and name.startswith(ignored):
      new = old
    elif name not in weights and name.endswith("/bias"):
      new = np.zeros_like(old)
    elif name not in weights or weights[name].shape != old.shape:
      seen = list(weights[name].shape) if name in weights else "missing"
      raise UserError(f"{name} is {seen}, Model Garden's {key} is {list(old.shape)}; its network has other sizes")
    else:
      new = weights[name]
    content[key + model_garden.SUFFIX] = new
    left.discard(name)
  if left:
    raise UserError(f"{len(left)} variables have no counterpart in Model Garden, {sorted(left)[:3]} among them")
  os.makedirs(os.path.dirname(prefix) or ".", exist_ok=True)
  tensorflow_files.write(prefix, content)


def _laid_out(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns weights with those of a second stage as Model Garden has them: its convolutions' layout, background's outputs."""
  weights = dict(weights)
  if (kernel := weights.get("mask_head/double/kernel")) is not None:
    weights["mask_head/double/kernel"] = kernel.transpose(1, 2, 3, 0)  # to row, column, output, input
    weights["mask_head/predict/kernel"] = weights["mask_head/predict/kernel"][None, None]  # a 1x1 convolution
  for head, width in (("box_head/boxes", 4), ("mask_head/predict", 1)):
    for leaf in ("kernel", "bias"):
      if (value := weights.get(f"{head}/{leaf}")) is not None:
        weights[f"{head}/{leaf}"] = np.pad(value, [*[(0, 0)] * (value.ndim - 1), (width, 0)])
  return weights
