"""Units of a network and their cost: convolutions with what stands behind them, sums, pools."""

from __future__ import annotations

import dataclasses

from spinenet_tf.backbones.builder import level_size


@dataclasses.dataclass(frozen=True)
class Op:
  """One convolution with the normalisation, bias and activation behind it, or one sum, pool or up-sampling.

  Attributes:
    part: of the model, "stem", "blocks" and so on.
    level: of its output; 0 where it has none: regions, and what is pooled over the image.
    parameters: trainable values; 0 where another level has counted the weights it shares.
    multiply_adds: of the convolution, in the paper's order.
    multiply_adds_run: of the convolution, in the order executed.
    written: values of its output.
    kept: values that training keeps of it for the gradient.
  """

  part: str
  level: int
  parameters: int
  multiply_adds: int
  multiply_adds_run: int
  written: int
  kept: int


class Counter:
  """Collects the ops of a network for an input of (height, width) pixels.

  `then` says what happens to a result, and so how many copies of it a gradient keeps: "activate" (relu: the activation's
  output, swish: its input, too), "read" by a convolution, a pool or the loss (one), or "add" to others (none).
  """

  def __init__(self, input_size: tuple[int, int], activation: str = "relu"):
    self.input_size, self.ops = input_size, []
    self._copies = {"activate": 2 if activation == "swish" else 1, "read": 1, "add": 0}

  def pixels(self, level: int) -> int:
    """Returns height times width of the features at a level."""
    height, width = level_size(self.input_size, level)
    return height * width

  def conv(
    self,
    part: str,
    level: int,
    kernel: int,
    inputs: int,
    outputs: int,
    *,
    depthwise: bool = False,
    norm: bool = True,
    bias: bool = False,
    then: str = "activate",
    shared: bool = False,
    shared_norm: bool = False,
    run_level: int | None = None,
    pixels: int | None = None,
    spread: int = 1,
  ) -> None:
    """Adds a convolution, or a dense layer: a 1x1 convolution of one pixel.

    Args:
      part: of the model.
      level: of its output.
      kernel: side of the square kernel.
      inputs: channels.
      outputs: channels; those of the input when depthwise.
      depthwise: one kernel for each channel.
      norm: a batch normalisation follows, with a scale and a shift for each channel.
      bias: one for each channel.
      then: what happens to the result.
      shared: the weights (not the normalisation) are those of an op counted before.
      shared_norm: the normalisation's too.
      run_level: the level at which it is executed; `level` when None.
      pixels: where the kernel is applied; those of `level` when None.
      spread: pixels that it writes at each; 4 for a 2x2 transposed convolution of stride 2.
    """
    weights = kernel**2 * (inputs if depthwise else inputs * outputs)
    pixels = self.pixels(level) if pixels is None else pixels
    run_pixels = pixels if run_level is None else self.pixels(run_level)
    parameters = 2 * outputs * (norm and not shared_norm) + (0 if shared else weights + outputs * bias)
    values = run_pixels * spread * outputs
    kept = values * (norm + self._copies[then])
    self.ops.append(Op(part, level, parameters, weights * pixels, weights * run_pixels, values, kept))

  def map(self, part: str, level: int, channels: int, *, then: str = "read", pixels: int | None = None) -> None:
    """Adds features that no convolution writes: of a sum, a pool or an up-sampling."""
    values = (self.pixels(level) if pixels is None else pixels) * channels
    self.ops.append(Op(part, level, 0, 0, 0, values, values * self._copies[then]))
