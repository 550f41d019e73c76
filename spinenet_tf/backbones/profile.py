"""Parameters and multiply-adds of a model, counted from its spec without building it.

Counted as the paper's tables are: the multiplications of convolutions at the size of their output, nothing for
normalisation, activation, pooling or addition; trainable parameters, so normalisation's scale and shift but not its
moving averages. The paper up-samples before the expanding convolution of a connection; `multiply_adds` counts that
order, `multiply_adds_run` the one that this package runs.
"""

from __future__ import annotations

import dataclasses
import pathlib

from spinenet_tf.backbones.builder import level_size
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.layers.blocks import block_channels, kernel_sizes

TASKS = ("backbone", "retinanet")


@dataclasses.dataclass(frozen=True)
class Conv:
  """One convolution, with the normalisation or bias behind it: its part of the model, level, and cost."""

  part: str
  level: int
  parameters: int
  multiply_adds: int
  multiply_adds_run: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a model costs for one image.

  Attributes:
    convs: every convolution; one that several levels share stands once for each, its parameters with the first.
  """

  convs: tuple[Conv, ...]

  @property
  def parameters(self) -> int:
    """Trainable values."""
    return sum(c.parameters for c in self.convs)

  @property
  def multiply_adds(self) -> int:
    """Multiplications of all convolutions in the paper's order."""
    return sum(c.multiply_adds for c in self.convs)

  @property
  def multiply_adds_run(self) -> int:
    """Multiplications of all convolutions in the order executed."""
    return sum(c.multiply_adds_run for c in self.convs)

  def by(self, field: str) -> dict[str | int, tuple[int, int]]:
    """Returns {value of `field`: (parameters, multiply_adds)} for field "part" or "level", in order of value."""
    groups: dict[str | int, tuple[int, int]] = {}
    for conv in self.convs:
      parameters, multiply_adds = groups.get(getattr(conv, field), (0, 0))
      groups[getattr(conv, field)] = (parameters + conv.parameters, multiply_adds + conv.multiply_adds)
    return dict(sorted(groups.items()))


class _Counter:
  """Collects convolutions for an input size."""

  def __init__(self, input_size: tuple[int, int]):
    self.input_size, self.convs = input_size, []

  def pixels(self, level: int) -> int:
    height, width = level_size(self.input_size, level)
    return height * width

  def conv(self, part, level, kernel, inputs, outputs, *, run_level=None, shared=False, extra=None) -> None:
    """Adds a convolution whose output lies at `level`; `extra` parameters default to a normalisation's two a channel."""
    weights = kernel**2 * inputs * outputs
    extra = 2 * outputs if extra is None else extra
    run_level = level if run_level is None else run_level
    parameters = extra + (0 if shared else weights)
    self.convs.append(Conv(part, level, parameters, weights * self.pixels(level), weights * self.pixels(run_level)))

  def block(self, part: str, block: str, level: int, filters: int, inputs: int, input_level: int) -> None:
    """Adds one residual or bottleneck block, its projection where channels or level change."""
    outputs, sizes = block_channels(block, filters), kernel_sizes(block)
    channels, at = inputs, input_level
    for i, kernel in enumerate(sizes):
      at = level if kernel == 3 else at
      last = i == len(sizes) - 1
      self.conv(part, at, kernel, channels, outputs if last else filters)
      channels = filters
    if inputs != outputs or input_level != level:
      self.conv(part, level, 1, inputs, outputs)

  def connection(self, arch: Architecture, parent: int, index: int) -> None:
    """Adds one cross-scale connection."""
    source, target = arch.features[parent].level, arch.features[index].level
    squeezed, part = arch.squeeze_filters(parent), "connections"
    self.conv(part, source, 1, arch.channels(parent), squeezed)
    if target > source:
      self.conv(part, source + 1, 3, squeezed, squeezed)
    height, width = level_size(self.input_size, source)
    factor = 2 ** max(source - target, 0)
    commutes = (height * factor, width * factor) == level_size(self.input_size, target)
    run_level = source if target < source and commutes else target
    self.conv(part, target, 1, squeezed, arch.channels(index), run_level=run_level)


def _count_backbone(counter: _Counter, arch: Architecture, levels: tuple[int, ...]) -> None:
  counter.conv("stem", 1, arch.stem_kernel, 3, arch.stem_filters)
  channels, level = arch.stem_filters, 2 if arch.stem_pool else 1
  for i, spec in enumerate(arch.features):
    if i >= len(arch.stem):
      for parent in spec.parents:
        counter.connection(arch, parent, i)
      channels, level = arch.channels(i), spec.level
    for _ in range(arch.block_repeats):
      part = "stem" if i < len(arch.stem) else "blocks"
      counter.block(part, spec.block, spec.level, arch.filters(spec.level), channels, level)
      channels, level = arch.channels(i), spec.level
  for i, spec in enumerate(arch.features):
    if spec.is_output and spec.level in levels:
      counter.conv("endpoints", spec.level, 1, arch.channels(i), arch.endpoint_filters)


def _count_retinanet(counter: _Counter, arch: Architecture, levels, convs, filters, classes, anchors) -> None:
  for outputs, part in ((anchors * classes, "class tower"), (anchors * 4, "box tower")):
    for level in levels:
      shared, channels = level != levels[0], arch.endpoint_filters
      for _ in range(convs):
        counter.conv(part, level, 3, channels, filters, shared=shared)
        channels = filters
      counter.conv(part, level, 3, channels, outputs, shared=shared, extra=0 if shared else outputs)


def profile(
  architecture: str | pathlib.Path | dict | Architecture,
  task: str = "retinanet",
  num_classes: int = 80,
  input_size: tuple[int, int] = (640, 640),
  *,
  head_convs: int | None = None,
  head_width: int | None = None,
  anchors_per_location: int = 9,
  min_level: int = 3,
  max_level: int = 7,
) -> Cost:
  """Counts parameters and multiply-adds of a model.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    task: "retinanet", or "backbone" for the pyramid alone.
    num_classes: without background. The paper's counts have the authors' 91 outputs.
    input_size: (height, width) in pixels.
    head_convs: convolutions of each tower; the architecture's when None.
    head_width: their channels; the architecture's when None.
    anchors_per_location: of RetinaNet.
    min_level: lowest level that the heads read; a backbone alone counts all its outputs.
    max_level: highest level that the heads read.

  Returns: the `Cost` of one image.

  Raises: UserError for an unknown architecture or task.
  """
  if task not in TASKS:
    raise UserError(f"task is {task!r}; it must be one of {list(TASKS)}")
  arch, counter = find_architecture(architecture), _Counter(tuple(input_size))
  levels = tuple(range(min_level, max_level + 1)) if task == "retinanet" else arch.output_levels
  _count_backbone(counter, arch, levels)
  if task == "retinanet":
    convs, width = head_convs or arch.head_convs, head_width or arch.head_filters
    _count_retinanet(counter, arch, levels, convs, width, num_classes, anchors_per_location)
  return Cost(tuple(counter.convs))
