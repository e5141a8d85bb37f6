"""Signals in one SQLite file: what the event loop calls. The file is the writer's, which has a thread of its own."""

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar, get_args

import attrs
from attrs import frozen

from ...errors import ConfigurationError, StoreError
from ...log import log_fields
from ...receipts import Receipt
from ...signals import RiskLevel, RiskSignal
from .. import StoredSignal
from . import file, rows
from .file import Snapshot, Synchronous
from .writer import Read, Stop, Write, Writer

logger = logging.getLogger("riskbatch")

_T = TypeVar("_T")


@frozen
class Chunk:
    """
    The next signals of a level.

    Attributes:
        signals: Oldest first.
        damaged: How many rows between them cannot be read; they stay in the store and are reported there.
        last: The row up to which this and the chunks before it have the whole level.
    """

    signals: Sequence[StoredSignal]
    damaged: int
    last: int


class SqliteStore:
    """
    Keeps signals in a file until they are settled: what `Client(store=...)` takes.

    The file belongs to one client at a time, on a local disk; another gets a `StoreError`. It has mode 0600, and holds
    signals but no credentials. Beside it are SQLite's `-wal` and `-shm`, and a `-lock` that stays. Needs the file locks
    of a POSIX system.

    What a former client left there counts for the `capacity` of the next, and of each level it is sent before what
    comes. Of each level some 2,000 signals at the most are in memory, the next to be sent; the rest is in the file
    only, whatever its size. A row that is damaged is reported by its number and its field, and passed over. If the file
    is removed or replaced under an open client, `enqueue` raises `StoreError`.

    Args:
        path: The file; made if it is not there. A file that is no store of this package is refused and left as it is.
        synchronous: With "FULL" (`PRAGMA synchronous=FULL` on a write-ahead log) each group of signals is synced to
            the disk before `enqueue` returns, so that they survive a power cut. "NORMAL" syncs at checkpoints only:
            they survive `kill -9`, but the last moments before a power cut may be lost.
        keep_settled: How long settled signals stay in the file with their outcomes; by default they leave at once.

    Raises:
        ConfigurationError: An argument cannot work; the message says which.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        keep_settled: timedelta | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < file.SQLITE:
            needed, found = ".".join(map(str, file.SQLITE)), sqlite3.sqlite_version
            raise ConfigurationError(f"a SqliteStore needs SQLite {needed}; this Python has {found}")
        if synchronous not in get_args(Synchronous):
            raise ConfigurationError(f"synchronous is {synchronous!r}; it must be one of {get_args(Synchronous)}")
        if keep_settled is not None and not (isinstance(keep_settled, timedelta) and keep_settled > timedelta(0)):
            raise ConfigurationError(f"keep_settled is {keep_settled!r}; it must be a positive timedelta")
        self.path: str = os.path.realpath(path)
        self._synchronous = synchronous
        self._keep = keep_settled
        self._writer: Writer | None = None
        self._next = 1  # the number of the next signal
        self._damaged: set[int] = set()  # rows that were reported

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {'open' if self._writer else 'closed'}>"

    async def open(self, *, by_address: bool = False) -> Snapshot:
        """
        Become the only owner, or raise. If this is cancelled, the store is not open.

        Args:
            by_address: Whether `find` will be called.
        """
        if self._writer is not None:
            raise StoreError(f"{self.path} is already open")
        writer = Writer(self.path, self._synchronous, self._keep, asyncio.get_running_loop(), by_address=by_address)
        self._writer, self._damaged = writer, set()
        writer.thread.start()
        try:
            snapshot = await writer.opened
        except BaseException:
            await self.close()
            raise
        self._next = snapshot.newest + 1
        return snapshot

    # -- writing

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """
        Return the rows of *signals*, in their order, once all of them would survive a crash.

        Callers that wait at the same time share a write, and resume in the order of their rows. If the call is
        cancelled, the signals are gone when it raises.
        """
        first = self._next
        added = range(first, first + len(signals))
        done = self._write(rows.insert, list(zip(added, signals, strict=True)))
        self._next += len(signals)
        try:
            await done
        except asyncio.CancelledError:
            await self.withdraw(added)
            raise
        return added

    async def withdraw(self, withdrawn: Sequence[int]) -> None:
        """Return when *withdrawn* are gone, however often the call is cancelled meanwhile."""
        keys = [rows.key_of(level, row) for row in withdrawn for level in RiskLevel]  # of these, one is in the file
        if not keys:
            return
        with suppress(StoreError):
            gone = self._write(rows.forget, keys, is_owed=True)
            while not gone.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({gone})
            if gone.exception() is not None:
                text, found = "a cancelled signal could not be withdrawn from %s yet", log_fields("store_failed")
                logger.error(text, self.path, extra=found)

    def settle(self, ended: Sequence[tuple[int, Receipt]]) -> None:
        """Forget rows, each given with its receipt, which has its outcome. Failures are logged and retried."""
        if self._keep is None:
            self._owe(rows.forget, [_key(row, receipt) for row, receipt in ended])
        else:
            self._owe(rows.keep, [(_key(row, receipt), *_outcome(receipt)) for row, receipt in ended])

    def replace(self, level: RiskLevel, row: int, by: int) -> None:
        """Give *row* of *level*, which is settled, to the signal of the row *by* of that level; *by* is gone then."""
        self._owe(rows.rename, [(rows.key_of(level, row), rows.key_of(level, by))])

    def note(self, tried: Sequence[tuple[int, Receipt]]) -> None:
        """Remember `attempts` and `may_have_arrived` of rows, each given with its receipt, soon."""
        self._owe(rows.note, [(_key(row, each), each.attempts, each.may_have_arrived) for row, each in tried])

    def _owe(self, apply: Callable[[sqlite3.Connection, list[Any]], None], written: list[Any]) -> None:
        if written:
            with suppress(StoreError):  # closed: then the file keeps what is settled, and it is sent again
                self._submit(Write(apply, written, is_owed=True))

    def _write(
        self, apply: Callable[[sqlite3.Connection, list[Any]], None], written: list[Any], *, is_owed: bool = False
    ) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(Write(apply, written, done, is_owed))
        return done

    def _submit(self, operation: Write | Read) -> None:
        if self._writer is None:
            raise StoreError(f"{self.path} is not open")
        if self._writer.refusal is not None:
            raise StoreError(self._writer.refusal)
        self._writer.operations.put(operation)

    # -- reading

    async def load(self, level: RiskLevel, after: int, until: int, limit: int) -> Chunk:
        """Return the oldest signals of *level* with *after* < row <= *until*; none only if there are no more."""
        damaged = 0
        while True:
            where = "id > ? AND id <= ? ORDER BY id LIMIT ?"
            found = await self._read(where, (rows.key_of(level, after), rows.key_of(level, until), limit))
            damaged += len(found.damaged)
            is_all = len(found) < limit
            after = until if is_all else found.last & rows.NUMBER
            if found.signals or is_all:
                return Chunk(found.signals, damaged, after)

    async def find(self, ips: Sequence[str]) -> Sequence[StoredSignal]:
        """Return the signals for any of *ips*."""
        found = await self._read("ip IN (SELECT value FROM json_each(?))", (json.dumps(list(ips)),))
        return found.signals

    async def due(self, until: datetime, limit: int) -> tuple[Sequence[StoredSignal], datetime | None]:
        """Return up to *limit* signals that expire by *until*, and when the first expires that does so later."""
        time = rows.to_int(until)
        where = """
            expires_at >= ? AND expires_at <= ? AND id & ? NOT IN (SELECT value FROM json_each(?))
            ORDER BY expires_at LIMIT ?
        """
        while True:
            values = (rows.TIMES[0], time, rows.NUMBER, json.dumps(list(self._damaged)), limit)
            found = await self._read(where, values)
            if found.signals or len(found) < limit:
                return found.signals, await self._ask(partial(file.next_expiry, after=time))

    async def _read(self, where: str, values: tuple[object, ...]) -> rows.Rows:
        found = await self._ask(lambda db: rows.read(db, where, values))
        rows.report(self.path, {row: name for row, name in found.damaged.items() if row not in self._damaged})
        self._damaged |= found.damaged.keys()
        return found

    async def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._submit(Read(question, done))
        return await done

    # -- the end

    async def close(self) -> None:
        """Write what is owed, and give up the ownership. Does nothing if the store is not open."""
        writer = self._writer
        if writer is None:
            return
        self.abort()
        while not writer.ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({writer.ended})
        writer.thread.join()  # it has nothing left to do but to return

    def abort(self) -> None:
        """Begin to close without waiting, where nothing can be awaited any more."""
        if self._writer is not None:
            self._writer.operations.put(Stop())
            self._writer = None


def _key(row: int, receipt: Receipt) -> int:
    return rows.key_of(receipt.signal.risk_level, row)


def _outcome(receipt: Receipt) -> tuple[str, str]:
    assert receipt.outcome is not None  # noqa: S101 - settled
    fields = attrs.asdict(receipt.outcome, recurse=False)
    if "by" in fields:
        fields["by"] = fields["by"].to_json()
    return type(receipt.outcome).__name__, json.dumps(fields)
