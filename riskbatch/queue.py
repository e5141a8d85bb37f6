"""
The asyncio side of waiting: admission, backpressure by level, the books, and waking the sender.

All order is the prioritizer's. What is kept here is who waits for room, who waits for the sender, and the count that
must always agree: admitted == settled + waiting + in flight. A receipt has a number and nothing else to do with what
waits: what becomes of the signal is told to the receipt's pad, if there is still somebody who holds a receipt of it.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, TypeAlias, get_args
from weakref import WeakValueDictionary

from .batcher import Batch
from .errors import ClientClosed, QueueFull
from .lanes import Entry
from .log import SELDOM, log_fields
from .okta.risk_events import MAX_EVENTS
from .prioritizer import Demand, Prioritizer
from .receipts import PAD, Abandoned, Expired, Outcome, Pad, Receipt, Shed, Superseded
from .signals import RiskLevel, RiskSignal

logger = logging.getLogger("riskbatch")

WhenFull: TypeAlias = Literal["wait", "reject", "shed"]
MANY = 2000  # signals that are admitted between two turns of the event loop if nothing is in the way: 0.5 ms
SLICE = 100  # signals dealt with between two turns of the event loop: 1 ms, or 2 if each takes another's place
_REST = 0.002  # seconds between two turns of packing, at the least
_RUNS = 3  # of each lane that are packed in a turn, in some 0.2 ms; in 0.5 if they are entries
_HIGH = RiskLevel.HIGH


class Queue:
    """
    Every unsettled signal of one client.

    Args:
        prioritizer: The order.
        capacity: The most signals that may be unsettled.
        when_full: What a newcomer then gets: a wait, `QueueFull`, or the place of the oldest of the lowest level.
        coalesce: Whether the prioritizer lets a newcomer supersede the signal that waits for its address.
        on_settled: Called with each receipt once it is settled; what it raises is logged and counted.
        watchers: Called with those that were settled together; they raise nothing.
    """

    def __init__(
        self,
        prioritizer: Prioritizer,
        *,
        capacity: int,
        when_full: WhenFull,
        coalesce: bool = False,
        on_settled: Callable[[Receipt], object] | None = None,
        watchers: Sequence[Callable[[Sequence[Receipt]], object]] = (),
    ) -> None:
        self._prioritizer = prioritizer
        self._capacity = capacity
        self._when_full = when_full
        self._coalesce = coalesce
        self._on_settled = on_settled
        self._watchers = watchers
        self._loop = asyncio.get_running_loop()
        self._payload = MAX_EVENTS * prioritizer.subjects_per_event  # signals that surely fill one
        self._closed: str | None = None
        self._newcomers: dict[RiskLevel, deque[asyncio.Future[None]]] = {level: deque() for level in RiskLevel}
        self._promised = 0  # places kept for newcomers that were told to come in and have not yet run
        self._last = 0  # the last number given to a signal
        self._without_number = 0  # signals that count as admitted beyond those; below zero if some count no more
        self._ceiling: float = capacity  # the highest number for which there is room
        self._lanes = prioritizer.lanes
        self._pads: WeakValueDictionary[int, Pad] = WeakValueDictionary()  # by number // PAD
        self._packing: asyncio.TimerHandle | None = None
        self._turn()
        self._sender: asyncio.Future[None] | None = None
        self._flushes: list[_Flush] = []
        self._hooks_failed_last = False
        self._hooks_quiet_until = -math.inf
        self.settled: dict[type[Outcome], int] = dict.fromkeys(get_args(Outcome), 0)
        self.in_flight = 0
        self.hook_errors = 0

    # -- the books

    @property
    def admitted(self) -> int:
        """Signals that were admitted, ever."""
        return self._last + self._without_number

    @property
    def waiting(self) -> int:
        """Signals that are admitted, not settled, and in no request at the moment."""
        return self._prioritizer.size

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count what waits, by level."""
        return self._prioritizer.count()

    def oldest_by_level(self) -> dict[RiskLevel, float]:
        """Return when the first ready signal of each level that has one was admitted."""
        return {level: lane.since for level, lane in self._lanes.items() if lane.size}

    def room(self) -> float:
        """Return how many signals could be admitted now, beyond those that were promised a place; none once closed."""
        return self._ceiling - self._last

    def _promise(self, places: int) -> None:
        """Keep *places* more for newcomers; fewer if it is negative."""
        self._promised += places
        self._ceiling -= places

    def _count(self, admitted: int) -> None:
        """Count so many signals more as *admitted*, which have no number; fewer if it is negative."""
        self._without_number += admitted
        self._ceiling -= admitted

    def _turn(self) -> None:
        """Begin the pad of the last number."""
        number = self._last // PAD
        self._pad = self._pads[number] = Pad(self._loop)
        self._next_pad = (number + 1) * PAD  # the first number that is not on this one
        for lane in self._lanes.values():
            lane.turn()
        self._pack_later()

    def _pack_later(self, rest: float = _REST) -> None:
        if self._packing is None and self._closed is None and any(lane.packable for lane in self._lanes.values()):
            self._packing = self._loop.call_later(rest, self._pack)

    def _pack(self) -> None:
        """Pack what waits in long lines, for a tenth of the event loop's time at the most."""
        self._packing, began = None, self._loop.time()
        for lane in self._lanes.values():
            lane.pack(_RUNS)
        self._pack_later(max(_REST, 9 * (self._loop.time() - began)))

    def _next_number(self) -> int:
        self._last += 1
        if self._last >= self._next_pad:
            self._turn()
        return self._last

    def _receipt(self, entry: Entry) -> Receipt:
        """Return a receipt of *entry*, equal to all others of it."""
        pad = self._pads.get(entry.number // PAD)
        if pad is None:  # nobody holds one of its neighbours
            pad = self._pads[entry.number // PAD] = Pad(self._loop)
        if entry.attempts or entry.outcome is not None:
            pad.tell(entry.number, entry.admitted_at, entry.attempts, entry.outcome)
        return _made_out(entry.signal, entry.number, pad)

    def _tell(self, entry: Entry) -> None:
        """Tell those who hold a receipt of *entry* what has become of it."""
        pad = self._pads.get(entry.number // PAD)
        if pad is not None:
            pad.tell(entry.number, entry.admitted_at, entry.attempts, entry.outcome)

    # -- coming in

    def _has_place_for(self, signal: RiskSignal) -> bool:
        return self.room() > 0 or (self._coalesce and self._supersedes(signal))

    def _supersedes(self, signal: RiskSignal) -> bool:
        try:
            self._prioritizer.waiting_for(signal.ip)
        except KeyError:
            return False
        return True

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """
        Admit *signal* without waiting.

        Raises:
            QueueFull: There is no room and *when_full* is not "shed".
            ClientClosed: The queue admits no more.
        """
        if self._closed is not None:
            raise ClientClosed(self._closed)
        if not self._has_place_for(signal):
            if self._when_full != "shed":
                raise QueueFull(f"{self._capacity} signals are unsettled (capacity {self._capacity})")
            if not _is_past(signal.expires_at):
                return self._admit_by_shedding(signal)
        return self.admit_at_once(signal) or self._admit(signal)

    def admit_at_once(self, signal: RiskSignal, row: int | None = None) -> Receipt | None:
        """
        Admit *signal* if there is room; `None` if one must wait, or be told why not.

        Most signals come in here and have neither an expiry nor a predecessor, so it looks at nothing else. *row* is
        where a store has it.
        """
        number = self._last + 1
        if number > self._ceiling:
            return None
        if self._coalesce or signal.expires_at is not None:
            return self._admit(signal, row)
        self._last = number
        if number >= self._next_pad:
            self._turn()
        level = signal.risk_level
        tail = self._lanes[level].tail
        places = tail.places
        places.append(number)
        tail.times.append(now := self._loop.time())
        tail.cells.append(signal if row is None else (signal, row))
        if level is _HIGH:
            self._prioritizer.note_high(now)
        if len(places) <= self._payload:
            self._wake_for(level)
        receipt = Receipt()
        receipt.signal = signal
        receipt.number = number
        receipt._pad = self._pad
        return receipt

    def _admit_by_shedding(self, signal: RiskSignal, row: int | None = None) -> Receipt:
        victim = self._prioritizer.shed(signal.risk_level)
        if victim is None:
            newcomer = Entry(signal, self._next_number(), self._loop.time(), row=row)
            receipt = _made_out(signal, newcomer.number, self._pad)
            self._end([newcomer], lambda _: Shed())
            return receipt
        self._promise(1)  # a hook may enqueue again, but this place is taken
        self._end([victim], lambda shed: Shed(shed.may_have_arrived))
        self._promise(-1)
        return self.admit_at_once(signal) or self._admit(signal, row)

    async def admit(self, signal: RiskSignal, timeout: float | None) -> Receipt:
        """Admit *signal*, waiting for room as `when_full` says; see `Client.enqueue`."""
        if self._closed is None and self._when_full == "wait" and not self._has_place_for(signal):
            await self._wait_for_room(signal.risk_level, timeout)
            self._promise(-1)
        return self.admit_nowait(signal)

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order; see `Client.enqueue_many`."""
        kept = 0  # places that nobody else can take between two slices
        if self._when_full == "reject" and self._closed is None:
            if len(signals) > self.room():
                raise QueueFull(f"{len(signals)} signals find room for {max(0, self.room())}")
            kept = len(signals)
        self._promise(kept)
        receipts: list[Receipt] = []
        try:
            while (start := len(receipts)) < len(signals):
                if start:
                    await asyncio.sleep(0)
                room = int(max(0, min(self.room() + kept, MANY)))
                if at_once := self.admit_many_at_once(signals[start : start + room]):
                    receipts += at_once
                    given = min(kept, len(at_once))
                    kept -= given
                    self._promise(-given)
                    continue
                for signal in signals[start : start + SLICE]:
                    if kept:
                        kept -= 1
                        self._promise(-1)
                    receipts.append(self.admit_at_once(signal) or await self.admit(signal, None))
        finally:
            self._promise(-kept)
        return receipts

    def admit_many_at_once(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals*, for which there is room, up to the first that may expire; none if signals coalesce."""
        receipts: list[Receipt] = []
        if self._coalesce:
            return receipts
        lanes, now = self._lanes, self._loop.time()
        before = [lane.size for lane in lanes.values()]
        number, pad, next_pad = self._last, self._pad, self._next_pad
        level, tail = _HIGH, lanes[_HIGH].tail
        for signal in signals:
            if signal.expires_at is not None:
                break
            number += 1
            if number >= next_pad:
                self._last = number
                self._turn()
                pad, next_pad = self._pad, self._next_pad
                tail = lanes[level].tail
            if signal.risk_level is not level:
                level = signal.risk_level
                tail = lanes[level].tail
            tail.places.append(number)
            tail.times.append(now)
            tail.cells.append(signal)
            receipt = Receipt()
            receipt.signal = signal
            receipt.number = number
            receipt._pad = pad
            receipts.append(receipt)
        self._last = number
        for lane, size in zip(lanes.values(), before, strict=True):
            more = lane.size - size
            if lane.level is _HIGH:
                for _ in range(min(more, 2)):
                    self._prioritizer.note_high(now)
            if more and size < self._payload:
                self.wake()
        return receipts

    async def _wait_for_room(self, level: RiskLevel, timeout: float | None) -> None:
        """
        Wait for a promise of one place; the highest level is let in first.

        The place is promised, not given: whoever is cancelled before it runs hands the promise on, and surely has
        admitted nothing.
        """
        turn = self._loop.create_future()
        self._newcomers[level].append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._promise(-1)
                self._promise_room()
            with suppress(ValueError):  # not in line any more if it had its turn, or the queue was closed
                self._newcomers[level].remove(turn)
            if isinstance(error, TimeoutError):
                raise QueueFull(f"no room came within {timeout} s (capacity {self._capacity})") from None
            raise

    def _promise_room(self) -> None:
        if self._promised == 0 and not any(self._newcomers.values()):
            return
        for newcomers in self._newcomers.values():
            while newcomers and self.room() > 0:
                turn = newcomers.popleft()
                if not turn.done():
                    self._promise(1)
                    turn.set_result(None)

    def _admit(self, signal: RiskSignal, row: int | None = None) -> Receipt:
        now = self._loop.time()
        deadline = None if signal.expires_at is None else _deadline(signal.expires_at, now)
        entry = Entry(signal, self._next_number(), now, deadline, row)
        receipt = _made_out(signal, entry.number, self._pad)
        if deadline is not None:
            if deadline <= now:
                self._end([entry], lambda _: Expired())
                return receipt
            if self.overdue_at(now) == math.inf:  # the first that can expire
                self.wake()
        superseded = self._prioritizer.admit(entry)
        self._wake_for(signal.risk_level)
        if superseded is not None:
            self._end([superseded], lambda old: Superseded(signal, old.may_have_arrived))
        return receipt

    def _wake_for(self, newcomer: RiskLevel) -> None:
        """Wake the sender if its plan changes: with the first of a level, and with each that may fill a payload."""
        size = self._lanes[newcomer].size
        if size <= self._payload and (size == 1 or not size % MAX_EVENTS or not self._prioritizer.size % MAX_EVENTS):
            self.wake()

    # -- going out

    def wake(self) -> None:
        """Let the sender look again."""
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)

    async def changed(self, until: float) -> None:
        """Wait for `wake`, at most until the loop clock shows *until*; infinity waits for `wake` alone."""
        self._sender = self._loop.create_future()
        timer = self._loop.call_at(until, self.wake) if until < math.inf else None
        try:
            await self._sender
        finally:
            self._sender = None
            if timer is not None:
                timer.cancel()

    def demand(self, now: float) -> Demand:
        """Tell what the next request would carry."""
        self._prioritizer.release(now)
        return self._prioritizer.demand()

    def ready_at(self) -> float:
        """Return when the next held-back signal becomes ready; infinity if none is held."""
        return self._prioritizer.ready_at()

    def overdue_at(self, now: float) -> float:
        """Return when `expire` should be called next; infinity if nothing that waits expires."""
        return self._prioritizer.overdue_at(now)

    def expire(self, now: float) -> bool:
        """Settle what has expired, a slice at the most, and tell whether there may be more."""
        overdue = self._prioritizer.overdue(now, SLICE)
        if overdue:
            self._end(overdue, lambda entry: Expired(entry.may_have_arrived))
        return len(overdue) == SLICE

    def take(self, now: float) -> Batch:
        """Put the batch that ranks highest in flight; empty if nothing is ready."""
        self._prioritizer.release(now)  # suspects may have ended since `demand` looked: the pace may take time
        batch = self._prioritizer.take(now)
        self.in_flight += len(batch.entries)
        for entry in batch.entries:
            entry.attempts += 1
            self._tell(entry)
        return batch

    def put_back(self, entries: Iterable[Entry], ready_at: float = -math.inf) -> None:
        """Return *entries* from flight to the front of their lanes, held back until *ready_at*."""
        entries = list(entries)
        self.in_flight -= len(entries)
        self._settle_superseded(self._prioritizer.put_back(entries, ready_at))

    def suspect(self, groups: list[list[Entry]], ready_at: float = -math.inf) -> None:
        """Return *groups* from flight, each to be probed in a request of its own."""
        self.in_flight -= sum(len(group) for group in groups)
        self._settle_superseded(self._prioritizer.suspect(groups, ready_at))

    def answered(self, batch: Batch) -> None:
        """Note that the request with *batch* has ended, and what became of its signals is said; here nobody asks."""

    def _settle_superseded(self, entries: list[Entry]) -> None:
        newer = self._prioritizer.waiting_for
        self._end(entries, lambda old: Superseded(newer(old.signal.ip).signal, old.may_have_arrived))
        self.wake()

    def hurry(self) -> None:
        """Make ready what is held back, for the last try."""
        self._prioritizer.release(math.inf)
        self.wake()

    # -- the end of a signal

    def land(self, entries: Sequence[Entry], outcome: Callable[[Entry], Outcome]) -> None:
        """Settle *entries* that are in flight."""
        self.in_flight -= len(entries)
        self._end(entries, outcome)

    def _end(self, entries: Sequence[Entry], outcome: Callable[[Entry], Outcome]) -> None:
        """
        Give *entries*, which are neither waiting nor in flight any more, their outcomes: the only place that does.

        The hook is called when all of them have theirs, so that it finds the books balanced, and nobody is left out
        if it ends the program.
        """
        for entry in entries:
            entry.settle(ended := outcome(entry))
            self.settled[type(ended)] += 1
            self._ceiling += 1
            self._tell(entry)
            for flush in self._flushes:
                flush.count(entry)
        self._record(entries)
        self._promise_room()
        if self._watchers or self._on_settled is not None:
            receipts = [self._receipt(entry) for entry in entries]
            for watch in self._watchers:
                watch(receipts)
            if self._on_settled is not None:
                for receipt in receipts:
                    self._call_hook(receipt)
        if self.waiting == 0 and self.in_flight == 0:
            self.wake()
        self._pack_later()  # whoever left may have stood in a packed line

    def _record(self, entries: Sequence[Entry]) -> None:
        """Tell a durable store that *entries* are settled; here is none."""

    def _call_hook(self, receipt: Receipt) -> None:
        assert self._on_settled is not None  # noqa: S101 - the caller has looked
        try:
            self._on_settled(receipt)
        except (Exception, asyncio.CancelledError):  # the latter is what the result of a cancelled future raises
            self.hook_errors += 1
            if not self._hooks_failed_last and self._loop.time() >= self._hooks_quiet_until:
                self._hooks_quiet_until = self._loop.time() + SELDOM
                text, extra = "on_settled raised; this is said once until it succeeds again", log_fields("hook_failed")
                logger.exception(text, extra=extra)
            self._hooks_failed_last = True
        else:
            self._hooks_failed_last = False

    async def open(self) -> None:
        """Get ready to admit; here it is at once."""

    def abort(self) -> None:
        """Begin to `finish` without waiting, where nothing can be awaited any more."""

    async def written(self) -> None:
        """Wait until no admission is being written any more, whoever cancels; here nothing is written."""

    async def finish(self) -> None:
        """Give up what the queue holds on to, whoever cancels; here it is nothing."""

    # -- flush and close

    @property
    def flushing(self) -> bool:
        """Whether somebody waits for all to be settled."""
        return bool(self._flushes)

    async def flush(self, timeout: float | None) -> int:
        """Wait until all that is admitted now is settled; return how much is not."""
        flush = _Flush(self._loop.create_future(), self._last, self.waiting + self.in_flight)
        if flush.left == 0:
            return 0
        self._flushes.append(flush)
        self.wake()
        try:
            async with asyncio.timeout(timeout):
                await flush.done
        except TimeoutError:
            pass
        finally:
            self._flushes.remove(flush)
        return flush.left

    def close(self, reason: str) -> None:
        """Admit no more: newcomers, those in line included, get `ClientClosed` with the first *reason* given."""
        if self._closed is None:
            self._closed = reason
            self._ceiling = -math.inf
        if self._packing is not None:
            self._packing.cancel()
        for newcomers in self._newcomers.values():
            while newcomers:
                turn = newcomers.popleft()
                if not turn.done():
                    turn.set_exception(ClientClosed(self._closed))
        self.wake()

    def abandon(self, reason: str) -> bool:
        """Settle what waits as `Abandoned`, a slice at the most, and tell whether there may be more."""
        entries = list(islice(self._prioritizer.everything(), SLICE))
        self._end(entries, lambda entry: Abandoned(reason, entry.may_have_arrived))
        return len(entries) == SLICE


def _made_out(signal: RiskSignal, number: int, pad: Pad) -> Receipt:
    receipt = Receipt()
    receipt.signal, receipt.number, receipt._pad = signal, number, pad
    return receipt


def _deadline(expires_at: datetime, now: float) -> float:
    # From here on the loop clock alone decides, so that a step of the wall clock expires nothing.
    return now + (expires_at - datetime.now(UTC)).total_seconds()


def _is_past(time: datetime | None) -> bool:
    return time is not None and time <= datetime.now(UTC)


class _Flush:
    """Counts down the signals that were unsettled when it began."""

    def __init__(self, done: asyncio.Future[None], last: int, left: int) -> None:
        self.done = done
        self._last = last
        self.left = left

    def count(self, entry: Entry) -> None:
        if entry.number <= self._last:
            self.lose(1)

    def lose(self, count: int) -> None:
        self.left -= count
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)
