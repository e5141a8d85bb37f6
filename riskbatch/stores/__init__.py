"""
Where signals wait so that they outlive the process: what the queue asks of a durable store.

A client without a store keeps its signals in memory. With one, `await enqueue` returns when the store has the signal,
and what a former process left there is sent first. Internal: stores of other people are not supported before 1.0.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from attrs import frozen

from ..receipts import Receipt
from ..signals import RiskLevel, RiskSignal


@frozen
class StoredSignal:
    """
    One signal as a store has it.

    Attributes:
        row: Its number in the store: positive, unique, and larger than that of every signal added before. Within a
            level, rows ascend in the order of sending.
        signal: Equal to the one that was added, timestamps to the microsecond.
        enqueued_at: When it was added.
        attempts: As last noted: how many requests are known to have carried it.
        may_have_arrived: As last noted; true of all that an owner left behind which did not close the store.
    """

    row: int
    signal: RiskSignal
    enqueued_at: datetime
    attempts: int
    may_have_arrived: bool


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


@frozen
class Chunk:
    """
    The next signals of a level.

    Attributes:
        signals: Oldest first.
        damaged: How many rows between them cannot be read; they stay in the store and are reported there.
        last: The row up to which this and the chunks before it have the whole level.
    """

    signals: Sequence[StoredSignal]
    damaged: int
    last: int


class Store(Protocol):
    """
    A durable store. The client opens it, is its only owner until it closes it, and calls it on one event loop.

    Whatever fails raises `StoreError` and has changed nothing. No method blocks the event loop. Operations take effect
    in the order of the calls.
    """

    async def open(self, *, by_address: bool) -> Snapshot:
        """
        Become the only owner, or raise. If this is cancelled, the store is not open.

        Args:
            by_address: Whether `find` will be called.
        """

    async def add(self, signals: Sequence[RiskSignal]) -> Sequence[int]:
        """
        Return the rows of *signals*, in their order, once all of them would survive a crash.

        Callers that wait at the same time share a write, and resume in the order of their rows. If the call is
        cancelled, the signals are gone when it raises.
        """

    async def withdraw(self, rows: Sequence[int]) -> None:
        """Return when *rows* are gone, however often the call is cancelled meanwhile."""

    async def load(self, level: RiskLevel, after: int, until: int, limit: int) -> Chunk:
        """Return the oldest signals of *level* with *after* < row <= *until*; none only if there are no more."""

    async def find(self, ips: Sequence[str]) -> Sequence[StoredSignal]:
        """Return the signals for any of *ips*."""

    async def due(self, until: datetime, limit: int) -> tuple[Sequence[StoredSignal], datetime | None]:
        """Return up to *limit* signals that expire by *until*, and when the first expires that does so later."""

    def settle(self, ended: Sequence[tuple[int, Receipt]]) -> None:
        """Forget rows, each given with its receipt, which has its outcome. Failures are logged and retried."""

    def replace(self, row: int, by: int) -> None:
        """Give *row*, which is settled, to the signal of the row *by* of the same level; *by* is gone then."""

    def note(self, tried: Sequence[tuple[int, Receipt]]) -> None:
        """Remember `attempts` and `may_have_arrived` of rows, each given with its receipt, soon."""

    async def close(self) -> None:
        """Write what is owed, and give up the ownership. Does nothing if the store is not open."""

    def abort(self) -> None:
        """Begin to close without waiting, where nothing can be awaited any more."""
