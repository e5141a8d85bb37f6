"""
What operators do with a store's file: list, count, export, import and drop.

Reading is allowed while a client runs, which does not notice. Changing is not: the file has one owner, and
`import_signals` and `drop` raise `StoreError` while there is one.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice

from attrs import frozen

from ...errors import InvalidSignal, StoreError
from ...signals import RiskLevel, RiskSignal
from .. import StoredSignal
from . import file, rows

_SLICE = 1_000  # rows a transaction, or a look


@frozen
class Settled:
    """A signal that was settled not long ago; only with `SqliteStore(keep_settled=...)`."""

    signal: RiskSignal
    enqueued_at: datetime
    settled_at: datetime
    outcome: str
    detail: dict[str, object]


@frozen
class FileStatistics:
    """
    What a file holds.

    Attributes:
        waiting: Signals by level.
        oldest: When the first of each level came that has any.
        expired: How many of those that wait have expired.
        settled: Outcomes that are kept, by name.
        size: Bytes of the file and its log.
        owner: The process that has it open, by its lock file; `None` if there is none.
    """

    waiting: dict[RiskLevel, int]
    oldest: dict[RiskLevel, datetime]
    expired: int
    settled: dict[str, int]
    size: int
    owner: int | None


def ls(path: str | os.PathLike[str], level: RiskLevel | None = None) -> Iterator[StoredSignal]:
    """
    Yield what waits, in the order of sending, as it is at that moment; of one *level* or of all.

    Rows that cannot be read are logged by number and field, and passed over.
    """
    with _reading(path) as db:
        for each in RiskLevel:
            if level in (None, each):
                yield from _waiting(db, path, *rows.span(each))


def _waiting(db: sqlite3.Connection, path: str | os.PathLike[str], after: int, before: int) -> Iterator[StoredSignal]:
    while found := rows.read(db, "id > ? AND id < ? ORDER BY id LIMIT ?", (after, before, _SLICE)):
        rows.report(os.fspath(path), found.damaged)
        yield from found.signals
        after = found.last


def settled(path: str | os.PathLike[str]) -> Iterator[Settled]:
    """Yield what is kept of settled signals, oldest first; as `ls` does."""
    names = (*rows.COLUMNS, "settled_at", "outcome", "detail")
    sql = f"SELECT id, {rows.columns(names)} FROM settled ORDER BY settled_at, rowid"  # noqa: S608
    with _reading(path) as db:
        for key, *values in db.execute(sql):
            try:
                yield _settled(key, dict(zip(names, values, strict=True)))
            except InvalidSignal as error:
                rows.report(os.fspath(path), {key & rows.NUMBER: error.field})


def _settled(key: int, fields: dict[str, object]) -> Settled:
    try:
        detail = json.loads(rows.text("detail", fields))
    except ValueError:
        raise InvalidSignal("detail", None, "readable") from None
    came, ended = rows.moment("enqueued_at", fields), rows.moment("settled_at", fields)
    return Settled(rows.to_signal(key, fields), came, ended, rows.text("outcome", fields), detail)


def stats(path: str | os.PathLike[str]) -> FileStatistics:
    """Count what the file holds."""
    oldest = {}
    with _reading(path) as db:
        waiting = rows.count(db)
        for level in RiskLevel:
            if first := next(_waiting(db, path, *rows.span(level)), None):
                oldest[level] = first.enqueued_at
        now = rows.to_int(datetime.now(UTC))
        sql = "SELECT count(*) FROM signals WHERE expires_at BETWEEN ? AND ?"
        expired = rows.value_of(db.execute(sql, (rows.TIMES[0], now)))
        ended = dict(db.execute("SELECT outcome, count(*) FROM settled GROUP BY outcome"))
    real = os.path.realpath(path)
    size = sum(os.path.getsize(f"{real}{suffix}") for suffix in ("", "-wal") if os.path.exists(f"{real}{suffix}"))
    return FileStatistics(waiting, oldest, expired, ended, size, _owner(real))


def _owner(path: str) -> int | None:
    """Return the process that the lock file names, if it lives: to try the lock could keep a client out."""
    try:
        with open(f"{path}-lock") as lock:
            pid = int(lock.read(20))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def export_signals(path: str | os.PathLike[str]) -> Iterator[dict[str, str]]:
    """Yield what waits in the flat JSON form that `riskbatch send` and `import_signals` read."""
    return (waiting.signal.to_json() for waiting in ls(path))


def import_signals(path: str | os.PathLike[str], signals: Iterable[RiskSignal]) -> int:
    """
    Add *signals* to the file, which is made if it is not there, and return how many; the next client sends them.

    A thousand are added at once or not at all. Importing a second time adds them a second time.

    Raises:
        StoreError: A client runs, or the file cannot be written.
        InvalidSignal: One of them is no `RiskSignal`; the thousands before it were added.
    """
    count = 0
    with _changing(path) as db:
        number = rows.newest(db) + 1
        left = iter(signals)
        while chunk := list(islice(left, _SLICE)):
            for signal in chunk:
                if not isinstance(signal, RiskSignal):
                    raise InvalidSignal("signal", signal, "a RiskSignal")
            with file.transaction(db):
                rows.insert(db, list(enumerate(chunk, number + count)))
            count += len(chunk)
    return count


def drop(
    path: str | os.PathLike[str],
    *,
    row: int | None = None,
    level: RiskLevel | None = None,
    before: datetime | None = None,
) -> int:
    """
    Remove what waits and fulfils every condition that is given, and return how many; they will not be sent.

    Args:
        path: The file.
        row: As `ls` shows it.
        level: Of this level.
        before: Enqueued before this time.

    Raises:
        StoreError: A client runs, or the file cannot be written.
    """
    where: list[str] = ["1"]
    values: list[int] = []
    if row is not None:
        where.append("id & ? = ?")
        values += [rows.NUMBER, row]
    if level is not None:
        where.append("id BETWEEN ? AND ?")
        values += rows.span(level)
    if before is not None:
        where.append("enqueued_at < ?")
        values.append(rows.to_int(before))
    with _changing(path) as db:
        with file.transaction(db):
            count = db.execute(f"DELETE FROM signals WHERE {' AND '.join(where)}", values).rowcount  # noqa: S608 - constants
        db.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page
        return count


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    real = os.path.realpath(path)
    try:
        file.check_kind(real)
        with closing(file.reading(real)) as db:
            yield db
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{real}: {file.reason(error)}") from None


@contextmanager
def _changing(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    real = os.path.realpath(path)
    try:
        with file.owned(real) as owner, closing(file.connect(real)) as db:
            owner.watch()
            yield db
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{real}: {file.reason(error)}") from None
