"""Files of `torch.save` without PyTorch, and without running anything that they ask for.

Such a file is a pickle of containers and of tensors' shapes, with the numbers beside it. A pickle may name any function to
call; here the few that make tensors and dictionaries are known, each with a harmless stand-in, and any other is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from spinenet_tf.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before PyTorch 1.6
_PROTOCOL = 1001
_TYPES = {
  "FloatStorage": np.dtype("<f4"),
  "DoubleStorage": np.dtype("<f8"),
  "HalfStorage": np.dtype("<f2"),
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("<i1"),
  "ByteStorage": np.dtype("<u1"),
  "BoolStorage": np.dtype("?"),
}
_SUPPORTED_VERSIONS = range(1, 100)  # of the zip format; PyTorch writes 3


@dataclasses.dataclass
class _Storage:
  """Numbers in a row; `data` is filled in when the file has come to them."""

  dtype: np.dtype
  count: int
  read: Callable[[], bytes] | None = None

  def numbers(self) -> np.ndarray:
    data = self.read() if self.read else b""
    if len(data) < self.count * self.dtype.itemsize:
      raise UserError(f"a tensor has {len(data)} bytes of {self.count * self.dtype.itemsize}; the file is truncated")
    return np.frombuffer(data, self.dtype, self.count)


@dataclasses.dataclass
class Tensor:
  """A tensor whose numbers are read when they are asked for."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def numpy(self) -> np.ndarray:
    """Returns the numbers.

    Raises: UserError when the tensor reaches beyond its storage, or the file does not have them all.
    """
    last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
    if 0 in self.shape:
      return np.zeros(self.shape, self.storage.dtype)
    if self.offset < 0 or min(self.strides, default=0) < 0 or last >= self.storage.count:
      raise UserError(
        f"a tensor of shape {list(self.shape)} reaches beyond its {self.storage.count} numbers; file damaged"
      )
    numbers = self.storage.numbers()[self.offset :]
    strides = [stride * numbers.itemsize for stride in self.strides]
    return np.lib.stride_tricks.as_strided(numbers, self.shape, strides).copy()


@dataclasses.dataclass(frozen=True)
class _StorageType:
  """Stands for torch.FloatStorage and its like."""

  dtype: np.dtype


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
  shape, strides = tuple(size), tuple(stride)
  numbers = (offset, *shape, *strides)
  if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(type(n) is int for n in numbers):
    raise pickle.UnpicklingError("a tensor is malformed")
  return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
  return data


_ALLOWED: dict[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  **{("torch", name): _StorageType(dtype) for name, dtype in _TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Knows what makes tensors and dictionaries, and nothing else."""

  def __init__(self, file: BinaryIO, make_storage: Callable[[tuple], _Storage] | None = None):
    super().__init__(file, encoding="utf-8")
    self._make_storage = make_storage

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      raise UserError(
        f"the file asks for {module}.{name}, which is neither a tensor nor a dictionary; it was refused and nothing was "
        "run. Where the file is trusted, load it with PyTorch and save its state_dict alone"
      )
    return _ALLOWED[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    if self._make_storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
      raise pickle.UnpicklingError(f"unknown reference {str(pid)[:80]}")
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, _StorageType) or not isinstance(key, str) or type(count) is not int or count < 0:
      raise pickle.UnpicklingError("a storage is malformed")
    return self._make_storage(pid)


def read(path: str | os.PathLike) -> Any:
  """Returns the content of a file: containers, plain values and `Tensor`s.

  Raises: UserError when it is not there, not of `torch.save`, truncated, of an unknown version, or asks for anything but
    tensors and containers.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise UserError(f"there is no file {path!r}; give a .pth file")
  try:
    return _read_zip(path) if _starts_as_zip(path) else _read_legacy(path)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  except (zipfile.BadZipFile, EOFError, struct.error, KeyError) as error:
    raise UserError(f"{path} is truncated or damaged ({_line(error)}); copy it again") from error
  except Exception as error:  # a damaged pickle fails in any way
    raise UserError(f"{path} is no file of torch.save, or it is damaged ({_line(error)})") from error


def _starts_as_zip(path: str) -> bool:
  with open(path, "rb") as file:
    return file.read(4) == b"PK\x03\x04"


def _read_zip(path: str) -> Any:
  archive = zipfile.ZipFile(path)
  pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
  if len(pickles) != 1:
    raise UserError("the zip archive holds no data.pkl, so torch.save did not write it")
  root = pickles[0].removesuffix("data.pkl")
  known = set(archive.namelist())
  version = archive.read(root + "version").strip() if root + "version" in known else b"missing"
  if not version.isdigit() or int(version) not in _SUPPORTED_VERSIONS:
    raise UserError(
      f"the version of the file is {version.decode(errors='replace')!r}; this reads PyTorch's zip format, 3"
    )
  if root + "byteorder" in known and archive.read(root + "byteorder").strip() != b"little":
    raise UserError("the file's numbers are big-endian; only little-endian ones are read")

  def storage(pid: tuple) -> _Storage:
    return _Storage(pid[1].dtype, pid[4], lambda: archive.read(f"{root}data/{pid[2]}"))

  return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(path: str) -> Any:
  """Reads the format before PyTorch 1.6: pickles in a row, then for each storage a count and its numbers."""
  storages: dict[str, _Storage] = {}

  def storage(pid: tuple) -> _Storage:
    if len(pid) > 5 and pid[5] is not None:
      raise pickle.UnpicklingError("views of storages are not read")
    return storages.setdefault(pid[2], _Storage(pid[1].dtype, pid[4]))

  with open(path, "rb") as file:
    if _Unpickler(file).load() != _MAGIC:
      raise UserError("it does not start as a file of torch.save does")
    if (version := _Unpickler(file).load()) != _PROTOCOL:
      raise UserError(f"the version of the file is {version!r}; this reads {_PROTOCOL}")
    if not _Unpickler(file).load().get("little_endian", True):
      raise UserError("the file's numbers are big-endian; only little-endian ones are read")
    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():
      (count,) = struct.unpack("<q", file.read(8))
      found = storages[key]
      if count != found.count:
        raise UserError(f"a storage has {count} numbers, its tensors expect {found.count}; the file is damaged")
      size = count * found.dtype.itemsize
      data = file.read(size)
      if len(data) < size:
        raise UserError(f"a storage has {len(data)} bytes of {size}; the file is truncated")
      found.read = lambda data=data: data
  return content


def _line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
