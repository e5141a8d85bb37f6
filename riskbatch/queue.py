"""
The books of every unsettled signal: admit, take, put back, settle, flush.

Who may come in is for capacity.py to say, and who is next for prioritizer.py. Here each signal is counted, so that at
any instant admitted == settled + waiting + in flight.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, TypeAlias, get_args

from .batcher import Batch
from .capacity import Capacity
from .errors import QueueFull
from .log import SELDOM, log_fields
from .okta.wire import MAX_EVENTS
from .prioritizer import Prioritizer, oldest
from .receipts import Abandoned, Expired, Outcome, Receipt, Shed, Superseded
from .signals import RiskLevel, RiskSignal

logger = logging.getLogger("riskbatch")

WhenFull: TypeAlias = Literal["wait", "reject", "shed"]
MANY = 1000  # signals that are admitted between two turns of the event loop: about 2 ms
SLICE = 200  # signals that are settled between two turns: about 1 ms, without hooks


class Alarm:
    """Wakes the one task that waits for a change, also if it did not wait yet."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Something has changed."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def silence(self) -> None:
        """Whoever waits is about to look at all that has changed until now."""
        self._rung = False

    async def wait(self, until: float) -> None:
        """Wait for `ring`, at most until the loop clock shows *until*; infinity waits for `ring` alone."""
        if self._rung:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, self.ring) if until < math.inf else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


class Books:
    """
    How many signals came in, are in flight, and ended how; and who is told.

    Args:
        on_settled: Called with each receipt once it is settled; what it raises is logged and counted.
        watchers: Called with those that were settled together; they raise nothing.

    Attributes:
        admitted: Signals that were admitted, ever.
        in_flight: Signals in requests that have no answer yet.
        settled: Signals that have an outcome, by its type.
        last: The newest sequence.
        hook_errors: Times *on_settled* raised.
    """

    def __init__(
        self,
        on_settled: Callable[[Receipt], object] | None = None,
        watchers: Sequence[Callable[[Sequence[Receipt]], object]] = (),
    ) -> None:
        self.admitted = 0
        self.in_flight = 0
        self.settled: dict[type[Outcome], int] = dict.fromkeys(get_args(Outcome), 0)
        self.last = 0
        self.hook_errors = 0
        self._on_settled = on_settled
        self._watchers = watchers
        self._loop = asyncio.get_running_loop()
        self._flushes: list[_Flush] = []
        self._hook_failed_last = False
        self._hook_quiet_until = -math.inf

    @property
    def unsettled(self) -> int:
        """Signals that wait or are in flight."""
        return self.admitted - sum(self.settled.values())

    @property
    def flushing(self) -> bool:
        """Whether somebody waits for all to be settled."""
        return bool(self._flushes)

    def admit(self, signal: RiskSignal, row: int | None = None) -> Receipt:
        """Count *signal* as admitted and return its receipt; *row* is its sequence, if a store has given it one."""
        now = self._loop.time()
        self.last = self.last + 1 if row is None else row
        self.admitted += 1
        return Receipt(signal, self.last, now, self._loop, deadline(signal, now))

    def withdraw(self, receipt: Receipt) -> None:
        """Count *receipt* as never admitted, since its `enqueue` was cancelled while a store admitted it."""
        self.admitted -= 1
        for flush in self._flushes:
            if receipt.sequence <= flush.last:
                flush.count(1)

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Give *receipts*, which neither wait nor are in flight, their outcomes."""
        for receipt in receipts:
            ended = outcome(receipt)
            receipt.settle(ended)
            self.settled[type(ended)] += 1
            for flush in self._flushes:
                if receipt.sequence <= flush.last:
                    flush.count(1)

    def tell(self, receipts: Sequence[Receipt]) -> None:
        """Tell watchers and hook of *receipts* that were settled together, once the books balance."""
        for watch in self._watchers:
            watch(receipts)
        if self._on_settled is not None:
            for receipt in receipts:
                self._call_hook(self._on_settled, receipt)

    def _call_hook(self, on_settled: Callable[[Receipt], object], receipt: Receipt) -> None:
        try:
            on_settled(receipt)
        except (Exception, asyncio.CancelledError):  # the latter is what the result of a cancelled future raises
            self.hook_errors += 1
            if not self._hook_failed_last and self._loop.time() >= self._hook_quiet_until:
                self._hook_quiet_until = self._loop.time() + SELDOM
                text, extra = "on_settled raised; this is said once until it succeeds again", log_fields("hook_failed")
                logger.exception(text, extra=extra)
            self._hook_failed_last = True
        else:
            self._hook_failed_last = False

    async def flush(self, timeout: float | None) -> int:
        """Wait until all that is admitted now is settled; return how much is not after *timeout* seconds."""
        flush = _Flush(self._loop.create_future(), self.last, self.unsettled)
        if flush.left == 0:
            return 0
        self._flushes.append(flush)
        try:
            async with asyncio.timeout(timeout):
                await flush.done
        except TimeoutError:
            pass
        finally:
            self._flushes.remove(flush)
        return flush.left


class _Flush:
    """Counts down the signals that were unsettled when it began: those up to the sequence *last*."""

    def __init__(self, done: asyncio.Future[None], last: int, left: int) -> None:
        self.done = done
        self.last = last
        self.left = left

    def count(self, settled: int) -> None:
        self.left -= settled
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


class Queue:
    """
    The signals of one client, in memory.

    Args:
        prioritizer: The order.
        capacity: The room.
        books: The counts.
        when_full: What a newcomer gets if there is no room: a wait, `QueueFull`, or the place of the oldest signal of
            the lowest level.

    Attributes:
        alarm: Rings when the sender should look again.
    """

    def __init__(
        self,
        prioritizer: Prioritizer,
        capacity: Capacity,
        books: Books,
        *,
        when_full: WhenFull = "wait",
    ) -> None:
        self.prioritizer = prioritizer
        self.books = books
        self.alarm = Alarm()
        self._capacity = capacity
        self._when_full = when_full
        self._payload = MAX_EVENTS * prioritizer.subjects_per_event  # signals that surely fill one

    @property
    def waiting(self) -> int:
        """Signals that are admitted, not settled, and in no request at the moment."""
        return self.prioritizer.size

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count what waits, by level."""
        return self.prioritizer.count()

    def oldest_at(self, now: float) -> float:
        """Return when the first ready signal was admitted; *now* if none is ready."""
        return min(now, *map(oldest, self.prioritizer.lanes.values()))

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
            raise QueueFull(f"{self._capacity.places} signals are unsettled (capacity {self._capacity.places})")
        return self._enter(signal)

    async def admit(self, signal: RiskSignal, timeout: float | None = None) -> Receipt:
        """Admit *signal*, waiting for room as *when_full* says; see `Client.enqueue`."""
        if self._when_full != "wait" or self._has_place_for(signal):
            return self.admit_nowait(signal)
        self._capacity.check_open()
        await self._capacity.wait(signal.risk_level, timeout)
        self._capacity.release(1)
        return self._enter(signal)

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, with a turn for other tasks between slices; see `Client.enqueue_many`."""
        self._capacity.check_open()
        kept = 0  # places that nobody else can take between two slices
        if self._when_full == "reject":
            kept = len(signals)
            if kept > self._capacity.room:
                raise QueueFull(f"{kept} signals find room for {max(0, self._capacity.room)}")
        self._capacity.promise(kept)
        receipts: list[Receipt] = []
        try:
            work = 0
            for signal in signals:
                if work >= MANY:
                    work = 0
                    await asyncio.sleep(0)
                if kept:
                    kept -= 1
                    self._capacity.release(1)
                used = self._capacity.used
                receipts.append(await self.admit(signal))
                work += 1 if self._capacity.used > used else MANY // SLICE  # it has ended another one, or itself
        finally:
            self._capacity.release(kept)
            self._capacity.let_in()
        return receipts

    def _has_place_for(self, signal: RiskSignal) -> bool:
        return self._capacity.room > 0 or self.prioritizer.waiting_for(signal.ip) is not None

    def _enter(self, signal: RiskSignal) -> Receipt:
        """Let *signal* in: the one way, whoever brings it and whatever it displaces."""
        is_full = self._when_full == "shed" and not self._has_place_for(signal)
        receipt = self.books.admit(signal)
        self._capacity.used += 1
        victim = None
        if receipt.deadline is not None and receipt.deadline <= receipt.admitted_at:
            self._end([receipt], lambda _: Expired())
            return receipt
        if is_full:
            victim = self.prioritizer.shed(signal.risk_level)
            if victim is None:
                self._end([receipt], lambda _: Shed())
                return receipt
        old = self.prioritizer.admit(receipt)
        self._ring_for(receipt)
        if victim is not None:
            self._end([victim], lambda shed: Shed(shed.may_have_arrived))
        if old is not None:
            self._end([old], lambda old: Superseded(signal, old.may_have_arrived))
        return receipt

    def _ring_for(self, newcomer: Receipt) -> None:
        """Ring if the plan changes: for the first of a level, for each that may fill a payload, and for a deadline."""
        in_lane = len(self.prioritizer.lanes[newcomer.signal.risk_level])
        fills = in_lane == 1 or not in_lane % MAX_EVENTS or not self.prioritizer.size % MAX_EVENTS
        if fills and in_lane <= self._payload:
            self.alarm.ring()
        if newcomer.deadline is not None and newcomer.deadline <= self.prioritizer.overdue_at():
            self.alarm.ring()

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
        self._end_superseded(self.prioritizer.put_back(receipts, ready_at))

    def suspect(self, groups: Sequence[list[Receipt]], ready_at: float = -math.inf) -> None:
        """Return *groups* from flight, each to be probed in a request of its own."""
        self.books.in_flight -= sum(map(len, groups))
        self._end_superseded(self.prioritizer.suspect(groups, ready_at))

    def _end_superseded(self, receipts: list[Receipt]) -> None:
        def by_newer(old: Receipt) -> Superseded:
            newer = self.prioritizer.waiting_for(old.signal.ip)
            assert newer is not None  # noqa: S101 - it is what superseded the old one
            return Superseded(newer.signal, old.may_have_arrived)

        self._end(receipts, by_newer)
        self.alarm.ring()

    def retry_now(self) -> None:
        """Make ready what is held back, for the last try."""
        self.prioritizer.release(math.inf)
        self.alarm.ring()

    # -- the end of a signal

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Settle *receipts* that are in flight."""
        self.books.in_flight -= len(receipts)
        self._end(receipts, outcome)

    def expire(self, now: float) -> bool:
        """Settle what has expired, a slice at the most, and tell whether there may be more."""
        overdue = self.prioritizer.overdue(now, SLICE)
        if overdue:
            self._end(overdue, lambda receipt: Expired(receipt.may_have_arrived))
        return len(overdue) == SLICE

    def _end(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """
        Give *receipts*, which neither wait nor are in flight, their outcomes: the only place that does.

        The hook is called when all of them have theirs, so that it finds balanced books, and nobody is left out if it
        ends the program.
        """
        self.books.settle(receipts, outcome)
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
        self._end(receipts, lambda receipt: Abandoned(reason, receipt.may_have_arrived))
        return len(receipts) == SLICE


def deadline(signal: RiskSignal, now: float) -> float | None:
    """Return when *signal* expires on the loop clock, which shows *now*; `None` if it never does."""
    if signal.expires_at is None:
        return None
    return now + (signal.expires_at - datetime.now(UTC)).total_seconds()
