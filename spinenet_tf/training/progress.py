"""What a person sees while a run goes on, and what is written down of it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, Callable

import tensorflow as tf

from spinenet_tf.training.run_directory import RunDirectory


class Progress:
  """Prints a line for each loop of steps, and writes it to metrics.jsonl.

  Args:
    run: where lines go.
    total: steps of the run.
    batch: examples of one step, for images per second.
    rate: learning rate of a step.
    parts: names of the losses shown.
    counts: names of other means over the steps, shown where they are not 0.
    headline: names of the metrics shown of an evaluation.
    say: prints a line.
  """

  def __init__(
    self,
    run: RunDirectory,
    *,
    total: int,
    batch: int,
    rate: Callable[[int], Any],
    parts: Sequence[str],
    headline: Sequence[str],
    counts: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
  ):
    self._run, self._total, self._batch, self._rate = run, total, batch, rate
    self.say = say or (speak if run.writes else (lambda text: None))
    self._parts, self._counts, self._headline = parts, counts, headline
    self._seconds_per_step: float | None = None
    self._begin = time.perf_counter()

  def start(self) -> None:
    """Starts the clock of the next loop; what lies between two loops, evaluation say, does not count."""
    self._begin = time.perf_counter()

  def report(self, step: int, steps: int, metrics: dict[str, float]) -> dict[str, float]:
    """Prints and writes what the last loop measured.

    Args:
      step: global step after the loop.
      steps: that the loop ran.
      metrics: as `Trainer.train` returns them.

    Returns: the numbers written.
    """
    seconds = max(time.perf_counter() - self._begin, 1e-9)
    first = self._seconds_per_step is None
    per_step = seconds / steps
    self._seconds_per_step = per_step
    line = {
      **{k: float(f"{v:.7g}") for k, v in metrics.items() if k != "data_wait"},
      "learning_rate": float(self._rate(step - 1)),
      "images_per_second": round(self._batch / per_step, 3),
      "data_wait_share": round(min(1.0, metrics.get("data_wait", 0.0) / seconds), 4),
      "seconds": round(seconds, 3),
      "memory_gib": round(memory_gib(), 3),
    }
    self._run.append_metrics({"step": step, "kind": "train", "steps": steps, **line})
    self.say(self._text(step, line, per_step, first))
    return line

  def _text(self, step: int, line: dict[str, float], per_step: float, first: bool) -> str:
    parts = [
      f"step {step}/{self._total} {100 * step / self._total:.1f}%",
      *self._pace(step, line, per_step, first),
      f"loss {line['total']:.5g} ({' '.join(f'{part} {line[part]:.4g}' for part in self._parts)} l2 {line['l2']:.3g})",
      f"lr {line['learning_rate']:.3g}",
      f"grad {line['gradient_norm']:.2f}",
      f"mem {line['memory_gib']:.1f}G",
      *(f"{name.replace('_', ' ')} {line[name]:.3g}" for name in self._counts if line[name]),
    ]
    return " | ".join(parts) + (f" | built in {duration(line['seconds'])}" if first else "")

  def _pace(self, step: int, line: dict[str, float], per_step: float, first: bool) -> list[str]:
    """What the first line of a process leaves out, as most of its time went into building the step."""
    if first:
      return []
    return [
      f"ETA {duration(per_step * (self._total - step))}",
      f"{line['images_per_second']:.1f} img/s",
      f"data wait {100 * line['data_wait_share']:.0f}%",
    ]

  def report_evaluation(self, step: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
    """Prints and writes an evaluation."""
    numbers = {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
    line = {"step": step, "kind": "eval", **numbers, "seconds": round(seconds, 3)}
    self._run.append_metrics(line)
    found = " ".join(f"{name} {metrics[name]:.3f}" for name in self._headline)
    kept = " | best so far, kept" if best else ""
    self.say(f"step {step}/{self._total} evaluation | {found} | {duration(seconds)}{kept}")


def speak(text: str) -> None:
  """Prints a line at once, also through a pipe."""
  print(text, file=sys.stdout, flush=True)


def duration(seconds: float) -> str:
  """Returns "45s", "3m20s", "5h12m" or "2d04h"."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  if whole < 86400:
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
  return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def memory_gib() -> float:
  """Returns the peak memory in GiB: of the first GPU, else of this process."""
  if tf.config.list_logical_devices("GPU"):
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
  return host_memory_gib()


def host_memory_gib() -> float:
  """Returns the peak memory of this process in GiB."""
  import resource

  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
