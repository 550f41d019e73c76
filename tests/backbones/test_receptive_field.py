"""Receptive fields: by hand, from the literature, and against images that are black but for one row."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.counting.receptive_field import receptive_fields
from spinenet_tf.backbones.spec import Architecture, BlockSpec


def test_resnet_50():
  # Level 5 of ResNet-50 sees 427 pixels (Araujo et al. 2019, stride on the 3x3); a 3x3 at stride 32 adds 64.
  fields = receptive_fields(architecture("r50_fpn"))
  assert fields[5] == 427 + 2 * 32
  assert fields[6] == fields[5] + 2 * 32
  assert fields[7] == fields[6] + 2 * 64
  # Level 3 adds the up-sampled level 5: three pixels side by side see two of its pixels at most.
  assert fields[3] == 427 + 32


def test_by_hand():
  stem = (BlockSpec(2, "bottleneck"),)
  arch = Architecture("tiny", stem, (BlockSpec(3, "residual", (0,), True),))
  # 7x7/2 sees 7, the pool 7 + 2 * 2, the 3x3 at stride 4 11 + 2 * 4, the connection's 3x3/2 27, two 3x3 at stride 8 16 each.
  assert receptive_fields(arch) == {3: 7 + 4 + 8 + 8 + 16 + 16}


def _arch(*blocks, **kwargs):
  stem = kwargs.pop("stem", (BlockSpec(2, "bottleneck"),))
  values = {"filter_scale": 0.125, "endpoint_filters": 2, "stem_filters": 2, "stem_kernel": 3} | kwargs
  return Architecture("small", stem, blocks, **values)


@pytest.mark.parametrize(
  "arch",
  [
    _arch(BlockSpec(3, "residual", (0,)), BlockSpec(2, "residual", (0, 1), True)),
    _arch(BlockSpec(4, "bottleneck", (0,)), BlockSpec(4, "residual", (1, 0)), BlockSpec(3, "residual", (2,), True)),
    _arch(BlockSpec(2, "bottleneck", (0,)), BlockSpec(2, "bottleneck", (0,), True)),
    _arch(
      BlockSpec(3, "mbconv", (0,)),
      BlockSpec(2, "mbconv", (0, 2), True),
      stem=(BlockSpec(1, "mbconv"), BlockSpec(2, "mbconv")),
      stem_pool=False,
      separable=True,
      block_repeats=2,
    ),
  ],
  ids=["up", "down", "unused", "mobile"],
)
def test_a_row_of_the_image_reaches_exactly_so_far(arch):
  ((level, field),) = receptive_fields(arch).items()
  rows = 512
  backbone = build_backbone(arch, (rows, 16))
  for variable in backbone.trainable_variables:
    if "kernel" in variable.name:
      variable.assign(tf.ones_like(variable) / np.sqrt(np.prod(variable.shape[:-1])))  # positive: nothing cancels
  # Image i is black but for row i, and what is black stays 0.
  images = tf.tile(tf.eye(rows)[:, :, None, None], [1, 1, 16, 3])
  pyramid = backbone.predict(images, batch_size=32, verbose=0)[str(level)]
  widths = []
  middle = rows // 2 // 2**level
  for pixel in range(middle, middle + 4):
    reached = np.flatnonzero(pyramid[:, pixel].any(axis=(1, 2)))
    assert 0 < reached[0] and reached[-1] < rows - 1  # not cut off by the border
    widths.append(reached[-1] - reached[0] + 1)
  assert max(widths) == field
