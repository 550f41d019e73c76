"""The differences of two architectures, worked by hand."""

import dataclasses

import pytest

from spinenet_tf.backbones.catalog import architecture, names
from spinenet_tf.backbones.compare import diff
from spinenet_tf.backbones.edit import damaged, scaled
from spinenet_tf.backbones.spec import Architecture, BlockSpec


@pytest.mark.parametrize("name", names())
def test_nothing_but_the_name_differs(name):
  arch = architecture(name)
  assert diff(arch, dataclasses.replace(arch, name="mine")) == []


def test_fields():
  assert diff("spinenet49", "spinenet96") == ["block_repeats: spinenet49 1 | spinenet96 2"]
  other = scaled("spinenet49", name="spinenet49", filter_scale=0.8)
  assert diff("spinenet49", other) == ["filter_scale: first 1.0 | second 0.8"]
  other = dataclasses.replace(other, name="b", filter_scale=1.0, stem_pool=False, note="own", level_filters=(8,) * 7)
  assert diff("49", other) == [
    "level_filters: spinenet49 [32, 64, 128, 256, 256, 256, 256] | b [8, 8, 8, 8, 8, 8, 8]",
    "stem_pool: spinenet49 true | b false",
    "note: spinenet49 '' | b 'own'",
  ]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Architecture) if f.name != "name"])
def test_no_field_is_forgotten(field):
  """Every field of the mobile networks and of ResNet-FPNs that differs shows up in some line."""
  a, b = architecture("spinenet190"), architecture("spinenet49xs_mobile")
  if getattr(a, field) == getattr(b, field):
    a = architecture("r50_fpn")
  if getattr(a, field) == getattr(b, field):
    a = damaged("r0_sp53", "short")
  assert getattr(a, field) != getattr(b, field)
  start = "block " if field in ("stem", "blocks") else f"{field}: "
  assert any(line.startswith(start) for line in diff(a, b))


def test_blocks():
  a = architecture("spinenet49")
  blocks = list(a.blocks)
  blocks[1] = BlockSpec(4, "bottleneck", (0, 1))
  blocks[2] = BlockSpec(3, "bottleneck", (1, 3))
  b = dataclasses.replace(a, name="b", blocks=tuple(blocks))
  assert diff(a, b) == [
    "block 3: spinenet49 L4 residual from 0,1 | b L4 bottleneck from 0,1",
    "block 4: spinenet49 L3 bottleneck from 2,3 | b L3 bottleneck from 1,3",
  ]


def test_edges_of_the_out_degree_0_rule_count():
  a = architecture("spinenet49")
  b = dataclasses.replace(a, name="b", connect_unused=False, allow_disconnected=True)
  assert diff(a, b)[-1] == (
    "block 14: spinenet49 L5 bottleneck from 7,12,+11, output | b L5 bottleneck from 7,12, output"
  )


def test_other_numbers_of_blocks_and_stems():
  lines = diff("r0_sp53", "r23_sp30")
  assert "block 2: r0_sp53 L2 bottleneck from 0,1 | r23_sp30 L3 bottleneck in the stem" in lines
  assert diff("spinenet49", "r50_fpn")[-1] == (
    "block 16: spinenet49 L6 bottleneck from 12,14, output | r50_fpn has none"
  )
