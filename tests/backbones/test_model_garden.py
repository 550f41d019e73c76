"""Model Garden's own RetinaNet experiment, task and trainer on our backbones."""

import dataclasses
import math
import re

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.backbones.spec import BlockSpec
from spinenet_tf.compat import keras
from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.models.naming import named_variables

model_garden = pytest.importorskip("spinenet_tf.backbones.model_garden")

from official.core import config_definitions, exp_factory, task_factory, train_lib  # noqa: E402

import official.vision  # noqa: E402, F401, isort: skip - registers tasks

SIZE, CLASSES = 128, 6  # Model Garden counts background


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes")
  prepare_synthetic(folder, train=8, val=2, size=SIZE)
  return folder


@pytest.fixture(scope="module")
def searched():
  """A small network that is in no catalog: other order, other connections, a level that RetinaNet does not use."""
  rows = (
    (2, "bottleneck", (0, 1), True),
    (4, "residual", (1, 2)),
    (3, "bottleneck", (2, 3), True),
    (5, "bottleneck", (3, 4), True),
    (4, "bottleneck", (3, 5), True),
    (7, "residual", (5, 6), True),
    (6, "bottleneck", (3, 7), True),
  )
  return dataclasses.replace(
    architecture("spinenet49"),
    name="searched",
    blocks=tuple(BlockSpec(*row) for row in rows),
    filter_scale=0.25,
    endpoint_filters=16,
    head_filters=16,
    head_convs=1,
  )


def experiment(shapes=None, **backbone):
  config = exp_factory.get_exp_config(model_garden.EXPERIMENT)
  config.task.model.input_size = [SIZE, SIZE, 3]
  config.task.model.num_classes = CLASSES
  config.task.model.head.override({"num_filters": 16, "num_convs": 1})
  config.task.model.norm_activation.use_sync_bn = False
  config.task.model.backbone.spinenet_tf.override(backbone)
  config.task.annotation_file = None
  if shapes is not None:
    for data, split in ((config.task.train_data, "train"), (config.task.validation_data, "val")):
      data.input_path = str(shapes / f"{split}*.tfrecord")
      data.global_batch_size = 2
      data.shuffle_buffer_size = 8
  config.trainer.optimizer_config.learning_rate.stepwise.override({"boundaries": [100], "values": [0.002, 0.0002]})
  config.trainer.optimizer_config.warmup.linear.override({"warmup_steps": 1, "warmup_learning_rate": 0.002})
  return config


def build(config) -> keras.Model:
  config.validate()
  return task_factory.get_task(config.task).build_model()


def kernels(model):
  return [v for v in model.trainable_variables if v.name.endswith("kernel:0")]


@pytest.mark.slow
def test_a_catalog_backbone_learns_in_model_gardens_step(shapes):
  config = experiment(shapes, architecture="spinenet49s", stochastic_depth_drop_rate=0.0)
  task = task_factory.get_task(config.task)
  model = task.build_model()
  optimizer = task.create_optimizer(config.trainer.optimizer_config)
  images, labels = next(iter(task.build_inputs(config.task.train_data)))
  before = {name: v.numpy() for name, v in named_variables(model.backbone).items()}
  step = tf.function(lambda: task.train_step((images, labels), model, optimizer)["loss"])
  losses = [float(step()) for _ in range(8)]
  assert all(map(math.isfinite, losses)) and losses[-1] < 0.97 * losses[0], losses
  after = named_variables(model.backbone)
  still = [name for name in before if np.array_equal(before[name], after[name].numpy())]
  assert all(name.endswith("gamma") for name in still), still  # 1 plus very little may round to 1


@pytest.mark.slow
def test_a_searched_json_trains_in_model_gardens_trainer(shapes, searched, tmp_path):
  searched.to_json(tmp_path / "searched.json")
  config = experiment(shapes, architecture=str(tmp_path / "searched.json"))
  config.trainer.override({"train_steps": 3, "steps_per_loop": 3, "checkpoint_interval": 3, "summary_interval": 3})
  config.trainer.override({"validation_interval": 3, "validation_steps": 1})
  config.validate()
  config.lock()
  task = task_factory.get_task(config.task, logging_dir=str(tmp_path))
  strategy = tf.distribute.OneDeviceStrategy("cpu:0")
  model, _ = train_lib.run_experiment(strategy, task, "train", config, str(tmp_path / "run"))
  assert tf.train.latest_checkpoint(tmp_path / "run").endswith("ckpt-3")
  assert sorted(model.backbone.output_specs) == list("34567")
  assert all(np.isfinite(v.numpy()).all() for v in model.variables)


def test_variables_are_named_as_in_our_models(root):
  model = build(experiment(architecture="spinenet49s"))
  golden = (root / "tests/models/golden_names_spinenet49s.txt").read_text().split("\n")
  names = {line.split()[0] for line in golden if line and "tower" not in line}
  assert set(named_variables(model.backbone)) == names


def test_weight_decay_is_that_of_every_kernel(searched):
  config = experiment(architecture=searched.to_json())
  model = build(config)
  expected = config.task.losses.l2_weight_decay * sum(float(tf.nn.l2_loss(v)) for v in kernels(model))
  assert float(tf.add_n(model.losses)) == pytest.approx(expected, rel=1e-5)
  config.task.losses.l2_weight_decay = 0.0
  assert not build(config).losses


def test_norm_activation_and_regularisers_arrive(searched):
  config = experiment(
    architecture=searched.to_json(),
    stochastic_depth_drop_rate=0.3,
    dropblock_keep=0.8,
    dropblock_size=3,
    padding="same",
    min_level=2,
  )
  config.task.model.min_level = 2
  config.task.model.norm_activation.override(
    {"activation": "swish", "norm_momentum": 0.8, "norm_epsilon": 0.01, "use_sync_bn": True}
  )
  got = build(config).backbone.get_config()
  assert got["style"] == {
    "activation": "swish",
    "norm_momentum": 0.8,
    "norm_epsilon": 0.01,
    "synchronized": True,
    "padding": "same",
    "folded": False,
    "endpoint_activation": True,
    "pool_padding": "same",
    "pooling": "chain",
    "squeeze": "swish",
  }
  assert (got["stochastic_depth"], got["dropblock_keep"], got["dropblock_size"]) == (0.3, 0.8, 3)
  assert got["input_size"] == [SIZE, SIZE] and got["architecture"]["name"] == "searched"


def test_levels_that_are_not_asked_for_are_not_built(searched):
  whole = build(experiment(architecture=searched.to_json()))
  names = set(named_variables(whole.backbone))
  assert not [name for name in names if name.startswith("endpoint_2")] and any("endpoint_3" in name for name in names)
  again = type(whole.backbone).from_config(whole.backbone.get_config())
  assert set(named_variables(again)) == names and again.output_specs == whole.backbone.output_specs


def test_use_backbone_takes_the_place_of_another(searched):
  config = model_garden.use_backbone(exp_factory.get_exp_config("retinanet_resnetfpn_coco"), searched)
  config.validate()
  model = config.task.model
  assert (model.backbone.type, model.decoder.type) == ("spinenet_tf", "identity")
  assert (model.head.num_convs, model.head.num_filters, model.anchor.anchor_size) == (1, 16, 3)
  copy = exp_factory.get_exp_config(model_garden.EXPERIMENT)
  copy.override({"task": {"model": {"backbone": model.backbone.as_dict()}}})  # as a params.yaml would
  assert model_garden._architecture(copy.task.model.backbone.get().architecture) == searched
  model_garden.use_backbone(exp_factory.get_exp_config("retinanet_spinenet_coco"), "spinenet96").validate()
  mobile = model_garden.use_backbone(exp_factory.get_exp_config("retinanet_mobile_coco"), "spinenet49_mobile")
  assert mobile.task.model.backbone.get().architecture == "spinenet49_mobile"
  assert mobile.task.model.head.use_separable_conv and mobile.task.model.head.num_filters == 48
  mask_rcnn = model_garden.use_backbone(exp_factory.get_exp_config("cascadercnn_spinenet_coco"), "49")
  assert mask_rcnn.task.model.decoder.type == "identity"


@pytest.mark.slow
def test_the_examples_of_the_docs(root, tmp_path):
  from spinenet_tf.models.naming import variable_tree
  from spinenet_tf.models.retinanet import build_retinanet

  model, other, script, weights = re.findall(r"```python\n(.*?)```", (root / "docs/model_garden.md").read_text(), re.S)
  names: dict = {}
  exec(model, names)
  assert sorted(names["model"].backbone.output_specs) == list("34567")
  exec(other, {})
  exec(script.split("if __name__")[0], {})
  ours = build_retinanet("spinenet49s", 3, (256, 256))
  prefix = tf.train.Checkpoint(model=variable_tree(ours)).write(str(tmp_path / "ours"))
  exec(weights.replace("runs/mine", prefix), names)
  for name, variable in named_variables(names["model"].backbone).items():
    np.testing.assert_array_equal(variable, named_variables(ours)[name])


def test_mistakes():
  config = experiment(architecture="r0_sp53", min_level=2)
  with pytest.raises(KeyError, match="inconsistency.*min_level"):
    config.validate()
  config.task.model.min_level = 2
  with pytest.raises(UserError, match=r"levels \[2, 3, 4, 5, 6, 7\].*\[2\] are missing"):
    build(config)
  with pytest.raises(UserError, match="no architecture named 'spinenet50'"):
    build(experiment(architecture="spinenet50"))
  with pytest.raises(UserError, match="no image backbone"):
    model_garden.use_backbone(config_definitions.ExperimentConfig(), "49")
