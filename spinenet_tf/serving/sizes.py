"""Sizes as flags give them."""

from __future__ import annotations

from collections.abc import Sequence

from spinenet_tf.errors import UserError


def size_of(texts: Sequence[str] | None) -> tuple[int, int] | None:
  """Returns (height, width) of a flag's two values, None without any.

  Raises: UserError when they are something else.
  """
  if not texts:
    return None
  try:
    height, width = (int(text) for text in texts)
  except ValueError as error:
    raise UserError(f"--input_size={','.join(texts)} is not HEIGHT,WIDTH, such as 640,640") from error
  return height, width
