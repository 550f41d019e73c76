"""What a loss becomes on two replicas. Devices are fixed when TensorFlow starts, so tests import this before they use it."""

import contextlib

import pytest
import tensorflow as tf

_CPU = tf.config.list_physical_devices("CPU")[0]
if len(tf.config.get_logical_device_configuration(_CPU) or ()) < 2:
  with contextlib.suppress(RuntimeError):
    tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)


def two_replicas():
  """Returns a strategy of two replicas."""
  if len(tf.config.list_logical_devices("CPU")) < 2:
    pytest.skip("TensorFlow started with one CPU device before this file was read; run it by itself")
  # Not by collectives: two strategies of one process would share their numbers.
  return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def sums_of_two(loss, example):
  """Returns each loss summed over two replicas, of which each has one of the two images of `example`."""
  strategy = two_replicas()
  halves = [tf.nest.flatten(image_of(example, i)) for i in range(2)]

  def pick(values):
    return strategy.experimental_distribute_values_from_function(lambda c: values[c.replica_id_in_sync_group])

  @tf.function
  def run(*flat):
    return strategy.run(lambda *values: loss(*tf.nest.pack_sequence_as(example, values)), args=flat)

  result = run(*map(pick, zip(*halves)))
  return {
    name: sum(float(part) for part in strategy.experimental_local_results(value)) for name, value in result.items()
  }


def image_of(example, i):
  """Returns an example with image `i` alone."""
  return tf.nest.map_structure(lambda value: value[i : i + 1], example)
