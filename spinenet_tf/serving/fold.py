"""Batch normalisation folded into the convolution before it: the same function in inference, in fewer passes.

  norm(conv(x, W)) = gamma (W x - mean) / sqrt(variance + epsilon) + beta = conv(x, s W) + (beta - s mean),
  s = gamma / sqrt(variance + epsilon)

A model built under a folded `ConvStyle` has convolutions with biases, and no norms; this makes its weights. A tower's
kernels are shared by the levels and its norms are not, so each level gets kernels of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

KERNELS = ("kernel", "pointwise_kernel", "depthwise_kernel")  # of those present, the first takes the scale
_NORM = re.compile(r"(?P<scope>.*/|)(?:norm(?P<number>\d*)(?P<level>_level\d+)?|(?P<unit>[a-z]+)_norm)$")


def fold(weights: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
  """Returns the weights of the folded model.

  Args:
    weights: of the model as trained, by variable name: "U/norm/gamma" and its like beside "U/conv/kernel"; for towers
      "U/norm1_level3/gamma" beside "U/conv1/kernel"; "U/dense_norm/gamma" beside "U/dense/kernel".
    epsilon: of the norms.

  Returns: "U/conv/kernel" and "U/conv/bias", "U/conv1_level3/kernel" and so on; what has no norm stays as it is.
  """
  norms = sorted({name.rpartition("/")[0] for name in weights if name.endswith("/moving_variance")})
  folded: dict[str, np.ndarray] = {}
  used: set[str] = set()
  for norm in norms:
    match = _NORM.fullmatch(norm)
    if match is None:
      continue
    source = match["scope"] + (match["unit"] or f"conv{match['number']}")
    target = source + (match["level"] or "")
    gamma, beta, mean, variance = (weights[f"{norm}/{x}"] for x in ("gamma", "beta", "moving_mean", "moving_variance"))
    scale = gamma / np.sqrt(variance + epsilon)
    # Channels of the result: the last axis of a kernel, the one before it of a depthwise kernel [3, 3, C, 1] that stands
    # alone; of a separable convolution the 1x1 kernel takes the scale.
    kernels = {k: weights[f"{source}/{k}"] for k in KERNELS if f"{source}/{k}" in weights}
    scaled = next(iter(kernels))
    kernels[scaled] = kernels[scaled] * (scale[:, None] if scaled == "depthwise_kernel" else scale)
    folded |= {f"{target}/{kind}": kernel for kind, kernel in kernels.items()}
    folded[f"{target}/bias"] = beta + scale * (weights.get(f"{source}/bias", 0.0) - mean)
    used.update(name for name in weights if name.rpartition("/")[0] in (norm, source))
  return folded | {name: value for name, value in weights.items() if name not in used}
