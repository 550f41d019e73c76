"""Keys of networks: equal whatever the numbering, different where anything that computes differs."""

import dataclasses

import numpy as np
import pytest

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import scaled
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.search.network_key import network_key


def renumbered(arch: Architecture, order: list[int]) -> Architecture:
  """The same network with its permuted blocks in another order; order[n] is the old position of block n."""
  stem = len(arch.stem)
  new = {**{i: i for i in range(stem)}, **{stem + old: stem + n for n, old in enumerate(order)}}
  blocks = [
    dataclasses.replace(arch.blocks[old], parents=tuple(new[p] for p in arch.blocks[old].parents)) for old in order
  ]
  return dataclasses.replace(arch, blocks=tuple(blocks))


def any_order(arch: Architecture, rng: np.random.Generator) -> list[int]:
  """An order in which parents precede; intermediate blocks first, so that the out-degree-0 rule gives the same."""
  stem, order = len(arch.stem), []
  while len(order) < len(arch.blocks):
    ready = [
      n
      for n, block in enumerate(arch.blocks)
      if n not in order and all(p < stem or p - stem in order for p in block.parents)
    ]
    inner = [n for n in ready if not arch.blocks[n].is_output]
    order.append(int(rng.choice(inner or ready)))
  return order


@pytest.mark.parametrize("name", ["spinenet49", "r0_sp53", "r23_sp30"])
def test_numbering_does_not_count(name):
  rng, arch = np.random.default_rng(0), architecture(name)
  orders = {tuple(any_order(arch, rng)) for _ in range(20)}
  assert len(orders) > 1
  assert {network_key(renumbered(arch, list(order))) for order in orders} == {network_key(arch)}


def test_what_counts_and_what_does_not():
  arch = architecture("spinenet49")
  key = network_key(arch)
  assert len(key) == 16 and int(key, 16)
  assert network_key(scaled(arch, name="other", filter_scale=0.5)) == key
  turned = tuple(dataclasses.replace(block, parents=block.parents[::-1]) for block in arch.blocks)
  assert network_key(dataclasses.replace(arch, blocks=turned)) == key
  others = []
  for n, block in enumerate(arch.blocks):
    kind = {"residual": "bottleneck", "bottleneck": "residual"}[block.block]
    changed = (*arch.blocks[:n], dataclasses.replace(block, block=kind), *arch.blocks[n + 1 :])
    others.append(network_key(dataclasses.replace(arch, blocks=changed, allow_disconnected=True)))
  assert len({key, *others}) == 16
  # Block 11 as a residual block fits no output any more: the network without it.
  assert others[9] == network_key(dataclasses.replace(arch, connect_unused=False, allow_disconnected=True))


def two_twins(*last: tuple[int, int]) -> Architecture:
  """Blocks 2 and 3 are alike, (L4; 0, 1); outputs of levels 3 and 4 read what is given."""
  twins = [BlockSpec(4, "bottleneck", (0, 1))] * 2
  outputs = [BlockSpec(level, "bottleneck", pair, True) for level, pair in zip((3, 4), last)]
  stem = (BlockSpec(2, "bottleneck"),) * 2
  return Architecture("twins", stem, (*twins, *outputs), connect_unused=False, allow_disconnected=True)


def test_twins_are_told_from_one_block_read_twice():
  both, swapped = two_twins((0, 2), (0, 3)), two_twins((0, 3), (0, 2))
  assert network_key(both) == network_key(swapped)
  # Here both outputs read one block, and the other leads nowhere.
  shared = two_twins((0, 2), (0, 2))
  assert network_key(shared) == network_key(two_twins((0, 3), (0, 3))) != network_key(both)


def test_blocks_that_lead_nowhere_do_not_count():
  arch = two_twins((0, 1), (0, 2))
  odd = dataclasses.replace(arch, blocks=(*arch.blocks[:1], BlockSpec(6, "residual", (0, 2)), *arch.blocks[2:]))
  assert network_key(arch) == network_key(odd)
