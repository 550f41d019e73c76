"""What SOLO trains on: the cells of each level that are responsible for an object, and its mask there.  [Wang et al. 2020]

An object is of every level whose range holds sqrt(width * height) of its box. There it claims the cells that the middle of
its box (sigma of its sides, round its centre) touches, at most the 3x3 round the cell of the centre. Of several claims on a
cell that of the smallest mask wins.

L levels, S their grids, M objects at most, N cells of a level. All shapes are static. No gradient flows to targets.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.ops import boxes as box_ops
from spinenet_tf.ops.regions import mask_targets
from spinenet_tf.ops.solo_levels import SoloLevels

CENTRES = ("mass", "box")
Levels = dict[str, tf.Tensor]


class SoloTargets(NamedTuple):
  """Classes and objects of all cells, row after row, by level.

  Attributes:
    classes: int32[B, S*S], 0 ... K-1, -1 background.
    objects: int32[B, S*S], the row of the ground truth, -1 background.
    centres: bool[B, S*S], whether the object's centre is in the cell.
    num_positives: int32[B], cells of objects, over all levels.
    lost: int32[B], claims on a cell that went to a smaller object.
    without_cell: int32[B], objects without any cell: smaller ones took them all, or no level is for their size.
  """

  classes: Levels
  objects: Levels
  centres: Levels
  num_positives: tf.Tensor
  lost: tf.Tensor
  without_cell: tf.Tensor


class SoloCells(NamedTuple):
  """Cells whose masks train, by level.

  Attributes:
    index: int32[B, N], row * S + column; 0 at empty places.
    objects: int32[B, N], the row of the ground truth; 0 where not positive.
    positive: bool[B, N].
    negative: bool[B, N], cells of the background, whose mask shall be empty; a place that is neither is empty.
  """

  index: Levels
  objects: Levels
  positive: Levels
  negative: Levels


class SoloMasks(NamedTuple):
  """What the masks of chosen cells should be, by level.

  Attributes:
    masks: float32[B, N, 2 h, 2 w], 0 or 1.
    positive: bool[B, N], cells of objects that have a mask, with at least one pixel here.
    negative: bool[B, N], as of `SoloCells`.
  """

  masks: Levels
  positive: Levels
  negative: Levels


def assign(
  levels: SoloLevels,
  image_size: tuple[int, int],
  boxes: tf.Tensor,
  classes: tf.Tensor,
  masks: tf.Tensor,
  has_mask: tf.Tensor,
  *,
  centre: str = "mass",
  sigma: float = 0.2,
  multi_level: bool = True,
) -> SoloTargets:
  """Finds the cells of each object.

  Args:
    levels: of the model.
    image_size: (height, width) of the network's input in pixels.
    boxes: float32[B, M, 4], (ymin, xmin, ymax, xmax) in input pixels.
    classes: int32[B, M], 0 ... K-1, negative for padding. Boxes without area are padding too.
    masks: uint8[B, M, h, w], 0 or 1, bins of the box.
    has_mask: bool[B, M]; an object without a mask has the area and the centre of its box.
    centre: "mass", of the mask, or "box".
    sigma: share of the box's sides that claims cells, 0 to 1.
    multi_level: whether an object may be of several levels, see `SoloLevels.ranges`.

  Returns: `SoloTargets`.

  Raises: UserError for an argument out of range.
  """
  if centre not in CENTRES:
    raise UserError(f"centre is {centre!r}; it must be one of {list(CENTRES)}")
  if not 0 <= sigma <= 1:
    raise UserError(f"sigma is {sigma}; it is a share of the box's sides, 0 to 1, usually 0.2")
  with tf.name_scope("solo_targets"):
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    classes = tf.cast(classes, tf.int32)
    sides = boxes[..., 2:] - boxes[..., :2]
    real = (classes >= 0) & tf.reduce_all(sides > 0, axis=-1)
    middles, area = _shape(boxes, masks, has_mask, mass=centre == "mass")
    size = tf.sqrt(tf.maximum(box_ops.area(boxes), 0.0))
    found: dict[str, Levels] = {"classes": {}, "objects": {}, "centres": {}}
    lost, has_cell = tf.zeros_like(classes[:, 0]), tf.zeros_like(real)
    ranges = levels.ranges(multi_level)
    for i, name in enumerate(levels.names):
      low, high = ranges[i]
      last = multi_level or i + 1 == len(ranges)
      own = real & (size >= low) & ((size <= high) if last else (size < high))
      grid, extent = levels.grids[i], tf.constant(levels.extent(i, image_size), tf.float32)
      cell = tf.clip_by_value(_cells(middles, extent, grid), 0, grid - 1)  # int32[B, M, 2]
      first = tf.maximum(_cells(middles - sides * sigma / 2, extent, grid), cell - 1)[..., None]
      end = tf.minimum(_cells(middles + sides * sigma / 2, extent, grid), cell + 1)[..., None]
      lines = (tf.range(grid) >= first) & (tf.range(grid) <= end)  # bool[B, M, 2, S]
      claimed = lines[:, :, 0, :, None] & lines[:, :, 1, None, :] & own[..., None, None]
      claimed = tf.reshape(claimed, [-1, int(classes.shape[1]), grid * grid])
      smallest = tf.argmin(tf.where(claimed, area[..., None], tf.float32.max), axis=1, output_type=tf.int32)
      taken = tf.reduce_any(claimed, axis=1)
      middle = tf.gather(cell[..., 0] * grid + cell[..., 1], smallest, batch_dims=1)
      found["classes"][name] = tf.where(taken, tf.gather(classes, smallest, batch_dims=1), -1)
      found["objects"][name] = tf.where(taken, smallest, -1)
      found["centres"][name] = taken & (middle == tf.range(grid * grid))
      lost += _count(claimed, [1, 2]) - _count(taken, [1])
      rows = tf.range(int(classes.shape[1]))[:, None]
      has_cell |= tf.reduce_any(found["objects"][name][:, None] == rows, axis=-1)
    return SoloTargets(
      **found,
      num_positives=tf.add_n([_count(values >= 0, [1]) for values in found["objects"].values()]),
      lost=lost,
      without_cell=_count(real & ~has_cell, [1]),
    )


def choose(targets: SoloTargets, count: int = 128, seed: tf.Tensor | None = None, negatives: bool = False) -> SoloCells:
  """Chooses the cells whose masks train: those of objects, those of their centres first.

  Args:
    targets: of all cells.
    count: cells of a level, at most.
    seed: int32[2], which ones are left out where there are more; the lowest ones on the grid when None, and negatives are
      its first.
    negatives: choose as many cells of the background as well.

  Returns: `SoloCells`; N is the smaller of `count` and S * S, and twice that with negatives.

  Raises: UserError for a count below 1.
  """
  if count < 1:
    raise UserError(f"count of cells is {count}; it must be 1 or more")
  chosen: tuple[Levels, ...] = ({}, {}, {}, {})
  with tf.name_scope("choose_cells"):
    for i, (name, objects) in enumerate(targets.objects.items()):
      order = tf.zeros(tf.shape(objects))
      if seed is not None:
        order = tf.random.stateless_uniform(tf.shape(objects), tf.random.experimental.stateless_fold_in(seed, i))
      number = min(count, int(objects.shape[1]))
      first = order + tf.cast(targets.centres[name], tf.float32)
      best, index = tf.math.top_k(tf.where(objects >= 0, first, -1.0), number)
      positive = best >= 0
      negative = tf.zeros_like(positive)
      if negatives:
        best, others = tf.math.top_k(tf.where(objects < 0, order, -1.0), number)
        wanted = (best >= 0) & (tf.range(number) < _count(positive, [1])[:, None])
        index = tf.concat([index, others], axis=1)
        positive, negative = tf.concat([positive, negative], axis=1), tf.concat([negative, wanted], axis=1)
      index = tf.where(positive | negative, index, 0)
      rows = tf.where(positive, tf.gather(objects, index, batch_dims=1), 0)
      for values, value in zip(chosen, (index, rows, positive, negative)):
        values[name] = value
  return SoloCells(*chosen)


def masks_of(
  levels: SoloLevels,
  image_size: tuple[int, int],
  cells: SoloCells,
  boxes: tf.Tensor,
  masks: tf.Tensor,
  has_mask: tf.Tensor,
) -> SoloMasks:
  """Lays the masks of objects into the pixels of the masks of their levels.

  Args:
    levels, image_size, boxes, masks, has_mask: as of `assign`.
    cells: chosen.

  Returns: `SoloMasks`.
  """
  found: dict[str, Levels] = {"masks": {}, "positive": {}, "negative": cells.negative}
  with tf.name_scope("solo_masks"):
    for i, name in enumerate(levels.names):
      rows, positive = cells.objects[name], cells.positive[name]
      where = tf.gather(tf.cast(boxes, tf.float32), rows, batch_dims=1)
      whole = tf.broadcast_to(tf.constant([0.0, 0.0, *levels.extent(i, image_size)]), tf.shape(where))
      crops = tf.gather(masks, rows, batch_dims=1)
      positive &= tf.gather(has_mask, rows, batch_dims=1)
      seen = mask_targets(crops, where, whole, levels.mask_size(i, image_size))
      seen = tf.where(positive[..., None, None], seen, 0.0)
      found["masks"][name] = seen
      found["positive"][name] = positive & tf.reduce_any(seen > 0, axis=[2, 3])
  return SoloMasks(**found)


def _shape(boxes: tf.Tensor, masks: tf.Tensor, has_mask: tf.Tensor, mass: bool) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns centres float32[B, M, 2], (y, x), and areas float32[B, M] of masks, else of boxes, in input pixels."""
  low, sides = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
  pixels = tf.cast(masks, tf.float32)
  total = tf.reduce_sum(pixels, axis=[2, 3])
  height, width = int(masks.shape[2]), int(masks.shape[3])
  known = has_mask & (total > 0)
  share = tf.where(known, total / (height * width), 1.0)
  middles = tf.zeros_like(low) + 0.5
  if mass:
    places = [
      tf.reduce_sum(tf.reduce_sum(pixels, axis=axis) * ((tf.range(bins, dtype=tf.float32) + 0.5) / bins), axis=-1)
      for axis, bins in ((3, height), (2, width))
    ]
    middles = tf.where(known[..., None], tf.math.divide_no_nan(tf.stack(places, axis=-1), total[..., None]), middles)
  return low + sides * middles, sides[..., 0] * sides[..., 1] * share


def _cells(places: tf.Tensor, extent: tf.Tensor, grid: int) -> tf.Tensor:
  """Returns rows and columns of the cells that float32[..., 2] places in input pixels lie in, also beyond the grid; int32."""
  return tf.cast(tf.floor(places / extent * grid), tf.int32)


def _count(values: tf.Tensor, axis: list[int]) -> tf.Tensor:
  return tf.reduce_sum(tf.cast(values, tf.int32), axis=axis)
