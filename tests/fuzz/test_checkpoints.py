"""Checkpoints: damaged files and lists are refused with a UserError, or give arrays."""

import shutil

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from spinenet_tf.training import checkpoints, leftovers
from tests.fuzz import fuzzing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run directory with two checkpoints of three variables, and the bytes of its files."""
  folder = tmp_path_factory.mktemp("run")
  values = tf.train.Checkpoint(
    model=tf.train.Checkpoint(a=tf.Variable(tf.ones([3, 4])), b=tf.Variable(tf.zeros([5]))),
    global_step=tf.Variable(7, dtype=tf.int64),
  )
  manager = tf.train.CheckpointManager(values, str(folder / "checkpoints"), 2, checkpoint_name="step")
  manager.save(3)
  manager.save(7)
  return folder, {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


@given(st.data())
def test_damaged_files(run, data):
  folder, files = run
  place = folder / "damaged/checkpoints"
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)
  for name, content in sorted(files.items()):
    if data.draw(st.integers(0, 2)) == 0:
      content = data.draw(fuzzing.changed_bytes([content]))
    if data.draw(st.integers(0, 9)):
      (place / name).write_bytes(content)

  def use():
    weights = checkpoints.read_weights(checkpoints.find(place.parent))
    assert all(value.nbytes < 2**20 for value in weights.values())

  fuzzing.survives("checkpoints", use)
  fuzzing.survives("checkpoints", lambda: leftovers.mend_state(place))
  fuzzing.survives("checkpoints", use)
  leftovers.clean(place, 3)
