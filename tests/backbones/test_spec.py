"""Architectures: validation, the out-degree-0 rule, JSON, catalog."""

import dataclasses
import json

import pytest

from spinenet_tf.backbones.catalog import architecture, names
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError

STEM = (BlockSpec(2, "bottleneck"), BlockSpec(2, "bottleneck"))


def _arch(*blocks, **kwargs):
  return Architecture("mine", STEM, tuple(BlockSpec(*b) for b in blocks), **kwargs)


def test_block_11_of_spinenet49_is_joined_to_block_14():
  arch = architecture("spinenet49")
  assert {i: arch.unused_inputs(i) for i in range(17) if arch.unused_inputs(i)} == {14: (11,)}
  assert dataclasses.replace(arch, connect_unused=False, allow_disconnected=True).unused_inputs(14) == ()


def test_unused_blocks_of_other_type_or_level_are_not_joined():
  arch = _arch(
    (3, "residual", (0, 1)),  # 2: same level, 1/4 of the channels
    (4, "bottleneck", (0, 1)),  # 3: other level
    (3, "bottleneck", (0, 1)),  # 4: fits
    (3, "bottleneck", (0, 1), True),  # 5
    allow_disconnected=True,
  )
  assert arch.unused_inputs(5) == (4,)


def test_widths_follow_the_scale_and_are_truncated():
  arch = architecture("spinenet49s")
  assert [arch.filters(level) for level in range(1, 8)] == [20, 41, 83, 166, 166, 166, 166]
  assert arch.channels(2) == 164 and arch.channels(3) == 166
  assert arch.squeeze_filters(0) == 20 and arch.squeeze_filters(4) == 41


@pytest.mark.parametrize("name", names())
def test_json_round_trip(name, tmp_path):
  arch = architecture(name)
  assert Architecture.from_json(arch.to_json()) == arch
  arch.to_json(tmp_path / "a.json")
  assert architecture(tmp_path / "a.json") == arch
  assert hash(architecture(arch.to_dict())) == hash(arch)


@pytest.mark.parametrize("spelling", ["SpineNet-49S", "49S", "49s", "spinenet49s"])
def test_the_authors_spellings(spelling):
  assert architecture(spelling).name == "spinenet49s"


def test_describe_names_blocks_parents_and_outputs():
  text = architecture("spinenet49").describe()
  assert " 14  L5  bottleneck  7,12,+11    P5" in text
  assert len(text.splitlines()) == 18


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: _arch((3, "bottleneck", (0, 2), True)), r"block 2: parent 2 is not an earlier block.*0 to 1"),
    (lambda: _arch((3, "bottleneck", (), True)), "block 2 has no parents"),
    (lambda: _arch((3, "bottleneck", (1, 1), True)), r"parents are \(1, 1\)"),
    (lambda: _arch((8, "bottleneck", (0, 1), True)), "level is 8.*1 to 7"),
    (lambda: _arch((3, "conv", (0, 1), True)), "block is 'conv'"),
    (lambda: _arch((3, "bottleneck", (0, 1))), "no block has is_output"),
    (
      lambda: _arch((3, "bottleneck", (0,), True), (3, "bottleneck", (0,), True)),
      r"level\(s\) \[3\].*\[2, 3\]",
    ),
    (lambda: _arch((3, "bottleneck", (0,), True), (5, "bottleneck", (0,), True)), r"\[3, 5\].*gap"),
    (lambda: _arch((3, "bottleneck", (0, 1), True), filter_scale=0.0), "filter_scale is 0.0"),
    (lambda: _arch((3, "bottleneck", (0, 1), True), filter_scale=0.02), "raise filter_scale"),
    (lambda: _arch((3, "bottleneck", (0, 1), True), block_repeats=0), "block_repeats is 0"),
    (lambda: Architecture("mine", (), ()), "the stem has no blocks"),
    (lambda: architecture("spinenet50"), "no architecture named 'spinenet50'.*spinenet49s"),
    (lambda: architecture("nowhere.json"), "no architecture file"),
    (lambda: Architecture.from_json("{broken"), "not JSON"),
    (lambda: Architecture.from_json(json.dumps({"name": "x"})), r"key\(s\) \['stem'\] missing"),
    (
      lambda: Architecture.from_dict({**architecture("49").to_dict(), "colour": 1}),
      r"unknown key\(s\) \['colour'\]",
    ),
  ],
)
def test_what_is_refused(make, text):
  with pytest.raises(UserError, match=text):
    make()
