"""Two workers, two processes, over loopback: the whole command, and an evaluation that counts each picture once."""

import json
import os
import socket
import subprocess
import sys

import pytest

from spinenet_tf.backbones.spec import Architecture

pytestmark = pytest.mark.slow


def _free_ports(count: int) -> list[int]:
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(("127.0.0.1", 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


def test_two_workers_train_and_evaluate(root, shapes, tiny, tmp_path):
  Architecture.from_dict(tiny).to_json(tmp_path / "tiny.json")
  workers = [f"127.0.0.1:{port}" for port in _free_ports(2)]
  command = [sys.executable, "-m", "spinenet_tf.train"]
  command += [f"--gin_file={root}/experiments/demo.gin", f"--gin_file={root}/experiments/overlays/tiny_cpu.gin"]
  for binding in (
    f"DATA_DIR='{shapes}'",
    f"model.architecture='{tmp_path}/tiny.json'",
    "train.strategy='multi_worker'",
    "data.batch_size=4",
  ):
    command.append(f"--gin_param={binding}")
  command.append(f"--model_dir={tmp_path}/run")
  processes = []
  for index in range(2):
    task = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
    environment = {**os.environ, "TF_CONFIG": task, "CUDA_VISIBLE_DEVICES": ""}
    processes.append(
      subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )
  try:
    outputs = [process.communicate(timeout=1200)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], "\n".join(o[-3000:] for o in outputs)
  metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
  assert metrics["images"] == metrics["images_evaluated"] == 4
