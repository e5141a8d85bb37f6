"""A store that knows how far a feed was read into it, so that `riskbatch send` goes on where it stopped."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence

from ...signals import RiskSignal
from . import file
from .file import Bookmark
from .rows import insert
from .store import SqliteStore


class FeedStore(SqliteStore):
    """
    Turns the bookmark of a feed in the transaction that adds its signals.

    So a signal is in the file or still to be read, and never both, whenever the process ends. For one reader, who
    enqueues one lot after the other.

    Args:
        path: The file.
        place: Tells where the feed is once a signal, and all before it, are in the file.
    """

    def __init__(self, path: str | os.PathLike[str], place: Callable[[RiskSignal], Bookmark]) -> None:
        super().__init__(path)
        self._place = place
        self._bookmark: Bookmark | None = None
        self._before: Bookmark | None = None

    async def begin(self, name: str) -> Bookmark:
        """Return where the feed *name* was left; from now on all that is added is taken to come from it."""
        self._bookmark = await self._ask(lambda db: file.find_bookmark(db, name))
        return self._bookmark

    async def turn(self, bookmark: Bookmark) -> None:
        """Say how far the feed was taken without adding anything."""
        await self._write(_turn, [bookmark])
        self._bookmark = bookmark

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """See `Store.add`."""
        if self._bookmark is None:
            return await super().add(signals)
        self._before, self._bookmark = self._bookmark, self._place(signals[-1])
        first = self._next
        added = range(first, first + len(signals))
        self._next += len(signals)
        try:
            await self._write(_insert_and_turn, [(list(zip(added, signals, strict=True)), self._bookmark)])
        except asyncio.CancelledError:
            await self.withdraw(added)
            raise
        return added

    async def withdraw(self, rows: Sequence[int]) -> None:
        """See `Store.withdraw`."""
        if self._before is not None:
            self._bookmark = self._before
            self._owe(_turn, [self._before])
        await super().withdraw(rows)


def _turn(db: sqlite3.Connection, bookmarks: Sequence[Bookmark]) -> None:
    file.turn(db, bookmarks[-1])


def _insert_and_turn(
    db: sqlite3.Connection, added: Sequence[tuple[Sequence[tuple[int, RiskSignal]], Bookmark]]
) -> None:
    for signals, bookmark in added:
        insert(db, signals)
        file.turn(db, bookmark)
