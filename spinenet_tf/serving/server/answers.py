"""What the network found in one picture, with names: the answer that the page and simple clients read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from spinenet_tf.serving.server.arrays import shortest


def named_answer(
  outputs: Mapping[str, np.ndarray], names: Mapping[int, str], size: tuple[int, int], min_score: float
) -> bytes:
  """Writes the answer for one picture.

  Args:
    outputs: of signature `image_bytes` for one picture.
    names: class id to name; a class without one is called by its id.
    size: (height, width) of the picture in pixels.
    min_score: in [0, 1]; lower scores are left out.

  Returns: JSON with `image` (height, width). Of a detector `detections`, each with name, class, score, box [ymin, xmin,
    ymax, xmax] in pixels, and of Mask R-CNN and SOLO mask: its own box, which may reach out of the picture, and
    probabilities in that box times 255 as bytes in base64, row by row, with their shape. Of a classifier `classes`, each
    with name, class, score. Best first.
  """
  document: dict[str, Any] = {"image": {"height": size[0], "width": size[1]}}
  if "detection_boxes" in outputs:
    document["detections"] = _detections(outputs, names, min_score)
  else:
    document["classes"] = [
      {"name": names.get(int(number), str(number)), "class": int(number), "score": score}
      for number, score in zip(outputs["classes"][0], shortest(outputs["scores"][0]).tolist())
      if score >= min_score
    ]
  return (json.dumps(document, ensure_ascii=False) + "\n").encode()


def _detections(outputs: Mapping[str, np.ndarray], names: Mapping[int, str], min_score: float) -> list[dict[str, Any]]:
  count = int(outputs["num_detections"][0])
  scores = shortest(outputs["detection_scores"][0, :count]).tolist()
  boxes = _pixels(outputs["detection_boxes"][0, :count])
  mask_boxes = _pixels(outputs.get("detection_mask_boxes", outputs["detection_boxes"])[0, :count])
  numbers = outputs["detection_classes"][0, :count].tolist()
  found = []
  for i, (number, score, box) in enumerate(zip(numbers, scores, boxes)):
    if score < min_score:
      continue
    found.append({"name": names.get(number, str(number)), "class": number, "score": score, "box": box})
    if "detection_masks" in outputs:
      mask = np.round(np.clip(outputs["detection_masks"][0, i], 0, 1) * 255).astype(np.uint8)
      text = base64.b64encode(mask.tobytes()).decode()
      found[-1]["mask"] = {"box": mask_boxes[i], "shape": list(mask.shape), "b64": text}
  return found


def _pixels(boxes: np.ndarray) -> list[list[float]]:
  return np.round(boxes.astype(np.float64), 2).tolist()
