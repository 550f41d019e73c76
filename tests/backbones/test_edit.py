"""Scaled and damaged architectures: table 8's parents, the paper's scaling, what is refused."""

import dataclasses

import numpy as np
import pytest

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.edit import damaged, scaled
from spinenet_tf.backbones.profile import profile
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError

STEM = (BlockSpec(2, "bottleneck"), BlockSpec(2, "bottleneck"))


@pytest.mark.parametrize(
  ("remove", "parents"),
  [
    ("short", (0, 0, 2, 2, 3, 5, 4, 4, 8, 8, 4, 6, 8, 6, 7)),
    ("long", (1, 1, 3, 4, 5, 6, 7, 8, 9, 10, 10, 7, 13, 9, 9)),
    ("both", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
  ],
)
def test_parents_of_the_damaged_r0_sp53(remove, parents):
  whole, arch = architecture("r0_sp53"), damaged("r0_sp53", remove)
  assert tuple(spec.parents for spec in arch.blocks) == tuple((p,) for p in parents)
  assert [arch.inputs(i) for i in range(2, 17)] == [(p,) for p in parents], "no input by the out-degree-0 rule"
  assert arch.inputs(1) == (0,) and arch.outputs == whole.outputs and arch.output_levels == (3, 4, 5, 6, 7)
  assert [(s.level, s.block, s.is_output) for s in arch.features] == [
    (s.level, s.block, s.is_output) for s in whole.features
  ]
  assert Architecture.from_json(arch.to_json()) == arch


def test_what_of_a_damaged_network_is_left():
  assert damaged("r0_sp53", "both").used() == frozenset(range(17))
  # By hand: 16 < 7 < 5 < 2 < 0, 15 < 6 < 3 < 0, 14 < 8 < 4 < 2, 13 < 6, 12 < 4.
  assert damaged("r0_sp53", "short").used() == {0, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16}
  # 16 and 15 < 9 < 8 < 7 < 6 < 5 < 4 < 3 < 1 < 0, 14 < 13 < 7, 12 < 10 < 9; 2 and 11 have no reader.
  assert damaged("r0_sp53", "long").used() == frozenset(range(17)) - {2, 11}


def test_a_damaged_network_says_what_was_done():
  arch = damaged("r0_sp53", "long")
  assert arch.name == "r0_sp53_no_long" and damaged("r0_sp53", "long", name="mine").name == "mine"
  assert "long-range" in arch.note and "r0_sp53" in arch.note
  fish = damaged("fish", "both")
  assert fish.note.startswith(architecture("fish").note) and fish.name == "fish_sequential"


def test_parents_count_by_their_number_not_their_place():
  blocks = (BlockSpec(3, "bottleneck", (1, 0)), BlockSpec(3, "bottleneck", (2, 1), True))
  arch = Architecture("mine", STEM, blocks)
  assert [spec.parents for spec in damaged(arch, "short").blocks] == [(0,), (1,)]


def test_scaling_spinenet49_gives_the_others():
  assert scaled("spinenet49", name="spinenet49s", filter_scale=0.65, head_filters=128) == architecture("spinenet49s")
  assert scaled("spinenet49", name="spinenet96", block_repeats=2) == architecture("spinenet96")
  assert scaled(
    architecture("spinenet49"),
    name="spinenet190",
    block_repeats=4,
    resample_alpha=1.0,
    filter_scale=1.3,
    endpoint_filters=512,
    head_convs=7,
    head_filters=512,
    anchor_size=4.0,
  ) == architecture("spinenet190")


def test_scaling_by_a_factor_of_ones_own():
  arch = scaled("spinenet49", filter_scale=0.8)
  assert [arch.filters(level) for level in range(1, 8)] == [25, 51, 102, 204, 204, 204, 204]
  assert arch.name == "spinenet49_filter_scale_0.8" and arch.blocks == architecture("spinenet49").blocks
  assert scaled("spinenet49s", filter_scale=1.0, block_repeats=1).name == "spinenet49s_filter_scale_1.0"
  assert scaled("spinenet49") == architecture("spinenet49")
  assert scaled("r50_fpn", filter_scale=0.5).filters(5) == 256
  assert scaled("spinenet49_mobile", endpoint_filters=24, head_filters=24).endpoint_filters == 24


_ONE_PARENT = Architecture("mine", STEM, (BlockSpec(3, "bottleneck", (0, 1)), BlockSpec(3, "residual", (2,), True)))


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: damaged("r0_sp53", "all"), r"remove is 'all'.*'short', 'long', 'both'"),
    (lambda: damaged("r50_fpn", "short"), "r50_fpn is a plain chain"),
    (lambda: damaged(_ONE_PARENT, "short"), r"mine, block 3: parents are \(2,\)"),
    (lambda: damaged(damaged("r0_sp53", "short"), "both"), r"r0_sp53_no_short, block 2: parents are \(0,\)"),
    (lambda: damaged("r35_sp18", "short"), "not published"),
    (lambda: scaled("spinenet49", block_repeats=[1, 2]), "block_repeats has 2 numbers for 17 blocks"),
    (lambda: scaled("spinenet49", block_repeats=1.5), "block_repeats is 1.5; it must be a whole number"),
    (lambda: scaled("spinenet49", filter_scale=-1), "filter_scale is -1"),
    (lambda: scaled("spinenet49", filter_scale=0.01), "raise filter_scale"),
    (lambda: scaled("spinenet49", name=""), "needs a name"),
    (lambda: scaled("spinenet49_mobile", resample_alpha=1.0), "spinenet49_mobile: resample_alpha is 1.0.*separable"),
    (lambda: scaled("r50_fpn", resample_alpha=1.0), "r50_fpn: resample_alpha is 1.0.*pyramid"),
  ],
)
def test_what_is_refused(make, text):
  with pytest.raises(UserError, match=text):
    make()


def test_three_parents_are_refused():
  blocks = (BlockSpec(3, "bottleneck", (0, 1)), BlockSpec(3, "bottleneck", (0, 1, 2), True))
  with pytest.raises(UserError, match="block 3: parents"):
    damaged(dataclasses.replace(_ONE_PARENT, blocks=blocks), "both")


def test_repeats_for_each_block():
  """SpineNet-72: counted as its name is, seven bottlenecks and a residual block twice make 23 layers more than 49."""
  repeats = [2 if i in (3, 4, 5, 7, 10, 11, 12, 13) else 1 for i in range(17)]
  arch = scaled("spinenet49", name="spinenet72", block_repeats=repeats)
  layers = 2 + sum(arch.repeats(i) * (3 if b.block == "bottleneck" else 2) for i, b in enumerate(arch.features))
  assert layers == 72
  assert Architecture.from_json(arch.to_json()) == arch and hash(arch)
  thin = scaled(arch, filter_scale=0.125)
  built = build_backbone(thin, (128, 128))
  parameters = sum(int(np.prod(v.shape)) for v in built.trainable_variables)
  assert profile(thin, "backbone", input_size=(128, 128)).parameters == parameters
  names = [v.name for v in built.variables]
  assert any("block_13/repeat_1/" in n for n in names) and not any("block_14/repeat_1/" in n for n in names)
