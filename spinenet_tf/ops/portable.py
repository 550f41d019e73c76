"""Whether functions use only what every compiler and converter takes, or what is fastest on CPUs and GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_forced = False


@contextlib.contextmanager
def portable(value: bool = True) -> Iterator[None]:
  """Lets what is traced inside use plain operations: for models that XLA compiles, or that are converted."""
  global _forced
  previous, _forced = _forced, value
  try:
    yield
  finally:
    _forced = previous


def wanted() -> bool:
  """Tells whether plain operations are asked for, or needed as there are TPUs."""
  return _forced or bool(tf.config.list_logical_devices("TPU"))
