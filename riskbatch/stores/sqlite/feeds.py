"""A store that knows how far a feed was read into it, so that `riskbatch send` goes on where it stopped."""

import os
from collections.abc import Callable, Sequence

from ...signals import RiskSignal
from . import file
from .file import Bookmark
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
        await self._turn(bookmark)
        self._bookmark = bookmark

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """See `Store.add`."""
        if self._bookmark is None:
            return await super().add(signals)
        self._before, self._bookmark = self._bookmark, self._place(signals[-1])
        return await self._add(signals, self._bookmark)

    async def withdraw(self, signals: Sequence[RiskSignal], rows: Sequence[int]) -> None:
        """See `Store.withdraw`."""
        self._bookmark = self._before
        await self._withdraw(signals, rows, self._before)
