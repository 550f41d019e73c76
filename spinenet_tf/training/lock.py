"""One run directory, one run: a lock that the operating system gives up with the process, however that ends."""

from __future__ import annotations

import os
import pathlib
import platform
import weakref
from typing import Any

from absl import logging

from spinenet_tf.errors import UserError

NAME = ".lock"
_held: weakref.WeakValueDictionary[str, RunLock] = weakref.WeakValueDictionary()


class RunLock:
  """An exclusive `flock` on `.lock` in a folder, held until `release`, or until the object or the process is gone.

  The file stays behind and means nothing by itself: the lock is the kernel's, so SIGKILL and a pulled plug free it.

  Args:
    folder: exists and can be written.

  Raises: UserError when another process holds it; it names that one.
  """

  def __init__(self, folder: str | os.PathLike):
    self._path = pathlib.Path(folder) / NAME
    self._file: Any = self._path.open("a+")
    try:
      _lock(self._file)
    except BlockingIOError as error:
      self._file.seek(0)
      holder = self._file.read().strip() or "another process"
      self._file.close()
      raise UserError(
        f"--model_dir={folder} is in use by {holder}; wait until it ends, or stop it, or give another --model_dir"
      ) from error
    except OSError as error:  # some network file systems cannot lock
      logging.warning("%s: no lock on this file system (%s); start one run at a time in it", folder, error.strerror)
    self._file.truncate(0)
    self._file.write(f"process {os.getpid()} on {platform.node()}\n")
    self._file.flush()

  def release(self) -> None:
    """Gives the lock up."""
    self._file.close()
    for key in [key for key, lock in _held.items() if lock is self]:
      del _held[key]


def hold(folder: str | os.PathLike) -> RunLock:
  """Returns the lock of a folder; the same one while this process holds it already."""
  key = os.path.realpath(folder)
  lock = _held.get(key)
  if lock is None:
    _held[key] = lock = RunLock(folder)
  return lock


def _lock(file: Any) -> None:
  try:
    import fcntl
  except ImportError:  # not a POSIX system
    return
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
