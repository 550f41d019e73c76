"""Matrix NMS: scores fall by how much better masks of their class overlap them.  [Wang et al. 2020, section 3.2]"""

from __future__ import annotations

import tensorflow as tf

from spinenet_tf.errors import UserError

KERNELS = ("gaussian", "linear")


def matrix_nms(
  masks: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor, kernel: str = "gaussian", sigma: float = 2.0
) -> tf.Tensor:
  """Lowers scores of masks that better ones of their class overlap.

  With i < j by falling score, and o_ij the IoU of the two where the classes are equal, else 0:

    score_j *= min over i of f(o_ij) / f(max over k < i of o_ki),   f(o) = exp(-sigma o^2), or 1 - o

  so that a mask which is itself suppressed suppresses less.

  Args:
    masks: bool[N, P], pixels.
    scores: float32[N], falling.
    classes: int32[N].
    kernel: f, "gaussian" or "linear".
    sigma: of the gaussian.

  Returns: float32[N], in the order given; never higher.

  Raises: UserError for an argument out of range.
  """
  check_kernel(kernel, sigma)
  with tf.name_scope("matrix_nms"):
    pixels = tf.cast(masks, tf.float32)  # exact to 2^24 pixels
    common = tf.matmul(pixels, pixels, transpose_b=True)
    area = tf.reduce_sum(pixels, axis=-1)
    overlap = tf.math.divide_no_nan(common, area[:, None] + area[None] - common)
    order = tf.range(tf.shape(scores)[0])
    better = (order[:, None] < order[None]) & (classes[:, None] == classes[None])
    overlap = tf.where(better, overlap, 0.0)  # row i: the better one; column j: the one it lowers
    most = tf.reduce_max(overlap, axis=0)  # of those better than i
    if kernel == "gaussian":
      ratio = tf.exp(-sigma * (tf.square(overlap) - tf.square(most)[:, None]))
    else:
      ratio = (1.0 - overlap) / tf.maximum(1.0 - most, 1e-6)[:, None]
    return scores * tf.minimum(tf.reduce_min(tf.where(better, ratio, 1.0), axis=0), 1.0)


def check_kernel(kernel: str, sigma: float) -> None:
  """Raises UserError for arguments of `matrix_nms` out of range."""
  if kernel not in KERNELS:
    raise UserError(f"suppression is {kernel!r}; it must be one of {list(KERNELS)}")
  if not sigma > 0:
    raise UserError(f"suppression_sigma is {sigma}; it must be positive, usually 2")
