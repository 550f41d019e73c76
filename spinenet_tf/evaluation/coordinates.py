"""From the pixels of the network's input back to the pixels of the picture as given."""

from __future__ import annotations

import numpy as np


def to_original(boxes: np.ndarray, scale: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scales boxes back and clips them to the picture.

  Args:
    boxes: float[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels.
    scale: float[B, 2], input pixels per original pixel, (y, x).
    size: int[B, 2], original (height, width).

  Returns:
    boxes: float64[B, N, 4], (ymin, xmin, ymax, xmax) in original pixels, within the picture.
    inside: bool[B, N], False where nothing of a box is left, as of one that lies in the padding.
  """
  limit = np.tile(np.asarray(size, np.float64), (1, 2))[:, None, :]
  boxes = np.clip(rescale(boxes, scale), 0.0, limit)
  return boxes, (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def rescale(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """Scales boxes back without clipping, so that what was predicted within them stays in its place.

  Args:
    boxes: float[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels.
    scale: float[B, 2], input pixels per original pixel, (y, x).

  Returns: float64[B, N, 4], in original pixels.
  """
  return np.asarray(boxes, np.float64) / np.tile(np.asarray(scale, np.float64), (1, 2))[:, None, :]
