"""Random weights for models of other code bases."""

import numpy as np
import pytest


def random_value(rng, name, shape):
  """Returns float32 values of a size that keeps features in range, for a variable of that name."""
  leaf = name.split("/")[-1].split(":")[0]
  if "kernel" in leaf:
    fan_in = np.prod(shape[:2]) if leaf == "depthwise_kernel" else np.prod(shape[:-1])
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
  if leaf in ("gamma", "moving_variance"):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  return rng.normal(scale=0.2, size=shape).astype(np.float32)


@pytest.fixture(scope="session")
def randomise():
  """Gives every variable of a Keras model a random value, statistics and biases too."""

  def give(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
      if variable.dtype.is_floating:
        variable.assign(random_value(rng, variable.name, variable.shape.as_list()))

  return give
