"""Two replicas with synchronised batch norm see the statistics of the whole batch."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import sys; sys.path.insert(0, {root!r})
from tests.conformance.cases import ARCH, SOLO_LEVELS, both_stages, with_cells
from spinenet_tf.models.mask_rcnn import build_mask_rcnn
from spinenet_tf.models.retinanet import build_retinanet
from spinenet_tf.models.solo import build_solo

anchored = {{"min_level": 3, "max_level": 4}}
build, arguments, use = {{
  "retinanet": (build_retinanet, anchored, lambda model, images: model(images, training=True)),
  "mask_rcnn": (build_mask_rcnn, anchored, lambda model, images: both_stages(model, images, training=True)),
  "solo": (build_solo, {{"solo_levels": SOLO_LEVELS}}, lambda model, images: with_cells(model, images, training=True)),
}}[{task!r}]

def outputs(strategy, images):
  with strategy.scope():
    model = build(ARCH, 2, (32, 32), synchronized=True, head_convs=1, head_width=8, **arguments)
    rng = np.random.default_rng(0)
    for v in model.variables:
      v.assign(rng.uniform(0.2, 1.0, v.shape).astype("f"))
  parts = strategy.experimental_distribute_values_from_function(
      lambda c: tf.split(images, c.num_replicas_in_sync)[c.replica_id_in_sync_group])
  result = strategy.run(tf.function(lambda x: tf.nest.flatten(use(model, x))), args=(parts,))
  outputs = [tf.concat(strategy.experimental_local_results(r), 0).numpy() for r in result]
  return outputs, [v.numpy() for v in model.variables]

images = tf.random.stateless_normal([4, 32, 32, 3], [1, 2])
one = outputs(tf.distribute.OneDeviceStrategy("CPU:0"), images)
two = outputs(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), images)
for a, b in zip(one[0] + one[1], two[0] + two[1]):
  assert np.abs(a - b).max() < 1e-3 * max(np.abs(a).max(), 1), (np.abs(a - b).max(), np.abs(a).max())
print("equal", len(one[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retinanet", "mask_rcnn", "solo"])
def test_two_replicas_equal_one_device(root, task):
  program = PROGRAM.format(root=str(root), task=task)
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr[-3000:]
  assert "equal" in result.stdout
