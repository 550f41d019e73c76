"""Where every documented name of the TF1 code and of the PyTorch port goes: other sizes, tasks and mobile networks.

Only names are looked at: each array holds a number of its own, and no network is built.
"""

import numpy as np
import pytest

from spinenet_tf.importers import mmdet, tensorflow_files, torch_files, tpu_detection

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Mobile: level of features 2 to 17 and their parents; features 0 and 1, of levels 1 and 2, are the stem.
MOBILE_LEVELS = (1, 2, 2, 2, 4, 3, 4, 6, 4, 5, 7, 5, 5, 4, 3, 5, 7, 6)
MOBILE_PARENTS = ((0, 1), (1, 2), (1, 2), (3, 4), (3, 5), (4, 6), (4, 6), (7, 8), (7, 9), (9, 10), (9, 11), (6, 11))
MOBILE_PARENTS = (*MOBILE_PARENTS, (5, 11), (8, 13), (6, 15), (13, 15))
LEVELS = (2, 2, 2, 4, 3, 4, 6, 4, 5, 7, 5, 5, 4, 3, 5, 7, 6)
RESIDUAL = (3, 6, 8, 9)
PARENTS = ((0, 1), (0, 1), (2, 3), (2, 4), (3, 5), (3, 5), (6, 7), (6, 8), (8, 9), (8, 10), (5, 10), (4, 10), (7, 12))
PARENTS = (*PARENTS, (5, 14), (12, 14))


class _Names:
  """Arrays under the other side's names, and what belongs under ours."""

  def __init__(self):
    self.theirs, self.ours = {}, {}

  def add(self, theirs, ours, shape=(1,)):
    self.theirs[theirs] = np.full(shape, len(self.theirs), np.float32)
    self.ours[ours] = self.theirs[theirs]

  def layer(self, theirs, ours, leaves, **shape):
    for leaf in leaves:
      self.add(f"{theirs}/{leaf}", f"{ours}/{leaf}", **shape)

  def scope(self, scope, units):
    """Numbers layers by kind; a unit is "name", "depthwise:name", or with a bias and no norm "biased:name"."""
    counts = {"conv2d": 0, "depthwise_conv2d": 0, "batch_normalization": 0}

    def layer(kind, ours, leaves):
      number = f"_{counts[kind]}" if counts[kind] else ""
      counts[kind] += 1
      self.layer(f"{scope}/{kind}{number}", ours, leaves)

    for unit in units:
      how, _, name = unit.rpartition(":")
      if how == "depthwise":
        layer("depthwise_conv2d", f"{name}/conv", ["depthwise_kernel"])
      else:
        layer("conv2d", f"{name}/conv", ["kernel", "bias"] if how else ["kernel"])
      if how != "biased":
        layer("batch_normalization", f"{name}/norm", NORM)


def _read_tf1(made, folder):
  prefix = str(folder / "model.ckpt-1")
  tensorflow_files.write(prefix, {**made.theirs, "global_step": np.int64(1)})
  found = tpu_detection.read(prefix)
  assert found.skipped == {"global_step": "counter"}
  _same(found, made)
  return found


def _same(found, made):
  assert set(found.weights) == set(made.ours)
  for name, value in made.ours.items():
    np.testing.assert_array_equal(found.weights[name], value, name)


def _units(i, repeats):
  return [f"block_{i:02d}/repeat_{k}/conv{n}" for k in range(repeats) for n in range(1, 3 + (i not in RESIDUAL))]


def _tf1_backbone(repeats=1, shortcut=True):
  made = _Names()
  first = ["block_00/repeat_0/shortcut"] if shortcut else []
  ends = [f"endpoint_{level}" for level in range(3, 8)]
  made.scope("spinenet", ["stem", *first, *_units(0, repeats), *_units(1, repeats), *ends])
  for position, parents in enumerate(PARENTS):
    i = position + 2
    for p, parent in enumerate(parents):
      roles = ["squeeze", *(["down"] if LEVELS[i] > LEVELS[parent] else []), "expand"]
      scope = f"spinenet/sub_policy{position}/resample_with_alpha_resample_{position}_{p}"
      made.scope(scope, [f"block_{i:02d}/resample_{p}/{role}" for role in roles])
    made.scope(f"spinenet/sub_policy{position}/scale_permuted_block_{i:02d}", _units(i, repeats))
  return made


def _mobile_block(i):
  name = f"block_{i:02d}/repeat_0"
  excitation = [f"biased:{name}/squeeze_excitation/{role}" for role in ("reduce", "expand")]
  return [f"{name}/expand", f"depthwise:{name}/depthwise", *excitation, f"{name}/project"]


@pytest.mark.parametrize("repeats, first_end", [(2, 14), (3, 20), (4, 26)])
def test_tf1_repeats(repeats, first_end, tmp_path):
  made = _tf1_backbone(repeats)
  found = _read_tf1(made, tmp_path)
  assert found.origin["endpoint_3/conv/kernel"] == f"spinenet/conv2d_{first_end}/kernel"
  assert found.origin["endpoint_7/norm/beta"] == f"spinenet/batch_normalization_{first_end + 4}/beta"
  convs = 130 + 47 * (repeats - 1)
  assert sum(name.endswith("/kernel") for name in found.weights) == convs


def test_tf1_quarter_scale_has_no_shortcut(tmp_path):
  found = _read_tf1(_tf1_backbone(shortcut=False), tmp_path)
  assert found.origin["block_00/repeat_0/conv1/conv/kernel"] == "spinenet/conv2d_1/kernel"


def test_tf1_classifier(tmp_path):
  made = _tf1_backbone()
  made.layer("classification_head/dense", "classifier/predict", ["kernel", "bias"])
  _read_tf1(made, tmp_path)


@pytest.mark.parametrize("convs, first", [(1, 0), (2, 1)])
def test_tf1_mask_rcnn(convs, first, tmp_path):
  made, conv = _tf1_backbone(), ["kernel", "bias"]
  for n in range(convs):
    number = f"-{n}" if n else ""
    made.layer(f"rpn_head/rpn{number}", f"rpn/conv{n + 1}", conv)
    for level in range(3, 8):
      made.layer(f"rpn_head/rpn-l{level}-bn{number}", f"rpn/norm{n + 1}_level{level}", NORM)
  for theirs, ours in (("class", "scores"), ("box", "deltas")):
    made.layer(f"rpn_head/rpn-{theirs}", f"rpn/{ours}", conv)
    made.layer(f"fast_rcnn_head/{theirs}-predict", f"box_head/{'classes' if theirs == 'class' else 'boxes'}", conv)
  for n in range(4):
    made.layer(f"fast_rcnn_head/conv_{n + first}", f"box_head/conv{n + 1}", conv)
    made.layer(f"mask_head/mask-conv-l{n + first}", f"mask_head/conv{n + 1}", conv)
  made.layer("fast_rcnn_head/fc6", "box_head/dense", conv)
  for head, theirs, last in (("box_head", "fast_rcnn_head", "dense_norm"), ("mask_head", "mask_head", "double_norm")):
    for n in range(5):
      number = f"_{n}" if n else ""
      made.layer(f"{theirs}/batch_normalization{number}", f"{head}/{f'norm{n + 1}' if n < 4 else last}", NORM)
  # Rows, columns, outputs, inputs of the 2x2 transposed convolution are ours as inputs, rows, columns, outputs.
  made.theirs["mask_head/conv5-mask/kernel"] = double = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
  made.ours["mask_head/double/kernel"] = np.moveaxis(double, 3, 0)
  made.theirs["mask_head/mask_fcn_logits/kernel"] = last = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
  made.ours["mask_head/predict/kernel"] = last[0, 0]
  made.add("mask_head/conv5-mask/bias", "mask_head/double/bias")
  made.add("mask_head/mask_fcn_logits/bias", "mask_head/predict/bias")
  _read_tf1(made, tmp_path)


def test_tf1_mobile_retinanet(tmp_path):
  made = _Names()
  ends = [f"endpoint_{level}" for level in range(3, 8)]
  made.scope("spinenet_mbconv", ["stem", *_mobile_block(0), *_mobile_block(1), *ends])
  for position, parents in enumerate(MOBILE_PARENTS):
    i = position + 2
    for p, parent in enumerate(parents):
      downs = max(0, MOBILE_LEVELS[i] - MOBILE_LEVELS[parent])
      roles = [*(f"depthwise:block_{i:02d}/resample_{p}/down_{n}" for n in range(downs))]
      scope = f"spinenet_mbconv/sub_policy{position}/resample_with_sepconv_resample_{position}_{p}"
      made.scope(scope, [*roles, f"block_{i:02d}/resample_{p}/expand"])
    made.scope(f"spinenet_mbconv/sub_policy{position}/scale_permuted_block_{i}", _mobile_block(i))
  separable = ["depthwise_kernel", "pointwise_kernel", "bias"]
  for net, short, tower in (("class_net", "class", "class_tower"), ("box_net", "box", "box_tower")):
    for n in range(4):
      made.layer(f"retinanet/{net}/{short}-{n}", f"{tower}/conv{n + 1}", separable)
      for level in range(3, 8):
        made.layer(f"retinanet/{net}/{short}-{n}-{level}", f"{tower}/norm{n + 1}_level{level}", NORM)
    made.layer(f"retinanet/{net}/{short}-predict", f"{tower}/predict", separable)
  found = _read_tf1(made, tmp_path)
  assert found.wiring.separable


@pytest.mark.parametrize("repeats", [2, 4])
def test_torch_repeats(repeats, monkeypatch):
  made = _Names()
  norms = dict(zip(NORM, ("weight", "bias", "running_mean", "running_var")))

  def unit(conv, norm, ours):
    made.add(f"{conv}.weight", f"{ours}/conv/kernel", (1, 1, 1, 1))
    for own, leaf in norms.items():
      made.add(f"{norm}.{leaf}", f"{ours}/norm/{own}")

  unit("backbone.conv1.conv", "backbone.conv1.bn", "stem")
  down = "backbone.init_block1.0.downsample"
  unit(f"{down}.0", f"{down}.1", "block_00/repeat_0/shortcut")
  for i in range(17):
    root = f"backbone.init_block{i + 1}" if i < 2 else f"backbone.scale_permuted_blocks.{i - 2}"
    for name in _units(i, repeats):
      k, n = int(name.split("/")[1].split("_")[1]), name[-1]
      unit(f"{root}.{k}.conv{n}", f"{root}.{k}.bn{n}", name)
  called = {"squeeze": "squeeze_conv", "down": "downsample_conv", "expand": "expand_conv"}
  for position, parents in enumerate(PARENTS):
    for p, parent in enumerate(parents):
      for role in called if LEVELS[position + 2] > LEVELS[parent] else ("squeeze", "expand"):
        root = f"backbone.merge_ops.{position}.resample_ops.{p}.{called[role]}"
        unit(f"{root}.conv", f"{root}.bn", f"block_{position + 2:02d}/resample_{p}/{role}")
  for level in range(3, 8):
    root = f"backbone.endpoint_convs.{level}"
    unit(f"{root}.conv", f"{root}.bn", f"endpoint_{level}")
  state = {key: torch_files.Tensor(None, 0, (), ()) for key in made.theirs}
  for key, tensor in state.items():
    monkeypatch.setattr(tensor, "numpy", lambda value=made.theirs[key]: value, raising=False)
  monkeypatch.setattr(torch_files, "read", lambda path: {"state_dict": state})
  found = mmdet.read("port.pth")
  assert not found.skipped
  _same(found, made)
