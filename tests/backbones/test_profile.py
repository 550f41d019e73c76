"""Costs, worked by hand."""

import dataclasses

import pytest

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.counting.solo import SoloHeads
from spinenet_tf.backbones.profile import profile
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError
from spinenet_tf.heads.sizes import MaskHeads
from spinenet_tf.ops.solo_levels import SoloLevels

TINY = Architecture(
  "tiny",
  (BlockSpec(2, "residual"),),
  (BlockSpec(3, "residual", (0,), True),),
  filter_scale=0.25,
  endpoint_filters=8,
)


def test_a_small_network():
  cost = profile(TINY, "backbone", input_size=(32, 32))
  stem = 7 * 7 * 3 * 64 * 16 * 16
  block_0 = (9 * 64 * 16 + 9 * 16 * 16 + 64 * 16) * 8 * 8  # two 3x3, projection from 64 to 16
  edge = 16 * 8 * 8 * 8 + 9 * 8 * 8 * 4 * 4 + 8 * 32 * 4 * 4  # squeeze to 8, 3x3/2, expand to 32
  block_1 = 2 * 9 * 32 * 32 * 4 * 4
  endpoint = 32 * 8 * 4 * 4
  assert cost.multiply_adds == stem + block_0 + edge + block_1 + endpoint
  connections = cost.by("part")["connections"]
  assert (connections.parameters, connections.multiply_adds) == (16 * 8 + 16 + 9 * 64 + 16 + 8 * 32 + 64, edge)


def test_memory_of_a_small_network():
  parts = profile(TINY, "backbone", input_size=(32, 32)).by("part")
  maps = [16 * 16 * 64, 8 * 8 * 64] + [8 * 8 * 16] * 4  # convolution, pool; two 3x3, projection, their sum
  assert parts["stem"].activation_bytes == 4 * sum(maps)
  # The first convolution's result before and after its activation; the pool's; before and after the first 3x3's
  # activation, before the norms of the second and of the projection; the activated sum.
  assert parts["stem"].training_bytes == 4 * (2 * maps[0] + maps[1] + 5 * maps[2])
  swish = profile(TINY, "backbone", input_size=(32, 32), activation="swish").by("part")["stem"]
  assert swish.training_bytes - parts["stem"].training_bytes == 4 * (maps[0] + 2 * maps[2])


def test_going_up_is_executed_expanding_first():
  up = Architecture(
    "up",
    (BlockSpec(2, "residual"), BlockSpec(3, "residual")),
    (BlockSpec(2, "residual", (1,), True),),
    filter_scale=0.25,
    endpoint_filters=8,
  )
  even = profile(up, "backbone", input_size=(32, 32))
  assert even.multiply_adds - even.multiply_adds_run == 16 * 16 * (8 * 8 - 4 * 4)
  odd = profile(up, "backbone", input_size=(36, 36))  # levels of 9 and 5 pixels: not evenly repeated
  assert odd.multiply_adds == odd.multiply_adds_run


def test_mobile_blocks_and_separable_connections():
  arch = Architecture(
    "tiny_mobile",
    (BlockSpec(1, "mbconv"),),
    (BlockSpec(3, "mbconv", (0,), True),),
    level_filters=(10, 10, 5, 5, 5, 5, 5),
    stem_filters=4,
    stem_kernel=3,
    stem_pool=False,
    separable=True,
    endpoint_filters=8,
  )
  parts = profile(arch, "backbone", input_size=(32, 32)).by("part")
  # 4 -> 24 -> depthwise -> squeeze to max(1, int(0.8)) -> 10, all at level 1, 16 x 16.
  block_0 = (4 * 24 + 9 * 24 + 24 * 10) * 256 + 2 * 24 * 1
  assert parts["stem"].multiply_adds == 27 * 4 * 256 + block_0
  norms = 2 * (4 + 24 + 24 + 10)
  assert parts["stem"].parameters == 27 * 4 + 4 * 24 + 9 * 24 + 24 * 10 + norms + (24 + 1) + (24 + 24)
  edge = 9 * 10 * 64 + 9 * 10 * 16 + 10 * 5 * 16  # depthwise to level 2 and to level 3, then 1x1
  assert parts["connections"].multiply_adds == edge
  assert parts["blocks"].multiply_adds == (5 * 30 + 9 * 30 + 30 * 5) * 16 + 2 * 30 * 1


def test_a_separable_head():
  arch = architecture("spinenet49xs_mobile")
  levels = profile(arch, "retinanet", 2, (128, 128), anchors_per_location=1).by("part")["class tower"].by("level")
  shared = 4 * (9 * 24 + 24 * 24) + 9 * 24 + 24 * 2 + 2
  assert levels[3].parameters == shared + 4 * 2 * 24
  assert levels[7].parameters == 4 * 2 * 24
  assert levels[7].multiply_adds == 4 * (9 * 24 + 24 * 24) + 9 * 24 + 24 * 2


def test_a_feature_pyramid():
  levels = profile("r50_fpn", "backbone", input_size=(128, 128)).by("part")["fpn"].by("level")
  conv = 9 * 256 * 256
  assert levels[3].parameters == 512 * 256 + 256 + conv + 512
  assert levels[5].parameters == 2048 * 256 + 256 + conv + 256 + 512  # read before its normalisation: has a bias
  assert levels[7].parameters == conv + 512
  assert levels[3].multiply_adds == (512 * 256 + conv) * 16 * 16
  few = profile("r50_fpn", "retinanet", 3, (128, 128), min_level=4, max_level=4).by("part")["fpn"]
  assert few.parameters == (1024 + 2048) * 256 + 512 + conv + 512  # two laterals, one convolution


def test_mask_rcnn_heads():
  heads = MaskHeads(endpoints=8, convs=1, filters=4, dense=5, anchors=3, proposals=10, detections=2)
  parts = profile("spinenet49s", "mask_rcnn", 6, (128, 128), mask_heads=heads).by("part")
  pixels = 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1
  assert parts["rpn"].multiply_adds == pixels * (9 * 8 * 4 + 4 * 15)
  assert parts["box head"].multiply_adds == 10 * (49 * 9 * 8 * 4 + 49 * 4 * 5 + 5 * (7 + 24))
  assert parts["mask head"].multiply_adds == 2 * (196 * 9 * 8 * 4 + 784 * 4 * 4 + 784 * 4 * 6)
  assert parts["mask head"].parameters == 9 * 8 * 4 + 8 + 4 * 4 * 4 + 8 + 4 * 6 + 6


def test_blocks_without_output_are_not_counted():
  blocks = (BlockSpec(3, "residual", (0,), True), BlockSpec(4, "residual", (1,)), BlockSpec(3, "residual", (2,)))
  dead = dataclasses.replace(TINY, blocks=blocks, allow_disconnected=True, connect_unused=False)
  assert profile(dead, "backbone").ops == profile(TINY, "backbone").ops


def test_levels_that_nobody_reads_are_not_counted():
  whole, few = (profile("spinenet49", "retinanet", 3, (256, 256), max_level=top) for top in (7, 5))
  blocks = [cost.by("part")["blocks"].by("level") for cost in (whole, few)]
  assert {6, 7} <= set(blocks[1])  # blocks 6 and 9 lie on the way to levels 3 to 5; the outputs 15 and 16 do not
  bottleneck = 2 * 1024 * 256 + 9 * 256 * 256 + 2 * (256 + 256 + 1024)
  assert blocks[0][7].parameters - blocks[1][7].parameters == bottleneck


def test_bad_arguments():
  with pytest.raises(UserError, match="'detect'.*retinanet"):
    profile("spinenet49", "detect")
  with pytest.raises(UserError, match=r"\[2\] of .* are missing"):
    profile("spinenet49", min_level=2)
  with pytest.raises(UserError, match="32 x 32 pixels leaves no features at level 7"):
    profile("spinenet49", input_size=(32, 32))


def test_solo():
  levels = SoloLevels((3, 3), (8, 8), (4, 2), ((1, 16), (8, 64)))
  heads = SoloHeads(convs=2, filters=32, levels=levels)
  parts = profile(TINY, "solo", 3, (32, 32), solo_heads=heads).by("part")
  pixels, tower = 4 * 4, 9 * 8 * 32 + 9 * 32 * 32  # both levels read the features of level 3
  category = parts["category tower"]
  assert category.multiply_adds == category.multiply_adds_run == (tower + 9 * 32 * 3) * (16 + 4)
  assert category.parameters == tower + 9 * 32 * 3 + 3 + 2 * 2 * 32  # once, with its norms, for all levels
  tower += 9 * 2 * 32  # x and y
  mask = parts["mask tower"]
  assert (mask.multiply_adds, mask.multiply_adds_run) == (2 * tower * pixels, tower * pixels)
  assert mask.parameters == tower + 2 * 2 * 32
  masks = parts["masks"]
  assert masks.parameters == 33 * (16 + 4)
  assert masks.multiply_adds == 4 * pixels * 32 * (16 + 4)  # all cells, at twice the features' size
  assert masks.multiply_adds_run == pixels * 32 * 500  # the candidates, before they are enlarged
  assert masks.training_bytes == 4 * 4 * pixels * (16 + 4)  # fewer cells than are chosen at most: all
  rows = profile(TINY, "solo", 3, (32, 32), solo_heads=dataclasses.replace(heads, decoupled=True)).by("part")["masks"]
  assert (rows.parameters, rows.multiply_adds) == (33 * 2 * (4 + 2), 4 * pixels * 32 * 2 * (4 + 2))
  unaligned = profile(TINY, "solo", 3, (32, 32), solo_heads=dataclasses.replace(heads, aligned=False)).by("part")
  assert unaligned["category tower"].multiply_adds == (tower - 9 * 2 * 32) * 2 * pixels + 9 * 32 * 3 * (16 + 4)
  with pytest.raises(UserError, match=r"\[4\] of \[3, 4\] are missing: change the sources"):
    profile(TINY, "solo", 3, (32, 32), solo_heads=SoloHeads(levels=dataclasses.replace(levels, sources=(3, 4))))
  with pytest.raises(UserError, match="convs of SOLO's heads is 0"):
    SoloHeads(convs=0)
