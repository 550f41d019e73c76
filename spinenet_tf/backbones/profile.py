"""Parameters, multiply-adds and memory of a model, counted from its spec without building it.

Counted as the paper's tables are: the multiplications of convolutions at the size of their output, nothing for
normalisation, activation, pooling or addition; trainable parameters, so normalisation's scale and shift but not its
moving averages. The paper up-samples before the expanding convolution of a connection; `multiply_adds` counts that
order, `multiply_adds_run` the one that this package runs.
"""

from __future__ import annotations

import dataclasses
import pathlib

from spinenet_tf.backbones import rules
from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.counting.backbone import count_features, count_pyramid
from spinenet_tf.backbones.counting.counter import Counter, Op
from spinenet_tf.backbones.counting.heads import count_classifier, count_mask_rcnn, count_retinanet
from spinenet_tf.backbones.counting.solo import SoloHeads, count_solo
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.heads.sizes import MaskHeads

TASKS = ("backbone", "retinanet", "mask_rcnn", "solo", "classification")
BYTES = 4  # of a float32


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a model costs for one image.

  Attributes:
    ops: every step; a convolution that several levels share stands once for each, its parameters with the first.
  """

  ops: tuple[Op, ...]

  @property
  def parameters(self) -> int:
    """Trainable values."""
    return sum(op.parameters for op in self.ops)

  @property
  def multiply_adds(self) -> int:
    """Multiplications of all convolutions in the paper's order."""
    return sum(op.multiply_adds for op in self.ops)

  @property
  def multiply_adds_run(self) -> int:
    """Multiplications of all convolutions in the order executed."""
    return sum(op.multiply_adds_run for op in self.ops)

  @property
  def activation_bytes(self) -> int:
    """Size of all features that one forward pass writes, in float32.

    Those of convolutions (with the normalisation and the activation behind them: one map), pools, up-samplings, sums.
    """
    return BYTES * sum(op.written for op in self.ops)

  @property
  def training_bytes(self) -> int:
    """Size of the features of one image that a training step keeps for its gradients, in float32.

    What each normalisation and each swish reads, and what each activation, pool and prediction writes.
    """
    return BYTES * sum(op.kept for op in self.ops)

  def by(self, field: str) -> dict[str | int, Cost]:
    """Returns {value of `field`: the `Cost` of the ops that have it} for field "part" or "level", in order of value."""
    groups: dict[str | int, list[Op]] = {}
    for op in self.ops:
      groups.setdefault(getattr(op, field), []).append(op)
    return {key: Cost(tuple(ops)) for key, ops in sorted(groups.items())}


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
  mask_heads: MaskHeads | None = None,
  solo_heads: SoloHeads | None = None,
  activation: str = "relu",
) -> Cost:
  """Counts parameters, multiply-adds and memory of a model.

  Args:
    architecture: a catalog name, a path to a JSON file, or an `Architecture`.
    task: "retinanet"; "mask_rcnn"; "solo"; "classification", on the mean of all levels of the pyramid (of a ResNet with a
      feature pyramid network: on its last block, without the pyramid); or "backbone" for the pyramid alone.
    num_classes: without background. The paper's counts have the authors' 91 outputs (Mask R-CNN: 90 and background), and
      1001 in classification.
    input_size: (height, width) in pixels.
    head_convs: convolutions of each tower of RetinaNet; the architecture's when None.
    head_width: their channels; the architecture's when None.
    anchors_per_location: of RetinaNet.
    min_level: lowest level that the detection heads read.
    max_level: highest level that they read.
    mask_heads: sizes of Mask R-CNN's heads; when None the paper's for this architecture, by its name.
    solo_heads: sizes and levels of SOLO's heads, see `counting.solo`; its authors' when None.
    activation: "relu" or "swish", of which training keeps more.

  Returns: the `Cost` of one image.

  Raises: UserError for an unknown architecture or task, levels that it does not have, or a size too small for them.
  """
  if task not in TASKS:
    raise UserError(f"task is {task!r}; it must be one of {list(TASKS)}")
  arch, counter = find_architecture(architecture), Counter(tuple(input_size), activation)
  rules.check_size(arch, counter.input_size)
  levels, remedy = arch.output_levels, "change min_level or max_level"
  if task in ("retinanet", "mask_rcnn", "solo"):
    levels = tuple(range(min_level, max_level + 1))
    if task == "solo":
      solo_heads = solo_heads or SoloHeads()
      levels, remedy = solo_heads.levels.pyramid, "change the sources of solo_heads.levels"
    if missing := sorted(set(levels) - set(arch.output_levels)):
      raise UserError(
        f"{arch.name} has levels {list(arch.output_levels)}; {missing} of {list(levels)} are missing: {remedy}"
      )
  if task == "mask_rcnn":
    mask_heads = mask_heads or MaskHeads.of(arch.name)
    arch = dataclasses.replace(arch, endpoint_filters=mask_heads.endpoints or arch.endpoint_filters)
  count_features(counter, arch, arch.used(levels))
  if task == "classification" and arch.pyramid == "fpn":
    count_classifier(counter, arch.channels(len(arch.stem) - 1), (arch.stem[-1].level,), num_classes)
    return Cost(tuple(counter.ops))
  count_pyramid(counter, arch, levels)
  if task == "retinanet":
    convs, width = head_convs or arch.head_convs, head_width or arch.head_filters
    count_retinanet(counter, arch, levels, convs, width, num_classes, anchors_per_location)
  elif task == "mask_rcnn":
    count_mask_rcnn(counter, arch, levels, mask_heads, num_classes)
  elif task == "solo":
    count_solo(counter, arch, solo_heads, num_classes)
  elif task == "classification":
    count_classifier(counter, arch.endpoint_filters, levels, num_classes)
  return Cost(tuple(counter.ops))
