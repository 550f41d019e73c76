"""JSON that somebody else wrote."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
  """Returns the value of a JSON text.

  Raises: ValueError, and nothing else, for what is not JSON, not UTF-8, or nested too deeply to be read.
  """
  try:
    return json.loads(text)
  except RecursionError as error:
    raise ValueError("nested too deeply") from error
