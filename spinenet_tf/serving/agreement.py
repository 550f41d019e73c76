"""How far two detectors agree: COCO's average precision of the one's answers with the other's for ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spinenet_tf.evaluation import groundtruth
from spinenet_tf.evaluation.official import Found, score
from spinenet_tf.serving.detector import Detections

CERTAIN = 0.3  # answers of this score or more are ground truth
FALLBACK = (3, 12)  # and where no picture has any, so many of the best of each, cut where scores drop the most


def agreement(
  expected: Sequence[Detections], found: Sequence[Detections], sizes: Sequence[tuple[int, int]]
) -> dict[str, float]:
  """Scores detections against those of another model on the same pictures.

  Args:
    expected: of the other model, for each picture; its certain ones are the ground truth.
    found: to be scored, all of them, best first.
    sizes: (height, width) of the pictures in pixels.

  Returns: "AP" (IoU 0.50 to 0.95), "AP50", "AP75" in [0, 1], NaN where there is no ground truth at all; and "objects", how
    many the ground truth has.
  """
  certain = [one.scores >= CERTAIN for one in expected]
  scores = [one.scores.astype(np.float64) for one in found]
  if not any(keep.any() for keep in certain):
    best = [_clear_best(one.scores) for one in expected]
    certain = [np.arange(len(one)) < count for one, count in zip(expected, best)]
    # By rank: the next of one picture may have a higher score than the first of another, however well all agree.
    scores = [1 / (1 + np.arange(len(one)) / max(count, 1)) for one, count in zip(found, best)]
  records = [
    {
      "source_id": i,
      "height": height,
      "width": width,
      "boxes": one.boxes[keep],
      "class_ids": one.classes[keep],
    }
    for i, (one, keep, (height, width)) in enumerate(zip(expected, certain, sizes))
  ]
  truth = groundtruth.from_records(records)
  corners = np.concatenate([one.boxes for one in found]).astype(np.float64).reshape(-1, 4)
  ymin, xmin, ymax, xmax = corners.T
  answers = Found(
    image=np.repeat(np.arange(len(found)), [len(one) for one in found]),
    category=np.concatenate([one.classes for one in found]),
    boxes=np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1),
    scores=np.concatenate(scores),
    masks=np.full(len(corners), None, object),
  )
  metrics, _ = score(truth, answers)
  return {**{key: metrics[key] for key in ("AP", "AP50", "AP75")}, "objects": int(sum(keep.sum() for keep in certain))}


def _clear_best(scores: np.ndarray) -> int:
  """Returns how many of falling scores stand before the largest drop, so that rounding moves none over the cut."""
  least, most = (min(count, len(scores)) for count in FALLBACK)
  if most <= least:
    return most
  return least + int(np.argmax(scores[least - 1 : most - 1] - scores[least:most]))
