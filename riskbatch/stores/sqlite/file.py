"""
The file of a `SqliteStore`: its schema and versions, how it is made, opened, checked and repaired.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import frozen

from ...errors import StoreError
from ...log import log_fields
from ...signals import RiskLevel
from .lock import Ownership
from .rows import TIMES, count, newest, to_time, value_of

logger = logging.getLogger("riskbatch")

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

SQLITE = (3, 33, 0)  # the first with UPDATE FROM, of 2020
APPLICATION_ID = 0x52424154  # "RBAT", in the file's header
VERSION = 2
# Only earlier versions wrote into it. imports.py reads it, so that what they had begun is not sent twice.
_FEEDS = """
CREATE TABLE feeds (
    name TEXT PRIMARY KEY,  -- the path of what `riskbatch send` reads
    taken INTEGER NOT NULL,  -- signals of it that are, or were, in the table above
    digest TEXT NOT NULL,  -- of the records up to there
    ended INTEGER NOT NULL  -- whether it was read to its end
);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS signals_by_expiry ON signals (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS settled_by_time ON settled (settled_at);
"""
_TABLES = """
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
CREATE TABLE state (
    clean INTEGER NOT NULL,  -- whether the last owner closed the file
    suspect_until INTEGER NOT NULL  -- rows up to this number may have been in flight when an owner was killed
);
INSERT INTO state VALUES (1, 0);
"""
SCHEMA = _TABLES + _INDEXES
MIGRATIONS = {1: _FEEDS}  # from a version to the next

# What SQLite says without quoting anything that the file holds.
_PLAIN = frozenset(
    {
        "attempt to write a readonly database",
        "database disk image is malformed",
        "database is locked",
        "database or disk is full",
        "database table is locked",
        "disk I/O error",
        "file is not a database",
        "interrupted",
        "out of memory",
        "unable to open database file",
    }
)


@frozen
class Snapshot:
    """
    What a store held when it was opened.

    Attributes:
        newest: The largest row in use; 0 if there is none.
        waiting: How many signals wait, by level.
        next_expiry: The earliest `expires_at` among them.
    """

    newest: int
    waiting: Mapping[RiskLevel, int]
    next_expiry: datetime | None


# -- its life


@contextmanager
def owned(path: str) -> Iterator[Ownership]:
    """
    Own the file at *path*, which need not exist, until the block or the process ends.

    Raises:
        StoreError: Somebody else owns it, it is nothing that one can own, or this system has no such locks.
    """
    is_there = os.path.exists(path)
    if is_there and not os.path.isfile(path):
        raise StoreError(f"{path} is not a regular file")
    if is_there and os.stat(path).st_nlink > 1:  # each name would have a lock and a log of its own
        raise StoreError(f"{path} has another name (a hard link), by which somebody else could have it open")
    ownership = Ownership(path)
    try:
        if ownership.is_first and is_there and os.path.getsize(path):  # or a cleaner has removed the lock file
            check_kind(path)
            check_alone(path)
        yield ownership
    finally:
        ownership.release()


def connect(path: str, synchronous: Synchronous = "FULL") -> sqlite3.Connection:
    """
    Open the file at *path*, which the caller owns; make it, or bring it to the present version, if need be.

    Raises:
        StoreError: It is no store, damaged beyond repair, or of a later version; it was not touched.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        create(path)
    check_kind(path)
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            if os.stat(name).st_mode & 0o077:
                os.chmod(name, 0o600)
    if damage := find_damage(path):
        rebuild(path, damage)
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA journal_size_limit=16777216")  # the log shrinks again after a flood
        _migrate(db)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    while (version := value_of(db.execute("PRAGMA user_version"))) < VERSION:
        with transaction(db):
            for statement in filter(str.strip, MIGRATIONS[version].split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={version + 1}")


def create(path: str) -> None:
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
        db.executescript(f"BEGIN; {SCHEMA} {_FEEDS} COMMIT;")
    os.replace(new, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def mark_open(db: sqlite3.Connection, *, by_address: bool) -> Snapshot:
    """Note that the file has an owner again, and return what it holds."""
    last = newest(db)
    sql = "SELECT clean, suspect_until FROM state WHERE typeof(clean) = 'integer' AND typeof(suspect_until) = 'integer'"
    # Without its row, the file was damaged. Who was killed cannot have said what was in flight.
    clean, suspect_until = db.execute(sql).fetchone() or (0, last)
    if not clean or last == 0:  # with nothing left, the numbers begin again
        suspect_until = last
    with transaction(db):
        db.execute("DELETE FROM state")
        db.execute("INSERT INTO state VALUES (0, ?)", (suspect_until,))
        for statement in filter(str.strip, _INDEXES.split(";")):
            db.execute(statement)  # only if a repair was cut short
        if by_address:
            db.execute("CREATE INDEX IF NOT EXISTS signals_by_ip ON signals (ip)")
        else:
            db.execute("DROP INDEX IF EXISTS signals_by_ip")
    return Snapshot(last, count(db), next_expiry(db, TIMES[0]))


def mark_closed(db: sqlite3.Connection) -> None:
    """Note that the owner has said all that it knew."""
    db.execute("UPDATE state SET clean = 1")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def next_expiry(db: sqlite3.Connection, after: int) -> datetime | None:
    """Return the first `expires_at` later than *after*; what is no time is passed over."""
    sql = "SELECT min(expires_at) FROM signals WHERE expires_at > ? AND expires_at <= ?"
    found = value_of(db.execute(sql, (after, TIMES[1])))
    return None if found is None else to_time(int(found))


# -- its checks


def check_kind(path: str) -> None:
    """
    Refuse what is no store, or was made by a later riskbatch, without touching it.

    It asks SQLite. To open and close the file otherwise would end the locks that SQLite has on it in this process.

    Raises:
        StoreError: It is something else.
    """
    with closing(reading(path)) as db:
        try:
            kind = value_of(db.execute("PRAGMA application_id"))
            version = value_of(db.execute("PRAGMA user_version"))
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            raise StoreError(f"{path} is not a store of riskbatch") from None
    if kind != APPLICATION_ID:
        raise StoreError(f"{path} is not a store of riskbatch but another SQLite database, or empty")
    if version > VERSION:
        raise StoreError(f"{path} has version {version}; this riskbatch knows versions up to {VERSION}")


def check_alone(path: str) -> None:
    """
    Refuse a store that SQLite has open elsewhere, be it only for reading.

    Raises:
        StoreError: Somebody has it open.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.1)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        try:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError:
            raise StoreError(f"{path} is in use by a process whose lock file was removed") from None


def find_damage(path: str) -> str | None:
    """Return what is wrong with the structure of the file; `None` if it is whole. Contents are not looked at."""
    with closing(reading(path)) as db:
        try:
            damage = str(value_of(db.execute("PRAGMA quick_check(1)"))).splitlines()[-1]
        except sqlite3.DatabaseError as error:
            damage = reason(error)
    return None if damage == "ok" else damage


def rebuild(path: str, damage: str) -> None:
    """
    Make the indexes of a damaged file anew, if all that is in its tables can be read.

    Raises:
        StoreError: A table is damaged too; the file was not touched.
    """
    try:
        with closing(reading(path)) as db:
            db.text_factory = bytes
            for table in ("signals", "settled", "state"):
                for _ in db.execute(f"SELECT * FROM {table} NOT INDEXED"):  # noqa: S608 - constants
                    pass
    except sqlite3.DatabaseError:
        raise StoreError(f"{path} is damaged: {damage}") from None
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")  # DROP INDEX would read the indexes, which cannot be done
        db.execute("DELETE FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        db.execute("PRAGMA writable_schema=RESET")
        db.execute("VACUUM")
        db.executescript(_INDEXES)
    if damage_left := find_damage(path):
        raise StoreError(f"{path} is damaged: {damage_left}")
    text = "%s was damaged (%s); its indexes have been made anew, and its signals are whole"
    logger.warning(text, path, damage, extra=log_fields("store_rebuilt", reason=damage))


def reason(error: Exception) -> str:
    """Return why *error* came, without anything that the file holds: SQLite's own texts can quote it."""
    known = str(error) in _PLAIN or str(error).startswith(("no such table: ", "[Errno "))
    return str(error) if known else getattr(error, "sqlite_errorname", type(error).__name__)


# -- its use


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
