"""Files of torch.save, made here byte by byte: tensors are read, anything else is refused and not run."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from spinenet_tf.errors import UserError
from spinenet_tf.importers import torch_files

GLOBAL = "c{}\n{}\n"


def _pickled(kind="FloatStorage", count=6, legacy=False):
  """Protocol 0 pickle of {"state_dict": {"w": a tensor of 2 x 3 whose columns come first}}."""
  storage = f"(S'storage'\nctorch\n{kind}\nS'0'\nS'cpu'\nI{count}\n{'N' if legacy else ''}tQ"
  tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n(I2\nI3\nt(I1\nI2\ntI00\nN"
  return f"(dS'state_dict'\n(dS'w'\n{tensor}tRss.".encode()


NUMBERS = np.arange(6, dtype="<f4")
WANTED = np.array([[0, 2, 4], [1, 3, 5]], np.float32)


def _zip(path, pickled, version=b"3\n", data=None):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickled)
    archive.writestr("archive/version", version)
    archive.writestr("archive/data/0", NUMBERS.tobytes() if data is None else data)
  return path


def _legacy(path, pickled, numbers=None):
  head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
  body = b"".join(pickle.dumps(x, 2) for x in head) + pickled + pickle.dumps(["0"], 2) + struct.pack("<q", 6)
  path.write_bytes(body + (NUMBERS.tobytes() if numbers is None else numbers))
  return path


def test_both_formats(tmp_path):
  for path in (_zip(tmp_path / "a.pth", _pickled()), _legacy(tmp_path / "b.pth", _pickled(legacy=True))):
    np.testing.assert_array_equal(torch_files.read(path)["state_dict"]["w"].numpy(), WANTED)


class _Evil:
  def __init__(self, call):
    self.call = call

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused(tmp_path, protocol):
  proof = tmp_path / "proof"
  for call in ((os.system, (f"touch {proof}",)), (eval, (f"open({str(proof)!r}, 'w')",)), (getattr, ({}, "get"))):
    pickled = pickle.dumps({"state_dict": _Evil(call)}, protocol)
    for path in (_zip(tmp_path / "a.pth", pickled), _legacy(tmp_path / "b.pth", pickled)):
      with pytest.raises(UserError, match="refused and nothing was run"):
        torch_files.read(path)
  (tmp_path / "c.pth").write_bytes(pickle.dumps(_Evil((os.system, (f"touch {proof}",))), protocol))
  with pytest.raises(UserError, match="refused and nothing was run"):
    torch_files.read(tmp_path / "c.pth")
  assert not proof.exists()


def test_broken_files(tmp_path):
  whole = _zip(tmp_path / "a.pth", _pickled()).read_bytes()
  (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="truncated or damaged"):
    torch_files.read(tmp_path / "cut.pth")
  with pytest.raises(UserError, match="truncated"):
    torch_files.read(_legacy(tmp_path / "b.pth", _pickled(legacy=True), numbers=b"1234"))
  with pytest.raises(UserError, match="version of the file is '999'"):
    torch_files.read(_zip(tmp_path / "v.pth", _pickled(), version=b"999"))
  with pytest.raises(UserError, match="8 bytes of 24"):
    torch_files.read(_zip(tmp_path / "d.pth", _pickled(), data=b"12345678"))["state_dict"]["w"].numpy()
  with pytest.raises(UserError, match="reaches beyond its 5 numbers"):
    torch_files.read(_zip(tmp_path / "e.pth", _pickled(count=5)))["state_dict"]["w"].numpy()
  (tmp_path / "text.pth").write_text("hello")
  with pytest.raises(UserError, match="no file of torch.save"):
    torch_files.read(tmp_path / "text.pth")
  with pytest.raises(UserError, match="there is no file"):
    torch_files.read(tmp_path / "none.pth")
