"""Which model it is: read off the shapes of the arrays, under our names."""

from __future__ import annotations

import dataclasses
import re

from spinenet_tf.backbones.catalog import CATALOG
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.importers.found import Found

# Widths of heads, and what else the shapes do not say, follow the catalog where an architecture is one of its.
_TASKS = (
  ("class_tower/predict/bias", "retinanet"),
  ("box_head/classes/bias", "mask_rcnn"),
  ("classifier/predict/bias", "classification"),
)


@dataclasses.dataclass(frozen=True)
class Inferred:
  """A model.

  Attributes:
    task: "retinanet", "mask_rcnn", "classification" or "backbone".
    architecture: with the checkpoint's widths.
    outputs: of the class prediction, background among them where the checkpoint has it; 0 of a backbone.
    anchors: at each location; 0 of a backbone and a classifier.
    head_convs, head_width, rpn_convs, dense_width: of the heads, None where there are none.
    levels: of the heads.
  """

  task: str
  architecture: Architecture
  outputs: int = 0
  anchors: int = 0
  head_convs: int | None = None
  head_width: int | None = None
  rpn_convs: int | None = None
  dense_width: int | None = None
  levels: tuple[int, ...] = ()


def infer(found: Found) -> Inferred:
  """Returns the model that a checkpoint is of.

  Raises: UserError when its shapes contradict each other, or are those of no SpineNet.
  """
  task = next((task for name, task in _TASKS if name in found.weights), "backbone")
  if task == "backbone" and (heads := sorted({n.split("/")[0] for n in found.weights if "tower" in n or "head" in n})):
    raise UserError(f"the checkpoint has parts of heads, {heads}, but no class prediction: it is incomplete")
  arch = _architecture(found)
  shapes = {name: value.shape for name, value in found.weights.items()}
  if task == "retinanet":
    convs = _count(shapes, r"class_tower/norm(\d+)_level\d+/gamma")
    width = _shape(found, "box_tower/predict/(bias)")[0]
    if width % 4:
      raise UserError(f"the box prediction has {width} outputs, which is no multiple of 4")
    anchors = width // 4
    outputs = _shape(found, "class_tower/predict/bias")[0]
    if outputs % anchors:
      raise UserError(f"the class prediction has {outputs} outputs, which is no multiple of the {anchors} anchors")
    filters = _shape(found, r"class_tower/norm1_level\d+/gamma")[0]
    arch = dataclasses.replace(arch, head_convs=convs, head_filters=filters)
    levels = _levels(shapes, "class_tower")
    return Inferred(task, _named(arch, found.wiring), outputs // anchors, anchors, convs, filters, levels=levels)
  if task == "mask_rcnn":
    return Inferred(
      task,
      _named(arch, found.wiring),
      _shape(found, "box_head/classes/bias")[0],
      _shape(found, "rpn/scores/bias")[0],
      _count(shapes, r"box_head/norm(\d+)/gamma"),
      _shape(found, "box_head/norm1/gamma")[0],
      _count(shapes, r"rpn/norm(\d+)_level\d+/gamma"),
      _shape(found, "box_head/dense_norm/gamma")[0],
      _levels(shapes, "rpn"),
    )
  outputs = _shape(found, "classifier/predict/bias")[0] if task == "classification" else 0
  return Inferred(task, _named(arch, found.wiring), outputs)


def _architecture(found: Found) -> Architecture:
  """Returns the wiring with the widths that the shapes have."""
  base, weights = found.wiring, found.weights
  filters = _filters(found)
  repeats = {
    1 + max((int(m[1]) for n in weights if (m := re.match(rf"block_{i:02d}/repeat_(\d+)/", n))), default=-1)
    for i in base.used()
  }
  if len(repeats) != 1 or 0 in repeats:
    raise UserError(f"the blocks of the checkpoint are repeated {sorted(repeats)} times; all must be alike, from 1 on")
  values = {
    "filter_scale": _scale(base, filters),
    "block_repeats": repeats.pop(),
    "stem_filters": _shape(found, "stem/conv/kernel")[-1],
    "endpoint_filters": _shape(found, r"endpoint_\d/conv/kernel")[-1],
  }
  if not base.separable:
    values["resample_alpha"] = _alpha(found, filters)
  return dataclasses.replace(base, **values)


def _filters(found: Found) -> dict[int, int]:
  """Returns the width of the blocks at each level."""
  widths: dict[int, set[int]] = {}
  for i in sorted(found.wiring.used()):
    spec = found.wiring.features[i]
    role = "project" if spec.block == "mbconv" else "conv1"
    widths.setdefault(spec.level, set()).add(_shape(found, rf"block_{i:02d}/repeat_0/{role}/conv/kernel")[-1])
  for level, seen in widths.items():
    if len(seen) > 1:
      raise UserError(f"the checkpoint contradicts itself: blocks at level {level} are {sorted(seen)} wide")
  return {level: seen.pop() for level, seen in widths.items()}


def _scale(base: Architecture, filters: dict[int, int]) -> float:
  known = [arch.filter_scale for arch in CATALOG.values() if arch.pyramid != "fpn"]
  exact = (width / base.level_filters[level - 1] for level, width in filters.items())
  for scale in (*known, *(hundredths / 100 for hundredths in range(1, 801)), *exact):
    if all(int(base.level_filters[level - 1] * scale) == width for level, width in filters.items()):
      return scale
  raise UserError(
    f"blocks are {filters} wide by level; no scale of {base.name}'s {list(base.level_filters)} gives these: the checkpoint is "
    "of another network"
  )


def _alpha(found: Found, filters: dict[int, int]) -> float:
  """Returns the share that connections squeeze their parents to."""
  pairs = set()
  for i in sorted(found.wiring.used()):
    for p, parent in enumerate(found.wiring.features[i].parents):
      width = filters[found.wiring.features[parent].level]
      pairs.add((width, _shape(found, rf"block_{i:02d}/resample_{p}/squeeze/conv/kernel")[-1]))
  for alpha in (0.5, 1.0, 0.25, *(hundredths / 100 for hundredths in range(1, 401))):
    if all(int(width * alpha) == squeezed for width, squeezed in pairs):
      return alpha
  raise UserError(f"the checkpoint contradicts itself: connections squeeze {sorted(pairs)} channels (from, to)")


def _named(arch: Architecture, given: Architecture) -> Architecture:
  """Returns an architecture under the name of that given or of the catalog, with the heads' defaults, or one of its own."""
  for known in (given, *CATALOG.values()):
    same = ("stem", "blocks", "filter_scale", "block_repeats", "separable")
    if all(getattr(known, field) == getattr(arch, field) for field in same) and (
      arch.separable or known.resample_alpha == arch.resample_alpha
    ):
      return dataclasses.replace(arch, name=known.name, anchor_size=known.anchor_size)
  return dataclasses.replace(arch, name=f"{arch.name}_scale{arch.filter_scale:g}_repeats{arch.block_repeats}")


def _shape(found: Found, pattern: str) -> tuple[int, ...]:
  value = found.first(pattern)
  if value is None:
    raise UserError(f"the checkpoint has nothing for {pattern}; it is incomplete, or of another network")
  return value.shape


def _count(shapes: dict[str, tuple], pattern: str) -> int:
  return max((int(m[1]) for name in shapes if (m := re.fullmatch(pattern, name))), default=0)


def _levels(shapes: dict[str, tuple], head: str) -> tuple[int, ...]:
  return tuple(sorted({int(m[1]) for n in shapes if (m := re.fullmatch(rf"{head}/norm1_level(\d+)/gamma", n))}))
