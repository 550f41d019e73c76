"""What is checked before the first step, so that a mistake costs seconds. Each error says value, rule and remedy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from spinenet_tf.data.pipeline import groundtruth
from spinenet_tf.errors import UserError
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.training.settings import ModelSettings

SAMPLE = 500  # images looked at for object sizes
WORTH_SAYING = 0.05  # share of small objects


def check_batch(batch_size: int, replicas: int) -> None:
  """Raises UserError unless every replica gets the same number of examples."""
  if batch_size % replicas:
    low = max(replicas, batch_size // replicas * replicas)
    raise UserError(
      f"data.batch_size is {batch_size} and there are {replicas} replicas; it must be a multiple of their number: "
      f"set data.batch_size to {low} or {low + replicas}"
    )


def check_image_size(model: ModelSettings) -> None:
  """Raises UserError unless height and width are multiples of the coarsest level's stride."""
  stride = 2**model.max_level
  if any(side % stride for side in model.size):
    below, above = (tuple(max(stride, s // stride * stride + extra) for s in model.size) for extra in (0, stride))
    raise UserError(
      f"model.image_size is {model.size}; height and width must be multiples of 2^max_level = {stride}: "
      f"set it to {below} or {above}, or lower model.max_level"
    )


def small_object_share(pattern: Any, image_size: tuple[int, int], anchors: AnchorConfig) -> float:
  """Returns the share of objects whose side, at the input size, is below half the smallest anchor's.

  Looks at the first `SAMPLE` images of the training files; 0 when they have no objects.
  """
  limit = anchors.anchor_size * 2**anchors.min_level / 2
  small = total = 0
  for record in itertools.islice(groundtruth(pattern), SAMPLE):
    boxes = np.asarray(record["boxes"])[~np.asarray(record["is_crowd"], bool)]
    scale = min(image_size[0] / record["height"], image_size[1] / record["width"])
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * scale
    small, total = small + int((sides < limit).sum()), total + len(sides)
  return small / total if total else 0.0


def small_object_notes(pattern: Any, image_size: tuple[int, int], anchors: AnchorConfig) -> list[str]:
  """Returns what to tell about small objects: a note, or none where there are few."""
  share = small_object_share(pattern, image_size, anchors)
  note = small_object_note(share, image_size, anchors)
  return [note] if note else []


def small_object_note(share: float, image_size: tuple[int, int], anchors: AnchorConfig) -> str | None:
  """Returns what to tell about small objects, None when there are few."""
  if share < WORTH_SAYING:
    return None
  side = anchors.anchor_size * 2**anchors.min_level
  return (
    f"note: {100 * share:.0f}% of the objects are smaller than half the smallest anchor ({side:g} px at input size "
    f"{image_size[0]}x{image_size[1]}) and will be found badly; raise model.image_size, or lower model.anchor_size "
    f"({anchors.anchor_size:g}) or model.min_level ({anchors.min_level})"
  )
