"""What an importer finds in a checkpoint: arrays under our names, and what it left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from spinenet_tf.backbones.spec import Architecture

# "U/conv1/bias" belongs to the norms "U/norm1_level3/..."; "U/dense/bias" to "U/dense_norm"; "U/conv/bias" to "U/norm".
_BIAS = re.compile(r"(?P<scope>.*/|)(?:conv(?P<number>\d*)|(?P<unit>dense|double))/bias$")


@dataclasses.dataclass
class Found:
  """Content of a checkpoint.

  Attributes:
    source: "model_garden", "tpu_detection" or "mmdet".
    wiring: an architecture with the checkpoint's blocks and connections; widths and repeats are inferred from shapes.
    weights: by our variable names; biases before a batch norm, which ours lacks, among them.
    origin: our name -> the checkpoint's.
    skipped: the checkpoint's name -> why it is left out.
    notes: what else a person should know.
  """

  source: str
  wiring: Architecture
  weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  origin: dict[str, str] = dataclasses.field(default_factory=dict)
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)
  notes: list[str] = dataclasses.field(default_factory=list)

  def add(self, name: str, value: np.ndarray, origin: str) -> None:
    """Takes one array in."""
    self.weights[name], self.origin[name] = np.asarray(value, np.float32), origin

  def first(self, pattern: str) -> np.ndarray | None:
    """Returns the first array, by name, whose whole name matches."""
    return next((self.weights[n] for n in sorted(self.weights) if re.fullmatch(pattern, n)), None)

  def absorb_biases(self) -> None:
    """Folds biases into the batch norms behind them: norm(x + b) with mean m is norm(x) with mean m - b."""
    for name in [n for n in self.weights if n.endswith("/bias")]:
      match = _BIAS.fullmatch(name)
      if match is None:
        continue
      number = match["number"]
      norm = f"{match['unit']}_norm" if match["unit"] else f"norm{number}"
      pattern = re.compile(rf"{re.escape(match['scope'] + norm)}(_level\d+)?/moving_mean")
      means = [n for n in self.weights if pattern.fullmatch(n)]
      for mean in means:
        self.weights[mean] = self.weights[mean] - self.weights[name]
        self.origin[mean] += f" - {self.origin[name]}"
      if means:
        self.skipped[self.origin[name]] = "bias before a batch norm: folded into its moving mean"
        del self.weights[name], self.origin[name]

  def lay_out_mask_head(self) -> None:
    """Brings the mask head's last two kernels from the layout of Keras' convolutions into ours, where there are any."""
    kernel = self.weights.get("mask_head/double/kernel")
    if kernel is not None:  # row, column, output, input
      self.weights["mask_head/double/kernel"] = kernel.transpose(3, 0, 1, 2)
    if (kernel := self.weights.get("mask_head/predict/kernel")) is not None:  # a 1x1 convolution
      self.weights["mask_head/predict/kernel"] = kernel[0, 0]


def renamed(name: str, rules: Iterable[tuple[str, str]], **values: Any) -> str | None:
  """Returns a name by the first rule whose pattern matches it whole, None when none does.

  Args:
    name: of the other code base.
    rules: (regular expression, our name); in the latter {1} is the first group, {1+1} the first group plus one, and {x} what
      `values` has under x.
    **values: for the templates.
  """
  for pattern, template in rules:
    match = re.fullmatch(pattern, name)
    if match is None:
      continue

    def value(field: re.Match, match: re.Match = match) -> str:
      key, plus = field[1], field[2]
      text = match[int(key)] if key.isdigit() else str(values[key])
      return str(int(text) + int(plus)) if plus else text

    return re.sub(r"\{(\w+)(?:\+(\d+))?\}", value, template)
  return None
