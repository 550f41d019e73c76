"""A model with everything around it as TensorFlow functions: what leaves Python, in a SavedModel or for a converter.

`ServingModule.of(st.load(run))` has the four signatures of a SavedModel, and for converters the network alone:

  module.raw(images)   float32[B, h, w, 3] -> outputs before non-maximum suppression
  module.find(images)  float32[B, h, w, 3] -> the network's whole answer, in pixels of its input

Both are plain methods, to be traced under the contexts that the target wants: `tf.function(module.raw)` alone gives direct
convolutions; `ops.portable.portable()` around it gives operations that every converter takes, non-maximum suppression by a
loop of elementary ones. Variables live as long as the module.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from spinenet_tf.data.preprocess import preprocess_crop, preprocess_image
from spinenet_tf.errors import UserError
from spinenet_tf.models.mask_rcnn import MaskRCNN
from spinenet_tf.models.naming import variable_tree
from spinenet_tf.models.network import Network
from spinenet_tf.models.solo import Solo
from spinenet_tf.ops import winograd
from spinenet_tf.serving.classifier import ImageClassifier
from spinenet_tf.serving.decode import MAX_PIXELS, decode, decode_example
from spinenet_tf.serving.detector import Detector
from spinenet_tf.serving.raw import raw_outputs

TARGETS = ("cpu", "gpu")
SIGNATURES = ("serving_default", "image_bytes", "tf_example", "raw")
_WITH_MASKS = {MaskRCNN: "mask_rcnn", Solo: "solo"}
Outputs = dict[str, tf.Tensor]


class Placement(NamedTuple):
  """Where B images lie in the network's input, and whether they could be read.

  Attributes:
    scale: float32[B, 2], input pixels per original pixel, (y, x).
    size: int32[B, 2], original (height, width).
    error: string[B], empty, or why an image could not be read; None where they came as pixels and this is not told.
  """

  scale: tf.Tensor
  size: tf.Tensor
  error: tf.Tensor | None


class ServingModule(abc.ABC):
  """What signatures have in common. Use `ServingModule.of`.

  Not a `tf.Module`: only `variables` are to be saved, nothing of Keras.

  Args:
    source: as `st.load` returns it for a run.
    target: "cpu" takes Winograd's convolutions where they pay; "gpu" direct ones, as GPU libraries and converters choose by
      themselves; what this machine has when None.
    max_pixels: image files that claim more are not decoded.

  Raises: UserError when an argument is out of range.
  """

  def __init__(self, source: Detector | ImageClassifier, *, target: str | None = None, max_pixels: int = MAX_PIXELS):
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
      raise UserError(f"max_pixels is {max_pixels!r}; it is a whole number of pixels, usually {MAX_PIXELS}")
    self._source, self.target, self.max_pixels = source, resolved(target), max_pixels
    self._size = tuple(source.model.input_size)
    self._signatures: dict[str, Any] | None = None
    spec = tf.TensorSpec([None, *self._size, 3], tf.float32, "images")
    self._graph = tf.function(self.find, input_signature=[spec], autograph=False)  # one, which three signatures call

  @staticmethod
  def of(source: Detector | ImageClassifier, **options: Any) -> ServingModule:
    """Returns the module of what `st.load` returned; `options` are the arguments of `ServingModule`."""
    kind = ClassificationModule if isinstance(source, ImageClassifier) else DetectionModule
    return kind(source, **options)

  @property
  @abc.abstractmethod
  def task(self) -> str:
    """As in model.json: "retinanet", "mask_rcnn", "solo" or "classification"."""

  @abc.abstractmethod
  def find(self, images: tf.Tensor) -> Outputs:
    """Returns the network's answer to float32[B, h, w, 3], normalised pixels: of a detector as the model's `find`, boxes in
    input pixels and classes by output; of a classifier "probabilities" float32[B, K] and "features" float32[B, C].
    """

  @abc.abstractmethod
  def _prepare(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns network input of uint8[(B,) H, W, 3], and float32[2], input pixels per original pixel."""

  @abc.abstractmethod
  def _answer(self, inputs: tf.Tensor, placement: Placement) -> Outputs:
    """Returns a signature's outputs."""

  @property
  def source(self) -> Detector | ImageClassifier:
    """What this was made of, for comparing."""
    return self._source

  @property
  def model(self) -> Network:
    """The network."""
    return self._source.model

  @property
  def input_size(self) -> tuple[int, int]:
    """(h, w) of the network's input in pixels."""
    return self._size

  @property
  def settings(self) -> dict[str, Any]:
    """How the answer is made of the network's outputs: the settings of `Detector` or `ImageClassifier`."""
    return self._source.settings

  @property
  def variables(self) -> tf.Module:
    """The weights as a tree by name, and nothing else: what a SavedModel or a converter tracks."""
    return variable_tree(self.model)

  @property
  def labels(self) -> list[tuple[int, str]]:
    """Original id and name of each model output, in order; the id is the name of an output that no category has."""
    names = self._source.categories
    return [(number, names.get(number, str(number))) for number in self._source.class_ids]

  def raw(self, images: tf.Tensor) -> Outputs:
    """Returns what the network says of float32[B, h, w, 3] before non-maximum suppression, see `serving.raw`."""
    return raw_outputs(self.model, images, legacy_plus_one=self.settings.get("legacy_plus_one", False))

  def prepare(self, images: tf.Tensor) -> tf.Tensor:
    """Returns what `find` and `raw` take, float32[B, h, w, 3], of uint8[B, H, W, 3]; float32[h, w, 3] of uint8[H, W, 3]."""
    return self._prepare(images)[0]

  def signatures(self) -> dict[str, Any]:
    """Returns the concrete functions of a SavedModel by name, see `SIGNATURES`; traced at the first call.

    "serving_default": images uint8[B, H, W, 3], RGB, of any size. "image_bytes": image_bytes string[B], files as `decode`
    takes them. "tf_example": examples string[B], such files in `image/encoded`. "raw": images float32[B, h, w, 3].

    All but the last return for a detector, best first:
      "detection_boxes": float32[B, D, 4], (ymin, xmin, ymax, xmax) in pixels of the image as given, within it.
      "detection_scores": float32[B, D], 0 in padding.
      "detection_classes": int64[B, D], original ids, -1 in padding.
      "num_detections": int32[B], the rest of D is padding.
      "image_error": string[B], empty, or why the image could not be read: then it has no detections.
      of Mask R-CNN "detection_masks": float32[B, D, 28, 28], probabilities, bins of the box of the same row in
      "detection_mask_boxes": float32[B, D, 4], the box as found, of which a part may lie outside of the image; of SOLO the
      same two, masks float32[B, D, 2h, 2w] of half the finest level's stride, all in one box: the network's whole input.
    For a classifier, by falling probability:
      "classes": int64[B, T], original ids; -1 where the image could not be read.
      "scores": float32[B, T]; "features": float32[B, C]; "image_error": string[B].
    """
    if self._signatures is None:
      with self._tracing():
        self._signatures = {
          "serving_default": self._trace(self._from_images, tf.TensorSpec([None, None, None, 3], tf.uint8, "images")),
          "image_bytes": self._trace(self._from_files(decode), tf.TensorSpec([None], tf.string, "image_bytes")),
          "tf_example": self._trace(self._from_files(decode_example), tf.TensorSpec([None], tf.string, "examples")),
          "raw": self._trace(self.raw, tf.TensorSpec([None, *self._size, 3], tf.float32, "images")),
        }
    return self._signatures

  @contextlib.contextmanager
  def _tracing(self) -> Iterator[None]:
    with winograd.enabled(self.target == "cpu"):
      yield

  def _trace(self, function: Callable[[tf.Tensor], Outputs], spec: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()

  def answer(self, images: tf.Tensor) -> Outputs:
    """Returns what the signature "serving_default" does of uint8[B, H, W, 3], without "image_error": no strings."""
    inputs, scale = self._prepare(images)
    batch = tf.shape(images)[0]
    size = tf.tile(tf.shape(images)[None, 1:3], [batch, 1])
    return self._answer(inputs, Placement(tf.tile(scale[None], [batch, 1]), size, None))

  def _found(self, inputs: tf.Tensor) -> Outputs:
    """Returns what `find` does, for no images too, which the kernels of convolutions refuse."""
    count = tf.shape(inputs)[0]
    inputs = tf.cond(count == 0, lambda: tf.zeros([1, *self._size, 3]), lambda: inputs)
    return {key: value[:count] for key, value in self._graph(inputs).items()}

  def _from_images(self, images: tf.Tensor) -> Outputs:
    return {**self.answer(images), "image_error": tf.fill([tf.shape(images)[0]], "")}

  def _from_files(
    self, read: Callable[[tf.Tensor, int], tuple[tf.Tensor, tf.Tensor]]
  ) -> Callable[[tf.Tensor], Outputs]:
    def one(encoded):
      image, error = read(encoded, self.max_pixels)
      inputs, scale = self._prepare(image)
      return inputs, scale, tf.shape(image)[:2], error

    specs = (
      tf.TensorSpec([*self._size, 3], tf.float32),
      tf.TensorSpec([2], tf.float32),
      tf.TensorSpec([2], tf.int32),
      tf.TensorSpec([], tf.string),
    )

    def all_of_them(encoded):
      inputs, *placement = tf.map_fn(one, encoded, fn_output_signature=specs)
      return self._answer(inputs, Placement(*placement))

    return all_of_them


class DetectionModule(ServingModule):
  """Finds objects, and masks where the model does."""

  @property
  def task(self) -> str:
    """See the base class."""
    return next((name for kind, name in _WITH_MASKS.items() if isinstance(self.model, kind)), "retinanet")

  def find(self, images: tf.Tensor) -> Outputs:
    """See the base class."""
    return self.model.find(images, **self.settings)

  def _prepare(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return preprocess_image(images, self._size)

  def _answer(self, inputs: tf.Tensor, placement: Placement) -> Outputs:
    found = self._found(inputs)
    whole, boxes, inside = to_original(found["detection_boxes"], placement)
    rows = tf.range(tf.shape(inside)[1])[None]
    keep = inside & (rows < found["num_detections"][:, None])
    if placement.error is not None:
      keep &= (placement.error == "")[:, None]
    count = tf.reduce_sum(tf.cast(keep, tf.int32), axis=-1)
    order = tf.argsort(tf.cast(~keep, tf.int32), axis=-1, stable=True)  # what is kept first, in its order
    real = rows < count[:, None]

    def moved_up(values: tf.Tensor, padding: float = 0.0) -> tf.Tensor:
      shown = tf.reshape(real, tf.concat([tf.shape(real), tf.ones([len(values.shape) - 2], tf.int32)], 0))
      return tf.where(shown, tf.gather(values, order, batch_dims=1), tf.cast(padding, values.dtype))

    ids = tf.constant(self._source.class_ids, tf.int64)
    outputs = {
      "detection_boxes": moved_up(boxes),
      "detection_scores": moved_up(found["detection_scores"]),
      "detection_classes": moved_up(tf.gather(ids, tf.maximum(found["detection_classes"], 0)), -1),
      "num_detections": count,
    }
    if placement.error is not None:
      outputs["image_error"] = placement.error
    if "detection_masks" in found:
      outputs["detection_masks"] = moved_up(found["detection_masks"])
      if "detection_mask_boxes" in found:
        whole, _, _ = to_original(found["detection_mask_boxes"], placement)
      outputs["detection_mask_boxes"] = moved_up(whole)
    return outputs


class ClassificationModule(ServingModule):
  """Tells the likeliest classes."""

  @property
  def task(self) -> str:
    """See the base class."""
    return "classification"

  def find(self, images: tf.Tensor) -> Outputs:
    """See the base class."""
    outputs = self.model(images, training=False)
    return {"probabilities": tf.nn.softmax(outputs["logits"]), "features": outputs["features"]}

  def _prepare(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return preprocess_crop(images, self._size, self.settings["crop"]), tf.ones([2])

  def _answer(self, inputs: tf.Tensor, placement: Placement) -> Outputs:
    found = self._found(inputs)
    scores, classes = tf.math.top_k(found["probabilities"], self.settings["top"])
    ids = tf.gather(tf.constant(np.asarray(self._source.class_ids), tf.int64), classes)
    if placement.error is None:
      return {"classes": ids, "scores": scores, "features": found["features"]}
    read = (placement.error == "")[:, None]
    return {
      "classes": tf.where(read, ids, -1),
      "scores": tf.where(read, scores, 0.0),
      "features": tf.where(read, found["features"], 0.0),
      "image_error": placement.error,
    }


def resolved(target: str | None) -> str:
  """Returns a target; of None what this machine has.

  Raises: UserError when there is no such target.
  """
  if target is None:
    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
  if target not in TARGETS:
    raise UserError(f"target is {target!r}; it must be one of {list(TARGETS)}, or None for what this machine has")
  return target


def to_original(boxes: tf.Tensor, placement: Placement) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """From pixels of the network's input to pixels of the images as given, as `evaluation.coordinates` does.

  Args:
    boxes: float32[B, N, 4], (ymin, xmin, ymax, xmax) in input pixels.
    placement: of the B images.

  Returns: float32[B, N, 4], in original pixels; the same clipped to the image; bool[B, N], whether something is left then.
  """
  whole = tf.cast(boxes, tf.float64) / tf.tile(tf.cast(placement.scale, tf.float64), [1, 2])[:, None]
  limit = tf.tile(tf.cast(placement.size, tf.float64), [1, 2])[:, None]
  clipped = tf.minimum(tf.maximum(whole, tf.constant(0.0, tf.float64)), limit)
  inside = tf.reduce_all(clipped[..., 2:] > clipped[..., :2], axis=-1)
  return tf.cast(whole, tf.float32), tf.cast(clipped, tf.float32), inside
