"""The journal: what is written is what is read, torn lines, other spaces, two searches in one folder."""

import json

import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.search import journal as journals
from spinenet_tf.search.journal import Journal
from spinenet_tf.search.presets import find_space


@pytest.fixture(scope="module")
def space():
  return find_space("tiny")


def filled(folder, space):
  journal = Journal(folder, space, "random")
  for number in range(3):
    journal.start(number, (number, 1), f"key{number}", attempt=1)
  journal.end(1, "ok", 0.5, seconds=2.0, metrics={"AP": 0.5})
  journal.end(0, "failed", 0.0, reason="ValueError: no")
  journal.close()
  return journal


def test_a_journal_is_read_as_it_was_written(tmp_path, space):
  written = filled(tmp_path, space)
  said = []
  journal = Journal(tmp_path, space, "random", say=said.append)
  assert journal.trials == written.trials and not said
  assert [t.id for t in journal.results] == [1, 0] and [t.place for t in journal.results] == [0, 1]
  one, zero, two = (journal.trials[i] for i in (1, 0, 2))
  assert (one.status, one.reward, one.seconds, one.metrics, one.point) == ("ok", 0.5, 2.0, {"AP": 0.5}, (1, 1))
  assert (zero.status, zero.reason, zero.reward) == ("failed", "ValueError: no", 0.0)
  assert (two.status, two.attempt, two.reward) == ("", 1, None)
  header, trials, results = journals.read(tmp_path)  # while it is open
  assert header["space"] == space.to_dict() and trials == journal.trials and len(results) == 2


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_said(tmp_path, space, cut):
  filled(tmp_path, space)
  path = tmp_path / "trials.jsonl"
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])
  said = []
  journal = Journal(tmp_path, space, "random", say=said.append)
  if cut == 1:  # only its end is missing
    assert not said and path.read_bytes() == whole
    return
  assert len(said) == 1 and "last line was cut off and is dropped" in said[0] and '"kind": "end", "id": 0' in said[0]
  assert [t.id for t in journal.results] == [1] and journal.trials[0].status == ""
  journal.end(0, "ok", 0.25)
  journal.close()
  assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [
    "search",
    *["start"] * 3,
    "end",
    "end",
  ]


def test_a_torn_header_is_written_again(tmp_path, space):
  (tmp_path / "trials.jsonl").write_bytes(b'{"kind": "sea')
  said = []
  Journal(tmp_path, space, "random", say=said.append).close()
  assert said and journals.read(tmp_path)[0]["fingerprint"] == space.fingerprint()


def test_binary_rubbish_at_the_end_is_dropped(tmp_path, space):
  filled(tmp_path, space)
  path = tmp_path / "trials.jsonl"
  whole = path.read_bytes()
  path.write_bytes(whole + b"\x00\xff\x00")
  Journal(tmp_path, space, "random", say=lambda text: None).close()
  assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error(tmp_path, space):
  filled(tmp_path, space)
  path = tmp_path / "trials.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join([*lines[:2], lines[2][:20] + "\n", *lines[3:]]))
  with pytest.raises(UserError, match=r"trials.jsonl, line 3: .*only the last line may be cut off"):
    Journal(tmp_path, space, "random")


def test_results_count_once(tmp_path, space):
  filled(tmp_path, space)
  journal = Journal(tmp_path, space, "random")
  with pytest.raises(ValueError, match="trial 1 ends twice"):
    journal.end(1, "ok", 0.5)
  journal.close()
  path = tmp_path / "trials.jsonl"
  with path.open("a") as file:
    file.write('{"kind": "end", "id": 1, "status": "ok", "reward": 1.0, "seconds": 0}\n')
  with pytest.raises(UserError, match=r"line 7: trial 1 ends twice; the file was changed"):
    Journal(tmp_path, space, "random")


def test_another_space_or_searcher_is_an_error(tmp_path, space):
  filled(tmp_path, space)
  with pytest.raises(UserError, match=r"journal of another search space: 'tiny' there, 'r0_sp53' here, different in"):
    Journal(tmp_path, find_space("r0_sp53"), "random")
  with pytest.raises(UserError, match=r"journal of the searcher 'random', this search has 'evolution'"):
    Journal(tmp_path, space, "evolution")


def test_two_searches_cannot_share_a_folder(tmp_path, space):
  first = Journal(tmp_path, space, "random")
  with pytest.raises(UserError, match="in use by another search"):
    Journal(tmp_path, space, "random")
  first.close()
  Journal(tmp_path, space, "random").close()


def test_reading_what_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"trials.jsonl does not exist; give --model_dir the folder of a search"):
    journals.read(tmp_path)
  (tmp_path / "trials.jsonl").touch()
  with pytest.raises(UserError, match="is empty"):
    journals.read(tmp_path)
  (tmp_path / "trials.jsonl").write_text('{"kind": "other"}\n')
  with pytest.raises(UserError, match="journals of format 1"):
    journals.read(tmp_path)
