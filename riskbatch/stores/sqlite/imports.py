"""
A file of signals that comes into a store as one import: all of it or nothing.

The import leaves a digest of what was read, so that the same command does not import it again. Only for a store that
no client has open.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from attrs import frozen

from ...errors import StoreError
from ...signals import RiskSignal
from . import file, rows

_TABLE = """
CREATE TABLE IF NOT EXISTS imports (
    digest TEXT PRIMARY KEY,  -- of the content, and of the options by which it was read
    at INTEGER NOT NULL,  -- microseconds since 1970, UTC
    name TEXT NOT NULL,  -- the path
    size INTEGER NOT NULL,  -- bytes
    records INTEGER NOT NULL,
    signals INTEGER NOT NULL
)
"""


@frozen
class Imported:
    """
    What was taken of a file.

    Attributes:
        digest: Of its content and of how it was read.
        size: Its bytes.
        records: Its records, those that are no signals included.
        signals: How many came into the store.
    """

    digest: str
    size: int
    records: int
    signals: int


class Import:
    """An import under way, within the transaction of `importing`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute(_TABLE)
        self._next = rows.newest(db) + 1

    def same(self, digest: str) -> Imported | None:
        """Return the import of the very same content, read in the same way."""
        return self._find("digest = ?", digest)

    def last(self, name: str) -> Imported | None:
        """Return the last import of the file *name*."""
        return self._find("name = ? ORDER BY at DESC LIMIT 1", name)

    def _find(self, where: str, value: str) -> Imported | None:
        sql = f"SELECT digest, size, records, signals FROM imports WHERE {where}"  # noqa: S608 - constants
        row = self._db.execute(sql, (value,)).fetchone()
        return None if row is None else Imported(*row)

    def begun_before_imports(self, name: str) -> bool:
        """Tell whether a version that had no imports has taken a part of the file *name*."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'feeds'").fetchone() is None:
            return False
        return self._db.execute("SELECT 1 FROM feeds WHERE name = ? AND taken > 0", (name,)).fetchone() is not None

    def add(self, signals: Sequence[RiskSignal]) -> None:
        """Add *signals*, as the newest of their levels."""
        rows.insert(self._db, list(enumerate(signals, self._next)))
        self._next += len(signals)

    def finish(self, name: str, found: Imported) -> None:
        """Remember what was taken."""
        values = (found.digest, rows.to_int(datetime.now(UTC)), name, found.size, found.records, found.signals)
        self._db.execute("INSERT OR REPLACE INTO imports VALUES (?, ?, ?, ?, ?, ?)", values)


@contextmanager
def importing(path: str | os.PathLike[str]) -> Iterator[Import]:
    """
    Own the store at *path*, which is made if it is not there, and import what the block adds.

    If the block raises, or the process ends within it, nothing was imported.

    Raises:
        StoreError: A client has it open, or it cannot be written.
    """
    real = os.path.realpath(path)
    try:
        with file.owned(real), closing(file.connect(real)) as db, file.transaction(db):
            yield Import(db)
    except sqlite3.Error as error:
        raise StoreError(f"{real}: {file.reason(error)}") from None
