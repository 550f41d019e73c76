"""What every convolution of a network has in common: activation, normalisation, padding."""

from __future__ import annotations

import dataclasses
from typing import Callable

import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.layers.initializers import ONES, ZEROS

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {"relu": tf.nn.relu, "swish": tf.nn.silu}
PADDINGS = ("symmetric", "same")
POOLINGS = ("chain", "single")
SQUEEZES = ("swish", "relu")  # inner activations of squeeze-and-excitation; the outer ones are sigmoid and hard sigmoid


@dataclasses.dataclass(frozen=True)
class ConvStyle:
  """Shared choices of a network's convolutions.

  Attributes:
    activation: "relu" (protocols A and B) or "swish" (protocol C).  [SpineNet section 5.1]
    norm_momentum: share of the old moving average kept at each step, in [0, 1). The paper has 0.99.
    norm_epsilon: added to the variance before the square root. The authors' first configurations have 1e-3.
    synchronized: batch statistics are those of all replicas rather than of each one.
    padding: of strided convolutions. "symmetric" pads (k - 1) // 2 zeros on each side, as the authors' code and
      PyTorch do; "same" is TensorFlow's rule, which on even sizes pads the far side more, as Model Garden does.
    folded: normalisations are folded into the convolutions before them, which have biases instead: for inference only,
      see `serving.fold`.
    pooling: of connections that go down more than one level: a "chain" of 3x3/2 max-pools, as in the paper, or a "single"
      one, as in the authors' code.
    pool_padding: of max-pools. "same" is TensorFlow's rule, "symmetric" (k - 1) // 2 on each side, as PyTorch.
    endpoint_activation: whether the activation follows the convolution of an endpoint.
    squeeze: of mobile blocks' squeeze-and-excitation: "swish", then sigmoid, as the authors', or "relu", then the
      hard sigmoid relu6(x + 3) / 6, as Model Garden's.
  """

  activation: str = "relu"
  norm_momentum: float = 0.99
  norm_epsilon: float = 1e-3
  synchronized: bool = False
  padding: str = "symmetric"
  folded: bool = False
  pooling: str = "chain"
  pool_padding: str = "same"
  endpoint_activation: bool = True
  squeeze: str = "swish"

  def __post_init__(self):
    if self.activation not in ACTIVATIONS:
      raise UserError(f"activation is {self.activation!r}; it must be one of {sorted(ACTIVATIONS)}")
    choices = {"padding": PADDINGS, "pool_padding": PADDINGS, "pooling": POOLINGS, "squeeze": SQUEEZES}
    for name, known in choices.items():
      if getattr(self, name) not in known:
        raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {list(known)}")
    if not 0 <= self.norm_momentum < 1:
      raise UserError(f"norm_momentum is {self.norm_momentum}; it must lie in [0, 1), the paper has 0.99")
    if not self.norm_epsilon > 0:
      raise UserError(f"norm_epsilon is {self.norm_epsilon}; it must be above 0, the authors have 1e-3")

  @classmethod
  def of(cls, value: ConvStyle | dict | None) -> ConvStyle:
    """Returns `value` as a style: itself, made from its dictionary, or the default for None."""
    if value is None:
      return cls()
    return value if isinstance(value, cls) else cls(**value)

  def to_dict(self) -> dict:
    """Returns a dictionary of plain values, for `get_config`."""
    return dataclasses.asdict(self)

  def activate(self, features: tf.Tensor) -> tf.Tensor:
    """Applies the activation to a tensor of any shape."""
    return ACTIVATIONS[self.activation](features)

  def max_pool(self, features: tf.Tensor, size: int, strides: int) -> tf.Tensor:
    """Returns the largest values of float[B, H, W, C] in windows of `size`, at ceil(H / strides) by ceil(W / strides)."""
    if self.pool_padding == "symmetric":
      side = (size - 1) // 2
      return tf.nn.max_pool2d(features, size, strides, [[0, 0], [side, side], [side, side], [0, 0]])
    return tf.nn.max_pool2d(features, size, strides, "SAME")

  def norm(self, name: str = "norm", **kwargs) -> keras.layers.Layer:
    """Returns a new batch normalisation over the last axis."""
    return keras.layers.BatchNormalization(
      momentum=self.norm_momentum,
      epsilon=self.norm_epsilon,
      synchronized=self.synchronized,
      beta_initializer=ZEROS,
      gamma_initializer=ONES,
      moving_mean_initializer=ZEROS,
      moving_variance_initializer=ONES,
      name=name,
      **kwargs,
    )
