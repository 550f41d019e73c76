"""A classifier with everything around it: pictures in, names and probabilities, or feature vectors, out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.data.preprocess import preprocess_crop
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation.categories import category_names, output_ids
from spinenet_tf.models.classifier import Classifier
from spinenet_tf.ops import winograd
from spinenet_tf.serving.pictures import Picture, as_array, is_single


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
  """What one picture shows: the likeliest classes, by falling probability.

  Attributes:
    classes: int64[N], original category ids.
    scores: float32[N], probabilities; those of all classes add up to 1.
    names: of the classes, N of them.
  """

  classes: np.ndarray
  scores: np.ndarray
  names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.scores)

  def to_dict(self) -> dict[str, list]:
    """Returns plain lists under the attributes' names, ready for JSON."""
    scores = [round(x, 5) for x in self.scores.tolist()]
    return {"classes": self.classes.tolist(), "scores": scores, "names": list(self.names)}


class ImageClassifier:
  """Preprocessing, network and softmax as one function.

  The middle of a picture is classified, as in evaluation.

  Args:
    model: as `build_classifier` returns it, with a fixed input size.
    categories: `data.meta.Meta`, or things with `id` and `name`, in the order of the model's outputs.
    class_ids: original id of each model output, where they are not simply the categories in their order.
    top: classes that are told of each picture; all of them where there are fewer.
    crop: side of the part that is classified, as a share of the largest one of the input's aspect ratio.
    batch_size: pictures that go through the network together when several are given.
    direct: convolutions by the direct sum; on CPUs Winograd's are taken where they pay when False, equal up to rounding.

  Raises: UserError when classes and model do not fit, or an argument is out of range.
  """

  def __init__(
    self,
    model: Classifier,
    categories: Iterable[Any],
    *,
    class_ids: Sequence[int] | None = None,
    top: int = 5,
    crop: float = 0.875,
    batch_size: int = 8,
    direct: bool = False,
  ):
    self._categories = category_names(categories)
    self._ids = np.asarray(output_ids(self._categories, class_ids), np.int64)
    if len(self._ids) != model.num_classes:
      raise UserError(
        f"the model has {model.num_classes} classes, the list of classes has {len(self._ids)}; they must be as many: "
        "give the categories that the model was trained with"
      )
    if None in model.input_size:
      raise UserError(f"the model's input size is {model.input_size}; a classifier of pictures needs one: (224, 224)")
    if top < 1 or batch_size < 1:
      raise UserError(f"top is {top} and batch_size is {batch_size}; both must be 1 or more")
    if not 0 < crop <= 1:
      raise UserError(f"crop is {crop}; it is a share, above 0 and at most 1, usually 0.875")
    self._model, self._top, self._batch_size = model, min(top, model.num_classes), batch_size
    self._crop = crop
    size = tuple(model.input_size)

    @tf.function(input_signature=[tf.TensorSpec([None, *size, 3], tf.float32)], autograph=False)
    def network(images):
      outputs = model(images, training=False)
      return tf.nn.softmax(outputs["logits"]), outputs["features"]

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)], autograph=False)
    def preprocess(image):
      return preprocess_crop(image, size, crop)

    self._preprocess, self._network = preprocess, network
    with winograd.enabled(not direct and not tf.config.list_physical_devices("GPU")):
      network.get_concrete_function()

  @property
  def model(self) -> Classifier:
    """The network."""
    return self._model

  @property
  def categories(self) -> dict[int, str]:
    """Original id -> name."""
    return dict(self._categories)

  @property
  def class_ids(self) -> tuple[int, ...]:
    """Original id of each model output."""
    return tuple(self._ids.tolist())

  @property
  def settings(self) -> dict[str, Any]:
    """`top` and `crop`."""
    return {"top": self._top, "crop": self._crop}

  def __call__(self, images: Picture | Sequence[Picture]) -> Classes | list[Classes]:
    """Tells what pictures show.

    Args:
      images: uint8[H, W, 3] RGB or the path of an image file; or several of these (a list, or uint8[B, H, W, 3]), of any
        sizes.

    Returns: `Classes`; a list of them when several pictures were given.

    Raises: UserError for a file that is no image, or an array of another form.
    """
    found = [self._classes(row) for row in self._run(images)[0]]
    return found[0] if is_single(images) else found

  def features(self, images: Picture | Sequence[Picture]) -> np.ndarray:
    """Returns float32[N, C], the pooled features of each of N pictures; C is 256 on most backbones.

    Args:
      images: as in a call; one picture gives float32[1, C].

    Raises: UserError for a file that is no image, or an array of another form.
    """
    return self._run(images)[1]

  def classes_and_features(self, images: Picture | Sequence[Picture]) -> tuple[list[Classes], np.ndarray]:
    """Returns what a call and `features` do, N of each, from one pass through the network."""
    probabilities, features = self._run(images)
    return [self._classes(row) for row in probabilities], features

  def _run(self, images: Picture | Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities float32[N, K] and features float32[N, C]."""
    pictures = [images] if is_single(images) else list(images)
    widths = [self._model.output_shape[key][-1] for key in ("logits", "features")]
    parts = [[np.zeros((0, width), np.float32) for width in widths]]  # what no pictures give
    for first in range(0, len(pictures), self._batch_size):
      inputs = [self._preprocess(as_array(picture)) for picture in pictures[first : first + self._batch_size]]
      parts.append([value.numpy() for value in self._network(tf.stack(inputs))])
    probabilities, features = (np.concatenate(column) for column in zip(*parts))
    return probabilities, features

  def _classes(self, probabilities: np.ndarray) -> Classes:
    best = np.argsort(-probabilities, kind="stable")[: self._top]
    classes = self._ids[best]
    names = tuple(self._categories.get(c, str(c)) for c in classes.tolist())
    return Classes(classes, probabilities[best], names)
