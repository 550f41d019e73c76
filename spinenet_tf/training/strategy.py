"""Devices and numbers: distribution strategies and precision policies."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from typing import Callable

import numpy as np
import tensorflow as tf

from spinenet_tf.compat import keras
from spinenet_tf.errors import UserError
from spinenet_tf.ops import winograd

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def make_strategy(name: str = "auto", tpu: str = "") -> tf.distribute.Strategy:
  """Returns a distribution strategy.

  Args:
    name: "one_device" (the first GPU, else the CPU); "mirrored" (all devices of this machine); "multi_worker" (machines
      named by the environment variable TF_CONFIG); "tpu"; "auto" is "mirrored" with several GPUs, else "one_device".
    tpu: name or address of the TPU; "" for the one that the environment names, "local" for a TPU VM.

  Raises: UserError for an unknown name, or when TF_CONFIG or the TPU is missing.
  """
  gpus = tf.config.list_logical_devices("GPU") if name not in ("tpu", "multi_worker") else []
  if name == "auto":
    name = "mirrored" if len(gpus) > 1 else "one_device"
  if name == "one_device":
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
  if name == "mirrored":
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])
  if name == "multi_worker":
    return _multi_worker()
  if name == "tpu":
    return _tpu(tpu)
  raise UserError(f"train.strategy is {name!r}; it must be one of {list(STRATEGIES)}")


def tune_for_cpu(training: bool = True, fast_convolutions: bool = True) -> None:
  """Sets this process up for computing on a CPU, when it has no GPU; both as `benchmarks/train_step.py` measures.

  Wide 3x3 convolutions take fewer multiplications (`ops.winograd`), if wanted. For training TensorFlow's graph optimizer is
  off: a step runs as fast without it and starts seconds earlier; options of it that were set before are left alone.
  """
  if tf.config.list_physical_devices("GPU"):
    return
  winograd.enable(fast_convolutions)
  if training and not any(tf.config.optimizer.get_experimental_options().values()):
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _multi_worker() -> tf.distribute.Strategy:
  example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
  try:
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
  except json.JSONDecodeError as error:
    raise UserError(f"TF_CONFIG is not JSON ({error}); it must look like {example}") from error
  if "cluster" not in cluster:
    raise UserError(f"train.strategy is 'multi_worker' and TF_CONFIG names no cluster; set it on each host: {example}")
  return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(address: str) -> tf.distribute.Strategy:
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
    if address != "local":
      tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except (ValueError, tf.errors.OpError) as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(f"no TPU found as train.tpu={address!r} ({reason}); name it, or use 'local' on a TPU VM") from error
  return tf.distribute.TPUStrategy(resolver)


def set_precision(name: str) -> None:
  """Sets the Keras policy of layers built from now on.

  Raises: UserError for an unknown name.
  """
  if name not in PRECISIONS:
    raise UserError(f"train.precision is {name!r}; it must be one of {list(PRECISIONS)}")
  keras.mixed_precision.set_global_policy(name)


@dataclasses.dataclass(frozen=True)
class Worker:
  """The place of a process among those of a run.

  Attributes:
    index: from 0; 0 is the chief, which writes the run directory.
    count: processes that each run the program; TPU hosts, which one program drives, do not count.
  """

  index: int = 0
  count: int = 1

  @property
  def is_chief(self) -> bool:
    """Whether this process writes the run directory."""
    return self.index == 0

  @classmethod
  def of(cls, strategy: tf.distribute.Strategy) -> Worker:
    """Returns this process's place under a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
      return cls()
    resolver = strategy.cluster_resolver
    return cls(resolver.task_id or 0, len(resolver.cluster_spec().as_dict().get("worker", ["this"])))


def first_value(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
  """Returns the value of the first local replica; for values that are equal on all of them."""
  return strategy.experimental_local_results(value)[0]


def gather(strategy: tf.distribute.Strategy, value: tf.Tensor) -> np.ndarray:
  """Joins what the local replicas have, in order, along the first axis."""
  return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])


def agree(strategy: tf.distribute.Strategy, wish: bool) -> bool:
  """Returns whether any of the processes wishes it; all of them ask at the same time and get the same answer."""
  if Worker.of(strategy).count == 1:
    return wish

  return bool(_adder(strategy)(tf.constant(float(wish))) > 0)


@functools.lru_cache(maxsize=1)
def _adder(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
  def replica(value: tf.Tensor) -> tf.Tensor:
    placed = tf.identity(value)  # on the replica's device; the sum goes where its parts are
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, placed)

  def everywhere(mine: tf.Tensor) -> tf.Tensor:
    return first_value(strategy, strategy.run(replica, args=(mine,)))

  return tf.function(everywhere, autograph=False)
