"""The same weights give the same outputs as Model Garden's RetinaNets, where the two are meant to agree.

They agree with `padding="same"`, the rule Model Garden uses for strided convolutions; ours pads symmetrically, as the
authors' code does. Up-sampling after the expanding convolution changes nothing, also in training. Model
Garden's mobile blocks get the authors' activations within squeeze-and-excitation (`docs/compatibility.md`).
"""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.models.naming import named_variables
from spinenet_tf.models.retinanet import build_retinanet

model_garden = pytest.importorskip("benchmarks.model_garden")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["spinenet49s", "spinenet96", "spinenet49_mobile", "r50_fpn"])
def pair(request):
  """Ours with random weights and statistics, Model Garden's with the same ones."""
  size, classes = 256, 7
  mobile = request.param in model_garden.MOBILE_IDS
  activation = "swish" if mobile else "relu"
  ours = build_retinanet(request.param, classes, (size, size), padding="same", activation=activation)
  task = model_garden.build_task(request.param, classes, size)
  peer = task.build_model()
  peer(tf.zeros([1, size, size, 3]), training=True)
  if mobile:
    model_garden.use_authors_squeeze_activations(peer)
  model_garden.randomise(named_variables(ours))
  model_garden.copy_weights(named_variables(ours), peer, ours)
  return ours, peer


@pytest.mark.parametrize("training", [False, True])
def test_outputs_agree(pair, training):
  ours, peer = pair
  images = tf.random.stateless_normal([4, 256, 256, 3], [1, 2])
  mine = ours(images, training=training)
  features = peer.backbone(images, training=training)
  if peer.decoder is not None:
    features = peer.decoder(features, training=training)
  scores, boxes, _ = peer.head(features, training=training)
  for level in ours.levels:
    for a, b in ((mine["cls_logits"], scores), (mine["box_deltas"], boxes)):
      a, b = a[str(level)].numpy(), b[str(level)].numpy()
      # Statistics of a few pixels magnify rounding in training. Else the measure is how much the images differ: with
      # random weights most of an output is the same for every image.
      allowed = max(np.abs(b).max(), 1) if training else np.ptp(b, axis=0).max()
      assert np.abs(a - b).max() < 1e-2 * allowed, f"level {level}"


def test_parameters_agree_but_for_biases_before_norms(pair):
  ours, peer = pair
  count = [sum(int(np.prod(v.shape)) for v in m.trainable_variables) for m in (ours, peer)]
  arch = ours.architecture
  biases = 2 * arch.head_convs * arch.head_filters
  if arch.pyramid == "fpn":  # levels 3, 4 and 7
    biases += 3 * arch.endpoint_filters
  assert count[1] - count[0] == biases
