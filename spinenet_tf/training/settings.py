"""What an experiment consists of, as plain values: the model, the data, the run. Nothing here builds anything."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Callable, ClassVar

from spinenet_tf.backbones.catalog import architecture as find_architecture
from spinenet_tf.backbones.spec import Architecture
from spinenet_tf.errors import UserError
from spinenet_tf.models.classifier import Classifier, build_classifier
from spinenet_tf.models.retinanet import RetinaNet, build_retinanet
from spinenet_tf.ops.anchors import AnchorConfig
from spinenet_tf.training import optimizers
from spinenet_tf.training.schedules import Duration, Schedule
from spinenet_tf.training.solo_settings import SoloDetectionSettings, SoloLossSettings, SoloSettings

CLASS_LAYOUTS = ("contiguous", "original", "from_one")
# Options of `ConvStyle` for weights from elsewhere.
DIALECT = ("pooling", "pool_padding", "endpoint_activation", "squeeze")


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
  """Returns (height, width) of a side or a pair, in pixels.

  Raises: UserError when it is neither, or not positive.
  """
  pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
  if len(pair) != 2 or not all(isinstance(s, int) and s > 0 for s in pair):
    raise UserError(f"image_size is {size!r}; it must be a side in pixels such as 640, or (height, width)")
  return pair


class NetworkSettings:
  """What the settings of all models have: `architecture`, `num_classes` and `image_size` mean the same in each.

  Attributes:
    scope: what gin calls it.
  """

  scope: ClassVar[str]
  architecture: str | dict | Architecture
  num_classes: int | None
  image_size: Any

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) in pixels."""
    return as_size(self.image_size)

  def find_architecture(self) -> Architecture:
    """Returns the architecture that the name, file or dictionary stands for, or the one that was given."""
    return find_architecture(self.architecture)


@dataclasses.dataclass(frozen=True)
class ModelSettings(NetworkSettings):
  """A detector; every field means what it does for `build_retinanet`, `build_mask_rcnn` or `build_solo`, except:

  Attributes:
    architecture: a catalog name, a path to a JSON file, a dictionary, or an `Architecture`.
    num_classes: None takes the number from the data set's meta.json.
    image_size: side in pixels, or (height, width); of the model and of the data.
    head_convs, head_width: of Mask R-CNN's box head and mask head; of SOLO's two towers.
    anchor_size: None takes the architecture's. SOLO has no anchors, and its levels stand in `SoloSettings`.
    num_scales: None is 3 for RetinaNet and 1 for Mask R-CNN.
    prior: not used by Mask R-CNN.
    synchronized: None synchronises batch statistics when there are several replicas.
  """

  scope: ClassVar[str] = "model"
  architecture: str | dict | Architecture = "spinenet49"
  num_classes: int | None = None
  image_size: Any = 640
  head_convs: int | None = None
  head_width: int | None = None
  anchor_size: float | None = None
  num_scales: int | None = None
  aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
  min_level: int = 3
  max_level: int = 7
  activation: str = "relu"
  stochastic_depth: float = 0.0
  dropblock_keep: float = 1.0
  dropblock_size: int = 7
  synchronized: bool | None = None
  norm_momentum: float = 0.99
  norm_epsilon: float = 1e-3
  padding: str = "symmetric"
  pooling: str = "chain"
  pool_padding: str = "same"
  endpoint_activation: bool = True
  squeeze: str = "swish"
  prior: float = 0.01

  def __post_init__(self):
    if not isinstance(self.architecture, (str, dict, os.PathLike, Architecture)):
      raise UserError(
        f"model.architecture is {self.architecture!r}; it must be a name, a path to a JSON file, or an edit with its "
        "parentheses, such as @scaled()"
      )
    for name in ("min_level", "max_level"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 7:
        raise UserError(f"model.{name} is {value!r}; it must be a whole number from 1 to 7")

  def anchors(self) -> AnchorConfig:
    """Returns the anchors."""
    size = self.anchor_size or self.find_architecture().anchor_size
    return AnchorConfig(self.min_level, self.max_level, self.num_scales or 3, tuple(self.aspect_ratios), size)

  def shared_arguments(self, num_classes: int, replicas: int = 1) -> dict[str, Any]:
    """Returns the keyword arguments that the builders of all detectors take, as plain values."""
    same = ("head_convs", "head_width", "activation", "stochastic_depth", "dropblock_keep", "dropblock_size")
    same += ("norm_momentum", "norm_epsilon", "padding", *DIALECT, "min_level", "max_level")
    return {
      "num_classes": num_classes,
      "input_size": list(self.size),
      "synchronized": replicas > 1 if self.synchronized is None else self.synchronized,
      **{name: getattr(self, name) for name in same},
    }

  def arguments(self, num_classes: int, replicas: int = 1) -> dict[str, Any]:
    """Returns the keyword arguments of `build_retinanet` but for the architecture, as plain values."""
    shared = self.shared_arguments(num_classes, replicas)
    return {**shared, "anchors": dataclasses.asdict(self.anchors()), "prior": self.prior}

  def build(self, num_classes: int, replicas: int = 1) -> RetinaNet:
    """Builds the model."""
    arguments = self.arguments(num_classes, replicas)
    arguments.update(input_size=self.size, anchors=self.anchors())
    return build_retinanet(self.find_architecture(), **arguments)


@dataclasses.dataclass(frozen=True)
class MaskRCNNSettings:
  """What a Mask R-CNN has beside `ModelSettings`: sizes of its heads, and how its stages are sampled for training.

  Attributes:
    rpn_convs: 3x3 convolutions of the region proposal network; None takes the architecture's.
    dense_width: of the box head's hidden layer; None takes the architecture's.
    endpoint_width: channels of the pyramid; None takes the architecture's, 128 for SpineNet-49S.
    rpn_positive_iou: overlap from which an anchor is an object.
    rpn_negative_iou: overlap below which it is background; between the two it does not train.
    rpn_samples: anchors of an image whose scores train.
    rpn_positive_share: the most of them that are objects.
    region_samples: regions of an image that train the box head.
    region_positive_share: the most of them that are objects.
    region_positive_iou: overlap from which a region is an object.
    mask_samples: object regions of an image that train the mask head, at most.
  """

  rpn_convs: int | None = None
  dense_width: int | None = None
  endpoint_width: int | None = None
  rpn_positive_iou: float = 0.7
  rpn_negative_iou: float = 0.3
  rpn_samples: int = 256
  rpn_positive_share: float = 0.5
  region_samples: int = 512
  region_positive_share: float = 0.25
  region_positive_iou: float = 0.5
  mask_samples: int = 128

  def __post_init__(self):
    for name in ("rpn_samples", "region_samples", "mask_samples"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"mask_rcnn.{name} is {value!r}; it must be a whole number from 1 on")
    for name in ("rpn_positive_share", "region_positive_share", "rpn_positive_iou", "region_positive_iou"):
      if not 0 < getattr(self, name) <= 1:
        raise UserError(f"mask_rcnn.{name} is {getattr(self, name)!r}; it must be above 0 and at most 1")
    if not 0 <= self.rpn_negative_iou <= self.rpn_positive_iou:
      raise UserError(
        f"mask_rcnn.rpn_negative_iou is {self.rpn_negative_iou!r}; it must be from 0 to rpn_positive_iou, "
        f"{self.rpn_positive_iou!r}"
      )
    if self.mask_samples > self.region_samples:
      raise UserError(
        f"mask_rcnn.mask_samples is {self.mask_samples}; masks are of sampled regions, so at most region_samples, "
        f"{self.region_samples}"
      )


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(NetworkSettings):
  """An image classifier; every field means what it does for `build_classifier`, except:

  Attributes:
    architecture: a catalog name, a path to a JSON file, a dictionary, or an `Architecture`.
    num_classes: None takes the number from the data set's meta.json.
    image_size: side in pixels, or (height, width); of the model and of the data.
    synchronized: None synchronises batch statistics when there are several replicas.
  """

  scope: ClassVar[str] = "classifier"
  architecture: str | dict | Architecture = "spinenet49"
  num_classes: int | None = None
  image_size: Any = 224
  activation: str = "relu"
  stochastic_depth: float = 0.0
  dropblock_keep: float = 1.0
  dropblock_size: int = 7
  synchronized: bool | None = None
  norm_momentum: float = 0.9
  norm_epsilon: float = 1e-5
  padding: str = "symmetric"
  pooling: str = "chain"
  pool_padding: str = "same"
  endpoint_activation: bool = True
  squeeze: str = "swish"
  levels: tuple[int, ...] | None = None

  def arguments(self, num_classes: int, replicas: int = 1) -> dict[str, Any]:
    """Returns the keyword arguments of `build_classifier` but for the architecture, as plain values."""
    same = ("activation", "stochastic_depth", "dropblock_keep", "dropblock_size", "norm_momentum", "norm_epsilon")
    same += DIALECT
    return {
      "num_classes": num_classes,
      "input_size": list(self.size),
      "synchronized": replicas > 1 if self.synchronized is None else self.synchronized,
      "padding": self.padding,
      "levels": self.levels and list(self.levels),
      **{name: getattr(self, name) for name in same},
    }

  def build(self, num_classes: int, replicas: int = 1) -> Classifier:
    """Builds the model."""
    arguments = self.arguments(num_classes, replicas) | {"input_size": self.size}
    return build_classifier(self.find_architecture(), **arguments)


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """Training and evaluation examples.

  Attributes:
    directory: folder with the TFRecord files and, unless they come from elsewhere, meta.json.
    train_split, eval_split: names of splits in meta.json; eval_split None trains without evaluation.
    train_pattern, eval_pattern: file patterns that take the place of the splits'.
    annotation_file: COCO annotation JSON to evaluate against; None evaluates against the records themselves.
    num_train_examples: examples of one epoch; None takes the number from meta.json, else counts the records.
    batch_size: examples of one forward and backward pass, over all replicas.
    eval_batch_size: the same in evaluation; None takes batch_size.
    flip: whether half of the training images are mirrored.
    scale_jitter: detection: range of the random scale of training images.
    max_boxes: detection: objects kept for each image.
    mask_size: instance masks: side of the grid on which the mask of each object is kept, within its box.
    crop_area, crop_ratio: classification: ranges of the random crop's area, as a share of the image's, and of its width
      by its height.
    eval_crop: classification: side of the central crop of evaluation, as a share of the image's shorter side.
    class_layout: "contiguous" gives each category of meta.json one output, in order of their ids; "original" makes the
      id the index, as the authors do: 91 outputs for COCO, of which 0 and the unused ids are never trained as objects;
      "from_one" makes it the index plus one, for models with a background of their own: 90 outputs of Mask R-CNN.
    shuffle_buffer: examples among which the next one is drawn.
    cache: keep the encoded records in memory.
    max_unreadable: share of an epoch's training records that may be unreadable: each is passed over and named, and the next
      one takes its place; above it the run stops. 0 stops at the first. Evaluation always stops.
  """

  directory: str | None = None
  train_split: str = "train"
  eval_split: str | None = "val"
  train_pattern: Any = None
  eval_pattern: Any = None
  annotation_file: str | None = None
  num_train_examples: int | None = None
  batch_size: int = 256
  eval_batch_size: int | None = None
  flip: bool = True
  scale_jitter: tuple[float, float] = (0.5, 2.0)
  max_boxes: int = 100
  mask_size: int = 112
  crop_area: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  eval_crop: float = 0.875
  class_layout: str = "contiguous"
  shuffle_buffer: int = 10_000
  cache: bool = False
  max_unreadable: float = 0.01

  def __post_init__(self):
    share = self.max_unreadable
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
      raise UserError(f"data.max_unreadable is {share!r}; it must be a share from 0 to below 1, such as 0.01")
    for name in ("batch_size", "eval_batch_size", "max_boxes", "mask_size"):
      value = getattr(self, name)
      if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"data.{name} is {value!r}; it must be a whole number from 1 on")
    if self.class_layout not in CLASS_LAYOUTS:
      raise UserError(f"data.class_layout is {self.class_layout!r}; it must be one of {list(CLASS_LAYOUTS)}")


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """The RetinaNet loss; fields are those of `losses.retinanet.RetinaNetLoss`."""

  alpha: float = 0.25
  gamma: float = 1.5
  huber_delta: float = 0.1
  box_weight: float = 50.0
  normalizer: str = "global"


@dataclasses.dataclass(frozen=True)
class MaskRCNNLossSettings:
  """The losses of Mask R-CNN; fields are those of `losses.mask_rcnn.MaskRCNNLoss`."""

  rpn_huber_delta: float = 1 / 9
  huber_delta: float = 1.0
  normalizer: str = "global"


@dataclasses.dataclass(frozen=True)
class ClassifierLossSettings:
  """The loss of a classifier; the field is that of `losses.classification.ClassificationLoss`."""

  label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True)
class DetectionSettings:
  """From predictions to detections; fields are those of `ops.nms.detect`."""

  pre_nms_top_k: int = 5000
  score_threshold: float = 0.05
  iou_threshold: float = 0.5
  max_detections: int = 100
  legacy_plus_one: bool = False

  def arguments(self) -> dict[str, Any]:
    """Returns keyword arguments of a model's `find`, as plain values; of `legacy_plus_one` only that it is on."""
    values = dataclasses.asdict(self)
    if not values["legacy_plus_one"]:
      del values["legacy_plus_one"]
    return values


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """How long, on what, and what is kept. Durations are steps (an int), "N steps" or "N epochs".

  Attributes:
    task: "retinanet", "mask_rcnn", "solo" or "classification".
    duration: of the run.
    strategy: "auto", "one_device", "mirrored", "multi_worker" or "tpu".
    tpu: name or address of the TPU, for strategy "tpu".
    precision: "float32", "mixed_bfloat16" or "mixed_float16".
    winograd: on a CPU, compute wide 3x3 convolutions with fewer multiplications; equal up to rounding, see `ops.winograd`.
    recompute: compute normalised and activated features again in the backward pass rather than hold them, see
      `ops.recompute`; None does so on a CPU.
    accumulation: batches whose gradients are averaged for one optimizer step.
    clip_norm: largest global norm of the gradient; 0 does not clip.  [10 in the authors' RetinaNet configs]
    weight_decay: of kernels, see `optimizers.l2_loss`.
    optimizer: function from a learning rate to a Keras legacy optimizer.
    ema: decay of a moving average of the weights, such as 0.9999, which is then what is evaluated and kept as the best;
      0 keeps none.
    seed: of initial weights, data order, augmentation and random layers.
    initial_checkpoint: a run directory, its best/, or a checkpoint, from which weights of equal name and shape are
      taken when the run starts; a run that resumes does not read it.
    freeze: regular expressions, searched in variable names; what they find is not trained.
    log_interval: steps between two lines of progress.
    checkpoint_interval: between two checkpoints.
    keep_checkpoints: how many of the latest ones stay.
    eval_interval: between two evaluations; there is one more at the end.
    pictures: validation images drawn at each evaluation.
    skip_nonfinite: how many steps whose loss or gradient is not finite a run passes over before it ends: it goes back to
      the last checkpoint and repeats the steps from there without that one. 0 ends at the first.
    optional_bindings: gin bindings (as "a.b", or a macro's name) that may go unused.
  """

  task: str = "retinanet"
  duration: Duration = "350 epochs"
  strategy: str = "auto"
  tpu: str = ""
  precision: str = "float32"
  winograd: bool = True
  recompute: bool | None = None
  accumulation: int = 1
  clip_norm: float = 10.0
  weight_decay: float = 4e-5
  optimizer: Callable[..., optimizers.Optimizer] = optimizers.sgd
  ema: float = 0.0
  seed: int = 0
  initial_checkpoint: str | None = None
  freeze: tuple[str, ...] = ()
  log_interval: Duration = 100
  checkpoint_interval: Duration = "1 epochs"
  keep_checkpoints: int = 3
  eval_interval: Duration = "10 epochs"
  pictures: int = 4
  skip_nonfinite: int = 0
  optional_bindings: tuple[str, ...] = ()

  def __post_init__(self):
    if not isinstance(self.accumulation, int) or self.accumulation < 1:
      raise UserError(f"train.accumulation is {self.accumulation!r}; it must be a whole number from 1 on")
    for name in ("clip_norm", "weight_decay"):
      value = getattr(self, name)
      if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise UserError(f"train.{name} is {value!r}; it must be a number from 0 on, 0 turns it off")
    if isinstance(self.ema, bool) or not (isinstance(self.ema, (int, float)) and 0 <= self.ema < 1):
      raise UserError(f"train.ema is {self.ema!r}; it must be a decay below 1, such as 0.9999, or 0 for no average")
    if isinstance(self.skip_nonfinite, bool) or not isinstance(self.skip_nonfinite, int) or self.skip_nonfinite < 0:
      raise UserError(f"train.skip_nonfinite is {self.skip_nonfinite!r}; it must be a whole number, 0 skips none")
    if self.keep_checkpoints < 1:
      raise UserError(f"train.keep_checkpoints is {self.keep_checkpoints}; it must be at least 1")
    if isinstance(self.freeze, str):
      raise UserError(f"train.freeze is the text {self.freeze!r}; it must be a list of patterns, ['{self.freeze}']")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that decides what a run computes; what the task does not use stays at its default."""

  model: ModelSettings = ModelSettings()
  mask_rcnn: MaskRCNNSettings = MaskRCNNSettings()
  solo: SoloSettings = dataclasses.field(default_factory=SoloSettings)
  classifier: ClassifierSettings = ClassifierSettings()
  data: DataSettings = DataSettings()
  schedule: Schedule = dataclasses.field(default_factory=Schedule)
  loss: LossSettings = LossSettings()
  mask_rcnn_loss: MaskRCNNLossSettings = MaskRCNNLossSettings()
  solo_loss: SoloLossSettings = dataclasses.field(default_factory=SoloLossSettings)
  classifier_loss: ClassifierLossSettings = ClassifierLossSettings()
  detection: DetectionSettings = DetectionSettings()
  solo_detection: SoloDetectionSettings = dataclasses.field(default_factory=SoloDetectionSettings)
  train: RunSettings = RunSettings()
