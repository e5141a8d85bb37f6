"""
Signals in one SQLite file: one writer thread, and one transaction for all who wait at the same time.

The key of a row is its level and its number, so that the file reads in the order of sending. Statements move many rows
in one step each, because every step of sqlite3 gives up the interpreter and must get it back from a busy event loop.
"""

import asyncio
import json
import logging
import os
import queue
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import attrs
from attrs import define, field, frozen

from ..errors import ConfigurationError, InvalidSignal, StoreError
from ..receipts import Receipt
from ..signals import RiskLevel, RiskSignal

logger = logging.getLogger("riskbatch")

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]
_T = TypeVar("_T")
_Row: TypeAlias = tuple[int, str, str | None, int, int | None, int]

APPLICATION_ID = 0x52424154  # "RBAT", in the file's header
VERSION = 1
SCHEMA = """
CREATE TABLE signals (
    id INTEGER PRIMARY KEY,  -- the level (0 HIGH, 1 MEDIUM, 2 LOW) times 2**60, plus the number of admission
    ip TEXT NOT NULL,
    message TEXT,
    timestamp INTEGER NOT NULL,  -- times are microseconds since 1970, UTC
    expires_at INTEGER,
    enqueued_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    may_have_arrived INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX signals_by_expiry ON signals (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE settled (
    settled_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,  -- the fields of the outcome, as JSON
    id INTEGER NOT NULL,
    ip TEXT NOT NULL,
    message TEXT,
    timestamp INTEGER NOT NULL,
    expires_at INTEGER,
    enqueued_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL
);
CREATE INDEX settled_by_time ON settled (settled_at);
CREATE TABLE state (
    clean INTEGER NOT NULL,  -- whether the last owner closed the file
    suspect_until INTEGER NOT NULL  -- rows up to this number may have been in flight when an owner was killed
);
INSERT INTO state VALUES (1, 0);
"""
MIGRATIONS: dict[int, str] = {}  # from a version to the next

_SHIFT = 60
_NUMBER = (1 << _SHIFT) - 1
_LEVELS = tuple(RiskLevel)
_RANK = {level: rank for rank, level in enumerate(_LEVELS)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COLUMNS = "id, ip, message, timestamp, expires_at, enqueued_at"
_MANY = (200, 20, 5, 1)  # rows an INSERT
_GROUP = 5_000  # operations a transaction
_RETRY = 1.0  # seconds until a settlement that failed is written again
_TIDY = 5.0  # seconds between two looks at what the file no longer needs
_held: set[str] = set()  # the paths that this process has locked: its own lock would not keep it out


@frozen
class Entry:
    """One signal of the file; see `Stored`."""

    row: int
    signal: RiskSignal
    enqueued_at: datetime
    attempts: int
    may_have_arrived: bool


@frozen
class Held:
    """What the file held when it was opened; see `Backlog`."""

    newest: int
    waiting: dict[RiskLevel, int]
    next_expiry: datetime | None


@define(eq=False)
class _Add:
    rows: list[_Row]
    done: asyncio.Future[None]
    withdrawn: bool = False


@define(eq=False)
class _Settle:
    rows: list[tuple[int, str, str]]  # key, outcome, detail
    done: asyncio.Future[None] | None = None


@define(eq=False)
class _Note:
    rows: list[tuple[int, int, bool]]  # key, attempts, may_have_arrived


@define(eq=False)
class _Ask:
    question: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class _Stop:
    """The last operation."""


_Operation: TypeAlias = _Add | _Settle | _Note | _Ask | _Stop


@define
class _Group:
    """The operations of one transaction. Within it the order of the kinds does: what is added is settled later."""

    adds: list[_Add] = field(factory=list)
    notes: list[_Note] = field(factory=list)
    settles: list[_Settle] = field(factory=list)


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
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        keep_settled: timedelta | None = None,
    ) -> None:
        if synchronous not in get_args(Synchronous):
            raise ConfigurationError(f"synchronous is {synchronous!r}; it must be one of {get_args(Synchronous)}")
        if keep_settled is not None and not (isinstance(keep_settled, timedelta) and keep_settled > timedelta(0)):
            raise ConfigurationError(f"keep_settled is {keep_settled!r}; it must be a positive timedelta")
        self.path = os.path.realpath(path)
        self._synchronous = synchronous
        self._keep = keep_settled
        self._thread: threading.Thread | None = None
        self._broken: BaseException | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {'open' if self._thread else 'closed'}>"

    # -- on the event loop

    async def open(self, *, by_address: bool = False) -> Held:
        """See `Store.open`."""
        if self._thread is not None:
            raise StoreError(f"{self.path} is already open")
        self._loop = asyncio.get_running_loop()
        self._operations: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._broken = None
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

    async def add(self, signals: Sequence[RiskSignal]) -> list[int]:
        """See `Store.add`."""
        now = _to_int(datetime.now(UTC))
        first = self._next
        self._next = first + len(signals)
        rows = rows_of(signals, first, now)
        add = _Add(rows, self._loop.create_future())
        self._submit(add)
        try:
            await add.done
        except asyncio.CancelledError:
            await self._withdraw(add)
            raise
        return list(range(first, first + len(rows)))

    async def _withdraw(self, add: _Add) -> None:
        """Return when the rows of *add* are surely not in the file, however often that is cancelled."""
        add.withdrawn = True  # it may not have begun
        gone = _Settle([(row[0], "", "") for row in add.rows], self._loop.create_future())
        try:
            self._submit(gone)
        except StoreError:
            return
        assert gone.done is not None  # noqa: S101 - made above
        while not gone.done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({gone.done})
        if not gone.done.cancelled() and gone.done.exception() is not None:
            logger.error("a cancelled signal could not be withdrawn from %s yet", self.path)

    async def load(self, level: RiskLevel, after: int, limit: int) -> list[Entry]:
        """See `Store.load`."""
        base = _RANK[level] << _SHIFT
        where = "id > ? AND id < ? ORDER BY id LIMIT ?"
        return await self._ask(lambda db: _entries(db, where, (base + after, base + _NUMBER, limit)))

    async def find(self, ips: Sequence[str]) -> list[Entry]:
        """See `Store.find`."""
        wanted = json.dumps(list(ips))
        return await self._ask(lambda db: _entries(db, "ip IN (SELECT value FROM json_each(?))", (wanted,)))

    async def due(self, until: datetime, limit: int) -> tuple[list[Entry], datetime | None]:
        """See `Store.due`."""
        time = _to_int(until)

        def ask(db: sqlite3.Connection) -> tuple[list[Entry], datetime | None]:
            due = _entries(db, "expires_at <= ? ORDER BY expires_at LIMIT ?", (time, limit))
            return due, _from_int(db.execute("SELECT min(expires_at) FROM signals WHERE expires_at > ?", (time,)))

        return await self._ask(ask)

    def settle(self, receipts: Sequence[Receipt]) -> None:
        """See `Store.settle`."""
        if self._keep is None:
            rows = [(_key(receipt), "", "") for receipt in receipts]
        else:
            rows = [(_key(receipt), *_told(receipt)) for receipt in receipts]
        with suppress(StoreError):  # then the file keeps them, and they are sent again
            self._submit(_Settle(rows))

    def note(self, receipts: Sequence[Receipt]) -> None:
        """See `Store.note`."""
        rows = [(_key(r), r.attempts, r.may_have_arrived) for r in receipts if r.row is not None]
        with suppress(StoreError):
            self._submit(_Note(rows))

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
            self._operations.put(_Stop())

    async def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        done: asyncio.Future[_T] = self._loop.create_future()
        self._submit(_Ask(question, done))
        return await done

    def _submit(self, operation: _Operation) -> None:
        if self._thread is None:
            raise StoreError(f"{self.path} is not open")
        if self._broken is not None:
            raise StoreError(f"{self.path} cannot be used any more: {self._broken}")
        self._operations.put(operation)

    # -- in the thread

    def _post(self, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, results)

    def _work(self, opened: asyncio.Future[Held], by_address: bool) -> None:
        try:
            with owned(self.path), closing(connect(self.path, self._synchronous)) as db:
                held = _take_over(db, by_address=by_address)
                self._post([(opened, held)])
                self._serve(db)
                db.execute("UPDATE state SET clean = 1")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (StoreError, sqlite3.Error, OSError) as error:
            failure = error if isinstance(error, StoreError) else StoreError(f"{self.path}: {error}")
            self._fail(failure, opened)
        except BaseException as error:
            logger.exception("the writer of %s failed", self.path)
            self._fail(StoreError(f"{self.path}: {type(error).__name__}"), opened)
        finally:
            self._post([(self._ended, None)])

    def _fail(self, failure: StoreError, opened: asyncio.Future[Held]) -> None:
        self._broken = failure
        left: list[asyncio.Future[Any]] = [opened]
        with suppress(queue.Empty):
            while True:
                operation = self._operations.get_nowait()
                if not isinstance(operation, _Note | _Stop) and operation.done is not None:
                    left.append(operation.done)
        self._post([(done, failure) for done in left])

    def _serve(self, db: sqlite3.Connection) -> None:
        owed: list[_Settle] = []
        tidy_at = time.monotonic()
        dirty = True
        while True:
            timeout = _RETRY if owed else _TIDY if dirty else None
            group, last = self._gather(timeout)
            dirty = dirty or bool(group.adds or group.settles)
            group.settles = owed + group.settles
            owed = self._write(db, group)
            if isinstance(last, _Ask):
                self._answer(db, last)
            elif isinstance(last, _Stop):
                if owed:
                    logger.error("%s could not be told of what is settled; it will be sent again", self.path)
                return
            if dirty and time.monotonic() >= tidy_at:
                with suppress(sqlite3.Error):
                    dirty = self._tidy(db)
                tidy_at = time.monotonic() + _TIDY

    def _gather(self, timeout: float | None) -> tuple[_Group, _Operation | None]:
        """Return the operations that wait, up to one that is no write; wait if there is none."""
        group = _Group()
        try:
            operation = self._operations.get(timeout=timeout)
            while True:
                match operation:
                    case _Add():
                        group.adds.append(operation)
                    case _Settle():
                        group.settles.append(operation)
                    case _Note():
                        group.notes.append(operation)
                    case _:
                        return group, operation
                if len(group.adds) + len(group.settles) >= _GROUP:
                    break
                operation = self._operations.get_nowait()
        except queue.Empty:
            pass
        return group, None

    def _write(self, db: sqlite3.Connection, group: _Group) -> list[_Settle]:
        """Write *group* and report it; return the settlements that must be tried again."""
        try:
            self._transact(db, group)
        except sqlite3.Error as error:
            if group.adds and group.settles:  # what is settled may make the room that the others need
                owed = self._write(db, _Group(settles=group.settles))
                self._write(db, _Group(adds=group.adds, notes=group.notes))
                return owed
            failure = StoreError(f"{self.path}: {error}")
            self._post([(add.done, failure) for add in group.adds])
            if group.settles:
                logger.error("%s cannot be told of what is settled, trying again: %s", self.path, error)
            return group.settles
        done: list[tuple[asyncio.Future[Any], Any]] = [(add.done, None) for add in group.adds]
        done += [(settle.done, None) for settle in group.settles if settle.done is not None]
        if done:
            self._post(done)
        return []

    def _transact(self, db: sqlite3.Connection, group: _Group) -> None:
        adds = [row for add in group.adds if not add.withdrawn for row in add.rows]
        notes = [row for note in group.notes for row in note.rows]
        ends = [row for settle in group.settles for row in settle.rows]
        if not (adds or notes or ends):
            return
        with transaction(db):
            insert(db, adds)
            if notes:
                db.execute(_NOTE, (json.dumps(notes),))
            if ends:
                self._end(db, ends)

    def _end(self, db: sqlite3.Connection, ends: list[tuple[int, str, str]]) -> None:
        kept = [end for end in ends if end[1]]
        if kept:
            db.execute(_KEEP, (_to_int(datetime.now(UTC)), json.dumps(kept)))
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
        db.execute("DELETE FROM settled WHERE settled_at < ?", (_to_int(until),))
        while (free := db.execute("PRAGMA freelist_count").fetchone()[0]) and self._operations.empty():
            db.executescript("PRAGMA incremental_vacuum(500)")  # `execute` would stop after one page
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return bool(free) or db.execute("SELECT EXISTS (SELECT 1 FROM settled)").fetchone()[0] == 1


_NOTE = """
UPDATE signals SET attempts = note.value ->> 1, may_have_arrived = note.value ->> 2
FROM json_each(?) AS note WHERE signals.id = note.value ->> 0
"""
_KEEP = """
INSERT INTO settled
SELECT ?1, ended.value ->> 1, ended.value ->> 2, signals.id, ip, message, timestamp, expires_at, enqueued_at, attempts
FROM json_each(?2) AS ended JOIN signals ON signals.id = ended.value ->> 0
"""


def _deliver(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for done, result in results:
        if done.done():
            continue
        if isinstance(result, BaseException):
            done.set_exception(result)
            done.exception()  # whoever was cancelled does not look
        else:
            done.set_result(result)


def _to_int(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    """Return a time of the file."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _from_int(cursor: sqlite3.Cursor) -> datetime | None:
    value = cursor.fetchone()[0]
    return None if value is None else to_time(value)


def _key(receipt: Receipt) -> int:
    assert receipt.row is not None  # noqa: S101 - what is told to the store is in it
    return (_RANK[receipt.signal.risk_level] << _SHIFT) + receipt.row


def _told(receipt: Receipt) -> tuple[str, str]:
    assert receipt.outcome is not None  # noqa: S101 - settled
    fields = attrs.asdict(receipt.outcome, recurse=False)
    if "by" in fields:
        fields["by"] = fields["by"].to_json()
    return type(receipt.outcome).__name__, json.dumps(fields)


# -- the file, also for operators


@contextmanager
def owned(path: str) -> Iterator[None]:
    """
    Own the file at *path*, which need not exist, until the block or the process ends.

    Raises:
        StoreError: Somebody else owns it.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        raise StoreError("a SqliteStore needs the file locks of a POSIX system") from None
    if path in _held:
        raise StoreError(f"{path} is in use by another client of this process")
    _held.add(path)
    try:
        with open(os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, and is not inherited
            except OSError:
                raise StoreError(f"{path} is in use by process {lock.read(20).strip() or 'unknown'}") from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield
            lock.seek(0)
            lock.truncate(0)
    finally:
        _held.discard(path)


def connect(path: str, synchronous: Synchronous = "FULL") -> sqlite3.Connection:
    """
    Open the file at *path*, which the caller owns; make it, or bring it to the present version, if need be.

    Raises:
        StoreError: It is no store, damaged, or of a later version; it was not touched.
    """
    _guard_mode(path)
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        _create(path)
    check(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA journal_size_limit=16777216")  # the log shrinks again after a flood
        while (version := db.execute("PRAGMA user_version").fetchone()[0]) < VERSION:
            with transaction(db):
                for statement in filter(str.strip, MIGRATIONS[version].split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={version + 1}")
    except BaseException:
        db.close()
        raise
    return db


def _guard_mode(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            if os.path.isfile(name) and os.stat(name).st_mode & 0o077:
                with open(name, "rb") as file:  # only a store's: a foreign file is not touched
                    if name != path or file.read(72)[68:72] == struct.pack(">I", APPLICATION_ID):
                        os.chmod(name, 0o600)


def _create(path: str) -> None:
    """Make an empty store beside, and put it in place at once: it is there as a whole or not at all."""
    new = f"{path}-new"
    for leftover in (new, f"{new}-journal"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={VERSION}")
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    os.replace(new, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(path: str, *, thorough: bool = True) -> None:
    """
    Refuse what is no store, without touching it.

    Raises:
        StoreError: It is no store, damaged, or of a later version.
    """
    with open(path, "rb") as file:
        header = file.read(100)
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise StoreError(f"{path} is not a store of riskbatch")
    version, _, application = struct.unpack(">III", header[60:72])
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is not a store of riskbatch but another SQLite database")
    with closing(reading(path)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreError(f"{path} has version {version}; this riskbatch knows versions up to {VERSION}")
        if not thorough:
            return
        try:
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            damage = str(error)
        if damage != "ok":
            raise StoreError(f"{path} is damaged: {damage}")


def reading(path: str) -> sqlite3.Connection:
    """Open the file at *path* for reading; its owner does not notice."""
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens in the block, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


_INSERT = f"INSERT INTO signals ({_COLUMNS}) VALUES "  # noqa: S608 - constants
_PLACES = "(?, ?, ?, ?, ?, ?)"


def rows_of(signals: Sequence[RiskSignal], first: int, now: int) -> list[_Row]:
    """Return the rows of *signals*, which are numbered from *first*."""
    return [
        (
            (_RANK[signal.risk_level] << _SHIFT) + number,
            signal.ip,
            signal.message,
            _to_int(signal.timestamp),
            None if signal.expires_at is None else _to_int(signal.expires_at),
            now,
        )
        for number, signal in enumerate(signals, first)
    ]


def insert(db: sqlite3.Connection, rows: Sequence[_Row]) -> None:
    """Add *rows*, in as few steps as may be."""
    start = 0
    for many in _MANY:
        statement = _INSERT + ", ".join([_PLACES] * many)
        while len(rows) - start >= many:
            db.execute(statement, [value for row in rows[start : start + many] for value in row])
            start += many


def _take_over(db: sqlite3.Connection, *, by_address: bool) -> Held:
    """Note that the file has an owner again, and return what it holds."""
    counts = {}
    newest = 0
    for level in _LEVELS:
        base = _RANK[level] << _SHIFT
        span = (base, base + _NUMBER)
        counts[level] = db.execute("SELECT count(*) FROM signals WHERE id > ? AND id < ?", span).fetchone()[0]
        last = db.execute("SELECT max(id) FROM signals WHERE id > ? AND id < ?", span).fetchone()[0]
        newest = max(newest, (last or 0) & _NUMBER)
    with transaction(db):
        # Who was killed cannot have said what was in flight.
        db.execute("UPDATE state SET suspect_until = max(suspect_until, ?) WHERE NOT clean", (newest,))
        db.execute("UPDATE state SET clean = 0")
        if newest == 0:
            db.execute("UPDATE state SET suspect_until = 0")  # the numbers begin again
        if by_address:
            db.execute("CREATE INDEX IF NOT EXISTS signals_by_ip ON signals (ip)")
        else:
            db.execute("DROP INDEX IF EXISTS signals_by_ip")
    return Held(newest, counts, _from_int(db.execute("SELECT min(expires_at) FROM signals")))


def _entries(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Entry]:
    """Read the rows *where*, in one step."""
    sql = f"""
        SELECT json_group_array(json_array({_COLUMNS}, attempts, may_have_arrived)), (SELECT suspect_until FROM state)
        FROM (SELECT * FROM signals WHERE {where})
    """  # noqa: S608 - constants
    text, suspect_until = db.execute(sql, values).fetchone()
    entries = []
    for key, ip, message, timestamp, expires_at, enqueued_at, attempts, arrived in json.loads(text):
        try:
            signal = RiskSignal(
                ip,
                _LEVELS[key >> _SHIFT],
                message=message,
                timestamp=to_time(timestamp),
                expires_at=None if expires_at is None else to_time(expires_at),
            )
            row = key & _NUMBER
            may_have_arrived = bool(arrived) or row <= suspect_until
            entries.append(Entry(row, signal, to_time(enqueued_at), attempts, may_have_arrived))
        except (InvalidSignal, TypeError, ValueError, OverflowError, IndexError) as error:
            logger.error("row %s of the store is no signal: %s", key, error)
    return entries
