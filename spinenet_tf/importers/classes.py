"""Which output of a checkpoint is which class."""

from __future__ import annotations

from collections.abc import Sequence

from spinenet_tf.data.meta import Category
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import coco_categories
from spinenet_tf.importers.found import Found
from spinenet_tf.importers.infer import Inferred

COCO = tuple(Category(number, name) for number, name in coco_categories.CATEGORIES)  # 80, of ids up to 90


def class_layout(
  found: Found, inferred: Inferred, given: Sequence[Category] | None = None
) -> tuple[int, str, tuple[Category, ...]]:
  """Returns the number of classes of our model, how categories are laid out, and the categories.

  A detector with 91 outputs (90 without background) has one for each of COCO's ids, with 81 or 80 one for each of its 80
  categories in order of their ids; background comes first. Outputs of background that our model lacks are taken out of
  `found.weights`.

  Args:
    given: categories of the data it was trained on; COCO's when None and their number fits, else numbered ones.

  Raises: UserError when the categories given are not as many as the outputs.
  """
  if inferred.task == "backbone":
    return 80, "contiguous", COCO
  outputs = inferred.outputs
  if inferred.task == "mask_rcnn":
    _drop_background_of_regions(found, outputs)
    fitting = {"from_one": outputs - 1, "contiguous": outputs - 1}
  elif inferred.task == "classification":
    fitting = {"original": outputs}
  elif found.source == "mmdet":
    fitting = {"contiguous": outputs}
  else:
    fitting = {"original": outputs, "contiguous": outputs}
  background = inferred.task == "retinanet" and "contiguous" in fitting
  categories = tuple(given or _implied(inferred, outputs, fitting))
  highest, count = max(c.id for c in categories), len(categories)
  needed = {"original": highest + 1, "from_one": highest, "contiguous": count}
  layout = next((name for name, classes in fitting.items() if needed[name] == classes), None)
  if layout is None and background and count == outputs - 1:
    _drop_background_of_anchors(found, inferred)
    return count, "contiguous", categories
  if layout is None:
    wanted = sorted({needed[name] for name in fitting} | ({count + 1} if background else set()))
    seen = outputs - 1 if inferred.task == "mask_rcnn" else outputs
    raise UserError(
      f"the list of classes has {count}, ids up to {highest}, which needs {' or '.join(map(str, wanted))} outputs; the "
      f"checkpoint has {seen}: give the meta.json of the data that it was trained on, or leave --meta out"
    )
  return fitting[layout], layout, categories


def _implied(inferred: Inferred, outputs: int, fitting: dict[str, int]) -> tuple[Category, ...]:
  """Returns COCO's categories where the number of outputs is COCO's, else categories that are numbered from 1 on."""
  background = inferred.task == "mask_rcnn"
  coco = {80, 81} | ({91} if set(fitting) != {"contiguous"} else set()) if not background else {81, 91}
  if inferred.task != "classification" and outputs in coco:
    return COCO
  count = outputs - 1 if background or "original" in fitting else outputs
  return tuple(Category(i, f"class {i}") for i in range(1, 1 + max(1, count)))


def _drop_background_of_regions(found: Found, outputs: int) -> None:
  """Box codes and masks of a second stage have outputs of background, too."""
  for leaf in ("kernel", "bias"):
    for head, width in (("box_head/boxes", 4), ("mask_head/predict", 1)):
      key = f"{head}/{leaf}"
      if key in found.weights and found.weights[key].shape[-1] == outputs * width:
        found.weights[key] = found.weights[key][..., width:]
  found.notes.append("outputs of background were left out of box codes and masks; nothing reads them")


def _drop_background_of_anchors(found: Found, inferred: Inferred) -> None:
  for leaf in ("kernel", "pointwise_kernel", "bias"):
    key = f"class_tower/predict/{leaf}"
    if (value := found.weights.get(key)) is not None:
      split = value.reshape(*value.shape[:-1], inferred.anchors, inferred.outputs)[..., 1:]
      found.weights[key] = split.reshape(*value.shape[:-1], -1)
  found.notes.append(f"{inferred.outputs} outputs: the first of each anchor is background and was left out")
