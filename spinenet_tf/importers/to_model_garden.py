"""Our weights in Model Garden's layout, so that they serve in its tools."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.importers import model_garden, tensorflow_files
from spinenet_tf.models.naming import named_variables

PREFIX = "ckpt-0"
# What Model Garden calls an architecture of ours.
_IDS = {"spinenet49s": "49S", "spinenet49": "49", "spinenet96": "96", "spinenet143": "143", "spinenet190": "190"}
_MOBILE_IDS = {"spinenet49_mobile": "49", "spinenet49s_mobile": "49S", "spinenet49xs_mobile": "49XS"}


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
  if loaded.task != "retinanet":
    raise UserError(f"{run} is a run of {loaded.task}; RetinaNets can be written for Model Garden")
  weights = {name: v.numpy() for name, v in named_variables(loaded.model).items()}
  folder = pathlib.Path(output)
  write(weights, peer(loaded.model), str(folder / PREFIX))
  (folder / "checkpoint").write_text(f'model_checkpoint_path: "{PREFIX}"\nall_model_checkpoint_paths: "{PREFIX}"\n')
  return str(folder / PREFIX)


def peer(model: Any) -> keras.Model:
  """Returns Model Garden's RetinaNet of the same sizes as ours, with weights of its own.

  Raises: UserError for a network that Model Garden does not have, or cannot compute as ours does.
  """
  from official.core import exp_factory
  from official.vision.modeling.backbones import spinenet
  from official.vision.tasks.retinanet import RetinaNetTask

  import official.vision  # noqa: F401, isort: skip - registers the experiments

  arch, style, config = model.architecture, model.style, model.get_config()
  if arch.name not in {**_IDS, **_MOBILE_IDS}:
    raise UserError(f"Model Garden has no {arch.name}; it has {[*_IDS, *_MOBILE_IDS]}")
  mobile = arch.separable
  theirs = {"padding": "same", "pooling": "chain", "pool_padding": "same", "endpoint_activation": True}
  theirs |= {"squeeze": "relu"} if mobile else {}
  if other := {name: getattr(style, name) for name, value in theirs.items() if getattr(style, name) != value}:
    wanted = ", ".join(f"model.{name} = {theirs[name]!r}" for name in other)
    raise UserError(f"the run has {other}, so Model Garden would compute something else; train it with {wanted}")
  task = exp_factory.get_exp_config("retinanet_mobile_coco" if mobile else "retinanet_spinenet_coco").task
  backbone = task.model.backbone.spinenet_mobile if mobile else task.model.backbone.spinenet
  backbone.model_id = {**_IDS, **_MOBILE_IDS}[arch.name]
  backbone.stochastic_depth_drop_rate = 0.0
  task.model.input_size = [*model.known_size(), 3]
  task.model.num_classes = model.num_classes
  task.model.min_level, task.model.max_level = model.levels[0], model.levels[-1]
  task.model.anchor.num_scales = model.anchors.num_scales
  task.model.anchor.aspect_ratios = list(model.anchors.aspect_ratios)
  task.model.anchor.anchor_size = model.anchors.anchor_size
  task.model.head.num_convs, task.model.head.num_filters = config["head_convs"], config["head_filters"]
  task.model.norm_activation.activation = style.activation
  task.model.norm_activation.norm_momentum = style.norm_momentum
  task.model.norm_activation.norm_epsilon = style.norm_epsilon
  task.model.norm_activation.use_sync_bn = False
  sizes = None if mobile else spinenet.SCALING_MAP[backbone.model_id]
  known = dict(sizes or {})
  try:
    if sizes is not None:  # 49S: 256 channels as in the paper where ours has them; Model Garden's table has 128
      sizes["endpoints_num_filters"] = arch.endpoint_filters
    made = RetinaNetTask(task).build_model()
  finally:
    if sizes is not None:
      sizes.update(known)
  made(tf.zeros([1, *model.known_size(), 3]), training=False)
  return made


def write(weights: dict[str, np.ndarray], made: keras.Model, prefix: str) -> None:
  """Writes weights by our names as a checkpoint of a Model Garden model.

  Biases before a batch norm, which ours lacks, are 0.

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
  left = set(weights)
  for key, name in places.items():
    old = content[key + model_garden.SUFFIX]
    if name not in weights and name.endswith("/bias"):
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
