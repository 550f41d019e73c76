"""`python -m spinenet_tf.search`: gin files, mistakes in them, the whole command with two real children."""

import pathlib
import subprocess
import sys

import gin
import pytest

from spinenet_tf import configs
from spinenet_tf.data.synthetic import prepare_synthetic
from spinenet_tf.errors import UserError
from spinenet_tf.search import journal
from spinenet_tf.search.searchers import build_searcher

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
SEARCHES = sorted(str(path.relative_to(EXPERIMENTS)) for path in (EXPERIMENTS / "search").glob("*.gin"))
PAPER = {  # samples after which the best was found, and AP of the best  [sections 5.1, tables 3 and 7]
  "spinenet49": (14_000, "40.8"),
  "r35_sp18": (6_000, "38.7"),
  "r23_sp30": (10_000, "39.7"),
  "r14_sp39": (13_000, "39.6"),
  "r0_sp53": (13_000, "40.7"),
  "hourglass": (None, "38.3"),
  "fish": (None, "37.5"),
}


@pytest.fixture(autouse=True)
def empty_gin():
  yield
  gin.clear_config()


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_are_lab_notes_with_everything_used(name):
  head = (EXPERIMENTS / name).read_text().split("\n\n")[0]
  assert head.startswith("# ") and "# Command:" in head and "# Status:" in head
  configs.parse([name])
  made = configs.search()
  made.experiment.train.optimizer(learning_rate=lambda: 0.1)
  configs.check_unused()
  build_searcher(made.searcher.name, made.space, **made.searcher.settings)
  assert len(made.space.output_levels) == made.experiment.model.max_level - made.experiment.model.min_level + 1


@pytest.mark.parametrize("name", PAPER)
def test_searches_of_the_paper(name):
  samples, ap = PAPER[name]
  file = f"search/{name}_coco.gin"
  assert f"{ap} AP on val2017 (paper" in (EXPERIMENTS / file).read_text()
  configs.parse([file])
  made = configs.search()
  assert made.space.name == name and (samples is None or made.search.trials == samples)
  proxy, experiment = made.proxy, made.experiment
  assert (proxy.filter_scale, proxy.resample_alpha, proxy.head_filters, proxy.held_out) == (0.25, 0.25, 64, 7392)
  assert (experiment.model.size, experiment.train.duration, proxy.metric) == ((512, 512), "5 epochs", "AP")
  assert (made.search.runner, made.search.workers) == ("ray", 100)


def test_bindings_reach_a_search(tmp_path):
  space = tmp_path / "mine.gin"
  space.write_text(
    "search.space = @space()\nspace.name = 'mine'\nspace.stem = (2, 2)\nspace.levels = (3, 4, 4)\n"
    "space.output_levels = (3, 4, 5)\nsearcher.name = 'evolution'\nsearcher.population = 7\nsearcher.tournament = 2\n"
  )
  configs.parse(["search/tiny_evolution.gin", str(space)], ["search.trials = 9"])
  made = configs.search()
  assert (made.space.name, made.space.levels, made.search.trials) == ("mine", (3, 4, 4), 9)
  assert made.searcher.name == "evolution" and made.searcher.settings["population"] == 7
  text = configs.bound_text()
  gin.clear_config()
  gin.parse_config(text)
  assert configs.search().space == made.space


def test_a_space_from_a_file(tmp_path):
  from spinenet_tf.search.presets import find_space

  find_space("tiny").to_json(tmp_path / "space.json")
  configs.parse(["search/tiny.gin"], [f"search.space = '{tmp_path}/space.json'"])
  assert configs.search().space == find_space("tiny")
  with pytest.raises(UserError, match=r"no space file 'gone.json'"):
    configs.parse(["search/tiny.gin"], ["search.space = 'gone.json'"])


@pytest.mark.parametrize(
  "param, said",
  [
    ("search.trails = 3", r"search has: space, trials, seed"),
    ("search.runner = 'slurm'", r"search.runner is 'slurm'; it must be one of \['in_process', 'ray'\]"),
    ("search.trials = 0", r"search.trials is 0; it must be a whole number from 1 on"),
    ("search.space = 'spinenet48'", r"no search space named 'spinenet48'; there are r35_sp18"),
    ("search.train_with = 'none.gin'", r"no gin file 'none.gin'"),
    ("proxy.budget_exponent = 'x'", r"proxy.budget_exponent is 'x'"),
    ("search.space = {'name': 'x', 'stem': [2, 2], 'levels': [3], 'output_levels': []}", r"output"),
  ],
)
def test_mistakes_are_one_message(param, said):
  with pytest.raises(UserError, match=said):
    configs.parse(["search/tiny.gin"], [param])
    configs.search()


def run(root, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "spinenet_tf.search", *map(str, arguments)],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=900,
  )


@pytest.mark.slow
def test_the_command_from_search_to_report(root, tmp_path):
  prepare_synthetic(tmp_path / "data", train=20, val=4, size=96)
  folder = tmp_path / "run"
  few = ["search.trials=2", "search.seed=1", "train.duration='3 steps'", "proxy.filter_scale=0.0625"]
  few += [f"DATA_DIR='{tmp_path}/data'", "data.batch_size=2", "data.eval_batch_size=4"]
  arguments = ["--gin_file=search/tiny.gin", *(f"--gin_param={param}" for param in few)]
  done = run(root, *arguments, f"--model_dir={folder}")
  assert done.returncode == 0, done.stderr
  assert "2/2 trials | reward" in done.stdout and "held out; reward AP" in done.stdout
  assert "train it:  python -m spinenet_tf.train --gin_file=" in done.stdout
  header, _, results = journal.read(folder)
  assert header["searcher"] == "controller" and [t.status for t in results] == ["ok", "ok"]
  assert {"AP", "multiply_adds", "loss"} < set(results[0].metrics)
  assert {"config.gin", "environment.json", "best.json", "best.gin"} < {path.name for path in folder.iterdir()}

  again = run(root, "--gin_file=search/tiny_random.gin", *arguments[1:], f"--model_dir={folder}")
  assert again.returncode == 2 and "is the journal of the searcher 'controller'" in again.stderr
  reported = run(root, "report", f"--model_dir={folder}")
  assert reported.returncode == 0, reported.stderr
  assert "2 trials: 2 trained" in reported.stdout and (folder / "report" / "top_2.png").is_file()


@pytest.mark.parametrize(
  "arguments, said",
  [
    (["--model_dir=x"], "--gin_file is missing"),
    (["--gin_file=search/tiny.gin"], "--model_dir is missing"),
    (["repot"], "unknown argument 'repot'; it may be report"),
  ],
)
def test_mistakes_on_the_command_line(arguments, said, monkeypatch):
  from absl import flags

  from spinenet_tf.search import __main__ as command

  values = flags.FlagValues()
  monkeypatch.setattr(command, "FLAGS", values)
  monkeypatch.setattr(command.flags, "FLAGS", values)
  for name, define in (("gin_file", "multi"), ("gin_param", "multi"), ("model_dir", "one"), ("output_dir", "one")):
    if define == "multi":
      flags.DEFINE_multi_string(name, [], "", flag_values=values)
    else:
      flags.DEFINE_string(name, None, "", flag_values=values)
  flags.DEFINE_bool("dry_run", False, "", flag_values=values)
  flags.DEFINE_integer("verbosity", 0, "", flag_values=values)
  rest = values(["search", *arguments])
  with pytest.raises(UserError, match=said):
    command.main(rest)
