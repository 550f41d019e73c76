"""A SavedModel in use: its signatures, its labels, and running them.  Builds no model and knows no architecture."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from spinenet_tf.errors import UserError
from spinenet_tf.serving.server import images
from spinenet_tf.serving.server.refusal import Refusal
from spinenet_tf.serving.server.signatures import read_signatures

IMAGE_BYTES, EXAMPLES, IMAGE_ERROR = "image_bytes", "examples", "image_error"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a model lies and how it is called.

  Attributes:
    folder: the one with saved_model.pb.
    name: stands in the URLs.
    version: a number; that of the folder where its name is one, else 1.
  """

  folder: pathlib.Path
  name: str
  version: int

  @classmethod
  def find(cls, model: str, name: str | None = None) -> Place:
    """Finds a SavedModel.

    Args:
      model: its folder, or, as TensorFlow Serving has it, the folder above numbered versions, of which the highest is taken.
      name: how to call it; the folder's name by default.

    Raises: UserError where there is no SavedModel, or the name does not fit into a URL.
    """
    base = folder = pathlib.Path(model).absolute()
    if not (folder / "saved_model.pb").is_file():
      versions = [f.parent for f in folder.glob("*/saved_model.pb") if f.parent.name.isdigit()]
      if not versions:
        why = "has no saved_model.pb" if folder.is_dir() else "is no folder"
        raise UserError(f"--model={model} {why}; give a folder that export/saved_model.py wrote")
      folder = max(versions, key=lambda f: int(f.name))
    elif folder.name.isdigit():
      base = folder.parent
    if name is None:
      name = base.name if _NAME.fullmatch(base.name) else "model"
    if not _NAME.fullmatch(name):
      raise UserError(f"--name={name!r} does not fit into a URL; use letters, digits and _ . -, 100 at most")
    return cls(folder, name, int(folder.name) if folder.name.isdigit() else 1)


class ServedModel:
  """A loaded SavedModel.

  Attributes:
    place: where it lies and how it is called.
    signatures: name to `Signature`.
    info: content of export_info.json, empty for a SavedModel from elsewhere.
    names: class id to name, from assets/labels.txt.
  """

  def __init__(self, place: Place):
    """Loads.

    Raises: UserError where TensorFlow cannot read the folder, or it has no signatures.
    """
    import tensorflow as tf

    self.place = place
    try:
      self._loaded = tf.saved_model.load(str(place.folder))
    except Exception as error:  # of many kinds, by what is broken
      raise UserError(f"{place.folder} cannot be loaded ({_first_line(error)}); export the model again") from error
    self._functions = dict(self._loaded.signatures)
    if not self._functions:
      raise UserError(f"{place.folder} has no signatures, so nothing can be asked of it; export with signatures")
    self.signatures = read_signatures(place.folder, self._functions)
    self.info = _read_info(place.folder / "export_info.json")
    self.names = _read_labels(place.folder / "assets" / "labels.txt")

  def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a signature.

    Args:
      signature: its name.
      inputs: name to array of the type and shape it asks for.

    Returns: name to array, as the signature gives them; strings as bytes in arrays of objects.

    Raises: Refusal 400 where the network says that the input cannot be used.
    """
    import tensorflow as tf

    specs = self.signatures[signature].inputs
    tensors = {
      name: tf.constant(value, tf.string if specs[name].dtype == object else specs[name].dtype)
      for name, value in inputs.items()
    }
    try:
      outputs = self._functions[signature](**tensors)
    except tf.errors.InvalidArgumentError as error:
      raise Refusal(400, f"the model cannot use this input: {_first_line(error)}") from error
    return {name: value.numpy() for name, value in outputs.items()}

  def warm_up(self) -> None:
    """Runs once with bytes that are no picture and once with a picture, so that the first request finds all in place."""
    if IMAGE_BYTES not in self.signatures:
      return
    import tensorflow as tf

    picture = tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()
    for data in (picture, b""):
      self.run(IMAGE_BYTES, {IMAGE_BYTES: np.array([data], object)})

  def check_pictures(self, signature: str, inputs: Mapping[str, np.ndarray], max_pixels: int) -> dict[int, str]:
    """Reads the headers of encoded pictures, and takes those that may not be decoded out of the batch.

    Args:
      signature: its name; of one that takes no encoded pictures nothing is checked.
      inputs: name to array; pictures that may not be decoded are replaced by empty bytes here.
      max_pixels: as in `Settings`.

    Returns: row to reason, for those taken out.

    Raises: Refusal 400, or 413 for too many pixels, where no picture is left or the model cannot report one of them.
    """
    for name, get in ((IMAGE_BYTES, bytes), (EXAMPLES, _picture_of_example)):
      if name not in inputs or inputs[name].dtype != object:
        continue
      errors: dict[int, images.BadImage] = {}
      for row, data in enumerate(inputs[name]):
        try:
          images.check(get(data), max_pixels)
        except images.BadImage as error:
          errors[row] = error
          inputs[name][row] = b""
      if errors and (len(errors) == len(inputs[name]) or IMAGE_ERROR not in self.signatures[signature].outputs):
        row, error = next(iter(errors.items()))
        where = f"picture {row}: " if len(inputs[name]) > 1 else ""
        raise Refusal(413 if isinstance(error, images.ImageTooLarge) else 400, f"{where}{error}")
      return {row: str(error) for row, error in errors.items()}
    return {}


def _picture_of_example(data: bytes) -> bytes:
  """Returns the encoded picture of a serialised tf.train.Example."""
  import tensorflow as tf
  from google.protobuf.message import DecodeError

  try:
    values = tf.train.Example.FromString(data).features.feature["image/encoded"].bytes_list.value
  except DecodeError as error:
    raise images.BadImage(f"not a serialised tf.train.Example ({len(data)} bytes)") from error
  if len(values) != 1:
    raise images.BadImage(f"the tf.train.Example has {len(values)} values in image/encoded, it takes one")
  return values[0]


def _read_info(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    info = json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f"{path} is no JSON ({error}); export the model again") from error
  return info if isinstance(info, dict) else {}


def _read_labels(path: pathlib.Path) -> dict[int, str]:
  """A line a class: id, tab, name."""
  if not path.is_file():
    return {}
  labels = {}
  for line in path.read_text(encoding="utf-8").splitlines():
    number, tab, name = line.partition("\t")
    if tab and number.lstrip("-").isdigit():
      labels[int(number)] = name
  return labels


def _first_line(error: Exception) -> str:
  """Returns the line of TensorFlow's text that tells what is wrong; where in the graph stands around it."""
  text = str(getattr(error, "message", error)).split("\n\t [[{{node")[0].strip() or type(error).__name__
  lines = text.splitlines()
  return (lines[-1] if text.startswith("Graph execution error") else lines[0])[:300]
