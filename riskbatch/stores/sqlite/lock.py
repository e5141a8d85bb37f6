"""
The one owner of a file: who holds the lock of the `-lock` beside it.

`flock`, not `fcntl.lockf`: a record lock is lost as soon as anything in the process closes any descriptor of the file,
as a backup of the folder does. A lock of `flock` belongs to the open file, and ends with it.
"""

import os
import time
from contextlib import suppress
from typing import IO
from weakref import WeakSet

from ...errors import StoreError

_WAIT = 1.0  # seconds in which another process finds out that the file is in use, if the lock file was removed
_Identity = tuple[int, int]  # device and inode
_held: "WeakSet[Ownership]" = WeakSet()


class Ownership:
    """
    Own the file at *path*, which need not exist, until `release` or the end of the process.

    Attributes:
        path: The file.
        is_first: There was no lock file: nobody has owned the file before, or the lock file was removed.

    Raises:
        StoreError: Somebody else owns it, or this system has no such locks.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._watched: dict[str, _Identity | None] = {}
        self.is_first: bool = not os.path.exists(f"{path}-lock")
        self._lock = _locked(path)
        _held.add(self)

    def watch(self) -> None:
        """Remember which files are now under the path and that of its log."""
        self._watched = {name: _identity(name) for name in (self.path, f"{self.path}-wal")}

    def check(self) -> None:
        """
        Refuse to go on if the file is not the one that was opened. A lock file that was removed is made again.

        Raises:
            StoreError: The file or its log was removed or replaced, or the lock was taken by somebody else.
        """
        for name, identity in self._watched.items():
            if _identity(name) != identity:
                raise StoreError(f"{name} was removed or replaced while it was open; what is written now would be lost")
        if _identity(f"{self.path}-lock") != _identity(self._lock.fileno()):
            lost, self._lock = self._lock, _locked(self.path, _WAIT)
            lost.close()

    def release(self) -> None:
        """Let the next owner come."""
        _held.discard(self)
        if self.is_first and not self._watched:  # it was not opened: leave the folder as it was found
            with suppress(OSError):
                os.unlink(f"{self.path}-lock")
        with suppress(OSError):  # a full disk
            self._lock.seek(0)
            self._lock.truncate(0)
        self._lock.close()

    def close_copy(self) -> None:
        """Close the lock in a forked child, which would keep it after the end of its parent."""
        self._lock.close()


def _locked(path: str, patience: float = 0.0) -> IO[str]:
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        raise StoreError("a SqliteStore needs the file locks of a POSIX system") from None
    name, until = f"{path}-lock", time.monotonic() + patience
    while True:
        lock = open(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115 - it is held on to
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                raise StoreError(f"{path} is in use by process {lock.read(20).strip() or 'unknown'}") from None
        except BaseException:
            lock.close()
            raise
        if _identity(name) == _identity(lock.fileno()):  # else it was removed before it was locked
            break
        lock.close()
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _identity(file: str | int) -> _Identity | None:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _close_copies() -> None:
    for ownership in _held:
        ownership.close_copy()
    _held.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_copies)
