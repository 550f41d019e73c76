"""The same weights give the same scores as Model Garden's ResNet classifier; on SpineNet it reads one level only."""

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.models.classifier import build_classifier
from spinenet_tf.models.naming import named_variables

model_garden = pytest.importorskip("benchmarks.model_garden")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("training", [False, True])
def test_scores_agree(training):
  from official.vision.modeling.backbones import resnet
  from official.vision.modeling.classification_model import ClassificationModel

  ours = build_classifier("r50_fpn", 7, (160, 160), padding="same")
  peer = ClassificationModel(resnet.ResNet(50, norm_momentum=0.9, norm_epsilon=1e-5), 7)
  variables = named_variables(ours)
  model_garden.randomise(variables)
  model_garden.copy_backbone(variables, peer.backbone, ours)
  peer.layers[-1].set_weights([variables["classifier/predict/kernel"], variables["classifier/predict/bias"]])
  images = tf.random.stateless_normal([4, 160, 160, 3], [1, 2])
  a, b = ours(images, training=training)["logits"].numpy(), peer(images, training=training).numpy()
  assert np.abs(a - b).max() < 1e-2 * np.ptp(b, axis=0).max()
  assert sum(np.prod(v.shape) for v in peer.trainable_variables) == sum(
    np.prod(v.shape) for v in ours.trainable_variables
  )
