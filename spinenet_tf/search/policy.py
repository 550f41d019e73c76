"""The controller's network: an autoregressive distribution over the points of a search space.

[Zoph & Le 2017, "Neural architecture search with reinforcement learning"; spinenet.md 3.4-3.6]

A stack of LSTM layers makes one decision a step; the choice is fed back as an embedding of its own for each option of each
decision. A decision's scores come from a softmax layer of its own, as in [Zoph & Le 2017]. Parents are scored by attention,
v . tanh(W_built a_j + W_asks h + p_j + q): a_j is the LSTM's output after block j's parents were chosen (its anchor point;
none for the stem), h its output now, p_j and q are vectors of feature j and of the decision. Zoph & Le draw each input by
itself with a sigmoid of such a score; here the scores of all features in reach go through a softmax, because just two are
drawn.

Two facts make the distribution exact:

- Every option's score gets the logarithm of its weight (`SearchSpace.weights`), minus infinity where it is forbidden. So
  permutations draw without replacement, parents differ, and scores of zero draw all points of the space alike.
- Of two parents the one with the smaller index is drawn first, the other one among those after it. An unordered pair has
  one path and one probability; no sum over orders is needed, and the probabilities of all points sum to 1.

Shapes: B points, T decisions, K options at most, F features, U units of the last layer, A of the attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from spinenet_tf.search.decisions import FIRST, LEVEL, OFFSET, OUTPUT, SECOND
from spinenet_tf.search.space import SearchSpace

FORBIDDEN = -1e9  # added to the scores of options that may not be drawn


class Policy(tf.Module):
  """Samples points and says how likely points are.

  Args:
    space: whose points.
    units: of each LSTM layer; (35, 35) in [Zoph & Le 2017], (100,) in [Zoph et al. 2018].
    embedding: width of the choices fed back, and of the attention.
    initial_range: weights are drawn from U(-initial_range, initial_range); 0.08 in [Zoph & Le 2017], 0.1 in the other.
    seed: of the weights.
  """

  def __init__(
    self,
    space: SearchSpace,
    units: Sequence[int] = (35, 35),
    embedding: int = 35,
    initial_range: float = 0.08,
    seed: int = 0,
  ):
    super().__init__(name="policy")
    self.space, self.units = space, tuple(units)
    self._layout(space)
    rng = np.random.default_rng(seed)

    def weight(name, *shape):
      return tf.Variable(rng.uniform(-initial_range, initial_range, shape).astype(np.float32), name=name)

    total = int(self._starts[-1])
    inputs = (embedding, *self.units)
    self.embeddings = weight("embeddings", total + 1, embedding)  # the last row is what the first step gets
    self.kernels = [weight(f"lstm_{n}/kernel", i + u, 4 * u) for n, (i, u) in enumerate(zip(inputs, self.units))]
    self.biases = [weight(f"lstm_{n}/bias", 4 * u) for n, u in enumerate(self.units)]
    self.scores_kernel = weight("scores/kernel", total, self.units[-1])
    self.scores_bias = weight("scores/bias", total)
    self.built_kernel = weight("attention/built_kernel", self.units[-1], embedding)
    self.asks_kernel = weight("attention/asks_kernel", self.units[-1], embedding)
    self.of_feature = weight("attention/of_feature", len(space.stem) + space.block_count, embedding)
    self.of_decision = weight("attention/of_decision", len(self._counts), embedding)
    self.attention = weight("attention/vector", embedding)

    steps, widest = self._rows.shape  # one trace each, whatever the number of points
    noise, points = tf.TensorSpec([None, steps, widest]), tf.TensorSpec([None, steps], tf.int32)
    self.sample = tf.function(self._sample, input_signature=[noise], autograph=False)
    self.log_prob = tf.function(self._log_prob, input_signature=[points], autograph=False)

  def _layout(self, space: SearchSpace) -> None:
    """Where the options of each decision lie in the tables, and which decisions choose parents."""
    self._counts = [len(decision.options) for decision in space.decisions]
    self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int32)
    widest = max(self._counts)
    # Options beyond a decision's own point at its first one; they are masked.
    self._rows = np.array(
      [[s + (c if c < n else 0) for c in range(widest)] for s, n in zip(self._starts, self._counts)]
    )
    self._asking = [t for t, d in enumerate(space.decisions) if d.kind in (FIRST, SECOND)]
    # The step whose output is a feature's anchor: the one after its second parent; there is none where nothing follows.
    self._anchors = {d.block: t + 1 for t, d in enumerate(space.decisions[:-1]) if d.kind == SECOND}
    self._levels = {level: row for row, level in enumerate(sorted(set(space.levels)))}
    allowed = [[offset in space.allowed_offsets(level) for offset in space.offsets] for level in self._levels]
    self._offset_weights = np.where(np.array(allowed).reshape(-1, len(space.offsets)), 0.0, FORBIDDEN).astype(
      np.float32
    )

  # Masks, the same for drawing and for scoring.

  def _log_weights(self, t: int, choices: list[tf.Tensor]) -> tf.Tensor:
    """Returns float32[B or 1, options of decision t]: logarithms of `SearchSpace.weights` after `choices`, int32[B] each."""
    space, decision, count = self.space, self.space.decisions[t], self._counts[t]
    if decision.kind in (LEVEL, OUTPUT):
      levels = space.levels if decision.kind == LEVEL else space.output_levels
      logarithms = np.array([FORBIDDEN, *np.log(np.arange(1, len(levels) + 1))], np.float32)
      left = tf.constant([[levels.count(level) for level in decision.options]], tf.int32)
      if made := [choices[s] for s in range(t) if space.decisions[s].kind == decision.kind]:
        left -= tf.reduce_sum(tf.one_hot(tf.stack(made), count, dtype=tf.int32), 0)
      return tf.gather(logarithms, tf.maximum(left, 0))
    if decision.kind == FIRST:
      after = np.arange(count - 1, -1, -1)
      return tf.constant(np.where(after > 0, np.log(np.maximum(after, 1)), FORBIDDEN)[None], tf.float32)
    if decision.kind == SECOND:
      return tf.where(tf.range(count)[None] > choices[-1][:, None], 0.0, FORBIDDEN)
    if decision.kind == OFFSET:
      position = decision.block - len(space.stem)
      if space.learn_permutation:
        return tf.gather(self._offset_weights, choices[position])  # the options of levels are sorted, as these rows
      return tf.constant(self._offset_weights[self._levels[space.levels[position]]][None])
    return tf.zeros([1, count])

  # Drawing, one decision after the other.

  def _sample(self, noise: tf.Tensor) -> tf.Tensor:
    """Draws points, as `sample`: at every decision the option with the largest log-probability plus noise.

    Args:
      noise: float32[B, T, K], standard Gumbel. Zeros give the likeliest choices, one after the other.

    Returns: int32[B, T].
    """
    batch, space = tf.shape(noise)[0], self.space
    shape = [batch, self.embeddings.shape[1]]
    kernels, biases = tf.split(self.scores_kernel, self._counts), tf.split(self.scores_bias, self._counts)
    embeddings = tf.split(self.embeddings, [*self._counts, 1])
    of_feature, of_decision = tf.unstack(self.of_feature), tf.unstack(self.of_decision)
    built = {i: tf.broadcast_to(of_feature[i], shape) for i in range(len(space.stem))}
    layers = [_Layer(kernel, bias, batch) for kernel, bias in zip(self.kernels, self.biases)]
    features = {step: feature for feature, step in self._anchors.items()}
    noises = tf.unstack(noise, axis=1)
    x, choices = tf.broadcast_to(embeddings[-1], shape), []
    for t, (decision, count) in enumerate(zip(space.decisions, self._counts)):
      h = x
      for layer in layers:
        h = layer.step(h)
      if (feature := features.get(t)) is not None:
        built[feature] = h @ self.built_kernel + of_feature[feature]
      if decision.kind in (FIRST, SECOND):
        reach = tf.stack([built[feature] for feature in decision.options], 1)
        asks = h @ self.asks_kernel + of_decision[t]
        scores = tf.linalg.matvec(tf.tanh(reach + asks[:, None]), self.attention)
      else:
        scores = tf.matmul(h, kernels[t], transpose_b=True)
      scores += biases[t] + self._log_weights(t, choices) + noises[t][:, :count]
      choices.append(tf.argmax(scores, 1, tf.int32))
      x = tf.gather(embeddings[t], choices[-1])
    return tf.stack(choices, 1)

  # Scoring, all decisions at once.

  def _log_prob(self, points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how likely points are, as `log_prob`.

    Args:
      points: int32[B, T].

    Returns: float32[B], logarithms of their probabilities, about -1e9 and below for what the space forbids; float32[B], the
      sum of the entropies of the decisions on the way, in nats.
    """
    masked = tf.nn.log_softmax(self.scores(points) + self.log_weights(points))  # [T, B, K]
    chosen = tf.gather(masked, tf.transpose(points), axis=2, batch_dims=2)
    entropy = -tf.reduce_sum(tf.exp(masked) * masked, (0, 2))
    return tf.reduce_sum(chosen, 0), entropy

  def log_weights(self, points: tf.Tensor) -> tf.Tensor:
    """Returns float32[T, B, K]: what is added to the scores on the way to `points`, int32[B, T]."""
    choices, widest, batch = tf.unstack(points, len(self._counts), 1), max(self._counts), tf.shape(points)[0]
    rows = []
    for t, count in enumerate(self._counts):
      row = tf.pad(self._log_weights(t, choices[:t]), [[0, 0], [0, widest - count]], constant_values=FORBIDDEN)
      rows.append(tf.broadcast_to(row, [batch, widest]))
    return tf.stack(rows)

  def scores(self, points: tf.Tensor) -> tf.Tensor:
    """Returns float32[T, B, K]: scores of all options on the way to `points`, int32[B, T], without masks."""
    batch = tf.shape(points)[0]
    first = tf.fill([1, batch], tf.constant(self._starts[-1]))
    inputs = tf.concat([first, tf.transpose(points + self._starts[:-1])[:-1]], 0)
    h = tf.gather(self.embeddings, inputs)
    for kernel, bias in zip(self.kernels, self.biases):
      h = _sequence(h, kernel, bias)
    scores = tf.einsum("tbu,tku->tbk", h, tf.gather(self.scores_kernel, self._rows))
    if self._asking:
      asking = tf.constant(self._asking)[:, None]
      scores = tf.tensor_scatter_nd_update(scores, asking, self._parent_scores(h))
    return scores + tf.gather(self.scores_bias, self._rows)[:, None]

  def _parent_scores(self, h: tf.Tensor) -> tf.Tensor:
    """Returns float32[P, B, K], the scores of the P decisions about parents from the LSTM's outputs, float32[T, B, U]."""
    last = len(self.space.stem) + self.space.block_count
    anchors = np.array([self._anchors.get(feature, -1) for feature in range(last)])
    known = tf.constant((anchors >= 0)[:, None, None], tf.float32)
    built = tf.gather(h, np.maximum(anchors, 0)) @ self.built_kernel * known + self.of_feature[:, None]
    asks = tf.gather(h, self._asking) @ self.asks_kernel + tf.gather(self.of_decision, self._asking)[:, None]
    decisions = [self.space.decisions[t] for t in self._asking]
    widest = max(self._counts)
    reach = np.array([[*d.options, *[d.options[0]] * (widest - len(d.options))] for d in decisions])
    scores = tf.tanh(tf.gather(built, reach) + asks[:, None])  # [P, K, B, A]
    return tf.transpose(tf.linalg.matvec(scores, self.attention), [0, 2, 1])


class _Layer:
  """An LSTM layer that goes step by step, each in one kernel.

  Args:
    kernel: float32[I + U, 4 U], of inputs and state, gates in the order input, cell, forget, output.
    bias: float32[4 U].
    batch: int32[], of points.
  """

  def __init__(self, kernel: tf.Variable, bias: tf.Variable, batch: tf.Tensor):
    units = bias.shape[0] // 4
    none = tf.zeros([units])  # no peepholes
    self._weights = {
      "w": tf.convert_to_tensor(kernel),
      "b": tf.convert_to_tensor(bias),
      "wci": none,
      "wcf": none,
      "wco": none,
    }
    self._cell = self._output = tf.zeros([batch, units])

  def step(self, x: tf.Tensor) -> tf.Tensor:
    """float32[B, I] -> float32[B, U]."""
    out = tf.raw_ops.LSTMBlockCell(
      x=x, cs_prev=self._cell, h_prev=self._output, forget_bias=0.0, cell_clip=0.0, **self._weights
    )
    self._cell, self._output = out.cs, out.h
    return out.h


def _sequence(x: tf.Tensor, kernel: tf.Variable, bias: tf.Variable) -> tf.Tensor:
  """All steps of an LSTM layer in one kernel, which has a gradient: float32[T, B, I] -> float32[T, B, U]."""
  none = tf.zeros([bias.shape[0] // 4])
  zero = tf.zeros([tf.shape(x)[1], bias.shape[0] // 4])
  return tf.raw_ops.BlockLSTM(
    seq_len_max=tf.shape(x, tf.int64)[0],
    x=x,
    cs_prev=zero,
    h_prev=zero,
    w=kernel,
    wci=none,
    wcf=none,
    wco=none,
    b=bias,
    forget_bias=0.0,
    cell_clip=0.0,
  ).h
