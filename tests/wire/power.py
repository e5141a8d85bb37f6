"""
A power cut for SQLite's files: records every write and every sync, and makes what a disk may hold if it ends there.

A file system in between (an SQLite VFS, through ctypes) passes everything on and writes it down. What was synced is
there for sure. Of what was written later, any sector may be there or not, in any order, and where a file grew, it may
have grown with zeros.
"""

import _sqlite3
import ctypes
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

SECTOR = 512

# The name as a mere address, since SQLite keeps it.
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """The head of sqlite3_vfs, version 3, and room for the rest."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", _OPEN),
        ("rest", ctypes.c_void_p * 15),
    )


class _Methods(ctypes.Structure):
    """The head of sqlite3_io_methods, version 3, and room for the rest."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", _WRITE),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        ("rest", ctypes.c_void_p * 13),
    )


@define
class Disk:
    """
    What happened, in order.

    Attributes:
        log: `(kind, what, where, data)`: a write, truncate or sync of a file; what a test notes has no file.
        before: The files as they were when the recording began.
    """

    log: list[tuple[str, str, int, bytes]] = field(factory=list)
    before: dict[str, bytes] = field(factory=dict)

    def begin(self, path: Path) -> None:
        """Forget the log, and take for synced what the database at *path* and its log of writes have now."""
        del self.log[:]
        self.before |= {f"{path}{suffix}": Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}

    def cut(self, path: Path, copy: Path, until: int, rng: random.Random) -> None:
        """Write to *copy* what may be left of the database at *path* if the power is cut before the event *until*."""
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").write_bytes(self._left(f"{path}{suffix}", until, rng))

    def note(self, kind: str, what: str) -> None:
        """Write down what a test has seen."""
        self.log.append((kind, what, 0, b""))

    def noted(self, kind: str, until: int) -> set[str]:
        return {what for each, what, _, _ in self.log[:until] if each == kind}

    def _left(self, path: str, until: int, rng: random.Random) -> bytes:
        events = [event for event in self.log[:until] if event[1] == path]
        synced = max((i for i, event in enumerate(events) if event[0] == "sync"), default=-1)
        content = bytearray(self.before.get(path, b""))
        for event in events[: synced + 1]:
            _apply(content, event)
        chance = rng.choice([0.0, 0.5, 0.9, 1.0])
        for kind, what, where, data in events[synced + 1 :]:
            if kind == "truncate":
                if rng.random() < chance:
                    _apply(content, (kind, what, where, data))
                continue
            for start in range(0, len(data), SECTOR):
                sector = data[start : start + SECTOR]
                if rng.random() < chance:
                    _apply(content, (kind, what, where + start, sector))
                elif rng.random() < chance and where + start >= len(content):
                    _apply(content, (kind, what, where + start, bytes(len(sector))))
        return bytes(content)


def _apply(content: bytearray, event: tuple[str, str, int, bytes]) -> None:
    kind, _, where, data = event
    if kind == "truncate":
        content[where:] = bytes(max(0, where - len(content)))
    elif kind == "write":
        content.extend(bytes(max(0, where - len(content))))
        content[where : where + len(data)] = data


_alive: list[object] = []  # a connection that outlives its block still calls what was made for it


@contextmanager
def recorded() -> Iterator[Disk]:
    """Record what every connection writes that is opened in the block; skip the test where SQLite cannot be reached."""
    sqlite = ctypes.CDLL(_sqlite3.__file__)
    sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    real = sqlite.sqlite3_vfs_find(None)
    ours = _Vfs.from_buffer_copy(real.contents)
    disk, names = Disk(), {}

    def opened(vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        status = real.contents.open(vfs, name, file, flags, out)
        at = ctypes.cast(file, ctypes.POINTER(ctypes.POINTER(_Methods)))
        if status == 0 and name is not None and at.contents:
            names[file] = ctypes.string_at(name).decode()
            at[0] = ctypes.pointer(_recording(at.contents.contents, names, disk))
            _alive.append(at[0])
        return status

    ours.name, ours.open = b"recorded", _OPEN(opened)
    _alive.append(ours)
    sqlite.sqlite3_vfs_register(ctypes.byref(ours), 1)
    try:
        yield disk
    finally:
        sqlite.sqlite3_vfs_register(real, 1)
        sqlite.sqlite3_vfs_unregister(ctypes.byref(ours))


def _recording(real: _Methods, names: dict[int, str], disk: Disk) -> _Methods:
    ours = _Methods.from_buffer_copy(real)
    write, truncate, sync = real.write, real.truncate, real.sync

    def written(file: int, data: int, size: int, where: int) -> int:
        disk.log.append(("write", names[file], where, ctypes.string_at(data, size)))
        return int(write(file, data, size, where))

    def truncated(file: int, size: int) -> int:
        disk.log.append(("truncate", names[file], size, b""))
        return int(truncate(file, size))

    def synced(file: int, flags: int) -> int:
        status = int(sync(file, flags))
        disk.log.append(("sync", names[file], 0, b""))
        return status

    ours.write, ours.truncate, ours.sync = _WRITE(written), _TRUNCATE(truncated), _SYNC(synced)
    return ours


def reachable() -> bool:
    """Tell whether this Python's SQLite can be reached: not if it is linked into the interpreter without its names."""
    return hasattr(ctypes.CDLL(getattr(_sqlite3, "__file__", None)), "sqlite3_vfs_find") and bool(sqlite3.threadsafety)
