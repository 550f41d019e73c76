"""Costs: the paper's table 2, and the built model."""

import numpy as np
import pytest

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.backbones.profile import profile
from spinenet_tf.backbones.published import RETINANETS
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError


@pytest.mark.parametrize("row", RETINANETS, ids=lambda row: f"{row.name}-{row.size}")
def test_table_2(row):
  cost = profile(row.name, "retinanet", 91, (row.size, row.size))
  assert cost.multiply_adds / 1e9 == pytest.approx(row.multiply_adds, rel=5e-3)
  assert cost.parameters / 1e6 == pytest.approx(row.parameters, rel=5e-3)
  assert cost.multiply_adds_run < cost.multiply_adds


def test_a_small_network_by_hand():
  arch = Architecture(
    "tiny",
    (BlockSpec(2, "residual"),),
    (BlockSpec(3, "residual", (0,), True),),
    filter_scale=0.25,
    endpoint_filters=8,
  )
  cost = profile(arch, "backbone", input_size=(32, 32))
  stem = 7 * 7 * 3 * 64 * 16 * 16
  block_0 = (9 * 64 * 16 + 9 * 16 * 16 + 64 * 16) * 8 * 8  # two 3x3, projection from 64 to 16
  edge = 16 * 8 * 8 * 8 + 9 * 8 * 8 * 4 * 4 + 8 * 32 * 4 * 4  # squeeze to 8, 3x3/2, expand to 32
  block_1 = 2 * 9 * 32 * 32 * 4 * 4
  endpoint = 32 * 8 * 4 * 4
  assert cost.multiply_adds == stem + block_0 + edge + block_1 + endpoint
  assert cost.by("part")["connections"] == (16 * 8 + 16 + 9 * 64 + 16 + 8 * 32 + 64, edge)


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_parameters_equal_those_of_the_built_backbone(size):
  backbone = build_backbone("spinenet49s", size)
  built = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
  assert profile("spinenet49s", "backbone", input_size=size).parameters == built


def test_unknown_task():
  with pytest.raises(UserError, match="'detect'.*retinanet"):
    profile("spinenet49", "detect")
