"""Weights of Model Garden's SpineNet-49S, every one random, become ours and say the same: on TensorFlow 2.15, too."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.compat import TF_VERSION, keras
from spinenet_tf.importers import run
from spinenet_tf.importers.assemble import Choices

spinenet = pytest.importorskip("official.vision.modeling.backbones.spinenet")

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(TF_VERSION > (2, 15), reason="tests/importers do this, and more, on later TensorFlows"),
]


def test_backbone(tmp_path):
  sizes = spinenet.SCALING_MAP["49S"]
  names = ("endpoints_num_filters", "resample_alpha", "block_repeats", "filter_size_scale")
  backbone = spinenet.SpineNet(
    keras.layers.InputSpec(shape=[None, 128, 128, 3]), **{name: sizes[name] for name in names}
  )
  rng = np.random.default_rng(0)
  for variable in backbone.variables:
    if "kernel" in variable.name:
      variable.assign(rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape))
    else:  # scales and variances around 1, offsets and means around 0
      positive = "gamma" in variable.name or "variance" in variable.name
      variable.assign(rng.uniform(0.5, 1.5, variable.shape) - (not positive))
  tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / "ckpt"))
  found = run.load("model_garden", tmp_path / "ckpt", Choices(image_size=128))
  assert found.assembled.inferred.architecture.name == "spinenet49s" and len(found.account.mapped) == 650
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  ours = found.model(images)
  for level, wanted in backbone(images, training=False).items():
    assert np.abs(ours[level] - wanted).max() <= 1e-4 * np.abs(wanted).max(), level
