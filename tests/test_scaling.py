"""The computed steps on many devices, by hand."""

import pytest

from benchmarks.scaling import MACHINES, Machine, simulate
from spinenet_tf.errors import UserError

# 4 devices of 10 operations a second, 100 bytes a second between them, 2 cores, 8 images.
SMALL = Machine(4, 10.0, 100.0, 2, 8, 1, "")


def test_each_part_by_hand():
  step = simulate(multiply_adds=5, parameters=50, size=640, machine=SMALL, efficiency=0.5)
  assert step.arithmetic == pytest.approx(8 * 5 * 6 / (4 * 10 * 0.5))  # 12 s
  assert step.sent == pytest.approx(1.5 * 4 * 50)  # 2 (N - 1) / N of 200 bytes
  assert step.network == pytest.approx(3.0)
  assert step.input == pytest.approx(8 / 440)
  assert (step.seconds, step.bound_by) == (pytest.approx(12), "arithmetic")
  assert step.hours(2) == pytest.approx(2 * 118_287 / 8 * 12 / 3600)


def test_the_slowest_part_decides():
  assert simulate(1, 10_000, 640, SMALL, 1.0).bound_by == "network"
  large = simulate(0, 0, 1280, SMALL, 1.0)
  assert large.bound_by == "input" and large.input == pytest.approx(4 * 8 / 440)


def test_one_device_sends_nothing():
  assert simulate(1, 10, 640, MACHINES["v100x1"], 1.0).sent == 0


@pytest.mark.parametrize("efficiency", [0, -1, 1.01])
def test_more_than_the_peak_is_refused(efficiency):
  with pytest.raises(UserError, match="share of the devices' peak"):
    simulate(1, 1, 640, SMALL, efficiency)
