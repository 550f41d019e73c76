"""A classifier from a folder of images to predictions; backbones that go from one task to the other."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from spinenet_tf.data.image_folder import prepare_images
from spinenet_tf.models.naming import named_variables
from spinenet_tf.predict import make_report, predict
from spinenet_tf.serving.image_files import find_images
from spinenet_tf.serving.load import load
from spinenet_tf.training import evaluation, loop
from spinenet_tf.training import setup as setups
from spinenet_tf.training.schedules import Schedule
from spinenet_tf.training.settings import (
  ClassifierLossSettings,
  ClassifierSettings,
  DataSettings,
  Experiment,
  RunSettings,
)

CLASSES = ("checks", "dots", "noise", "stripes")


def pattern(name, seed):
  """uint8[80, 100, 3] with structure of the class in two random colours."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[:80, :100]
  mask = {
    "checks": (x // 10 + y // 10) % 2 == 0,
    "dots": (x % 20 - 10) ** 2 + (y % 20 - 10) ** 2 < 36,
    "noise": random.random((80, 100)) < 0.5,
    "stripes": (x + y) // 12 % 2 == 0,
  }[name]
  dark, light = random.integers(0, 90, 3), random.integers(160, 255, 3)
  return np.where(mask[..., None], light, dark).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folder with images/CLASS/NUMBER.png, two of each of four classes, and their records as split "train"."""
  folder = tmp_path_factory.mktemp("photos")
  for i, name in enumerate(CLASSES):
    (folder / "images" / name).mkdir(parents=True)
    for number in range(2):
      Image.fromarray(pattern(name, 2 * i + number)).save(folder / "images" / name / f"{number}.png")
  prepare_images(folder / "images", folder / "data", split="train")
  return folder


def classification(photos, tiny, **train) -> Experiment:
  steps = train.get("duration", 4)
  return Experiment(
    classifier=ClassifierSettings(architecture={**tiny, "filter_scale": 0.25}, image_size=96),
    data=DataSettings(
      directory=str(photos / "data"),
      eval_split="train",
      batch_size=8,
      crop_area=(0.5, 1.0),
      cache=True,
    ),
    schedule=Schedule(learning_rate=0.05, learning_rate_batch=None, shape="cosine", warmup=2, warmup_learning_rate=0.0),
    classifier_loss=ClassifierLossSettings(label_smoothing=0.1),
    train=RunSettings(
      **{
        "task": "classification",
        "strategy": "one_device",
        "duration": steps,
        "log_interval": 1,
        "checkpoint_interval": steps,
        "eval_interval": steps,
        "clip_norm": 0.0,
        "weight_decay": 1e-4,
        **train,
      }
    ),
  )


def losses(run):
  lines = map(json.loads, (run / "metrics.jsonl").open())
  return {line["step"]: line["total"] for line in lines if "total" in line}


@pytest.mark.slow
def test_eight_images_by_heart(photos, tiny, tmp_path, capsys):
  """Top-1 of 1.0 on the training images, which evaluation, the loaded model and `predict` agree on."""
  experiment, run = classification(photos, tiny, duration=120, log_interval=20), tmp_path / "run"
  metrics = loop.train(setups.build(experiment, run))
  assert metrics["top1"] == metrics["top5"] == 1.0
  assert all(metrics[f"class_top1/{name}"] == 1.0 for name in CLASSES)
  assert json.loads((run / "best/metrics.json").read_text())["top1"] == 1.0
  assert any((run / "eval").glob("confusion.*"))

  again = evaluation.evaluate(experiment, run, output_dir=tmp_path / "eval")
  assert again.metrics == metrics and again.step == 120 and "stripes" in again.table

  files = sorted((photos / "images").rglob("*.png"))
  found = load(run)([str(file) for file in files])
  assert [classes.names[0] for classes in found] == [file.parent.name for file in files]

  output = tmp_path / "out"
  report = make_report(run, top=2, features=str(output / "features.npy"))
  assert predict(report, find_images([photos / "images"], output), output) == 0
  told = json.loads((output / "classes.json").read_text())["images"]
  assert [(r["names"][0], len(r["names"])) for r in told] == [(file.parent.name, 2) for file in files]
  assert np.load(output / "features.npy").shape == (8, tiny["endpoint_filters"])
  assert "stripes" in capsys.readouterr().out


@pytest.mark.slow
def test_stopped_and_resumed_equals_one_run(photos, tiny, tmp_path):
  experiment = classification(photos, tiny, duration=6, checkpoint_interval=3)
  experiment = dataclasses.replace(
    experiment, classifier=dataclasses.replace(experiment.classifier, stochastic_depth=0.2)
  )
  loop.train(setups.build(experiment, tmp_path / "whole"))

  ready = setups.build(experiment, tmp_path / "parts")
  save = ready.checkpoints.save

  def save_and_stop():
    save()
    raise KeyboardInterrupt

  ready.checkpoints.save = save_and_stop
  with pytest.raises(KeyboardInterrupt):
    loop.train(ready)
  resumed = setups.build(experiment, tmp_path / "parts")
  assert resumed.global_step == 3 and "resuming from" in resumed.notes[0]
  loop.train(resumed)
  whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
  assert list(whole) == list(parts) == [1, 2, 3, 4, 5, 6]
  np.testing.assert_allclose(list(whole.values()), list(parts.values()), rtol=2e-4)


def backbone(model):
  heads = ("classifier", "class_tower", "box_tower")
  return {name: v.numpy() for name, v in named_variables(model).items() if not name.startswith(heads)}


@pytest.mark.parametrize("first", ["detector", "classifier"])
def test_a_backbone_goes_to_the_other_task(first, photos, tiny, experiment, tmp_path):
  detection = experiment(model={"architecture": {**tiny, "filter_scale": 0.25}}, train={"eval_interval": 1})
  runs = {"detector": detection, "classifier": classification(photos, tiny)}
  second = "classifier" if first == "detector" else "detector"
  old = setups.build(runs[first], tmp_path / "old")
  old.model.set_weights([w + 0.01 for w in old.model.get_weights()])
  old.checkpoints.save()

  made = dataclasses.replace(runs[second].train, initial_checkpoint=str(tmp_path / "old"), seed=5)
  new = setups.build(dataclasses.replace(runs[second], train=made), tmp_path / "new")
  before, after = backbone(old.model), backbone(new.model)
  assert set(before) == set(after) and len(after) > 50
  for name, value in after.items():
    np.testing.assert_array_equal(value, before[name], err_msg=name)
  (report,) = [note for note in new.notes if "weights from" in note]
  missing = len(named_variables(new.model)) - len(after)
  unused = len(named_variables(old.model)) - len(before)
  assert f"matched      {len(after):5d}" in report and f"missing      {missing:5d}" in report
  assert "wrong shape      0" in report and f"unused       {unused:5d}" in report


def test_a_wider_backbone_is_told_as_wrong_shape(photos, tiny, experiment, tmp_path):
  old = setups.build(experiment(), tmp_path / "old")  # half as wide
  old.checkpoints.save()
  new = setups.build(classification(photos, tiny, initial_checkpoint=str(tmp_path / "old")), tmp_path / "new")
  (report,) = [note for note in new.notes if "weights from" in note]
  wrong = next(int(line.split()[2]) for line in report.splitlines() if "wrong shape" in line)
  assert wrong > 30 and ": model [" in report
