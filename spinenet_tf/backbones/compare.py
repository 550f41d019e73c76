"""How two architectures differ, in words."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.spec import Architecture

_APART = ("name", "stem", "blocks")  # fields that are not compared as values


def diff(a: str | pathlib.Path | dict | Architecture, b: str | pathlib.Path | dict | Architecture) -> list[str]:
  """Returns a line for each field, then for each block, in which two architectures differ.

  Blocks are compared by their number, with what the out-degree-0 rule adds ("+11"). The architectures' names stand before
  what is theirs, "first" and "second" if they are the same.

  Args:
    a, b: what `catalog.architecture` takes.

  Returns: lines without line breaks; none when nothing but the name differs.
  """
  a, b = architecture(a), architecture(b)
  left, right = (a.name, b.name) if a.name != b.name else ("first", "second")
  lines = []
  for field in (f.name for f in dataclasses.fields(Architecture) if f.name not in _APART):
    values = getattr(a, field), getattr(b, field)
    if values[0] != values[1]:
      lines.append(f"{field}: {left} {_value(values[0])} | {right} {_value(values[1])}")
  for i, blocks in enumerate(itertools.zip_longest(_blocks(a), _blocks(b))):
    if blocks[0] != blocks[1]:
      lines.append(f"block {i}: {left} {blocks[0] or 'has none'} | {right} {blocks[1] or 'has none'}")
  return lines


def _value(value: object) -> str:
  if isinstance(value, str):
    return repr(value)
  if isinstance(value, bool):
    return str(value).lower()
  return str(list(value)) if isinstance(value, tuple) else str(value)


def _blocks(arch: Architecture) -> list[str]:
  """A description of each feature that holds all that its spec and its inputs say."""
  texts = []
  for i, spec in enumerate(arch.features):
    if i < len(arch.stem):
      texts.append(f"L{spec.level} {spec.block} in the stem")
      continue
    added = arch.unused_inputs(i)
    inputs = ",".join(f"+{p}" if p in added else f"{p}" for p in arch.inputs(i))
    texts.append(f"L{spec.level} {spec.block} from {inputs}{', output' if spec.is_output else ''}")
  return texts
