"""Receptive fields: how wide a square of the image one pixel of a feature map can see."""

from __future__ import annotations

import dataclasses

import numpy as np

from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.layers.blocks import kernel_sizes

TOP = 7  # highest level; moving by its stride, 2^7 pixels, every map looks as before


@dataclasses.dataclass(frozen=True)
class View:
  """What the pixels of a feature map see along one side of an endless image.

  Attributes:
    level: of the map.
    first: int[2^(7 - level)], the first image pixel that map pixel i sees; pixel i + 2^(7 - level) sees 2^7 further.
    last: likewise the last one.
  """

  level: int
  first: np.ndarray
  last: np.ndarray

  @property
  def width(self) -> int:
    """Pixels that the map pixel with the widest view sees."""
    return int((self.last - self.first).max()) + 1

  def window(self, level: int, start: np.ndarray, stop: np.ndarray) -> View:
    """Returns the view of a map at `level` whose pixel i reads pixels start[i] to stop[i] of this one."""
    return View(level, _at(self.first, start), _at(self.last, stop))

  def conv(self, kernel: int, down: bool = False) -> View:
    """Returns the view behind a k x k convolution, symmetrically padded, of stride 2 when `down`."""
    level = self.level + down
    centre = np.arange(2 ** (TOP - level)) * (2 if down else 1)
    return self.window(level, centre - kernel // 2, centre + kernel // 2)

  def pool(self) -> View:
    """Returns the view behind a 3x3/2 max-pool with TensorFlow's padding, which on even sizes is on the far side."""
    start = np.arange(2 ** (TOP - self.level - 1)) * 2
    return self.window(self.level + 1, start, start + 2)

  def up(self, level: int) -> View:
    """Returns the view behind nearest-neighbour up-sampling to `level`."""
    source = np.arange(2 ** (TOP - level)) // 2 ** (self.level - level)
    return self.window(level, source, source)

  def joined(self, other: View) -> View:
    """Returns the view of the sum of two maps of one level."""
    return View(self.level, np.minimum(self.first, other.first), np.maximum(self.last, other.last))


def _at(table: np.ndarray, index: np.ndarray) -> np.ndarray:
  return table[index % len(table)] + 2**TOP * (index // len(table))


def _connection(arch: Architecture, view: View, level: int) -> View:
  if level < view.level:
    return view.up(level)
  for step in range(level - view.level):
    view = view.conv(3, down=True) if arch.separable or not step else view.pool()
  return view


def _block(view: View, kind: str, level: int) -> View:
  for kernel in (1, 3, 1) if kind == "mbconv" else kernel_sizes(kind):
    view = view.conv(kernel, down=kernel == 3 and level > view.level)
  return view


def receptive_fields(arch: Architecture) -> dict[int, int]:
  """Returns {level: side in pixels of the square that one pixel of the pyramid's level sees}.

  That of the convolutions and pools, widest pixel, far from the border; squeeze-and-excitation, whose mean over the
  image lets every pixel see all of it, is left out.
  """
  pixels = np.arange(2**TOP)
  view = View(0, pixels, pixels).conv(arch.stem_kernel, down=True)
  view = view.pool() if arch.stem_pool else view
  views: list[View] = []
  for i, spec in enumerate(arch.features):
    if i >= len(arch.stem):
      parents = [_connection(arch, views[p], spec.level) for p in spec.parents]
      view = parents[0]
      for other in [*parents[1:], *(views[j] for j in arch.unused_inputs(i))]:
        view = view.joined(other)
    for _ in range(arch.repeats(i)):
      view = _block(view, spec.block, spec.level)
    views.append(view)
  pyramid = {level: views[i] for level, i in arch.outputs.items()}
  if arch.pyramid == "fpn":
    pyramid = _fpn(pyramid)
  return {level: view.width for level, view in pyramid.items()}


def _fpn(views: dict[int, View]) -> dict[int, View]:
  for level in (4, 3):
    views[level] = views[level].joined(views[level + 1].up(level))
  pyramid = {level: views[level].conv(3) for level in (3, 4, 5)}
  for level in (6, 7):
    pyramid[level] = pyramid[level - 1].conv(3, down=True)
  return pyramid
