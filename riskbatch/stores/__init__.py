"""
Where signals wait so that they outlive the process: what a store must do, and the ones that ship.

A client without a store keeps its signals in memory. With one, `await enqueue` returns when the store has the signal,
and what a former process left there is sent first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from ..receipts import Receipt as Entry
from ..signals import RiskLevel, RiskSignal
from .sqlite.file import Synchronous
from .sqlite.store import SqliteStore

__all__ = ["Backlog", "SqliteStore", "Store", "Stored", "Synchronous"]


class Stored(Protocol):
    """
    One signal as a store has it.

    Attributes:
        row: Its number in the store: positive, unique, and larger than that of every signal added before.
        signal: Equal to the one that was added, timestamps to the microsecond.
        enqueued_at: When it was added.
        attempts: As last noted.
        may_have_arrived: As last noted; true of all that an owner left behind which did not close the store.
    """

    @property
    def row(self) -> int: ...  # noqa: D102
    @property
    def signal(self) -> RiskSignal: ...  # noqa: D102
    @property
    def enqueued_at(self) -> datetime: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102
    @property
    def may_have_arrived(self) -> bool: ...  # noqa: D102


class Backlog(Protocol):
    """
    What a store held when it was opened.

    Attributes:
        newest: The largest row in use; 0 if there is none.
        waiting: How many signals wait, by level.
        next_expiry: The earliest `expires_at` among them.
    """

    @property
    def newest(self) -> int: ...  # noqa: D102
    @property
    def waiting(self) -> Mapping[RiskLevel, int]: ...  # noqa: D102
    @property
    def next_expiry(self) -> datetime | None: ...  # noqa: D102


@runtime_checkable
class Store(Protocol):
    """
    What `Client(store=...)` takes. The client opens it, is its only owner until it closes it, and calls it on one loop.

    Whatever fails raises `StoreError` and has changed nothing. No method blocks the event loop. Operations take effect
    in the order of the calls.
    """

    async def open(self, *, by_address: bool) -> Backlog:
        """
        Become the only owner, or raise. If this is cancelled, the store is not open.

        Args:
            by_address: Whether `find` will be called.
        """

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """
        Return the rows of *signals*, in their order, once all of them would survive a crash.

        The client does not cancel it: it lets it return, and then withdraws what was cancelled.
        """

    async def withdraw(self, signals: Sequence[RiskSignal], rows: Sequence[int]) -> None:
        """Return when *signals*, which `add` gave *rows*, are gone, however often the call is cancelled meanwhile."""

    async def load(self, level: RiskLevel, after: int, limit: int) -> Sequence[Stored]:
        """Return the oldest signals of *level* whose row is larger than *after*; fewer than *limit* if that is all."""

    async def find(self, ips: Sequence[str]) -> Sequence[Stored]:
        """Return the signals for any of *ips*."""

    async def due(self, until: datetime, limit: int) -> tuple[Sequence[Stored], datetime | None]:
        """Return up to *limit* signals that expire by *until*, and when the first expires that does so later."""

    def settle(self, entries: Sequence[Entry]) -> None:
        """Forget the rows of *entries*, which have their outcomes. Failures are logged and retried."""

    def succeed(self, old: Entry, new: Entry) -> None:
        """Forget the row of *old* as `settle` does, and give it to *new*, which is from then on named by it."""

    def note(self, entries: Sequence[Entry]) -> None:
        """Remember `attempts` and `may_have_arrived` of *entries*, soon."""

    async def close(self) -> None:
        """Write what is owed, and give up the ownership. Does nothing if the store is not open."""

    def abort(self) -> None:
        """Begin to close without waiting, where nothing can be awaited any more."""
