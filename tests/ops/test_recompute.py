"""What is computed again in the backward pass: gradients are those of the plain tape, and less is held."""

import pytest
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.ops import recompute, winograd

ACTIVATIONS = {"relu": tf.nn.relu, "swish": tf.nn.silu}


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
  monkeypatch.setattr(recompute, "SMALL", 64)


def _draw(*shape, seed=0):
  return tf.random.stateless_normal(shape, [seed, 1])


def _both(forward, variables, features, **function):
  """Returns gradients by the plain tape and by ours, and our graph."""
  found = []
  for differentiate in (tf.GradientTape.gradient, recompute.gradient):

    def step(features, differentiate=differentiate):
      with tf.GradientTape() as tape:
        loss = forward(features)
      return differentiate(tape, loss, variables)

    traced = tf.function(step, autograph=False, **function)
    found.append([tensor.numpy() for tensor in traced(features)])
  return *found, traced.get_concrete_function(features).graph


def _copies(graph):
  return [op for op in graph.get_operations() if op.name.split("/")[-1].startswith("again")]


def _held(graph, forward_type):
  """Returns the operations of a type whose results gradients read."""
  operations = [op for op in graph.get_operations() if op.type not in recompute.SHAPES]
  backward = [op for op in operations if "gradient_tape" in op.name]
  return {t.op.name for op in backward for t in op.inputs if t.op.type == forward_type}


def _network(activate, policy="float32"):
  """Two convolutions with norms, a residual sum, and a third convolution."""
  kernels = [tf.Variable(_draw(3, 3, 4, 4, seed=i) / 4) for i in range(3)]
  norms = [keras.layers.BatchNormalization(momentum=0.9, dtype=policy) for _ in range(2)]
  for norm in norms:
    norm.build([None, 6, 6, 4])
    norm.gamma.assign(_draw(4, seed=7))
    norm.beta.assign(_draw(4, seed=8))

  def forward(features):
    kinds = [tf.cast(kernel, features.dtype) for kernel in kernels]
    first = activate(norms[0](tf.nn.conv2d(features, kinds[0], 1, "SAME"), training=True))
    padded = tf.pad(first, [[0, 0], [1, 1], [1, 1], [0, 0]])
    second = activate(norms[1](tf.nn.conv2d(padded, kinds[1], 1, "VALID"), training=True) + first)
    return tf.reduce_sum(tf.cast(tf.nn.conv2d(second, kinds[2], 1, "SAME"), tf.float32) ** 2)

  return forward, [*kernels, *(v for norm in norms for v in norm.trainable_variables)], norms


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_tape(activation, compiled):
  forward, variables, _ = _network(ACTIVATIONS[activation])
  plain, ours, graph = _both(forward, variables, _draw(2, 6, 6, 4), jit_compile=compiled)
  for expected, actual in zip(plain, ours):
    assert abs(actual - expected).max() <= 1e-5 * abs(expected).max()
  assert {"FusedBatchNormV3", "Pad", "AddV2"} <= {op.type for op in _copies(graph)}


def test_activations_are_no_longer_held():
  forward, variables, _ = _network(tf.nn.relu)
  *_, graph = _both(forward, variables, _draw(2, 6, 6, 4))
  backward_relus = {name for name in _held(graph, "Relu") if not name.split("/")[-1].startswith("again")}
  assert not backward_relus and _held(graph, "Relu") and _held(graph, "Conv2D")


def test_copies_wait_for_the_backward_pass():
  forward, variables, _ = _network(tf.nn.relu)
  *_, graph = _both(forward, variables, _draw(2, 6, 6, 4))
  for op in _copies(graph):
    if op.type == "FusedBatchNormV3":
      assert any("gradient_tape" in other.name for other in op.control_inputs)
      assert not op.get_attr("is_training")  # with the moments of the first time


def test_moving_averages_move_once():
  means = []
  for differentiate in (tf.GradientTape.gradient, recompute.gradient):
    forward, variables, norms = _network(tf.nn.relu)

    @tf.function(autograph=False)
    def step(features, forward=forward, variables=variables, differentiate=differentiate):
      with tf.GradientTape() as tape:
        loss = forward(features)
      return differentiate(tape, loss, variables)

    step(_draw(2, 6, 6, 4))
    means.append([v.numpy() for norm in norms for v in norm.non_trainable_variables])
  for expected, actual in zip(*means):
    assert (expected == actual).all() and abs(expected).max() > 0


def test_half_precision():
  forward, variables, _ = _network(tf.nn.relu, keras.mixed_precision.Policy("mixed_bfloat16"))
  plain, ours, graph = _both(forward, variables, tf.cast(_draw(2, 6, 6, 4), tf.bfloat16))
  for expected, actual in zip(plain, ours):
    assert abs(actual - expected).max() <= 1e-2 * abs(expected).max()
  assert any(op.type == "Relu" and op.outputs[0].dtype == tf.bfloat16 for op in _copies(graph))


def test_statistics_that_replicas_share_are_not_taken_again():
  """Their norms are not the fused operation, but a scale and a shift by moments."""
  kernels = [tf.Variable(_draw(3, 3, 4, 4, seed=i)) for i in range(2)]

  def forward(features):
    features = tf.nn.conv2d(features, kernels[0], 1, "SAME")
    mean, variance = tf.nn.moments(features, [0, 1, 2])
    features = tf.nn.relu(tf.nn.batch_normalization(features, mean, variance, 0.1, 2.0, 1e-3))
    return tf.reduce_sum(tf.nn.conv2d(features, kernels[1], 1, "SAME") ** 2)

  plain, ours, graph = _both(forward, kernels, _draw(2, 6, 6, 4))
  for expected, actual in zip(plain, ours):
    assert (actual == expected).all()
  assert sorted(op.type for op in _copies(graph)) == ["AddV2", "Mul", "Relu"]


def test_with_fast_convolutions():
  kernels = [tf.Variable(_draw(3, 3, 4, 4, seed=i)) for i in range(2)]
  norm = _network(tf.nn.relu)[2][0]

  def forward(features):
    features = tf.nn.relu(norm(winograd.conv2d(features, kernels[0]), training=True))
    return tf.reduce_sum(winograd.conv2d(features, kernels[1]) ** 2)

  plain, ours, graph = _both(forward, kernels, _draw(2, 6, 6, 4))
  for expected, actual in zip(plain, ours):
    assert (actual == expected).all()
  assert {"FusedBatchNormV3", "Relu"} <= {op.type for op in _copies(graph)}


def test_what_nothing_holds_is_not_computed_again():
  """Without a norm no gradient reads the convolution's output: holding that instead would save nothing."""
  kernels = [tf.Variable(_draw(3, 3, 4, 4, seed=i)) for i in range(2)]

  def forward(features):
    features = tf.nn.relu(tf.nn.conv2d(features, kernels[0], 1, "SAME") + 1.0)
    return tf.reduce_sum(tf.nn.conv2d(features, kernels[1], 1, "SAME") ** 2)

  plain, ours, graph = _both(forward, kernels, _draw(2, 6, 6, 4))
  assert not _copies(graph)
  for expected, actual in zip(plain, ours):
    assert (actual == expected).all()


def test_random_masks_are_held():
  """They follow from nothing that is held: drawing them again would take the seed, and time."""
  _, variables, norms = _network(tf.nn.relu)
  kernel = tf.Variable(_draw(3, 3, 4, 4, seed=5))

  def dropped(features):
    features = tf.nn.relu(norms[0](tf.nn.conv2d(features, variables[0], 1, "SAME"), training=True))
    kept = tf.cast(tf.random.stateless_uniform(tf.shape(features), [1, 2]) < 0.5, tf.float32)
    return tf.reduce_sum(tf.nn.conv2d(features * kept, kernel, 1, "SAME") ** 2)

  plain, ours, graph = _both(dropped, [variables[0], kernel], _draw(2, 6, 6, 4))
  assert not any("Random" in op.type for op in _copies(graph))
  for expected, actual in zip(plain, ours):
    assert (actual == expected).all()


def test_without_a_graph_it_is_the_tape():
  x = tf.Variable(3.0)
  with tf.GradientTape() as tape:
    y = x * x
  assert recompute.gradient(tape, y, [x])[0] == 6.0
