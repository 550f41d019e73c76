"""A model with everything around it: pictures in, named objects (and their masks) in the pictures' own pixels out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.data.preprocess import preprocess_image
from spinenet_tf.errors import UserError
from spinenet_tf.evaluation import masks as mask_lib
from spinenet_tf.evaluation.categories import category_names, output_ids
from spinenet_tf.evaluation.coordinates import rescale, to_original
from spinenet_tf.ops import winograd
from spinenet_tf.serving.pictures import Picture, as_array, is_single


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
  """N objects of one picture, by falling score.

  Attributes:
    boxes: float32[N, 4], (ymin, xmin, ymax, xmax) in pixels of the picture as given, within it.
    scores: float32[N], 0 to 1.
    classes: int64[N], original category ids.
    names: of the classes, N of them.
    masks: N RLEs of the picture's size, as pycocotools has them ("size" [H, W], "counts" bytes); None from a model that
      finds boxes only. `evaluation.masks.decode` gives bool[H, W].
  """

  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray
  names: tuple[str, ...]
  masks: tuple[mask_lib.RLE, ...] | None = None

  def __len__(self) -> int:
    return len(self.scores)

  def to_dict(self) -> dict[str, list]:
    """Returns plain lists under the attributes' names, ready for JSON; masks as "segmentations", COCO's RLE with counts as
    text.
    """
    plain = {
      "boxes": [[round(x, 2) for x in box] for box in self.boxes.tolist()],
      "scores": [round(x, 5) for x in self.scores.tolist()],
      "classes": self.classes.tolist(),
      "names": list(self.names),
    }
    if self.masks is not None:
      plain["segmentations"] = [mask_lib.to_json(mask) for mask in self.masks]
    return plain


class Detector:
  """Preprocessing, network and non-maximum suppression as one function.

  Args:
    model: as `build_retinanet`, `build_mask_rcnn` or `build_solo` returns it, with a fixed input size.
    categories: `data.meta.Meta`, or things with `id` and `name`, in the order of the model's outputs.
    score_threshold: objects with lower scores are left out, in [0, 1).
    class_ids: original id of each model output, where they are not simply the categories in their order.
    batch_size: pictures that go through the network together when several are given.
    direct: convolutions by the direct sum; on CPUs Winograd's are taken where they pay when False, equal up to rounding.
    **detection: further arguments of the model's `find`: pre_nms_top_k, max_detections, iou_threshold (not of SOLO).

  Raises: UserError when classes and model do not fit, or an argument is out of range.
  """

  def __init__(
    self,
    model: keras.Model,
    categories: Iterable[Any],
    *,
    score_threshold: float = 0.05,
    class_ids: Sequence[int] | None = None,
    batch_size: int = 8,
    direct: bool = False,
    **detection: Any,
  ):
    self._categories = category_names(categories)
    self._ids = np.asarray(output_ids(self._categories, class_ids), np.int64)
    if len(self._ids) != model.num_classes:
      raise UserError(
        f"the model has {model.num_classes} classes, the list of classes has {len(self._ids)}; they must be as many "
        "(background is not counted): give the categories that the model was trained with"
      )
    if None in model.input_size:
      raise UserError(f"the model's input size is {model.input_size}; a detector needs one, such as (640, 640)")
    if batch_size < 1:
      raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    self._model, self._batch_size = model, batch_size
    self._settings = {"score_threshold": score_threshold, **detection}
    size = tuple(model.input_size)

    @tf.function(input_signature=[tf.TensorSpec([None, *size, 3], tf.float32)], autograph=False)
    def network(images):
      return model.find(images, score_threshold=score_threshold, **detection)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)], autograph=False)
    def preprocess(image):
      return preprocess_image(image, size)

    self._preprocess, self._network = preprocess, network
    with winograd.enabled(not direct and not tf.config.list_physical_devices("GPU")):
      network.get_concrete_function()  # arguments out of range are reported here, not at the first picture

  @property
  def model(self) -> keras.Model:
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
    """Arguments of the model's `find`."""
    return dict(self._settings)

  def __call__(self, images: Picture | Sequence[Picture]) -> Detections | list[Detections]:
    """Finds objects.

    Args:
      images: uint8[H, W, 3] RGB or the path of an image file; or several of these (a list, or uint8[B, H, W, 3]), of any
        sizes.

    Returns: `Detections`; a list of them when several pictures were given.

    Raises: UserError for a file that is no image, or an array of another form.
    """
    if is_single(images):
      return self._detect([images])[0]
    pictures = list(images)
    found: list[Detections] = []
    for first in range(0, len(pictures), self._batch_size):
      found += self._detect(pictures[first : first + self._batch_size])
    return found

  def _detect(self, pictures: Sequence[Picture]) -> list[Detections]:
    arrays = [as_array(picture) for picture in pictures]
    inputs, scales = zip(*(self._preprocess(array) for array in arrays))
    out = {key: value.numpy() for key, value in self._network(tf.stack(inputs)).items()}
    sizes = np.array([array.shape[:2] for array in arrays])
    scale = np.stack([s.numpy() for s in scales])
    boxes, inside = to_original(out["detection_boxes"], scale, sizes)
    # What masks lie in: of SOLO the whole input, else the boxes before anything was cut off.
    whole = rescale(out.get("detection_mask_boxes", out["detection_boxes"]), scale)
    keep = inside & (np.arange(boxes.shape[1]) < out["num_detections"][:, None])
    found = []
    for i in range(len(arrays)):
      classes = self._ids[out["detection_classes"][i][keep[i]]]
      masks = None
      if "detection_masks" in out:
        values, place = out["detection_masks"][i][keep[i]], whole[i][keep[i]]
        if "detection_mask_boxes" in out:
          values, place = mask_lib.cropped(values, boxes[i][keep[i]], place)
        masks = tuple(mask_lib.paste_all(values, place, sizes[i]))
      found.append(
        Detections(
          boxes=boxes[i][keep[i]].astype(np.float32),
          scores=out["detection_scores"][i][keep[i]],
          classes=classes,
          names=tuple(self._categories.get(c, str(c)) for c in classes.tolist()),
          masks=masks,
        )
      )
    return found
