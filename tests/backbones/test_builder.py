"""From architecture to network: what is built, what is left out, what it is called."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import Backbone, build_backbone
from spinenet_tf.backbones.catalog import CATALOG, architecture
from spinenet_tf.backbones.edit import damaged
from spinenet_tf.backbones.spec import Architecture, BlockSpec
from spinenet_tf.errors import UserError


def _thin(arch, scale=0.125):
  return dataclasses.replace(arch, filter_scale=scale, endpoint_filters=8)


@pytest.mark.parametrize("name", CATALOG)
def test_every_architecture_of_the_catalog_runs(name):
  arch = dataclasses.replace(_thin(CATALOG[name]), block_repeats=1)
  if arch.pyramid == "fpn":  # one block a level: the rest is the same
    levels = [spec.level for spec in arch.stem]
    arch = dataclasses.replace(arch, stem=tuple(arch.stem[levels.index(level)] for level in (2, 3, 4, 5)))
  model = Backbone(arch, (96, 160))
  outputs = model(tf.zeros([1, 96, 160, 3]))
  assert [tuple(outputs[str(level)].shape) for level in (3, 7)] == [(1, 12, 20, 8), (1, 1, 2, 8)]
  assert list(model.output_specs) == ["3", "4", "5", "6", "7"]


def _chain(level=1, kind="mbconv", **kwargs):
  """One stem block, one block that nothing reads, and two outputs."""
  blocks = (
    BlockSpec(4, "residual", (0,)),
    BlockSpec(2, kind, (0,), True),
    BlockSpec(3, "residual", (0, 2), True),
  )
  values = {"allow_disconnected": True, "connect_unused": False, "filter_scale": 0.25, "endpoint_filters": 4} | kwargs
  return Architecture("chain", (BlockSpec(level, kind),), blocks, **values)


@pytest.mark.parametrize("kind", ["mbconv", "bottleneck", "residual"])
@pytest.mark.parametrize("level", [1, 2])
def test_a_stem_that_starts_at_level_1(level, kind):
  model = Backbone(_chain(level, kind, stem_pool=False, stem_kernel=3, stem_filters=5), (32, 48))
  assert model.get_layer("block_00/repeat_0").output_shape[1:3] == ((16, 24) if level == 1 else (8, 12))
  assert model.get_layer("stem").output_shape == (None, 16, 24, 5)
  assert tuple(model.output_specs["2"][1:]) == (8, 12, 4)


def test_blocks_that_no_output_depends_on_are_left_out():
  model = Backbone(_chain(2), (32, 32))
  scopes = {w.name.split("/")[0] for w in model.weights}
  assert scopes == {"stem", "block_00", "block_02", "block_03", "endpoint_2", "endpoint_3"}


@pytest.mark.parametrize("remove", ["short", "long", "both"])
def test_damaged_networks_have_one_connection_each(remove):
  arch = _thin(damaged(architecture("r0_sp53"), remove))
  model = Backbone(arch, (96, 96))
  for i in arch.used():
    if i >= len(arch.stem):
      layer = model.get_layer(f"block_{i:02d}")
      assert [c["levels_down"] for c in layer.connections] == [
        arch.features[i].level - arch.features[arch.features[i].parents[0]].level
      ]
  assert model(tf.zeros([1, 96, 96, 3]))["7"].shape == (1, 1, 1, 8)


def test_separable_connections_follow_the_architecture():
  model = Backbone(_thin(architecture("spinenet49_mobile"), 0.25), (96, 96))
  down = [w.name for w in model.weights if "/down_" in w.name and "kernel" in w.name]
  assert down and all("depthwise_kernel" in name for name in down)
  counts = [sum(f"block_10/resample_{i}/down_" in name for name in down) for i in (0, 1)]
  assert counts == [1, 2]  # from block 7 at level 6 and block 9 at level 5 to level 7


def test_drops_of_permuted_blocks_spare_the_stem():
  model = Backbone(_thin(architecture("spinenet49_mobile"), 0.25), (96, 96), stochastic_depth=0.32, dropblock_keep=0.9)
  stem = model.get_layer("block_01/repeat_0")
  assert (stem.drop_rate, stem.dropblock_keep) == (0, 1)
  rates = [model.get_layer(f"block_{i:02d}").repeats[0].drop_rate for i in range(2, 18)]
  assert rates == pytest.approx([0.32 * (i + 1) / 16 for i in range(16)])


def test_salts_differ():
  arch = dataclasses.replace(_thin(architecture("spinenet49")), block_repeats=2)
  model = Backbone(arch, (96, 96), stochastic_depth=0.2, dropblock_keep=0.9)
  salts = [block.salt for i in range(2, 17) for block in model.get_layer(f"block_{i:02d}").repeats]
  assert len(set(salts)) == 30 and np.diff(sorted(salts)).min() >= 5


@pytest.mark.parametrize(
  ("name", "size", "text"),
  [
    ("spinenet49", (64, 640), "spinenet49: an input of 64 x 640 pixels leaves no features at level 7.*exceed 64"),
    ("r50_fpn", (640, 32), "r50_fpn: an input of 640 x 32 pixels"),
  ],
)
def test_an_input_too_small_for_the_levels(name, size, text):
  with pytest.raises(UserError, match=text):
    build_backbone(name, size)
