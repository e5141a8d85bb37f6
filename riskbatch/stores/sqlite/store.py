"""
Signals in one SQLite file: one writer thread, and one transaction for all who wait at the same time.

The event loop hands each operation to the thread as it comes; what has come while the thread wrote is the next
transaction. So the first of a crowd is on its way to the disk while the rest still arrives.
"""

import asyncio
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar, get_args

import attrs
from attrs import define, field, frozen

from ...errors import ConfigurationError, StoreError
from ...receipts import Receipt as Entry
from ...log import log_fields
from ...signals import RiskLevel, RiskSignal
from . import file
from .file import Bookmark, Held, Record, Synchronous

logger = logging.getLogger("riskbatch")

_T = TypeVar("_T")
_GROUP = 100  # operations a transaction, of which each may be hundreds of signals
_RETRY = 1.0  # seconds until a settlement that failed is written again
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)  # the latter for a limit of the process
_TIDY = 5.0  # seconds between two looks at what the file no longer needs


@frozen(eq=False)
class _Add:
    signals: Sequence[RiskSignal]
    first: int  # number
    done: asyncio.Future[None]
    bookmark: Bookmark | None  # where their feed is then


@define(eq=False)
class _Settle:
    rows: list[tuple[int, str, str]]  # key, outcome, detail
    done: asyncio.Future[None] | None = None
    bookmark: Bookmark | None = None  # where the feed of withdrawn signals was before


@frozen(eq=False)
class _Move:
    key: int  # of what is settled
    heir: int  # the key of what shall have it


@frozen(eq=False)
class _Note:
    rows: list[tuple[int, int, bool]]  # key, attempts, may_have_arrived


@frozen(eq=False)
class _Turn:
    bookmark: Bookmark
    done: asyncio.Future[None]


@frozen(eq=False)
class _Ask:
    question: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class _Stop:
    """The last operation."""


_Change: TypeAlias = _Settle | _Move | _Note | _Turn
_Operation: TypeAlias = _Add | _Change | _Ask | _Stop


@define
class _Group:
    """The operations of one transaction. A change is never about a signal that the same transaction adds."""

    adds: list[_Add] = field(factory=list)
    changes: list[_Change] = field(factory=list)


@define
class _Folded:
    """What changes come to, each row named as it is before them."""

    notes: dict[int, tuple[int, bool]] = field(factory=dict)
    ends: list[tuple[int, str, str]] = field(factory=list)
    moves: dict[int, int] = field(factory=dict)  # to where, from where


def _fold(changes: Sequence[_Change]) -> _Folded:
    """Reckon what *changes* come to, one after the other, so that a few statements can do them all."""
    folded = _Folded()
    moves = folded.moves
    for change in changes:
        match change:
            case _Settle(rows):
                folded.ends += [(moves.pop(key, key), outcome, detail) for key, outcome, detail in rows]
            case _Move(key, heir):
                moves[key] = moves.pop(heir, heir)
            case _Note(rows):
                folded.notes.update((moves.get(key, key), (tried, arrived)) for key, tried, arrived in rows)
    return folded


class SqliteStore:
    """
    Keeps signals in a file until they are settled: what `Client(store=...)` takes.

    The file belongs to one client at a time, on a local disk; another gets a `StoreError`. It has mode 0600, and holds
    signals but no credentials. Beside it are SQLite's `-wal` and `-shm`, and a `-lock` that stays.

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
        self.path = os.path.realpath(path)
        self._synchronous = synchronous
        self._keep = keep_settled
        self._thread: threading.Thread | None = None
        self._refusal: str | None = f"{self.path} is not open"
        self._next = 1  # the number of the next signal
        self._owes = False  # what was settled could not be written, and that was said

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {'open' if self._thread else 'closed'}>"

    # -- on the event loop

    async def open(self, *, by_address: bool = False) -> Held:
        """See `Store.open`."""
        if self._thread is not None:
            raise StoreError(f"{self.path} is already open")
        self._loop = asyncio.get_running_loop()
        self._operations: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._refusal = None
        opened: asyncio.Future[Held] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(opened, by_address), name=f"riskbatch store {self.path}", daemon=True
        )
        self._thread.start()
        try:
            held = await opened
        except BaseException:
            await self.close()
            raise
        self._next = held.newest + 1
        return held

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """See `Store.add`."""
        return await self._add(signals)

    async def _add(self, signals: Sequence[RiskSignal], bookmark: Bookmark | None = None) -> Sequence[int]:
        """Add *signals* and turn to *bookmark*, both or none."""
        first = self._next
        self._next = after = first + len(signals)
        done: asyncio.Future[None] = self._loop.create_future()
        self._submit(_Add(signals, first, done, bookmark))
        await done
        return range(first, after)

    async def _turn(self, bookmark: Bookmark) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._submit(_Turn(bookmark, done))
        await done

    async def withdraw(self, signals: Sequence[RiskSignal], rows: Sequence[int]) -> None:
        """See `Store.withdraw`."""
        await self._withdraw(signals, rows)

    async def _withdraw(
        self, signals: Sequence[RiskSignal], rows: Sequence[int], bookmark: Bookmark | None = None
    ) -> None:
        """Forget *signals* and turn back to *bookmark*, both or none."""
        gone: asyncio.Future[None] = self._loop.create_future()
        keys = [(file.BASE[signal.risk_level] + row, "", "") for signal, row in zip(signals, rows, strict=True)]
        try:
            self._submit(_Settle(keys, gone, bookmark))
        except StoreError:
            return
        while not gone.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({gone})
        if not gone.cancelled() and gone.exception() is not None:
            text, found = "a cancelled signal could not be withdrawn from %s yet", log_fields("store_failed")
            logger.error(text, self.path, extra=found)

    async def load(self, level: RiskLevel, after: int, limit: int) -> list[Record]:
        """See `Store.load`."""
        base, end = file.span(level)
        where = "id > ? AND id < ? ORDER BY id LIMIT ?"
        return await self._ask(lambda db: file.records(db, where, (base + after, end, limit)))

    async def find(self, ips: Sequence[str]) -> list[Record]:
        """See `Store.find`."""
        wanted = json.dumps(list(ips))
        return await self._ask(lambda db: file.records(db, "ip IN (SELECT value FROM json_each(?))", (wanted,)))

    async def due(self, until: datetime, limit: int) -> tuple[list[Record], datetime | None]:
        """See `Store.due`."""
        time = file.to_int(until)

        def ask(db: sqlite3.Connection) -> tuple[list[Record], datetime | None]:
            due = file.records(db, "expires_at <= ? ORDER BY expires_at LIMIT ?", (time, limit))
            return due, _time_of(db.execute("SELECT min(expires_at) FROM signals WHERE expires_at > ?", (time,)))

        return await self._ask(ask)

    def settle(self, entries: Sequence[Entry]) -> None:
        """See `Store.settle`."""
        self._change(_Settle([self._end_of(entry) for entry in entries]))

    def succeed(self, old: Entry, new: Entry) -> None:
        """See `Store.succeed`."""
        self._change(_Settle([self._end_of(old)]))
        self._change(_Move(_key(old), _key(new)))

    def note(self, entries: Sequence[Entry]) -> None:
        """See `Store.note`."""
        self._change(_Note([(_key(r), r.attempts, r.may_have_arrived) for r in entries]))

    def _change(self, change: _Change) -> None:
        with suppress(StoreError):  # then the file keeps what is settled, and it is sent again
            self._submit(change)

    def _end_of(self, entry: Entry) -> tuple[int, str, str]:
        return (_key(entry), "", "") if self._keep is None else (_key(entry), *_told(entry))

    async def close(self) -> None:
        """See `Store.close`."""
        if self._thread is None:
            return
        thread = self._thread
        self.abort()
        while not self._ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({self._ended})
        thread.join()  # it has nothing left to do but to return

    def abort(self) -> None:
        """See `Store.abort`."""
        if self._thread is not None:
            self._thread = None
            self._refusal = f"{self.path} is not open"
            self._operations.put(_Stop())

    async def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        done: asyncio.Future[_T] = self._loop.create_future()
        self._submit(_Ask(question, done))
        return await done

    def _submit(self, operation: _Operation) -> None:
        if self._refusal is not None:
            raise StoreError(self._refusal)
        self._operations.put(operation)

    # -- in the thread

    def _post(self, results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, self._loop, results)

    def _work(self, opened: asyncio.Future[Held], by_address: bool) -> None:
        try:
            with file.owned(self.path), closing(file.connect(self.path, self._synchronous)) as db:
                held = _take_over(db, by_address=by_address)
                self._post([(opened, held)])
                self._serve(db)
                db.execute("UPDATE state SET clean = 1")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (StoreError, sqlite3.Error, OSError) as error:
            failure = error if isinstance(error, StoreError) else StoreError(f"{self.path}: {error}")
            self._fail(failure, opened)
        except BaseException as error:
            logger.exception("the writer of %s failed", self.path, extra=log_fields("store_failed"))
            self._fail(StoreError(f"{self.path}: {type(error).__name__}"), opened)
        finally:
            self._post([(self._ended, None)])

    def _fail(self, failure: StoreError, opened: asyncio.Future[Held]) -> None:
        self._refusal = f"{self.path} cannot be used any more: {failure}"
        left = []
        with suppress(queue.Empty):
            while True:
                left.append(self._operations.get_nowait())
        self._post([(opened, failure)])
        self._report(left, failure)

    def _serve(self, db: sqlite3.Connection) -> None:
        owed: list[_Change] = []
        tidy_at = time.monotonic()
        dirty = True
        while True:
            timeout = _RETRY if owed else _TIDY if dirty else None
            group, last = self._gather(timeout)
            dirty = dirty or bool(group.adds or group.changes)
            group.changes = owed + group.changes
            owed = self._write(db, group)
            if self._owes and not owed:
                logger.warning(
                    "%s has been told of all that is settled", self.path, extra=log_fields("store_recovered")
                )
                self._owes = False
            if isinstance(last, _Ask):
                self._answer(db, last)
            elif isinstance(last, _Stop):
                if owed:
                    text = "%s could not be told of what is settled; it will be sent again"
                    logger.error(text, self.path, extra=log_fields("store_failed"))
                return
            if dirty and time.monotonic() >= tidy_at:
                with suppress(sqlite3.Error):
                    dirty = self._tidy(db)
                tidy_at = time.monotonic() + _TIDY

    def _gather(self, timeout: float | None) -> tuple[_Group, _Ask | _Stop | None]:
        """Return the operations that wait, up to one that is no write; wait if there is none."""
        group = _Group()
        with suppress(queue.Empty):
            operation = self._operations.get(timeout=timeout)
            while True:
                match operation:
                    case _Add():
                        group.adds.append(operation)
                    case _Ask() | _Stop():
                        return group, operation
                    case _:
                        group.changes.append(operation)
                if len(group.adds) + len(group.changes) >= _GROUP:
                    break
                operation = self._operations.get_nowait()
        return group, None

    def _write(self, db: sqlite3.Connection, group: _Group) -> list[_Change]:
        """Write *group* and report it; return the changes that must be tried again."""
        changes: list[_Change] = [change for change in group.changes if not isinstance(change, _Note)]
        try:
            self._try(db, group)
        except sqlite3.Error as error:
            if len(changes) > 1 or (changes and group.adds):  # what is settled may make the room that the others need
                owed = self._write_singly(db, changes)
                self._write(db, _Group(adds=group.adds))
                return owed
            failure = StoreError(f"{self.path}: {error}")
            self._report([*group.adds, *(turn for turn in changes if isinstance(turn, _Turn))], failure)
            owed = [change for change in changes if not isinstance(change, _Turn)]
            if owed and not self._owes:  # it is tried again every second
                text, found = "%s cannot be told of what is settled, trying again: %s", str(error)
                logger.error(text, self.path, error, extra=log_fields("store_failed", reason=found))
            self._owes = self._owes or bool(owed)
            return owed
        self._report([*group.adds, *group.changes], None)
        return []

    def _write_singly(self, db: sqlite3.Connection, changes: list[_Change]) -> list[_Change]:
        """Write as many of *changes* as can be written, in their order, and return the others."""
        for index, change in enumerate(changes):
            if owed := self._write(db, _Group(changes=[change])):
                return owed + changes[index + 1 :]
        return []

    def _try(self, db: sqlite3.Connection, group: _Group) -> None:
        try:
            self._transact(db, group)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _FULL:  # absent if Python raised it
                raise
            with suppress(sqlite3.Error):  # the log may have what room there is
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._transact(db, group)

    def _report(self, operations: Sequence[_Operation], result: StoreError | None) -> None:
        """Tell those who wait for one of *operations*."""
        waiting = [done for operation in operations if (done := getattr(operation, "done", None)) is not None]
        if waiting:
            self._post([(done, result) for done in waiting])

    def _transact(self, db: sqlite3.Connection, group: _Group) -> None:
        if not (group.adds or group.changes):
            return
        with file.transaction(db):
            if group.changes:
                self._change_rows(db, _fold(group.changes))
            if group.adds:
                file.insert(db, [(add.signals, add.first) for add in group.adds], file.to_int(datetime.now(UTC)))
            turns = [op.bookmark for op in [*group.changes, *group.adds] if isinstance(op, _Settle | _Turn | _Add)]
            for bookmark in {turn.name: turn for turn in turns if turn is not None}.values():
                file.turn(db, bookmark)

    def _change_rows(self, db: sqlite3.Connection, folded: _Folded) -> None:
        if folded.notes:
            notes = [(key, *note) for key, note in folded.notes.items()]
            db.execute(_NOTE, (json.dumps(notes),))
        if folded.ends:
            self._end(db, folded.ends)
        if folded.moves:
            db.execute(_MOVE, (json.dumps(list(folded.moves.items())),))

    def _end(self, db: sqlite3.Connection, ends: list[tuple[int, str, str]]) -> None:
        kept = [end for end in ends if end[1]]
        if kept:
            db.execute(_KEEP, (file.to_int(datetime.now(UTC)), json.dumps(kept)))
        keys = json.dumps([key for key, _, _ in ends])
        db.execute("DELETE FROM signals WHERE id IN (SELECT value FROM json_each(?))", (keys,))

    def _answer(self, db: sqlite3.Connection, ask: _Ask) -> None:
        try:
            self._post([(ask.done, ask.question(db))])
        except Exception as error:
            self._post([(ask.done, StoreError(f"{self.path}: {error}"))])

    def _tidy(self, db: sqlite3.Connection) -> bool:
        """
        Forget what was kept long enough, and give back to the file system what the file does not need.

        Returns whether there is more to do, because somebody waits or something will be old enough later.
        """
        until = datetime.now(UTC) - self._keep if self._keep is not None else datetime.max.replace(tzinfo=UTC)
        db.execute("DELETE FROM settled WHERE settled_at < ?", (file.to_int(until),))
        while (free := file.value_of(db.execute("PRAGMA freelist_count"))) and self._operations.empty():
            db.executescript("PRAGMA incremental_vacuum(500)")  # `execute` would stop after one page
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return bool(free) or file.value_of(db.execute("SELECT EXISTS (SELECT 1 FROM settled)")) == 1


_NOTE = """
UPDATE signals SET attempts = json_extract(note.value, '$[1]'), may_have_arrived = json_extract(note.value, '$[2]')
FROM json_each(?) AS note WHERE signals.id = json_extract(note.value, '$[0]')
"""
_MOVE = """
UPDATE signals SET id = json_extract(move.value, '$[0]')
FROM json_each(?) AS move WHERE signals.id = json_extract(move.value, '$[1]')
"""
_KEEP = """
INSERT INTO settled
SELECT ?1, json_extract(ended.value, '$[1]'), json_extract(ended.value, '$[2]'), signals.id,
    ip, message, timestamp, expires_at, enqueued_at, attempts
FROM json_each(?2) AS ended JOIN signals ON signals.id = json_extract(ended.value, '$[0]')
"""


def _deliver(loop: asyncio.AbstractEventLoop, results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Give the first of *results*, and the others in later turns of the loop: each may wake a crowd."""
    (done, result), others = results[0], results[1:]
    if not done.done():
        if isinstance(result, BaseException):
            done.set_exception(result)
            done.exception()  # whoever was cancelled does not look
        else:
            done.set_result(result)
    if others:
        loop.call_soon(_deliver, loop, others)


def _time_of(cursor: sqlite3.Cursor) -> datetime | None:
    value = file.value_of(cursor)
    return None if value is None else file.to_time(value)


def _key(entry: Entry) -> int:
    assert entry.row is not None  # noqa: S101 - what is told to the store is in it
    return file.BASE[entry.signal.risk_level] + entry.row


def _told(entry: Entry) -> tuple[str, str]:
    assert entry.outcome is not None  # noqa: S101 - settled
    fields = attrs.asdict(entry.outcome, recurse=False)
    if "by" in fields:
        fields["by"] = fields["by"].to_json()
    return type(entry.outcome).__name__, json.dumps(fields)


def _take_over(db: sqlite3.Connection, *, by_address: bool) -> Held:
    """Note that the file has an owner again, and return what it holds."""
    counts = {}
    newest = 0
    for level in RiskLevel:
        between = "FROM signals WHERE id > ? AND id < ?", file.span(level)
        counts[level] = file.value_of(db.execute(f"SELECT count(*) {between[0]}", between[1]))
        last = file.value_of(db.execute(f"SELECT max(id) {between[0]}", between[1]))
        newest = max(newest, (last or 0) & file.NUMBER)
    with file.transaction(db):
        # Who was killed cannot have said what was in flight.
        db.execute("UPDATE state SET suspect_until = max(suspect_until, ?) WHERE NOT clean", (newest,))
        db.execute("UPDATE state SET clean = 0")
        if newest == 0:
            db.execute("UPDATE state SET suspect_until = 0")  # the numbers begin again
        if by_address:
            db.execute("CREATE INDEX IF NOT EXISTS signals_by_ip ON signals (ip)")
        else:
            db.execute("DROP INDEX IF EXISTS signals_by_ip")
    return Held(newest, counts, _time_of(db.execute("SELECT min(expires_at) FROM signals")))
