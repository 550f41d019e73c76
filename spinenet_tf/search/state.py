"""A searcher's state in one file, written so that a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from spinenet_tf import json_text
from spinenet_tf.errors import UserError

_VALUES = "values"  # the array that holds the JSON text


def write_state(path: str | os.PathLike, values: dict, arrays: Mapping[str, np.ndarray] | None = None) -> None:
  """Writes `values`, which JSON can hold, and `arrays` to one file, atomically and through to the disk.

  Args:
    path: of the file; its folder is made where there is none.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(f"{path.name}.{os.getpid()}.new")
  with open(new, "wb") as file:
    np.savez(file, **{_VALUES: np.array(json.dumps(values))}, **(arrays or {}))
    file.flush()
    os.fsync(file.fileno())
  os.replace(new, path)


def read_state(path: str | os.PathLike, searcher: str, fingerprint: str) -> tuple[dict, dict[str, np.ndarray]]:
  """Returns the values and arrays that `write_state` wrote.

  Args:
    searcher, fingerprint: the "searcher" and "space" that the values must have.

  Raises: UserError for a file that is not there, is none of these, or belongs to another searcher or space.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      values = dict(json_text.parse(str(file[_VALUES])))
      arrays = {name: file[name] for name in file.files if name != _VALUES}
  except FileNotFoundError as error:
    raise UserError(
      f"no searcher's state {str(path)!r}; give a file that `save` wrote, or start a new search"
    ) from error
  except Exception as error:  # NumPy raises EOFError, zlib.error, SyntaxError and others for damaged files
    raise UserError(
      f"{str(path)!r} holds no searcher's state ({error}); start a new search in another folder"
    ) from error
  if values.get("searcher") != searcher:
    raise UserError(
      f"{str(path)!r} is the state of the searcher {values.get('searcher')!r}, not of {searcher!r}; choose that searcher, or "
      "start a new search in another folder"
    )
  if values.get("space") != fingerprint:
    raise UserError(
      f"{str(path)!r} is the state of a search in another space ({str(values.get('space'))[:12]}, this one is "
      f"{fingerprint[:12]}); choose that space, or start a new search in another folder"
    )
  return values, arrays
