"""What a process is set up for."""

import pytest
import tensorflow as tf

from spinenet_tf.ops import winograd
from spinenet_tf.training import setup


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="for processes without a GPU")
@pytest.mark.parametrize("wanted", [True, False])
def test_fast_convolutions_are_a_choice(experiment, tmp_path, wanted):
  setup.build(experiment(train={"winograd": wanted}), tmp_path)
  wide = tf.TensorSpec([1, 32, 32, 128], tf.float32), tf.TensorSpec([3, 3, 128, 128], tf.float32)
  assert winograd.pays(*wide) is wanted
