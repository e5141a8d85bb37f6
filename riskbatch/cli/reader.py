"""Signals out of a source, with the event loop's turns between them, and a file's way into a store."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import riskbatch as rb

from ..stores.sqlite.imports import Import, Imported, importing
from .records import Feed
from .report import FeedSignal, Report
from .source import Source
from .terminal import counted

TURN = 0.002  # seconds of reading after which the event loop has its turn
LOT = 500  # signals added to a store in one step


async def lots(source: Source, feed: Feed, report: Report, skip: int = 0) -> AsyncIterator[list[FeedSignal]]:
    """
    Yield the signals of each chunk that is read; those without a time share one.

    Args:
        source: What is read.
        feed: Turns it into records.
        report: Where each record is entered.
        skip: Records at the beginning that are passed over.

    Raises:
        Unreadable: It is no feed.
        NoSignals: Too much of it is no signal.
        OSError: It cannot be read.
    """
    turn_ends = time.perf_counter() + TURN
    chunk = b"?"
    while chunk:
        chunk = await source.read()
        now, lot = datetime.now(UTC), list[FeedSignal]()
        for record in feed.push(chunk) if chunk else feed.end():
            if record is None:
                pass
            elif skip > 0:
                skip -= 1
            else:
                lot += report.read(record, now)
                report.give_up_if_hopeless()
            if time.perf_counter() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.perf_counter() + TURN
        yield lot


class Changed(rb.RiskbatchError):
    """The file is not what it was when the store took it."""


class FeedImport:
    """
    Takes a file into a store, as a whole or not at all, unless the store has taken it before.

    Args:
        store: The path of the store.
        source: A file.
        feed: Turns it into records.
        report: Where each record is entered.
        options: All that decides how the file is read: with others, it is another import.

    Attributes:
        imported: Signals that came into the store.
        taken_before: Signals of the file that the store had taken before.
    """

    def __init__(self, store: str, source: Source, feed: Feed, report: Report, options: str) -> None:
        self._store = store
        self._source = source
        self._feed = feed
        self._report = report
        self._options = options.encode()
        self._name = os.path.realpath(source.name)
        self.imported: int = 0
        self.taken_before: int = 0
        self._whole = ""  # digest of the file

    async def run(self, *, again: bool) -> None:
        """
        Import what the store has not taken; with *again*, all of it.

        A file that has grown since is read from where it ended. Nothing is remembered of a file without signals.

        Raises:
            Changed: The store has taken something else of this name.
            StoreError: The store cannot be used.
        """
        with importing(self._store) as store:
            before = None if again else await self._before(store)
            if before is not None:
                self.taken_before = before.signals
                if before.digest == self._whole:
                    return
            await self._add(store, before.records if before else 0)

    async def _before(self, store: Import) -> Imported | None:
        """Return what the store has taken of this file."""
        last = store.last(self._name)
        beginning, self._whole = await self._digests(last.size if last else 0)
        if same := store.same(self._whole):
            return same
        if last is not None and last.digest == beginning:
            return last
        if last is not None:
            text = f"has changed in the part of which the store has taken {counted(last.signals, 'signal')}"
            raise Changed(f"{self._source.name} {text}; {_AGAIN}")
        if store.begun_before_imports(self._name):
            raise Changed(f"an earlier version has taken a part of {self._source.name} into the store; {_AGAIN}")
        return None

    async def _digests(self, size: int) -> tuple[str, str]:
        """Return the digests of the first *size* bytes, "" if no line ends there, and of the whole file."""
        beginning, before = "", self._source.hash.copy()
        while chunk := await self._source.read():
            end = size - (self._source.taken - len(chunk))
            if 0 < end <= len(chunk):
                before.update(chunk[:end])
                if b"\n" in (chunk[end - 1 : end], chunk[end : end + 1]):
                    beginning = self._digest(before)
            before = self._source.hash.copy()
        whole = self._digest(self._source.hash)
        self._source.rewind()
        return beginning, whole

    def _digest(self, content: "hashlib._Hash") -> str:
        return hashlib.sha256(self._options + content.digest()).hexdigest()

    async def _add(self, store: Import, skip: int) -> None:
        """Add the signals behind the first *skip* records."""
        async for lot in lots(self._source, self._feed, self._report, skip):
            for start in range(0, len(lot), LOT):
                store.add(lot[start : start + LOT])
                await asyncio.sleep(0)
            self.imported += len(lot)
        if self.imported or self.taken_before:
            digest, records = self._digest(self._source.hash), skip + self._report.records
            store.finish(self._name, Imported(digest, self._source.taken, records, self.taken_before + self.imported))


_AGAIN = "--again sends it from its beginning, as it must if the options that read it were changed"
