"""The controller: reinforcement learning of a policy over the points of a space.

[SpineNet section 3.1, which takes the controller of Zoph & Le 2017 and gives no settings; spinenet.md 3.4-3.6]
"""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from spinenet_tf.errors import UserError
from spinenet_tf.search.adam import Adam
from spinenet_tf.search.policy import Policy
from spinenet_tf.search.space import Point, SearchSpace
from spinenet_tf.search.state import read_state, write_state

ALGORITHMS = ("reinforce", "ppo")


class Controller:
  """Asks for points that its policy draws, and learns from their rewards, `batch` of them at a time.

  "reinforce" moves the policy along mean((R - b) d log p(point)), as [Zoph & Le 2017]. "ppo" takes `epochs` steps on the
  same rewards along min(r (R - b), clip(r, 1 - clip, 1 + clip) (R - b)), where r is the probability of a point now over
  what it was when it was asked for [Schulman et al. 2017]; [Zoph et al. 2018] and NAS-FPN use it. Both add
  `entropy_weight` times the entropy of the decisions on the way. The baseline b is a moving average of all rewards before
  this batch, with the first batch's mean at the start. Rewards that come late, from points of an older policy, are learned
  from as they are; "ppo" weighs them by r.

  No paper gives the settings of SpineNet's controller. What stands here, and why:

  - "ppo", learning rate 0.015, entropy weight 0.005: chosen on a known answer (benchmarks/search_known_answer.py), where
    anything from 0.01 to 0.02 and from 0.003 to 0.01 does about as well, "reinforce" needs twice the samples, and an
    entropy weight of 0.001 or less sometimes lets the policy settle too early. [Zoph & Le 2017] have 6e-4 without entropy and
    [Zoph et al. 2018] 3.5e-4 and 1e-5, for searches of more than 10^4 samples; with 6e-4, "reinforce" does not arrive
    within 20,000 there.
  - Two layers of 35 units, weights from U(-0.08, 0.08), as in [Zoph & Le 2017]; (100,) and 0.1 are [Zoph et al. 2018].
  - Baseline decay 0.95 and 20 rewards an update: [Zoph et al. 2018]; 8 an update are [Zoph & Le 2017].
  - R - b is divided by the standard deviation of all rewards so far (`scale_rewards`), so that the entropy weight means the
    same for average precisions of 0.05 and of 0.5. There is no cube of the reward as in [Zoph & Le 2017].

  Everything is on the CPU: the policy is small, and accelerators belong to the children.

  Args:
    space: where to search.
    seed: of the weights and of what is drawn. Point n that is asked for is drawn with the noise of (seed, n), whatever the
      sizes of the batches.
    units: of each LSTM layer.
    embedding: width of the choices fed back, and of the attention.
    initial_range: weights are drawn from U(-initial_range, initial_range).
    algorithm: "reinforce" or "ppo".
    learning_rate: of Adam.
    batch: rewards for each update.
    baseline_decay: of the moving average, for each reward.
    entropy_weight: how much the entropy of the decisions, in nats, counts beside rewards; larger explores longer.
    scale_rewards: divide R - b by the standard deviation of all rewards so far.
    clip, epochs: of "ppo"; the papers do not say theirs.

  Raises: UserError for a value that cannot be.
  """

  name = "controller"

  def __init__(
    self,
    space: SearchSpace,
    seed: int = 0,
    units: Sequence[int] = (35, 35),
    embedding: int = 35,
    initial_range: float = 0.08,
    algorithm: str = "ppo",
    learning_rate: float = 0.015,
    batch: int = 20,
    baseline_decay: float = 0.95,
    entropy_weight: float = 0.005,
    scale_rewards: bool = True,
    clip: float = 0.2,
    epochs: int = 4,
  ):
    if algorithm not in ALGORITHMS:
      raise UserError(f"algorithm is {algorithm!r}; it must be one of {list(ALGORITHMS)}")
    counts = {
      "batch": batch,
      "epochs": epochs,
      "embedding": embedding,
      **{f"units[{n}]": u for n, u in enumerate(units)},
    }
    for field, value in counts.items():
      if not isinstance(value, int) or value < 1:
        raise UserError(f"{field} is {value!r}; it must be a whole number from 1 on")
    if not units or learning_rate <= 0 or not 0 <= baseline_decay < 1 or entropy_weight < 0 or not 0 < clip:
      raise UserError(
        f"units {list(units)}, learning_rate {learning_rate}, baseline_decay {baseline_decay}, entropy_weight "
        f"{entropy_weight}, clip {clip}: there must be a layer, learning_rate and clip above 0, entropy_weight 0 or more, and "
        "baseline_decay from 0 to below 1"
      )
    self.space, self.seed, self.algorithm, self.batch = space, seed, algorithm, batch
    self.baseline_decay, self.entropy_weight, self.clip = baseline_decay, entropy_weight, clip
    self.scale_rewards = scale_rewards
    self.epochs = epochs if algorithm == "ppo" else 1
    self.baseline: float | None = None
    self._asked = self._updates = 0
    self._moments = [0, 0.0, 0.0]  # of all rewards learned from: how many, their mean, their squared deviations from it
    self._told: list[
      tuple[Point, float, float]
    ] = []  # points, rewards, log-probabilities when asked for; not learned yet
    self._waiting: dict[Point, list[float]] = collections.defaultdict(list)  # log-probabilities of points not told yet
    with tf.device("CPU:0"):
      self.policy = Policy(space, units, embedding, initial_range, seed)
      self._adam = Adam(self.policy.trainable_variables, learning_rate)

  def ask(self, count: int) -> list[Point]:
    """Returns `count` points, drawn from the policy as it is now."""
    if not count:
      return []
    noise = np.stack([self._noise(self._asked + n) for n in range(count)])
    with tf.device("CPU:0"):
      drawn = self.policy.sample(noise)
      log_probs = self.policy.log_prob(drawn)[0] if self.algorithm == "ppo" else ()
    self._asked += count
    points = [tuple(point) for point in drawn.numpy().tolist()]
    for point, log_prob in zip(points, log_probs):
      self._waiting[point].append(float(log_prob))
    return points

  def _noise(self, n: int) -> np.ndarray:
    """Returns float32[T, K]: the Gumbel noise of the n-th point of this search."""
    shape = (len(self.space.decisions), max(len(decision.options) for decision in self.space.decisions))
    return np.random.default_rng((self.seed, n)).gumbel(size=shape).astype(np.float32)

  def log_prob(self, points: Sequence[Point]) -> np.ndarray:
    """Returns float32[n]: logarithms of how likely the policy is to draw each point.

    Raises: UserError for a point that the space forbids.
    """
    for point in points:
      self._require(point)
    with tf.device("CPU:0"):
      return self.policy.log_prob(np.array(points, np.int32))[0].numpy()

  def _require(self, point: Point) -> None:
    if not self.space.is_valid(point):
      self.space.decode(tuple(point))  # which says what is wrong with it

  def _log_prob_now(self, point: Point) -> float:
    """Of a point that was not asked for; 0 where it is not used."""
    return float(self.log_prob([point])[0]) if self.algorithm == "ppo" else 0.0

  def tell(self, points: Sequence[Point], rewards: Sequence[float]) -> dict[str, float]:
    """Takes rewards of points, in any number and order, and learns whenever `batch` of them are there.

    Points need not have been asked for: rewards of an earlier search may be told.

    Returns: {"reward_mean"} of what is told; after an update {"loss", "entropy", "log_prob", "baseline", "updates"}, the means
      of its batch, too. Entropy is that of all decisions together, in nats.

    Raises: UserError for a reward that is not finite, or a point that the space forbids.
    """
    if not len(points):
      return {}
    points = [tuple(int(choice) for choice in point) for point in points]
    for reward in rewards:
      if not math.isfinite(reward):
        raise UserError(f"a reward is {reward}; it must be finite: tell a floor for trials that fail")
    for point in points:
      self._require(point)
    for point, reward in zip(points, rewards):
      waiting = self._waiting.get(point, [])
      self._told.append((point, float(reward), waiting.pop(0) if waiting else self._log_prob_now(point)))
      if not waiting:
        self._waiting.pop(point, None)
    metrics = {"reward_mean": float(np.mean(rewards))}
    while len(self._told) >= self.batch:
      batch, self._told = self._told[: self.batch], self._told[self.batch :]
      metrics |= self._learn(batch)
    return metrics

  def _learn(self, batch: list[tuple[Point, float, float]]) -> dict[str, float]:
    points, rewards, log_probs = (np.array(values) for values in zip(*batch))
    baseline = float(rewards.mean()) if self.baseline is None else self.baseline
    advantages = (rewards - baseline) / self._spread(rewards)
    arguments = points.astype(np.int32), advantages.astype(np.float32), log_probs.astype(np.float32)
    for reward in rewards:
      self.baseline = baseline = baseline + (1 - self.baseline_decay) * (float(reward) - baseline)
    with tf.device("CPU:0"):
      for _ in range(self.epochs):
        measured = self._update(*arguments)
    self._updates += 1
    means = {name: float(value) for name, value in zip(("loss", "entropy", "log_prob"), measured)}
    return {**means, "baseline": baseline, "updates": self._updates}

  def _spread(self, rewards: np.ndarray) -> float:
    """Returns the standard deviation of all rewards so far, these included, or 1 where rewards are not scaled."""
    count, mean, squares = self._moments
    for reward in rewards.tolist():
      count += 1
      change = reward - mean
      mean += change / count
      squares += change * (reward - mean)
    self._moments = [count, mean, squares]
    return max(math.sqrt(squares / count), 1e-8) if self.scale_rewards else 1.0

  def loss(
    self, points: tf.Tensor, advantages: tf.Tensor, log_probs: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns what an update makes smaller, the mean entropy and the mean log-probability, float32[] each.

    Args:
      points: int32[B, T].
      advantages: float32[B], rewards less the baseline, scaled.
      log_probs: float32[B], of the points when they were asked for; used by "ppo" alone.
    """
    now, entropy = self.policy.log_prob(points)
    gain = now * advantages
    if self.algorithm == "ppo":
      ratio = tf.exp(now - log_probs)
      gain = tf.minimum(ratio * advantages, tf.clip_by_value(ratio, 1 - self.clip, 1 + self.clip) * advantages)
    mean_entropy = tf.reduce_mean(entropy)
    return -tf.reduce_mean(gain) - self.entropy_weight * mean_entropy, mean_entropy, tf.reduce_mean(now)

  @tf.function(autograph=False)
  def _update(self, points: tf.Tensor, advantages: tf.Tensor, log_probs: tf.Tensor) -> tuple:
    with tf.GradientTape() as tape:
      measured = self.loss(points, advantages, log_probs)
    self._adam.step(tape.gradient(measured[0], self._adam.variables))
    return measured

  def save(self, path: str | os.PathLike) -> None:
    """Writes the whole state to one file, atomically: weights, optimizer, baseline, what was drawn, told and still waits."""
    values = {
      "searcher": self.name,
      "space": self.space.fingerprint(),
      "settings": self._settings(),
      "asked": self._asked,
      "updates": self._updates,
      "baseline": self.baseline,
      "moments": self._moments,
      "told": self._told,
      "waiting": list(self._waiting.items()),
    }
    write_state(path, values, {f"variable_{n}": v.numpy() for n, v in enumerate(self._variables())})

  def restore(self, path: str | os.PathLike) -> None:
    """Reads what `save` wrote; afterwards `ask` goes on as if there had been no break.

    Raises: UserError for a file of another searcher or space, or of other sizes or another seed.
    """
    values, arrays = read_state(path, self.name, self.space.fingerprint())
    if values["settings"] != self._settings():
      raise UserError(
        f"{str(path)!r} is the state of a controller with {values['settings']}, this one has {self._settings()}; go on with "
        "those settings, or start a new search in another folder"
      )
    for n, variable in enumerate(self._variables()):
      variable.assign(arrays[f"variable_{n}"])
    self._asked, self._updates, self.baseline = values["asked"], values["updates"], values["baseline"]
    self._moments = values["moments"]
    self._told = [(tuple(point), reward, log_prob) for point, reward, log_prob in values["told"]]
    self._waiting.clear()
    self._waiting.update({tuple(point): log_probs for point, log_probs in values["waiting"]})

  def _settings(self) -> dict:
    """What must not change between saving and going on."""
    sizes = {"units": list(self.policy.units), "embedding": self.policy.attention.shape[0]}
    return {**sizes, "algorithm": self.algorithm, "seed": self.seed}

  def _variables(self) -> list[tf.Variable]:
    return [*self._adam.variables, *self._adam.state]
