"""The architectures of the paper, as tables.  [SpineNet figure 4, section 3.4; authors' SCALING_MAP]"""

from __future__ import annotations

import dataclasses
import pathlib

from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError

_STEM_L2_L2 = (BlockSpec(2, "bottleneck"), BlockSpec(2, "bottleneck"))

# (level, block, parents, is_output); features 0 and 1 are the stem.  [figure 4d; authors' spinenet.py]
_SPINENET49_BLOCKS = tuple(
  BlockSpec(*row)
  for row in (
    (2, "bottleneck", (0, 1)),  # 2
    (4, "residual", (0, 1)),  # 3
    (3, "bottleneck", (2, 3)),  # 4
    (4, "bottleneck", (2, 4)),  # 5
    (6, "residual", (3, 5)),  # 6
    (4, "bottleneck", (3, 5)),  # 7
    (5, "residual", (6, 7)),  # 8
    (7, "residual", (6, 8)),  # 9
    (5, "bottleneck", (8, 9)),  # 10
    (5, "bottleneck", (8, 10)),  # 11
    (4, "bottleneck", (5, 10), True),  # 12
    (3, "bottleneck", (4, 10), True),  # 13
    (5, "bottleneck", (7, 12), True),  # 14, and 11 by the out-degree-0 rule
    (7, "bottleneck", (5, 14), True),  # 15
    (6, "bottleneck", (12, 14), True),  # 16
  )
)

_SPINENET49 = Architecture("spinenet49", _STEM_L2_L2, _SPINENET49_BLOCKS)

CATALOG: dict[str, Architecture] = {
  arch.name: arch
  for arch in (
    # 256-wide endpoints into 128-wide towers: what gives the paper's 33.8B and 11.9M (the authors' later code has 128).
    dataclasses.replace(_SPINENET49, name="spinenet49s", filter_scale=0.65, head_filters=128),
    _SPINENET49,
    dataclasses.replace(_SPINENET49, name="spinenet96", block_repeats=2),
    dataclasses.replace(_SPINENET49, name="spinenet143", block_repeats=3, resample_alpha=1.0, anchor_size=4.0),
    dataclasses.replace(
      _SPINENET49,
      name="spinenet190",
      block_repeats=4,
      resample_alpha=1.0,
      filter_scale=1.3,
      endpoint_filters=512,
      head_convs=7,
      head_filters=512,
      anchor_size=4.0,
    ),
  )
}


def names() -> list[str]:
  """Returns the catalog's names."""
  return list(CATALOG)


def architecture(source: str | pathlib.Path | dict | Architecture) -> Architecture:
  """Returns an architecture from whatever names one.

  Args:
    source: a catalog name ("spinenet49", or the authors' "SpineNet-49", "49"), a path to a JSON file, the dictionary of
      an architecture, or an architecture itself.

  Raises: UserError for a name that the catalog lacks, with the names it has, or a broken file.
  """
  if isinstance(source, Architecture):
    return source
  if isinstance(source, dict):
    return Architecture.from_dict(source)
  text = str(source)
  if text.endswith(".json"):
    return Architecture.from_json(text)
  name = text.lower().replace("-", "")
  for candidate in (name, f"spinenet{name}"):
    if candidate in CATALOG:
      return CATALOG[candidate]
  raise UserError(f"no architecture named {text!r}; there are {', '.join(CATALOG)}, or give a path that ends in .json")
