"""Variables by name: the names follow the architecture and are part of the checkpoint format.

Keras would key a checkpoint by the order in which layers were created. Here the keys are the variables' own names
(`model/block_07/resample_0/squeeze/conv/kernel`), so a checkpoint survives a refactoring of the code that wrote it.
"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError


def named_variables(model: keras.Model) -> dict[str, tf.Variable]:
  """Returns every variable of a built model, trainable or not, by its name without the ":0".

  Raises: UserError when two variables share a name.
  """
  variables: dict[str, tf.Variable] = {}
  for variable in model.variables:
    name = variable.name.split(":")[0]
    if name in variables:
      raise UserError(f"two variables are named {name!r}; give the layers of a model different names")
    variables[name] = variable
  return variables


def variable_tree(model: keras.Model) -> tf.Module:
  """Returns the model's variables as a tree of trackable nodes, one for each part of their names.

  For `tf.train.Checkpoint(model=variable_tree(model))`.
  """
  return tree_of(named_variables(model))


def tree_of(variables: dict[str, tf.Variable]) -> tf.Module:
  """Returns variables by name as such a tree."""
  root = tf.Module()
  for name, variable in variables.items():
    *scopes, leaf = name.split("/")
    node = root
    for scope in scopes:
      if getattr(node, scope, None) is None:
        setattr(node, scope, tf.Module())
      node = getattr(node, scope)
    setattr(node, leaf, variable)
  return root
