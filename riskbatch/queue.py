"""
Where signals wait: admit, take, put back, settle, flush.

Who may come in is for capacity.py to say, and who is next for prioritizer.py. books.py counts each signal, so that at
any instant admitted == settled + waiting + in flight.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from .alarm import Alarm
from .batcher import Batch
from .books import Books
from .capacity import Capacity
from .okta.risk_events import MAX_EVENTS
from .prioritizer import Prioritizer, since
from .receipts import Abandoned, Expired, Outcome, Receipt, Shed, Superseded
from .signals import RiskLevel, RiskSignal

WhenFull: TypeAlias = Literal["wait", "reject", "shed"]
SLICE = 200  # signals that are admitted or settled between two turns of the event loop: 1 to 2 ms, without hooks


class Rows(Protocol):
    """What a store has of the signals in memory."""

    def note(self, receipts: Sequence[Receipt]) -> None:
        """Remember what was tried."""

    def record(self, settled: Sequence[Receipt], waiting_for: Callable[[str], Receipt | None]) -> None:
        """Forget what is settled; *waiting_for* tells what has inherited its place."""


class Backlog(Protocol):
    """What waits in a store only, and is not in memory."""

    on_disk: dict[RiskLevel, int]  # how many signals

    @property
    def rows(self) -> Rows:
        """What the store has of those in memory."""

    def supersedes(self, signal: RiskSignal) -> bool:
        """Tell whether something for the address of *signal* is known to wait there."""

    def line_up(self, newcomer: Receipt, prioritizer: Prioritizer) -> list[Receipt]:
        """Let *newcomer* wait, in memory or there; return what it supersedes."""

    def abandon(self, most: int) -> list[Receipt]:
        """Return up to *most* receipts that somebody holds of what waits there; it counts no longer."""

    def abandon_rest(self) -> int:
        """Return how many wait there of which nobody holds a receipt; they count no longer."""


class Queue:
    """
    The signals of one client: in memory, or the head of the line if a store has the rest.

    Args:
        prioritizer: The order.
        capacity: The room.
        books: The counts.
        when_full: What a newcomer gets if there is no room: a wait, `QueueFull`, or the place of the oldest signal of
            the lowest level.
        backlog: What waits in a store only, if there is one.

    Attributes:
        alarm: Rings when the sender should look again.
        payload: How many signals surely fill one.
    """

    def __init__(
        self,
        prioritizer: Prioritizer,
        capacity: Capacity,
        books: Books,
        *,
        when_full: WhenFull = "wait",
        backlog: Backlog | None = None,
    ) -> None:
        self.prioritizer = prioritizer
        self.books = books
        self.alarm: Alarm = Alarm()
        self._capacity = capacity
        self._when_full = when_full
        self._backlog = backlog
        self.payload: int = MAX_EVENTS * prioritizer.subjects_per_event

    @property
    def waiting(self) -> int:
        """Signals that are admitted, not settled, and in no request at the moment."""
        return self.prioritizer.size + (0 if self._backlog is None else sum(self._backlog.on_disk.values()))

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count what waits, by level."""
        counts = self.prioritizer.count()
        if self._backlog is not None:
            counts = {level: count + self._backlog.on_disk[level] for level, count in counts.items()}
        return counts

    def oldest_at(self, now: float) -> float:
        """Return when the first ready signal was admitted; *now* if none is ready."""
        return min(now, *map(since, self.prioritizer.lanes.values()))

    # -- coming in

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """
        Admit *signal* without waiting.

        Raises:
            QueueFull: There is no room and *when_full* is not "shed".
            ClientClosed: The queue admits no more.
        """
        self._capacity.check_open()
        if self._when_full != "shed" and not self._has_place_for(signal):
            raise self._capacity.refusal()
        return self.enter(signal)

    async def admit(self, signal: RiskSignal, timeout: float | None = None) -> Receipt:
        """Admit *signal*, waiting for room as *when_full* says; see `Client.enqueue`."""
        self._capacity.check_open()
        if self._when_full != "shed" and not self._has_place_for(signal):
            if self._when_full == "reject":
                raise self._capacity.refusal()
            await self._capacity.wait(signal.risk_level, timeout)
            self._capacity.release(1)
        return self.enter(signal)

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, with a turn for other tasks between slices; see `Client.enqueue_many`."""
        self._capacity.check_open()
        kept = 0  # places that nobody else can take between two slices
        if self._when_full == "reject":
            kept = len(signals)
            self._capacity.promise_all(kept)
        receipts: list[Receipt] = []
        try:
            for signal in signals:
                if receipts and len(receipts) % SLICE == 0:
                    await asyncio.sleep(0)
                if kept:
                    kept -= 1
                    self._capacity.release(1)
                receipts.append(await self.admit(signal))
        finally:
            self._capacity.release(kept)
            self._capacity.let_in()
        return receipts

    def _has_place_for(self, signal: RiskSignal) -> bool:
        if self._capacity.room > 0 or self.prioritizer.waiting_for(signal.ip) is not None:
            return True
        return self._backlog is not None and self._backlog.supersedes(signal)

    def enter(self, signal: RiskSignal, row: int | None = None) -> Receipt:
        """
        Let *signal* in: the one way, whoever brings it and whatever it displaces.

        *row* is where a store has it; 0 if it does not, since the signal has expired.
        """
        is_full = self._when_full == "shed" and not self._has_place_for(signal)
        receipt = self.books.admit(signal, row)
        self._capacity.used += 1
        victim = None
        if row == 0 or (receipt.deadline is not None and receipt.deadline <= receipt.admitted_at):
            self.end([receipt], lambda _: Expired())
            return receipt
        if is_full:
            victim = self.prioritizer.shed(signal.risk_level)
            if victim is None:
                self.end([receipt], lambda _: Shed())
                return receipt
        if self._backlog is not None:
            superseded = self._backlog.line_up(receipt, self.prioritizer)
        else:
            old = self.prioritizer.admit(receipt)
            superseded = [] if old is None else [old]
        if _changes_plan(receipt, self.prioritizer, self.payload):
            self.alarm.ring()
        if victim is not None:
            self.end([victim], lambda shed: Shed(shed.may_have_arrived))
        if superseded:
            self.end(superseded, lambda old: Superseded(signal, old.may_have_arrived))
        return receipt

    # -- going out

    def take(self, now: float) -> Batch:
        """Put the batch that ranks highest in flight; empty if nothing is ready."""
        self.prioritizer.release(now)
        # The loop clock stands still while a machine sleeps, so the clock on the wall is asked too.
        batch = self.prioritizer.take(now, datetime.now(UTC))
        self.books.in_flight += len(batch.receipts)
        for receipt in batch.receipts:
            receipt.attempts += 1
        return batch

    def put_back(self, receipts: Sequence[Receipt], ready_at: float = -math.inf) -> None:
        """Return *receipts* from flight to the front of their lanes, held back until *ready_at*."""
        self.books.in_flight -= len(receipts)
        if self._backlog is not None:
            self._backlog.rows.note(receipts)
        self.end_superseded(self.prioritizer.put_back(receipts, ready_at))

    def suspect(self, groups: Sequence[list[Receipt]], ready_at: float = -math.inf) -> None:
        """Return *groups* from flight, each to be probed in a request of its own."""
        self.books.in_flight -= sum(map(len, groups))
        if self._backlog is not None:
            self._backlog.rows.note([receipt for group in groups for receipt in group])
        self.end_superseded(self.prioritizer.suspect(groups, ready_at))

    def end_superseded(self, receipts: list[Receipt]) -> None:
        """Settle *receipts*, which came back and found newer ones for their addresses."""

        def by_newer(old: Receipt) -> Superseded:
            newer = self.prioritizer.waiting_for(old.signal.ip)
            assert newer is not None  # noqa: S101 - it is what superseded the old one
            return Superseded(newer.signal, old.may_have_arrived)

        self.end(receipts, by_newer)
        self.alarm.ring()

    def retry_now(self) -> None:
        """Make ready what is held back, for the last try."""
        self.prioritizer.release(math.inf)
        self.alarm.ring()

    # -- the end of a signal

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Settle *receipts* that are in flight."""
        self.books.in_flight -= len(receipts)
        self.end(receipts, outcome)

    def expire(self, now: float) -> bool:
        """Settle what has expired, a slice at the most, and tell whether there may be more."""
        overdue = self.prioritizer.overdue(now, SLICE)
        if overdue:
            self.end(overdue, lambda receipt: Expired(receipt.may_have_arrived))
        return len(overdue) == SLICE

    def end(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """
        Give *receipts*, which neither wait nor are in flight, their outcomes: the only place that does.

        The hook is called when all of them have theirs, so that it finds balanced books, and nobody is left out if it
        ends the program.
        """
        self.books.settle(receipts, outcome)
        if self._backlog is not None:
            self._backlog.rows.record(receipts, self.prioritizer.waiting_for)
        self._capacity.free(len(receipts))
        self._capacity.let_in()
        self.books.tell(receipts)
        if self.books.unsettled == 0:
            self.alarm.ring()

    async def flush(self, timeout: float | None) -> int:
        """Wait until all that is admitted now is settled, and let nothing linger meanwhile; return how much is not."""
        self.alarm.ring()
        return await self.books.flush(timeout)

    def close(self, reason: str) -> None:
        """Admit no more: newcomers, those in line included, get `ClientClosed` with the first *reason* given."""
        self._capacity.close(reason)
        self.alarm.ring()

    def abandon(self, reason: str) -> bool:
        """Settle what waits as `Abandoned`, a slice at the most, and tell whether there may be more."""
        receipts = list(islice(self.prioritizer.everything(), SLICE))
        if self._backlog is not None:
            reason = f"{reason}; it is kept in the store"
            receipts += self._backlog.abandon(SLICE - len(receipts))
        self.end(receipts, lambda receipt: Abandoned(reason, receipt.may_have_arrived))
        if len(receipts) == SLICE:
            return True
        if self._backlog is not None:
            self.books.abandon(self._backlog.abandon_rest())
        return False


def _changes_plan(newcomer: Receipt, prioritizer: Prioritizer, payload: int) -> bool:
    """Tell whether the sender must look again: the first of a level, one that may fill a payload, a new deadline."""
    in_lane = len(prioritizer.lanes[newcomer.signal.risk_level])
    if in_lane <= payload and (in_lane == 1 or not in_lane % MAX_EVENTS or not prioritizer.size % MAX_EVENTS):
        return True
    return newcomer.deadline is not None and newcomer.deadline <= prioritizer.overdue_at()
