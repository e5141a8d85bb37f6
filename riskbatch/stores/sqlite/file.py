"""
The file of a `SqliteStore`: its schema and versions, its one owner, and rows to signals and back.

The key of a row is its level and its number, so that the file reads in the order of sending. Statements move many rows
in one step each, because every step of sqlite3 gives up the interpreter and must get it back from a busy event loop.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import frozen

from ...errors import InvalidSignal, StoreError
from ...log import log_fields
from ...signals import RiskLevel, RiskSignal

logger = logging.getLogger("riskbatch")

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

SQLITE = (3, 33, 0)  # the first with UPDATE FROM, of 2020
APPLICATION_ID = 0x52424154  # "RBAT", in the file's header
_APPLICATION = APPLICATION_ID.to_bytes(4, "big")
VERSION = 2
_FEEDS = """
CREATE TABLE feeds (
    name TEXT PRIMARY KEY,  -- the path of what `riskbatch send` reads
    taken INTEGER NOT NULL,  -- signals of it that are, or were, in the table above
    digest TEXT NOT NULL,  -- of the records up to there
    ended INTEGER NOT NULL  -- whether it was read to its end
);
"""
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
MIGRATIONS = {1: _FEEDS}  # from a version to the next

COLUMNS = "id, ip, message, timestamp, expires_at, enqueued_at"
SHIFT = 60
NUMBER = (1 << SHIFT) - 1
LEVELS = tuple(RiskLevel)
BASE = {level: rank << SHIFT for rank, level in enumerate(LEVELS)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BREATH = 100  # rows made into signals between two chances for the event loop to run: half a millisecond
_PAUSE = 0.0002  # seconds, in which a thread that waits for the interpreter wakes up
locked_here: set[str] = set()  # the paths that this process has locked: its own lock would not keep it out


@frozen
class Record:
    """
    A signal that waits in the file; see `Stored`.

    Attributes:
        row: Its number; within a level they ascend in the order of sending.
        signal: The signal.
        enqueued_at: When it came.
        attempts: How many requests are known to have carried it.
        may_have_arrived: Okta may have it already.
    """

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


@frozen
class Bookmark:
    """
    How far a feed was taken into the file.

    Attributes:
        name: Its path.
        taken: How many of its signals are, or were, in the file, or were told to be none.
        digest: Of the records up to there, by which a feed that was changed is noticed.
        ended: Whether it was read to its end.
    """

    name: str
    taken: int = 0
    digest: str = ""
    ended: bool = False


# -- its owner


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
    if path in locked_here:
        raise StoreError(f"{path} is in use by another client of this process")
    locked_here.add(path)
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
        locked_here.discard(path)


# -- its life


def connect(path: str, synchronous: Synchronous = "FULL") -> sqlite3.Connection:
    """
    Open the file at *path*, which the caller owns; make it, or bring it to the present version, if need be.

    Raises:
        StoreError: It is no store, damaged, or of a later version; it was not touched.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(f"{path} is not a regular file")
    if os.path.exists(path) and os.stat(path).st_nlink > 1:  # each name would have a lock and a log of its own
        raise StoreError(f"{path} has another name (a hard link), by which somebody else could have it open")
    _guard_mode(path)
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        create(path)
    recognize(path)
    check_version(path)
    check_whole(path)
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA journal_size_limit=16777216")  # the log shrinks again after a flood
        while (version := value_of(db.execute("PRAGMA user_version"))) < VERSION:
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
                    if name != path or file.read(72)[68:72] == _APPLICATION:
                        os.chmod(name, 0o600)


def create(path: str) -> None:
    """Make an empty store beside, and put it in place at once: it is there as a whole or not at all."""
    new = f"{path}-new"
    for leftover in (new, f"{new}-event_log"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={VERSION}")
        db.executescript(f"BEGIN; {SCHEMA} {_FEEDS} COMMIT;")
    os.replace(new, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def recognize(path: str) -> None:
    """
    Refuse what is no store, without touching it. Not for a file that this process has open, which it would unlock.

    Raises:
        StoreError: It is something else.
    """
    with open(path, "rb") as file:
        header = file.read(100)
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise StoreError(f"{path} is not a store of riskbatch")
    if header[68:72] != _APPLICATION:
        raise StoreError(f"{path} is not a store of riskbatch but another SQLite database")


def check_version(path: str) -> None:
    """
    Refuse what a later riskbatch has made, without touching it.

    Raises:
        StoreError: It is of a later version.
    """
    with closing(reading(path)) as db:
        version = value_of(db.execute("PRAGMA user_version"))
    if version > VERSION:
        raise StoreError(f"{path} has version {version}; this riskbatch knows versions up to {VERSION}")


def check_whole(path: str) -> None:
    """
    Refuse what is damaged, without touching it.

    Raises:
        StoreError: It is damaged, and where.
    """
    with closing(reading(path)) as db:
        try:
            damage = value_of(db.execute("PRAGMA quick_check(1)"))
        except sqlite3.DatabaseError as error:
            damage = str(error)
    if damage != "ok":
        raise StoreError(f"{path} is damaged: {damage}")


def reading(path: str) -> sqlite3.Connection:
    """Open the file at *path* for reading; its owner does not notice."""
    # Without an owner and its log nothing will change, and SQLite need not write an index of the log beside the file.
    still = not os.access(os.path.dirname(path), os.W_OK) and not os.path.exists(f"{path}-wal")
    uri = f"{Path(path).absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
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


# -- rows to signals and back


def to_int(time: datetime) -> int:
    """Return *time* as the file has it."""
    return (time - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    """Return a time of the file."""
    return _EPOCH + timedelta(microseconds=microseconds)


def value_of(cursor: sqlite3.Cursor) -> Any:
    """Return the one value that a statement yields."""
    return cursor.fetchone()[0]


def span(level: RiskLevel) -> tuple[int, int]:
    """Return the keys between which all of *level* are."""
    return BASE[level], BASE[level] + NUMBER


_MANY = tuple(1 << power for power in range(8, -1, -1))  # rows an INSERT: the fewer steps the better
_WIDTH = 6
_INSERT = {
    many: f"INSERT INTO signals ({COLUMNS}) VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * many)}"  # noqa: S608 - constants
    for many in _MANY
}


def insert(db: sqlite3.Connection, runs: Iterable[tuple[Sequence[RiskSignal], int]], now: int) -> None:
    """Add *runs* of signals, each with the number of its first; *now* is a time of the file."""
    values: list[object] = []
    for signals, number in runs:
        for key, signal in enumerate(signals, number):
            expires_at = signal.expires_at
            values += (
                BASE[signal.risk_level] + key,
                signal.ip,
                signal.message,
                (signal.timestamp - _EPOCH) // _MICROSECOND,
                None if expires_at is None else to_int(expires_at),
                now,
            )
            if len(values) == _WIDTH * _MANY[0]:
                db.execute(_INSERT[_MANY[0]], values)
                values = []
    start = 0
    for many in _MANY:
        if len(values) - start >= _WIDTH * many:
            db.execute(_INSERT[many], values[start : start + _WIDTH * many])
            start += _WIDTH * many


def turn(db: sqlite3.Connection, bookmark: Bookmark) -> None:
    """Write how far a feed was taken."""
    values = (bookmark.name, bookmark.taken, bookmark.digest, bookmark.ended)
    db.execute("INSERT OR REPLACE INTO feeds VALUES (?, ?, ?, ?)", values)


def find_bookmark(db: sqlite3.Connection, name: str) -> Bookmark:
    """Return how far the feed *name* was taken."""
    found = db.execute("SELECT taken, digest, ended FROM feeds WHERE name = ?", (name,)).fetchone()
    return Bookmark(name) if found is None else Bookmark(name, found[0], found[1], bool(found[2]))


def records(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Record]:
    """Read the rows *where*, in one step."""
    sql = f"""
        SELECT json_group_array(json_array({COLUMNS}, attempts, may_have_arrived)), (SELECT suspect_until FROM state)
        FROM (SELECT * FROM signals WHERE {where})
    """  # noqa: S608 - constants
    text, suspect_until = db.execute(sql, values).fetchone()
    found = []
    for count, row in enumerate(json.loads(text)):
        if count % _BREATH == 0:
            time.sleep(_PAUSE)
        try:
            found.append(_record(row, suspect_until))
        except (InvalidSignal, TypeError, ValueError, OverflowError, IndexError) as error:
            unread = log_fields("store_failed", reason="unreadable", count=1)
            logger.error("row %s of the store is no signal: %s", row[0], error, extra=unread)
    return found


def _record(row: Sequence[Any], suspect_until: int) -> Record:
    *columns, enqueued_at, attempts, may_have_arrived = row
    number = row[0] & NUMBER
    arrived = bool(may_have_arrived) or number <= suspect_until
    return Record(number, to_signal(*columns), to_time(enqueued_at), attempts, arrived)


def to_signal(key: int, ip: str, message: str | None, timestamp: int, expires_at: int | None) -> RiskSignal:
    """Return the signal of a row."""
    return RiskSignal(
        ip,
        LEVELS[key >> SHIFT],
        message=message,
        timestamp=to_time(timestamp),
        expires_at=None if expires_at is None else to_time(expires_at),
    )
