"""
The thread that has a store's file open, and the one place where writes share a transaction.

The event loop hands in each operation as it comes. What has come while the thread wrote is the next transaction, so
that the first of many is on its way to the disk while the rest still arrives.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from attrs import define

from ...errors import StoreError
from ...log import log_fields
from . import file
from .rows import to_int, value_of

logger = logging.getLogger("riskbatch")

_T = TypeVar("_T")
GROUP = 256  # rows a transaction: those who wait for them wake in one turn of the event loop, in some 3 ms
_RETRY = 1.0  # seconds until an owed write that failed is tried again
_FAILURES = (StoreError, sqlite3.Error, OSError)
_TIDY = 5.0  # seconds between two looks at what the file no longer needs, and whether it is still there


@define(eq=False)
class Write:
    """
    Rows to write.

    Attributes:
        apply: Writes *rows* in a transaction; neighbours with the same function are written by one call.
        rows: As that function takes them.
        done: Who waits for it.
        is_owed: Whether it is tried until it succeeds. Otherwise its failure is the result.
    """

    apply: Callable[[sqlite3.Connection, list[Any]], None]
    rows: Sequence[Any]
    done: asyncio.Future[None] | None = None
    is_owed: bool = False


@define(eq=False)
class Read:
    """A question about the file, answered after the writes before it."""

    question: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class Stop:
    """The last operation."""


Operation: TypeAlias = Write | Read | Stop
_Results: TypeAlias = list[tuple[asyncio.Future[Any], Any]]


class Writer:
    """
    Serves operations on one file, in their order, until it is told to stop.

    Args:
        path: The file.
        synchronous: See `SqliteStore`.
        keep: How long settled signals stay.
        loop: On which the futures are.
        by_address: Whether signals will be found by their addresses.

    Attributes:
        thread: Has the file open, once it is started.
        operations: What it serves.
        refusal: Why nothing is served any more.
        opened: What the file held; or why it could not be opened.
        ended: Whether the file is closed.
    """

    def __init__(
        self,
        path: str,
        synchronous: file.Synchronous,
        keep: timedelta | None,
        loop: asyncio.AbstractEventLoop,
        *,
        by_address: bool,
    ) -> None:
        self.path = path
        self.thread = threading.Thread(target=self._run, name=f"riskbatch store {path}", daemon=True)
        self.operations: queue.SimpleQueue[Operation] = queue.SimpleQueue()
        self.refusal: str | None = None
        self.opened: asyncio.Future[file.Snapshot] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._synchronous = synchronous
        self._keep = keep
        self._loop = loop
        self._by_address = by_address
        self._undelivered: deque[_Results] = deque()
        self._owed: list[Write] = []
        self._is_behind = False  # what is owed could not be written, and that was logged
        self._tidy_at = 0.0

    def _run(self) -> None:
        """Open the file and serve; the body of the thread."""
        try:
            with file.owned(self.path) as self._owner, closing(file.connect(self.path, self._synchronous)) as self._db:
                snapshot = self._repairing(lambda: file.mark_open(self._db, by_address=self._by_address))
                self._owner.watch()
                self._post([(self.opened, snapshot)])
                self._serve()
                self._owner.check()
                file.mark_closed(self._db)
        except _FAILURES as error:
            self._call(self._end, self._failure(error))
        except BaseException as error:
            found = log_fields("store_failed", reason=type(error).__name__)
            logger.exception("the writer of %s failed", self.path, extra=found)
            self._call(self._end, StoreError(f"{self.path}: {type(error).__name__}"))
        else:
            self._call(self._end, None)

    def _end(self, failure: StoreError | None) -> None:
        """Answer, on the event loop, all that will not be served; no operation can come in between."""
        if failure is not None and self.opened.done():
            logger.error("a store was not closed cleanly: %s", failure, extra=log_fields("store_failed"))
        refusal = failure or StoreError(f"{self.path} is not open")
        self.refusal = f"{self.path} cannot be used any more: {refusal}"
        left: list[Operation] = []
        while not self.operations.empty():
            left.append(self.operations.get_nowait())
        self._deliver([(self.opened, refusal), *_results(left, refusal), (self.ended, None)])

    def _deliver(self, results: _Results) -> None:
        """Give *results*, on the event loop, to those who wait; those of one transaction in a turn of the loop."""
        self._undelivered.append(results)
        if len(self._undelivered) == 1:
            self._loop.call_soon(self._deliver_first)

    def _deliver_first(self) -> None:
        for done, result in self._undelivered.popleft():  # in the order in which those who wait shall go on
            if done.done():  # cancelled
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
                done.exception()  # whoever was cancelled does not look
            else:
                done.set_result(result)
        if self._undelivered:
            self._loop.call_soon(self._deliver_first)

    def _failure(self, error: Exception) -> StoreError:
        return error if isinstance(error, StoreError) else StoreError(f"{self.path}: {file.reason(error)}")

    def _post(self, results: _Results) -> None:
        if results:
            self._call(self._deliver, results)

    def _call(self, function: Callable[[_T], None], argument: _T) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(function, argument)

    # -- operations

    def _serve(self) -> None:
        last: Read | Stop | None = None
        while not isinstance(last, Stop):
            writes, last = self._next_group()
            if writes or self._owed:
                self._write([*self._owed, *writes])
            if isinstance(last, Read):
                self._answer(last)
            if time.monotonic() >= self._tidy_at:
                self._tidy()
                self._tidy_at = time.monotonic() + _TIDY
        if self._owed:
            text = "%s could not be told of what is settled; it will be sent again"
            logger.error(text, self.path, extra=log_fields("store_failed"))

    def _next_group(self) -> tuple[list[Write], Read | Stop | None]:
        """Wait for operations; return the writes of the next transaction, and what came after them if it is none."""
        writes: list[Write] = []
        size = 0
        with suppress(queue.Empty):
            operation = self.operations.get(timeout=_RETRY if self._owed else _TIDY)
            while isinstance(operation, Write):
                writes.append(operation)
                size += len(operation.rows)
                if size >= GROUP:
                    return writes, None
                operation = self.operations.get_nowait()
            return writes, operation
        return writes, None

    def _write(self, writes: Sequence[Write]) -> None:
        """Write all or, if that fails, one after the other: what is settled may make room for what comes."""
        self._owed = []
        failure = self._try(writes)
        for write in writes if failure else ():
            alone = failure
            if len(writes) > 1 and not (write.is_owed and self._owed):  # what is owed keeps its order
                alone = self._try([write])
            if alone:
                self._put_off(write, alone)
        if self._is_behind and not self._owed:
            self._is_behind = False
            found = log_fields("store_recovered")
            logger.warning("%s has been told of all that is settled", self.path, extra=found)

    def _try(self, writes: Sequence[Write]) -> StoreError | None:
        """Write all and tell those who wait, or return why nothing was written."""
        try:
            self._repairing(lambda: self._transact(writes))
        except _FAILURES as error:
            return self._failure(error)
        self._post(_results(writes, None))
        return None

    def _put_off(self, write: Write, failure: StoreError) -> None:
        """Tell who waits for *write* that it failed; if it is owed, it is tried again every second."""
        self._post(_results([write], failure))
        if not write.is_owed:
            return
        self._owed.append(Write(write.apply, write.rows, None, is_owed=True))
        if not self._is_behind:
            self._is_behind = True
            found = log_fields("store_failed", reason=str(failure))
            logger.error("a store cannot be told of what is settled, trying again: %s", failure, extra=found)

    def _transact(self, writes: Sequence[Write]) -> None:
        with file.transaction(self._db):
            for apply, neighbours in groupby(writes, key=attrgetter("apply")):
                apply(self._db, [row for write in neighbours for row in write.rows])
            self._owner.check()  # last, so that nothing is acknowledged that went to a file which is gone

    def _answer(self, read: Read) -> None:
        result: Any
        try:
            result = self._repairing(lambda: read.question(self._db))
        except _FAILURES as error:
            result = self._failure(error)
        except Exception as error:
            result = StoreError(f"{self.path}: {type(error).__name__}")
        self._post([(read.done, result)])

    def _repairing(self, action: Callable[[], _T]) -> _T:
        """Run *action*; if SQLite fails in a way that can be repaired, once more."""
        try:
            return action()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # absent if Python raised it
            repair = _REPAIRS.get(code)
            if repair is None:
                raise
            with suppress(sqlite3.Error):
                self._db.execute(repair)
            return action()

    def _tidy(self) -> None:
        """Forget what was kept long enough, and give back to the file system what the file does not need."""
        with suppress(sqlite3.Error, StoreError, OSError):
            self._owner.check()  # makes the lock file again if it was removed; what is wrong is told to who writes
            until = datetime.now(UTC) - self._keep if self._keep is not None else datetime.max.replace(tzinfo=UTC)
            self._db.execute("DELETE FROM settled WHERE settled_at < ?", (to_int(until),))
            while value_of(self._db.execute("PRAGMA freelist_count")) and self.operations.empty():
                self._db.executescript("PRAGMA incremental_vacuum(500)")  # `execute` would stop after one page
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")


_REPAIRS = {
    sqlite3.SQLITE_FULL: "PRAGMA wal_checkpoint(TRUNCATE)",  # the log may have what room there is
    sqlite3.SQLITE_IOERR: "PRAGMA wal_checkpoint(TRUNCATE)",  # a limit of the process is told so
    sqlite3.SQLITE_CORRUPT: "REINDEX",  # an index that does not fit its table
}


def _results(operations: Sequence[Operation], result: StoreError | None) -> _Results:
    waited_for = (operation for operation in operations if not isinstance(operation, Stop))
    return [(operation.done, result) for operation in waited_for if operation.done is not None]
