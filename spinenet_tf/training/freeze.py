"""Which variables a fine-tuning run leaves as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError


def freeze(model: keras.Model, patterns: Sequence[str]) -> list[tf.Variable]:
  """Freezes the trainable variables whose names match one of `patterns`.

  A layer all of whose variables are frozen is set untrainable, so its batch normalisation uses its moving averages.

  Args:
    model: built.
    patterns: regular expressions, searched anywhere in names such as "block_07/resample_0/squeeze/conv/kernel".

  Returns: the variables left to train.

  Raises: UserError for a pattern that is no regular expression or that finds nothing, or when nothing is left.
  """
  compiled = [_compile(pattern) for pattern in patterns]
  names = {id(v): v.name.split(":")[0] for v in model.trainable_variables}
  for pattern in compiled:
    if not any(pattern.search(name) for name in names.values()):
      examples = sorted({name.split("/")[0] for name in names.values()})
      raise UserError(
        f"train.freeze pattern {pattern.pattern!r} matches no trainable variable; their names begin with "
        f"{', '.join(examples[:12])}..."
      )
  frozen = {key for key, name in names.items() if any(p.search(name) for p in compiled)}
  left = [v for v in model.trainable_variables if id(v) not in frozen]
  if not left:
    raise UserError(f"train.freeze {list(patterns)} freezes every variable; leave some to train")
  for layer in _leaves(model):
    if layer.trainable_weights and all(id(v) in frozen for v in layer.trainable_weights):
      layer.trainable = False
  return left


def _compile(pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise UserError(f"train.freeze pattern {pattern!r} is no regular expression: {error}") from error


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
  """Yields the layers that hold no other layers."""
  for module in model.submodules:
    is_leaf = isinstance(module, keras.layers.Layer) and not any(
      isinstance(inner, keras.layers.Layer) for inner in module.submodules
    )
    if is_leaf:
      yield module
