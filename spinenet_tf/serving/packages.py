"""Optional packages: asked for before any work, with the line that installs what is missing."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from spinenet_tf.errors import UserError


def require(extra: str, *names: str) -> None:
  """Checks that packages of an extra are installed, without importing them.

  Args:
    extra: of setup.cfg, "onnx".
    *names: of the modules.

  Raises: UserError that names what is missing and how to install it.
  """
  if missing := [name for name in names if importlib.util.find_spec(name) is None]:
    raise UserError(
      f"{', '.join(missing)} is not installed; run: pip install 'spinenet_tf[{extra}]' (or: pip install {' '.join(missing)})"
    )


def optional(extra: str, name: str) -> ModuleType:
  """Imports a module of an extra.

  Raises: UserError where it is not installed.
  """
  require(extra, name)
  return importlib.import_module(name)


def version(name: str) -> str | None:
  """Returns the version of an installed package, or None."""
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None
