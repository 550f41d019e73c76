"""gin files: whatever their text, the experiment is read and checked, or one error says what is wrong."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinenet_tf import configs
from spinenet_tf.training import checks, optimizers
from spinenet_tf.training.profile import StepRange
from spinenet_tf.training.setup import make_plan
from spinenet_tf.training.tasks import task_of
from tests.fuzz import fuzzing

FILES = [
  (configs.experiments_directory() / name).read_bytes()
  for name in ("demo.gin", "custom/own_data.gin", "custom/fruit.gin", "custom/nuclei.gin", "search/tiny.gin")
]
PARTS = {name: [field.name for field in dataclasses.fields(part)] for name, part in configs._PARTS.items()}
NAMES = [*sorted(f"{part}.{field}" for part, fields in PARTS.items() for field in fields), "scaled.name", "x", "X"]
WORDS = """@sgd|@sgd()|@adam|@scaled()|@damaged()|@nothing|%X|'spinenet49'|'49S'|'mask_rcnn'|(|'classification'|'retinanet'|
'50 epochs'|'3 steps'|'20%'|'-1 steps'|1e400|(64, 128)|[]|{}|128|('80%', '95%')|(0.1,)|1e-5|None|True|os.sep|'own.json'|
__import__('os')|lambda: 1|'''|["""
VALUES = st.one_of(fuzzing.values.map(repr), st.sampled_from(WORDS.replace("\n", "").split("|")))
LINES = st.one_of(
  st.builds("{} = {}".format, st.sampled_from(NAMES), VALUES),
  st.builds("{} = {}".format, st.sampled_from(NAMES), VALUES),
  st.builds("{}/{} = {}".format, st.text(max_size=4), st.sampled_from(NAMES), VALUES),
  st.sampled_from(
    ["include 'base/tiny.gin'", "include 'demo.gin'", "include 'x.gin'", "include", "import os.nothing", "# é"]
  ),
)
WRITTEN = st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("gin")


@pytest.fixture(autouse=True)
def _no_bindings_left():
  yield
  configs.gin.clear_config()


def use(file, params=()):
  """All that happens to settings before data are read."""
  configs.parse([str(file)], params)
  experiment = configs.experiment()
  task = task_of(experiment)
  optimizers.check(experiment.train.optimizer)
  task.network.find_architecture()
  task.check()
  plan = make_plan(experiment, 1000)
  checks.check_batch(experiment.data.batch_size, 1)
  experiment.schedule.resolve(batch=plan.batch, epoch=plan.epoch, total=plan.total)
  task.network.arguments(3)
  configs.bound_text()
  configs.operative_text()
  configs.unused_bindings()


@given(st.one_of(fuzzing.changed_bytes(FILES), WRITTEN, WRITTEN, st.binary(max_size=60)))
def test_files(folder, data):
  file = folder / "fuzz.gin"
  file.write_bytes(data)
  fuzzing.survives("gin text", lambda: use(file))


@given(st.lists(st.one_of(LINES, st.text(max_size=20)), max_size=2))
def test_parameters(folder, params):
  file = folder / "base.gin"
  file.write_bytes(FILES[0].replace(b"train.duration = '8 epochs'", b"train.duration = 40"))
  fuzzing.survives("gin text", lambda: use(file, params))


@given(st.one_of(st.text(max_size=12), st.builds("{}:{}".format, fuzzing.numbers, fuzzing.numbers)))
def test_profile_ranges(text):
  fuzzing.survives("--profile", lambda: StepRange.parse(text))
