"""A key of a network that does not depend on how its blocks are numbered.

Two architectures are the same network when their blocks can be renumbered so that levels, types, outputs and all inputs
agree. Blocks that no output depends on are not part of the network.
"""

from __future__ import annotations

import hashlib
import json

from spinenet_tf.backbones.spec import Architecture

_Edges = dict[int, list[tuple[str, int]]]


def network_key(arch: Architecture) -> str:
  """Returns 16 hexadecimal digits, equal for architectures that are the same network.

  The order of a block's parents does not count, nor the order in which blocks are built where the graph stays the same,
  nor names, widths and repeats. Inputs that the out-degree-0 rule adds count as what they are: sums without weights.
  """
  inputs, readers = _edges(arch)
  colours = {i: _own_colour(arch, i) for i in inputs}
  text = json.dumps(_smallest_form(_ranked(colours), inputs, readers))
  own = json.dumps(sorted(colours.values()))
  return hashlib.sha256(f"{own}{text}".encode()).hexdigest()[:16]


def _own_colour(arch: Architecture, i: int) -> tuple:
  spec = arch.features[i]
  return (i if i < len(arch.stem) else len(arch.stem), spec.level, spec.block, spec.is_output)


def _edges(arch: Architecture) -> tuple[_Edges, _Edges]:
  """Returns what each used feature reads and by what it is read: feature -> (kind of edge, feature)."""
  used = arch.used()
  inputs: _Edges = {i: [] for i in used}
  readers: _Edges = {i: [] for i in used}
  for i in used:
    added = arch.unused_inputs(i)
    for j in arch.inputs(i):
      kind = "sum" if j in added else "edge"
      inputs[i].append((kind, j))
      readers[j].append((kind, i))
  return inputs, readers


def _ranked(colours: dict) -> dict[int, int]:
  """Colours as numbers that keep their order."""
  rank = {colour: n for n, colour in enumerate(sorted(set(colours.values())))}
  return {i: rank[colour] for i, colour in colours.items()}


def _refined(colours: dict[int, int], inputs: _Edges, readers: _Edges) -> dict[int, int]:
  """Splits classes of features by what they read and what reads them, until nothing changes."""
  while True:
    seen = {
      i: (
        colours[i],
        sorted((kind, colours[j]) for kind, j in inputs[i]),
        sorted((kind, colours[j]) for kind, j in readers[i]),
      )
      for i in colours
    }
    finer = _ranked({i: (c, tuple(ins), tuple(outs)) for i, (c, ins, outs) in seen.items()})
    if len(set(finer.values())) == len(set(colours.values())):
      return finer
    colours = finer


def _smallest_form(colours: dict[int, int], inputs: _Edges, readers: _Edges) -> list:
  """Inputs of each feature in an order that follows from the graph alone; twins are tried in every order."""
  colours = _refined(colours, inputs, readers)
  classes: dict[int, list[int]] = {}
  for i, colour in colours.items():
    classes.setdefault(colour, []).append(i)
  tied = min((colour for colour, members in classes.items() if len(members) > 1), default=None)
  if tied is None:
    return [sorted((kind, colours[j]) for kind, j in inputs[i]) for i in sorted(colours, key=colours.get)]
  forms = []
  for chosen in classes[tied]:
    split = {i: 2 * colour + (colour == tied and i != chosen) for i, colour in colours.items()}
    forms.append(_smallest_form(split, inputs, readers))
  return min(forms)
