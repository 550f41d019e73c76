"""Ends tiny runs by signals that nothing catches, at random, again and again: python -m tests.faults.rounds [--rounds=50].

After each kill the same command resumes. At every kill and at the end of every run its losses, evaluations and images are
compared with those of a run that nothing happened to, digit by digit; checkpoints that were complete must still be there.
Prints a table in Markdown, and fails when a number was wrong or a checkpoint was lost.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import signal
import tempfile
import time

from spinenet_tf.data.synthetic import prepare_synthetic
from tests.faults import kit

PLACES = {
  "step": "a step",
  "byte": "a checkpoint's write, at a random byte of its data",
  "evaluation": "an evaluation, or the write of its best checkpoint",
  "moment": "a checkpoint's write, at a random moment",
  "start": "start-up: imports, building, restoring",
}
SAVING, EVALUATING, STEPPING = 0.5, 2.0, 0.1  # seconds that these take, within which a kill comes


@dataclasses.dataclass
class Tally:
  """Kills in one place: how many, steps that were computed again, checkpoints lost, numbers that came out wrong."""

  rounds: int = 0
  again: int = 0
  lost: int = 0
  wrong: int = 0


class Rounds:
  """Runs that are killed; `whole` is the folder of the run that nothing happens to, made here unless it is there."""

  def __init__(self, data, folder, whole, seed, *, steps=30, save=3, evaluate=6, say=print):
    self._data, self._folder, self._whole, self._say = data, pathlib.Path(folder), pathlib.Path(whole), say
    self._random, self._steps, self._save = random.Random(seed), steps, save
    self._settings = {"save": save, "evaluate": evaluate}
    self._runs = 0
    self.tallies = {place: Tally() for place in PLACES}
    begin = time.perf_counter()
    if not self._whole.is_dir():
      process = kit.start(data, self._whole, steps, fresh=True, **self._settings)
      kit.wait_for(self._whole, 1, process)
      self._start_up = time.perf_counter() - begin
      kit.finish(process)
    else:
      self._start_up = 10.0
    data_file = self._whole / f"checkpoints/step-{steps}.data-00000-of-00001"
    self._size = data_file.stat().st_size

  def run(self, count):
    """Kills `count` times, then lets the last run come to its end."""
    run, places = self._next_run(), list(PLACES)
    done = 0
    while done < count:
      if self._round(run, places[done % len(places)]):
        done += 1
      else:  # it came to its end before
        self._complete(run)
        run = self._next_run()
    kit.finish(kit.start(self._data, run, self._steps, **self._settings))
    self._complete(run)

  def _next_run(self):
    self._runs += 1
    return self._folder / f"run{self._runs}"

  def _round(self, run, place):
    """One process, killed. Returns: False when it came to its end instead."""
    before = (kit.latest(run), len(kit.lines(run / "seen-0.jsonl"))) if run.is_dir() else (0, 0)
    (run / "killed.json").unlink(missing_ok=True)
    fresh, harm = place == "start", self._harm(place, before[0])
    process = kit.start(self._data, run, self._steps, fresh=fresh, **self._settings, **harm)
    if fresh:
      time.sleep(self._random.uniform(0, self._start_up))
      process.kill()
    text = process.communicate(timeout=900)[0]
    if process.returncode == 0:
      return False
    expected = signal.SIGXFSZ if place == "byte" else signal.SIGKILL
    assert process.returncode == -expected, f"exit code {process.returncode}\n{text[-4000:]}"
    if before[0] and place != "start":
      assert f"checkpoints/step-{before[0]}\n" in text, f"did not resume from step {before[0]}\n{text[-4000:]}"
    self._count(run, place, before)
    return True

  def _harm(self, place, step):
    """The options of run.py for a kill in a place, after a step."""
    one_or_two = self._random.randint(1, 2)
    if place == "step":
      return {"step": step + self._random.randint(1, 2 * self._save), "after": self._random.uniform(0, STEPPING)}
    if place == "byte":
      return {"checkpoint": one_or_two, "byte": self._random.randint(1, self._size - 1)}
    if place == "moment":
      return {"checkpoint": one_or_two, "after": self._random.uniform(0, SAVING)}
    if place == "evaluation":
      return {"evaluation": 1, "after": self._random.uniform(0, EVALUATING)}
    return {}

  def _count(self, run, place, before):
    notes = kit.lines(run / "seen-0.jsonl") if run.is_dir() else []
    begun = max((line["step"] for line in notes[before[1] :] if "step" in line), default=0)
    saved = max((line["checkpoint"] for line in notes if "checkpoint" in line), default=0)
    latest = kit.latest(run) if run.is_dir() else 0
    wrong = kit.wrong(run, self._whole) if run.is_dir() else []
    again, lost = max(0, begun - latest), latest < saved
    killed = json.loads((run / "killed.json").read_text()) if (run / "killed.json").is_file() else "start-up"
    tally = self.tallies[place]
    tally.rounds, tally.again = tally.rounds + 1, tally.again + again
    tally.lost, tally.wrong = tally.lost + lost, tally.wrong + len(wrong)
    trouble = f"  LOST step {saved}" * lost + "".join(f"  WRONG {what}" for what in wrong)
    self._say(f"{place:10s} killed in: {killed}; goes on from step {latest}, {again} steps again{trouble}")

  def _complete(self, run):
    wrong = kit.wrong(run, self._whole) + kit.unfinished(run, self._whole)
    self._say(f"{run.name} came to its end" + "".join(f"  WRONG {what}" for what in wrong))
    self.tallies["step"].wrong += len(wrong)

  @property
  def failed(self):
    """Whether anything was lost or wrong."""
    return any(tally.lost or tally.wrong for tally in self.tallies.values())

  def table(self):
    """The tallies in Markdown."""
    rows = [
      "| killed within | rounds | steps computed again | checkpoints lost | wrong numbers |",
      "|---|---|---|---|---|",
    ]
    for place, tally in self.tallies.items():
      rows.append(f"| {PLACES[place]} | {tally.rounds} | {tally.again} | {tally.lost} | {tally.wrong} |")
    return "\n".join(rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=50, help="kills")
  parser.add_argument("--seed", type=int, default=0, help="of where they come")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "shapes"
    prepare_synthetic(data, train=12, val=4, size=64)
    rounds = Rounds(
      data, folder, pathlib.Path(folder) / "whole", arguments.seed, say=lambda text: print(text, flush=True)
    )
    rounds.run(arguments.rounds)
  print(rounds.table())
  return int(rounds.failed)


if __name__ == "__main__":
  raise SystemExit(main())
