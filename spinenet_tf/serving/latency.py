"""How fast artefacts answer: end to end and in parts, in batches, with percentiles and peak memory.

Each artefact is measured in a process of its own, the artefacts in turn and that several times, so that memory can be told
apart and a slow minute of the machine meets all of them. `python -m spinenet_tf.serving.latency` is that process.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from spinenet_tf.data.image_io import read_image
from spinenet_tf.errors import UserError
from spinenet_tf.serving.image_files import find_images

END_TO_END = "end_to_end"
STAGES = ("decode", "preprocess", "network", "nms")


@dataclasses.dataclass(frozen=True)
class Settings:
  """How it is measured.

  Attributes:
    batches: pictures that go together, each a row of the table.
    threads: of the runtime; 0 leaves the choice to it.
    warmup: calls before the first that counts, for each batch and part.
    calls: that count, for each batch, part and round.
    rounds: processes for each artefact.
    picture_size: (height, width) of the JPEG files, made of the images given.
  """

  batches: tuple[int, ...] = (1, 2, 4, 8)
  threads: int = 0
  warmup: int = 3
  calls: int = 10
  rounds: int = 3
  picture_size: tuple[int, int] = (480, 640)

  def __post_init__(self):
    for name in ("warmup", "calls", "rounds"):
      if getattr(self, name) < 1:
        raise UserError(
          f"{name} is {getattr(self, name)}; it must be 1 or more: the first call of all is never typical"
        )
    if not self.batches or min(self.batches) < 1:
      raise UserError(f"batches are {list(self.batches)}; give one or more numbers of pictures, each 1 or more")
    if self.threads < 0:
      raise UserError(f"threads is {self.threads}; give 1 or more, or 0 to leave the choice to the runtime")


def measure(
  artefacts: Sequence[str | os.PathLike], images: Sequence[str | os.PathLike], settings: Settings
) -> dict[str, Any]:
  """Measures artefacts on this machine.

  Args:
    artefacts: SavedModel folders, .onnx files, .tflite files.
    images: image files or folders; without any, one picture of noise.
    settings: how.

  Returns: "machine", "settings", and "artefacts", for each: "path", "kind", "runtime", "about", "bytes", "load" seconds,
    "peak" bytes of its process and "before" it was loaded, "batches": {"1": {stage: [seconds of each call]}}, and
    "differences", the parts that are told by subtraction.

  Raises: UserError when an artefact cannot be measured.
  """
  files = pictures(images, settings.picture_size)
  found: list[dict[str, Any]] = []
  for _ in range(settings.rounds):
    for i, artefact in enumerate(artefacts):
      result = _in_process_of_its_own(os.fspath(artefact), files, settings)
      if len(found) == i:
        found.append(result)
      else:
        _merge(found[i], result)
  return {
    "machine": {
      "cpu": _cpu(),
      "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
      "platform": platform.platform(),
    },
    "settings": dataclasses.asdict(settings),
    "artefacts": found,
  }


def pictures(images: Sequence[str | os.PathLike], size: tuple[int, int]) -> list[bytes]:
  """Returns JPEG files of one size, quality 90; of noise without images, which is harder to decode than photos."""
  if images:
    arrays = [read_image(path) for path in find_images(images, os.devnull)]
  else:
    arrays = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)]
  files = []
  for array in arrays:
    stream = io.BytesIO()
    Image.fromarray(array).resize(size[::-1], Image.Resampling.BILINEAR).save(stream, "JPEG", quality=90)
    files.append(stream.getvalue())
  return files


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
  """Returns "mean", "p50", "p90", "p95" and "p99", linear between calls, in seconds."""
  values = np.asarray(seconds, np.float64)
  return {"mean": float(values.mean()), **{f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 95, 99)}}


def parts(result: dict[str, Any], batch: int) -> dict[str, float]:
  """Returns the median seconds of each of `STAGES` that is known; those told by subtraction are 0 or more.

  Args:
    result: of one artefact.
    batch: of those measured.
  """
  medians = {stage: float(np.median(seconds)) for stage, seconds in result["batches"][str(batch)].items()}
  for stage, (whole, *others) in result["differences"].items():
    if all(name in medians for name in (whole, *others)):
      medians[stage] = max(0.0, medians[whole] - sum(medians[name] for name in others))
  return {stage: medians[stage] for stage in STAGES if stage in medians}


def _in_process_of_its_own(path: str, files: list[bytes], settings: Settings) -> dict[str, Any]:
  header = {"path": path, "settings": dataclasses.asdict(settings), "lengths": [len(file) for file in files]}
  data = json.dumps(header).encode() + b"\n" + b"".join(files)
  command = [sys.executable, "-m", "spinenet_tf.serving.latency"]
  done = subprocess.run(command, input=data, capture_output=True, check=False)
  lines = done.stdout.decode(errors="replace").strip().splitlines()
  if done.returncode or not lines:
    text = done.stderr.decode(errors="replace").strip().splitlines()
    reason = text[-1] if text else f"its process ended with code {done.returncode}"
    raise UserError(f"{path} cannot be measured: {reason.removeprefix('error: ')}")
  return json.loads(lines[-1])


def _merge(first: dict[str, Any], other: dict[str, Any]) -> None:
  for batch, stages in other["batches"].items():
    for stage, seconds in stages.items():
      first["batches"][batch][stage] += seconds
  first["peak"] = max(first["peak"], other["peak"])


def measure_here(path: str, files: Sequence[bytes], settings: Settings) -> dict[str, Any]:
  """Measures one artefact in this process, once; see `measure`. The peak is that of whole calls, before any part."""
  from spinenet_tf.serving.latency_backends import open_backend

  before = _peak()
  begin = time.perf_counter()
  backend = open_backend(path, settings.threads)
  load = time.perf_counter() - begin
  batches = {size: [files[i % len(files)] for i in range(size)] for size in settings.batches}
  found: dict[str, dict[str, list[float]]] = {}
  for size, batch in batches.items():
    found[str(size)] = {END_TO_END: _time(lambda batch=batch: backend.end_to_end(batch), settings)}
  peak = _peak()
  for size, batch in batches.items():
    found[str(size)] |= {stage: _time(run, settings) for stage, run in backend.stages(batch).items()}
  return {
    "path": path,
    "kind": backend.kind,
    "runtime": backend.runtime,
    "about": {key: backend.about.get(key) for key in ("model", "task", "input_size", "architecture", "weights_sha256")},
    "bytes": _size(path),
    "load": load,
    "before": before,
    "peak": peak,
    "batches": found,
    "differences": backend.differences,
  }


def _time(run: Any, settings: Settings) -> list[float]:
  for _ in range(settings.warmup):
    run()
  gc.collect()
  seconds = []
  for _ in range(settings.calls):
    begin = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - begin)
  return seconds


def _peak() -> int:
  """Returns the largest memory this process has had, in bytes."""
  try:
    # Not getrusage's number where this is known: that one begins with the memory of the process that started this one.
    with open("/proc/self/status") as file:
      (kibibytes,) = (int(line.split()[1]) for line in file if line.startswith("VmHWM"))
      return kibibytes * 1024
  except (OSError, ValueError):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _size(path: str) -> int:
  if not os.path.isdir(path):
    return os.path.getsize(path)
  return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _cpu() -> str:
  try:
    with open("/proc/cpuinfo") as file:
      names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()
  except OSError:
    return platform.processor()


def _main() -> int:
  """Reads what to do from the standard input and writes the result, JSON, as the last line of the standard output."""
  stream = sys.stdin.buffer
  header = json.loads(stream.readline())
  files = [stream.read(length) for length in header["lengths"]]
  given = {key: tuple(value) if isinstance(value, list) else value for key, value in header["settings"].items()}
  try:
    print(json.dumps(measure_here(header["path"], files, Settings(**given))), flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(_main())
