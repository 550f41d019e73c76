"""Durations and learning rates, against numbers worked by hand and those of the authors' configs."""

import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.training.schedules import Schedule, steps_per_epoch, to_steps

COCO, BATCH = 118_287, 256


@pytest.mark.parametrize(
  "given, steps",
  [(7, 7), ("7 steps", 7), ("1 step", 1), ("3 epochs", 30), ("2.5 epochs", 25), ("0 epochs", 0), ("85%", 170)],
)
def test_durations(given, steps):
  assert to_steps(given, epoch=10, total=200) == steps


@pytest.mark.parametrize("given", ["5 hours", "epochs", "-3 steps", -3, 2.5, True, None, "5"])
def test_durations_that_are_none(given):
  with pytest.raises(UserError, match="it must be"):
    to_steps(given, epoch=10, total=200)


def test_percent_needs_a_total():
  with pytest.raises(UserError, match="85%"):
    to_steps("85%", epoch=10)


def test_an_epoch_of_coco():
  assert steps_per_epoch(COCO, BATCH) == 463
  assert steps_per_epoch(10, 5) == 2
  assert steps_per_epoch(11, 5) == 3


@pytest.mark.parametrize(
  "epochs, total, first, second",
  [(250, 115_750, 101_860, 111_120), (350, 162_050, 148_160, 157_420), (500, 231_500, 217_610, 226_870)],
)
def test_the_protocols_have_the_authors_steps(epochs, total, first, second):
  epoch = steps_per_epoch(COCO, BATCH)
  schedule = Schedule(drops=(f"{epochs - 30} epochs", f"{epochs - 10} epochs"))
  rate = schedule.resolve(batch=BATCH, epoch=epoch, total=to_steps(f"{epochs} epochs", epoch))
  assert (rate.total, rate.drops) == (total, (first, second))
  assert float(rate(0)) == pytest.approx(0.0067)
  assert float(rate(1000)) == pytest.approx((0.0067 + 0.28) / 2)
  assert float(rate(2000)) == pytest.approx(0.28)
  assert float(rate(first - 1)) == pytest.approx(0.28)
  assert float(rate(first)) == pytest.approx(0.028)
  assert float(rate(second)) == pytest.approx(0.0028)


def test_rates_scale_with_the_batch():
  rate = Schedule().resolve(batch=64, epoch=1849, total=350 * 1849)
  assert float(rate(2000)) == pytest.approx(0.07)
  assert float(rate(0)) == pytest.approx(0.0067 / 4)
  rate = Schedule(learning_rate_batch=None).resolve(batch=64, epoch=1849, total=350 * 1849)
  assert float(rate(2000)) == pytest.approx(0.28)


def test_cosine():
  rate = Schedule(learning_rate=2.0, learning_rate_batch=None, shape="cosine", warmup=10, warmup_learning_rate=0.0)
  rate = rate.resolve(batch=1, epoch=1, total=110)
  assert [float(rate(s)) for s in (0, 5, 10, 60, 110)] == pytest.approx([0, 1, 2, 1, 0], abs=1e-6)


@pytest.mark.parametrize(
  "values, text",
  [
    ({"shape": "linear"}, "linear"),
    ({"learning_rate": 0.0}, "above 0"),
    ({"drops": (5,), "factors": ()}, "1 drops and 0 factors"),
    ({"learning_rate_batch": 0}, "learning_rate_batch"),
  ],
)
def test_schedules_that_make_no_sense(values, text):
  with pytest.raises(UserError, match=text):
    Schedule(**values)


@pytest.mark.parametrize("drops", [(20, 10), (1, 10), (10, 10)])
def test_drops_ascend_after_the_warmup(drops):
  with pytest.raises(UserError, match="ascend"):
    Schedule(warmup=5, drops=drops).resolve(batch=1, epoch=1, total=100)
