"""Checkpoints generated from the documented names of the other two code bases: where every array goes."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from spinenet_tf.backbones.builder import build_backbone
from spinenet_tf.errors import UserError
from spinenet_tf.importers import mmdet, run, tensorflow_files, torch_files
from spinenet_tf.importers.assemble import Choices
from spinenet_tf.models.naming import named_variables

# SpineNet-49 scaled to an eighth: width at each level, alpha 1/2; parents of blocks 2 to 16 by level.
LEVELS = (2, 2, 2, 4, 3, 4, 6, 4, 5, 7, 5, 5, 4, 3, 5, 7, 6)
RESIDUAL = (3, 6, 8, 9)
PARENTS = ((0, 1), (0, 1), (2, 3), (2, 4), (3, 5), (3, 5), (6, 7), (6, 8), (8, 9), (8, 10), (5, 10), (4, 10), (7, 12))
PARENTS = (*PARENTS, (5, 14), (12, 14))
WIDTH = {2: 8, 3: 16, 4: 32, 5: 32, 6: 32, 7: 32}
END, HEAD = 8, 4


def _units(index):
  """(name, kernel shape) of a block's convolutions."""
  width = WIDTH[LEVELS[index]]
  if index in RESIDUAL:
    return [("conv1", (3, 3, width, width)), ("conv2", (3, 3, width, width))]
  out = 4 * width
  first = 64 if index == 0 else out
  return [("conv1", (1, 1, first, width)), ("conv2", (3, 3, width, width)), ("conv3", (1, 1, width, out))]


def _channels(index):
  return WIDTH[LEVELS[index]] * (1 if index in RESIDUAL else 4)


def _edge(index, parent):
  """(role, kernel shape) of a connection."""
  squeezed = WIDTH[LEVELS[parent]] // 2
  roles = [("squeeze", (1, 1, _channels(parent), squeezed))]
  if LEVELS[index] > LEVELS[parent]:
    roles.append(("down", (3, 3, squeezed, squeezed)))
  return [*roles, ("expand", (1, 1, squeezed, _channels(index)))]


class _Generator:
  """Random arrays under the other side's names, and what ours must be."""

  def __init__(self):
    self.rng, self.theirs, self.ours = np.random.default_rng(3), {}, {}

  def value(self, shape, positive=False):
    return (self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(size=shape)).astype(np.float32)

  def conv(self, name, ours, shape, torch=False):
    kernel = self.value(shape) / np.float32(np.prod(shape[:-1]) ** 0.5)
    self.ours[f"{ours}/kernel"] = kernel
    self.theirs[name] = kernel.transpose(3, 2, 0, 1).copy() if torch else kernel

  def norm(self, name, ours, width, separator="/", torch=False):
    leaves = (
      ("weight", "bias", "running_mean", "running_var")
      if torch
      else ("gamma", "beta", "moving_mean", "moving_variance")
    )
    for leaf, own in zip(leaves, ("gamma", "beta", "moving_mean", "moving_variance")):
      array = self.value([width], own in ("gamma", "moving_variance"))
      self.theirs[f"{name}{separator}{leaf}"] = self.ours[f"{ours}/{own}"] = array


def _tf1():
  made = _Generator()

  def scope(name, units):
    for n, (ours, shape) in enumerate(units):
      suffix = f"_{n}" if n else ""
      made.conv(f"{name}/conv2d{suffix}/kernel", f"{ours}/conv", shape)
      made.norm(f"{name}/batch_normalization{suffix}", f"{ours}/norm", shape[-1])

  top = [("stem", (7, 7, 3, 64)), ("block_00/repeat_0/shortcut", (1, 1, 64, 32))]
  top += [(f"block_0{i}/repeat_0/{name}", shape) for i in (0, 1) for name, shape in _units(i)]
  outputs = {13: 3, 12: 4, 14: 5, 16: 6, 15: 7}
  top += [(f"endpoint_{level}", (1, 1, _channels(i), END)) for i, level in outputs.items()]
  scope("spinenet", top)
  for position, parents in enumerate(PARENTS):
    i = position + 2
    for p, parent in enumerate(parents):
      edge = [(f"block_{i:02d}/resample_{p}/{role}", shape) for role, shape in _edge(i, parent)]
      scope(f"spinenet/sub_policy{position}/resample_with_alpha_resample_{position}_{p}", edge)
    units = [(f"block_{i:02d}/repeat_0/{name}", shape) for name, shape in _units(i)]
    scope(f"spinenet/sub_policy{position}/scale_permuted_block_{i}", units)
  for net, short, tower, width in (("class_net", "class", "class_tower", 9 * 91), ("box_net", "box", "box_tower", 36)):
    for n in range(4):
      made.conv(f"retinanet/{net}/{short}-{n}/kernel", f"{tower}/conv{n + 1}", (3, 3, END if n == 0 else HEAD, HEAD))
      bias = made.theirs[f"retinanet/{net}/{short}-{n}/bias"] = made.value([HEAD])
      for level in range(3, 8):
        made.norm(f"retinanet/{net}/{short}-{n}-{level}", f"{tower}/norm{n + 1}_level{level}", HEAD)
        made.ours[f"{tower}/norm{n + 1}_level{level}/moving_mean"] = (
          made.ours[f"{tower}/norm{n + 1}_level{level}/moving_mean"] - bias
        )
    made.conv(f"retinanet/{net}/{short}-predict/kernel", f"{tower}/predict", (3, 3, HEAD, width))
    made.theirs[f"retinanet/{net}/{short}-predict/bias"] = made.ours[f"{tower}/predict/bias"] = made.value([width])
  for name in list(made.theirs):
    if "moving" not in name:
      made.theirs[f"{name}/Momentum"] = np.zeros_like(made.theirs[name])
  made.theirs["global_step"] = np.int64(162050)
  return made


def _torch():
  made = _Generator()

  def unit(conv, norm, ours, shape):
    made.conv(f"{conv}.weight", f"{ours}/conv", shape, torch=True)
    made.norm(norm, f"{ours}/norm", shape[-1], ".", torch=True)
    made.theirs[f"{norm}.num_batches_tracked"] = np.int64(5)

  unit("backbone.conv1.conv", "backbone.conv1.bn", "stem", (7, 7, 3, 64))
  down = "backbone.init_block1.0.downsample"
  unit(f"{down}.0", f"{down}.1", "block_00/repeat_0/shortcut", (1, 1, 64, 32))
  for i in (0, 1):
    for n, (name, shape) in enumerate(_units(i), 1):
      root = f"backbone.init_block{i + 1}.0"
      unit(f"{root}.conv{n}", f"{root}.bn{n}", f"block_0{i}/repeat_0/{name}", shape)
  called = {"squeeze": "squeeze_conv", "down": "downsample_conv", "expand": "expand_conv"}
  for position, parents in enumerate(PARENTS):
    i = position + 2
    for p, parent in enumerate(parents):
      for role, shape in _edge(i, parent):
        root = f"backbone.merge_ops.{position}.resample_ops.{p}.{called[role]}"
        unit(f"{root}.conv", f"{root}.bn", f"block_{i:02d}/resample_{p}/{role}", shape)
    for n, (name, shape) in enumerate(_units(i), 1):
      root = f"backbone.scale_permuted_blocks.{position}.0"
      unit(f"{root}.conv{n}", f"{root}.bn{n}", f"block_{i:02d}/repeat_0/{name}", shape)
  for i, level in {12: 4, 13: 3, 14: 5, 15: 7, 16: 6}.items():
    root = f"backbone.endpoint_convs.{level}"
    unit(f"{root}.conv", f"{root}.bn", f"endpoint_{level}", (1, 1, _channels(i), END))
  for short, tower in (("cls", "class_tower"), ("reg", "box_tower")):
    for n in range(4):
      shape = (3, 3, END if n == 0 else HEAD, HEAD)
      made.conv(f"bbox_head.{short}_convs.0.{n}.conv.weight", f"{tower}/conv{n + 1}", shape, torch=True)
      for position in range(5):
        root = f"bbox_head.{short}_convs.{position}.{n}"
        made.theirs[f"{root}.conv.weight"] = made.theirs[f"bbox_head.{short}_convs.0.{n}.conv.weight"]
        made.norm(f"{root}.bn", f"{tower}/norm{n + 1}_level{position + 3}", HEAD, ".", torch=True)
        made.theirs[f"{root}.bn.num_batches_tracked"] = np.int64(5)
  for short, width in (("cls", 9 * 80), ("reg", 36)):
    made.theirs[f"bbox_head.retina_{short}.weight"] = made.value((width, HEAD, 3, 3))
    made.theirs[f"bbox_head.retina_{short}.bias"] = made.value([width])
  return made


@pytest.fixture(scope="module")
def tf1(tmp_path_factory):
  made, prefix = _tf1(), str(tmp_path_factory.mktemp("tf1") / "model.ckpt-162050")
  tensorflow_files.write(prefix, made.theirs)
  return made, prefix


def test_tf1_names(tf1):
  made, prefix = tf1
  found = run.load("tpu_detection", prefix, Choices(image_size=128))
  variables = named_variables(found.model)
  assert set(variables) == set(made.ours)
  for name, value in made.ours.items():
    np.testing.assert_array_equal(variables[name], value, name)
  skipped = list(found.account.skipped.values())
  assert skipped.count("optimizer slot") == 490 and skipped.count("counter") == 1 and len(skipped) == 499
  style = found.model.style
  assert (style.padding, style.pooling, style.pool_padding, style.endpoint_activation) == (
    "symmetric",
    "single",
    "same",
    True,
  )
  assert found.assembled.experiment.detection.legacy_plus_one
  assert found.assembled.inputs.class_ids == tuple(range(91))
  _same_pyramid(found, made, torch=False)


def _windows(x, size, stride, before, after, value):
  """Returns float[B, h, w, C, size, size] of float[B, H, W, C], padded with a value."""
  x = np.pad(x, [[0, 0], [before, after], [before, after], [0, 0]], constant_values=value)
  return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def _forward(named, images, epsilon, torch):
  """The backbone in NumPy on the other side's arrays, read off its documented order.

  Args:
    named: function from our names to the arrays that were written under theirs.
    images: float32[1, H, W, 3].
    epsilon: of the norms.
    torch: pools pad both sides, and endpoints have no activation.
  """

  def relu(x):
    return np.maximum(x, 0)

  def pool(x, size, stride):
    pads = [size // 2] * 2
    if not torch:  # as little as the last window needs, the smaller half before
      missing = max((-(-x.shape[1] // stride) - 1) * stride + size - x.shape[1], 0)
      pads = [missing // 2, missing - missing // 2]
    return _windows(x, size, stride, *pads, -np.inf).max((4, 5))

  def unit(x, name, stride=1, activate=True):
    kernel = named(f"{name}/conv/kernel")
    side = kernel.shape[0] // 2
    x = np.tensordot(_windows(x, kernel.shape[0], stride, side, side, 0), kernel, ((4, 5, 3), (0, 1, 2)))
    gamma, beta, mean, variance = (
      named(f"{name}/norm/{k}") for k in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    x = (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
    return relu(x) if activate else x

  def block(x, i):
    names, y = [name for name, _ in _units(i)], x
    for name in names:
      y = unit(y, f"block_{i:02d}/repeat_0/{name}", activate=name != names[-1])
    shortcut = unit(x, "block_00/repeat_0/shortcut", activate=False) if i == 0 else x
    return relu(y + shortcut)

  features = [block(pool(unit(images, "stem", 2), 3, 2), 0)]
  features.append(block(features[0], 1))
  for i, parents in enumerate(PARENTS, 2):
    fused = []
    for p, parent in enumerate(parents):
      root, down = f"block_{i:02d}/resample_{p}", LEVELS[i] - LEVELS[parent]
      x = unit(features[parent], f"{root}/squeeze")
      if down > 0:
        x = unit(x, f"{root}/down", 2)
        x = pool(x, 3 if down == 2 else 5, 2 ** (down - 1)) if down > 1 else x
      x = unit(x, f"{root}/expand", activate=False)
      fused.append(x.repeat(2**-down, 1).repeat(2**-down, 2) if down < 0 else x)
    extra = features[11] if i == 14 else 0.0
    features.append(block(relu(fused[0] + fused[1] + extra), i))
  outputs = {13: 3, 12: 4, 14: 5, 16: 6, 15: 7}
  return {str(level): unit(features[i], f"endpoint_{level}", activate=not torch) for i, level in outputs.items()}


def _same_pyramid(found, made, torch):
  images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
  backbone = found.assembled.task.network
  model = build_backbone(
    backbone.find_architecture(),
    (128, 128),
    padding=backbone.padding,
    pooling=backbone.pooling,
    pool_padding=backbone.pool_padding,
    endpoint_activation=backbone.endpoint_activation,
  )
  named_variables_of = named_variables(model)
  for name, variable in named_variables_of.items():
    variable.assign(named_variables(found.model)[name])
  ours = model(images)
  for level, wanted in _forward(made.ours.__getitem__, images.numpy(), 1e-3, torch).items():
    assert np.abs(ours[level].numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max(), level


def test_torch_names(monkeypatch):
  made = _torch()
  state = {"module." + key: torch_files.Tensor(None, 0, (), ()) for key in made.theirs}
  assert len(state) == 1024
  for key, tensor in state.items():
    monkeypatch.setattr(tensor, "numpy", lambda value=made.theirs[key[7:]]: value, raising=False)
  monkeypatch.setattr(torch_files, "read", lambda path: {"meta": {}, "state_dict": state})
  found = run.load("mmdet", "port.pth", Choices(image_size=128))
  variables = named_variables(found.model)
  for name, value in made.ours.items():
    np.testing.assert_array_equal(variables[name], value, name)
  left = sorted(set(variables) - set(made.ours))
  assert left == [f"{t}_tower/predict/{leaf}" for t in ("box", "class") for leaf in ("bias", "kernel")]
  bias, theirs = variables["box_tower/predict/bias"].numpy(), made.theirs["bbox_head.retina_reg.bias"]
  # Scale 1, width / height 2 is ours 3 + 1; theirs height / width 1/2 comes first, scale 1: anchor 1. (dy, dx, dh, dw)
  np.testing.assert_array_equal(bias[16:20], theirs[4:8][[1, 0, 3, 2]])
  scores = variables["class_tower/predict/kernel"].numpy()
  # Scale 2, ratio 1: ours 6, theirs 3 + 2.
  np.testing.assert_array_equal(
    scores[..., 6 * 80 : 7 * 80], made.theirs["bbox_head.retina_cls.weight"][5 * 80 : 6 * 80].transpose(2, 3, 1, 0)
  )
  assert len(found.account.mapped) == 822 and len(found.account.skipped) == 202
  style = found.model.style
  assert (style.pool_padding, style.endpoint_activation) == ("symmetric", False)
  _same_pyramid(found, made, torch=True)
  assert mmdet.ANCHORS == (3, 0, 6, 4, 1, 7, 5, 2, 8)


@pytest.mark.parametrize(
  "what, words", [("index", "copied by half"), ("data", "index"), ("cut", "truncated|cannot be read")]
)
def test_broken_checkpoint(tf1, tmp_path, what, words):
  _, prefix = tf1
  data = f"{prefix}.data-00000-of-00001"
  if what != "data":
    shutil.copy(prefix + ".index", tmp_path / "a.index")
  if what != "index":
    shutil.copy(data, tmp_path / "a.data-00000-of-00001")
  if what == "cut":
    file = tmp_path / "a.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[:1000])
  with pytest.raises(UserError, match=words):
    run.load("tpu_detection", tmp_path / "a", Choices(image_size=128))


def test_another_network(tmp_path):
  tensorflow_files.write(str(tmp_path / "other"), {"resnet/conv2d/kernel": np.zeros([1, 1, 3, 4], np.float32)})
  with pytest.raises(UserError, match="no variable under spinenet/"):
    run.load("tpu_detection", tmp_path / "other")
  with pytest.raises(UserError, match="no object graph"):
    run.load("model_garden", tmp_path / "other")
  with pytest.raises(UserError, match="by its shapes"):
    made, prefix = _tf1(), str(tmp_path / "named")
    tensorflow_files.write(prefix, made.theirs)
    run.load("tpu_detection", prefix, Choices(image_size=128), architecture="spinenet49s")


def test_missing_variable(tmp_path):
  made = _tf1()
  del made.theirs["retinanet/box_net/box-2-5/gamma"]
  tensorflow_files.write(str(tmp_path / "part"), made.theirs)
  with pytest.raises(UserError, match=r"missing +1: box_tower/norm3_level5/gamma"):
    run.load("tpu_detection", tmp_path / "part", Choices(image_size=128))
