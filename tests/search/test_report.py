"""What a search tells at its end: numbers worked by hand, pictures, best.json and best.gin that other commands take."""

import json

import gin
import numpy as np
import pytest
from PIL import Image

from spinenet_tf import configs
from spinenet_tf.backbones.catalog import architecture
from spinenet_tf.errors import UserError
from spinenet_tf.search import statistics
from spinenet_tf.search.best import write_best
from spinenet_tf.search.journal import Journal, Trial
from spinenet_tf.search.presets import find_space
from spinenet_tf.search.report import write_report

SPACE = find_space("tiny")


@pytest.fixture(autouse=True)
def empty_gin():
  yield
  gin.clear_config()


def trial(number, reward, status="ok"):
  return Trial(number, (), str(number), status=status, reward=reward, place=number, seconds=2.0)


def test_summary():
  rewards = [0.1, 0.2, 0.3, 0.5, 0.6, 0.7]
  results = [trial(i, r) for i, r in enumerate(rewards)]
  results.insert(2, trial(9, 0.0, "failed"))
  results.append(trial(10, 0.7, "repeated"))
  found = statistics.summary(results)
  assert (found["results"], found["trained"], found["failed"], found["repeated"]) == (8, 6, 1, 1)
  assert found["best"] == {"trial": 5, "reward": 0.7}
  assert found["mean"] == pytest.approx(0.4) and found["deviation"] == pytest.approx(np.sqrt(0.28 / 5))
  assert [third["mean"] for third in found["thirds"]] == pytest.approx([0.15, 0.4, 0.65])
  assert statistics.summary([trial(0, 0.5)])["thirds"] == []
  np.testing.assert_array_equal(statistics.best_so_far([1, 3, 2, 4]), [1, 3, 3, 4])


def test_correlations():
  assert statistics.correlations([1, 2, 3], [1, 4, 9])["spearman"] == pytest.approx(1)
  # Deviations of (1, 2, 3, 4) and (1, 3, 2, 4): products 2.25, -0.25, -0.25, 2.25, squares sum to 5.
  assert statistics.correlations([1, 2, 3, 4], [1, 3, 2, 4])["pearson"] == pytest.approx(0.8)
  assert statistics.correlations([1, 1, 1], [1, 2, 3]) is None
  np.testing.assert_array_equal(statistics.ranks([5, 1, 5, 7]), [2.5, 1, 2.5, 4])


def test_rank_test():
  # U = 9 of 9, mean 4.5, variance 9 * 7 / 12 = 5.25: z = 4 / 2.2913 = 1.7457, upper tail 0.0404.
  assert statistics.rank_test([4, 5, 6], [1, 2, 3]) == pytest.approx(0.0404, abs=1e-4)
  assert statistics.rank_test([1, 2, 3], [4, 5, 6]) > 0.95
  assert statistics.rank_test([1], [2]) is None and statistics.rank_test([1, 1], [1, 1]) is None


def test_structure():
  arch = architecture("r0_sp53")
  found = statistics.structure([arch, arch])
  assert np.array(found["levels"]).shape == (15, 7)
  assert found["levels"][0] == [0, 1, 0, 0, 0, 0, 0]  # the first block after the stem is of level 2
  assert found["types"] == {"bottleneck": 1.0}
  assert sum(found["offspring"]) == 30 and found["offspring"][0] == 2  # blocks 2 and 3 read feature 0
  # 30 connections; blocks 2, 4, 5, 6, 7, 8, 9, 10, 11 and 14 read the one just before them.
  assert found["distance"][1] == pytest.approx(10 / 30, abs=1e-4)


@pytest.fixture
def searched(tmp_path):
  """A folder with a search of 24 results: 20 trained, two failed, two repeated."""
  rng = np.random.default_rng(0)
  journal = Journal(tmp_path, SPACE, "random")
  for i in range(24):
    point = SPACE.random_point(rng)
    journal.start(i, point, SPACE.key(point), 1)
    if i in (3, 7):
      journal.end(i, "failed", 0.0, reason="UserError: not finite")
    elif i in (20, 21):
      journal.end(i, "repeated", 0.1, source=1)
    else:
      journal.end(i, "ok", 0.1 + i / 100, seconds=10, metrics={"multiply_adds": 10**9 * (i + 1), "parameters": 10**6})
  journal.close()
  return tmp_path, journal


def test_report(searched):
  folder, _ = searched
  page = write_report(folder, folder / "report")
  assert "24 trials: 20 trained, 2 failed, 2 repeated; 10.0 s for a child" in page
  assert "Best reward 0.3300 (trial 23)" in page and "Spearman +1.00" in page
  assert "- trial 3: UserError: not finite" in page
  numbers = json.loads((folder / "report" / "report.json").read_text())
  assert [row["trial"] for row in numbers["top"]] == [23, 22, 19, 18, 17]
  assert numbers["thirds"][0]["count"] == 7 and numbers["trend_p"] < 0.01
  assert (folder / "report" / "report.md").read_text() == page + "\n"
  assert all(line.endswith("|") for line in page.splitlines() if line.startswith("|"))  # a row is one line
  for name in ("rewards", "cost", "structure", *(f"top_{i}" for i in range(1, 6))):
    with Image.open(folder / "report" / f"{name}.png") as picture:
      assert min(picture.size) > 200


def test_a_report_of_nothing(tmp_path):
  with pytest.raises(UserError, match="does not exist; give --model_dir the folder of a search"):
    write_report(tmp_path, tmp_path)
  Journal(tmp_path, SPACE, "random").close()
  with pytest.raises(UserError, match="none of which has been trained yet"):
    write_report(tmp_path, tmp_path)


def test_best_files_are_taken_by_other_commands(searched, monkeypatch):
  folder, journal = searched
  best = journal.trials[23]
  write_best(folder, SPACE, best, "demo.gin")
  arch = architecture(folder / "best.json")
  assert arch.blocks == SPACE.decode(best.point).blocks and "trial 23, reward 0.3300" in arch.note
  (folder / "best.json").unlink()  # best.gin needs no other file
  monkeypatch.chdir(folder)
  configs.parse([str(folder / "best.gin")])
  made = configs.experiment()
  made.train.optimizer(learning_rate=lambda: 0.1)
  configs.check_unused()
  assert made.model.find_architecture() == arch and made.model.max_level == 5 and made.model.min_level == 3
  assert made.train.duration == "8 epochs"  # the demo's


def test_best_of_a_space_with_all_levels_needs_no_levels(tmp_path):
  space = find_space("spinenet49")
  found = Trial(0, space.encode("spinenet49"), "", reward=0.5)
  write_best(tmp_path, space, found, "spinenet49_protB.gin")
  assert "_level =" not in (tmp_path / "best.gin").read_text()
  configs.parse([str(tmp_path / "best.gin")])
  assert configs.experiment().model.find_architecture().blocks == architecture("spinenet49").blocks
