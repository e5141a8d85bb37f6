"""
A queue whose signals are in a store: `Queue`, with a write before each admission and after each settlement.

What a former process left is older than all that comes now. Of each level the oldest few thousand are in memory, with
entries, like all others; the rest stays in the store, is counted, and is loaded as the lane runs low. So numbers of
entries are zero and less for what was left, and memory is bounded whatever the store holds.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from ...errors import ClientClosed, QueueFull, StoreError
from ...receipts import Receipt as Entry
from ...log import log_fields
from ...prioritizer import Demand
from ...queue import SLICE, Queue, _is_past
from ...receipts import Abandoned, Expired, Receipt, Superseded
from ...signals import RiskLevel, RiskSignal
from .. import Backlog, Store, Stored

logger = logging.getLogger("riskbatch")

CHUNK = 500  # signals loaded at once: some 2 ms of the event loop
_MANY = 500  # signals that enqueue_many writes at once
LOW_WATER = 2_000  # a lane with fewer of what was left is refilled
CROWD = (
    512  # signals written together and woken in one turn of the loop: some 3 ms of it, and fewer syncs than with less
)
_RETRY = 1.0  # seconds after a store could not be read


class _Written(asyncio.Future[None]):
    """
    Wakes all whose signals were written together, in one callback of the event loop where others need one for each.

    It cannot be cancelled: whoever is cancelled meanwhile hears of it when the write is over, when he can tell what to
    withdraw, and takes nobody with him.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._waiting: list[tuple[Callable[[_Written], object], Context]] = []

    def cancel(self, msg: Any = None) -> bool:
        return False

    def add_done_callback(self, fn: Callable[["_Written"], object], /, *, context: Context | None = None) -> None:
        self._waiting.append((fn, context or copy_context()))

    def wake(self) -> None:
        """Be done; those who wait go on in the next turn of the loop."""
        self.set_result(None)
        self.get_loop().call_soon(self._wake, iter(self._waiting))

    def _wake(self, waiting: Iterator[tuple[Callable[["_Written"], object], Context]]) -> None:
        try:
            for go_on, context in waiting:
                context.run(go_on, self)
        except BaseException:  # one of them ends the program; the others must not wait for ever
            self.get_loop().call_soon(self._wake, waiting)
            raise


class _Crowd:
    """Signals of one turn of the event loop, which are written together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.signals: list[RiskSignal] = []
        self.written = _Written(loop)
        self.rows: Sequence[int] = ()
        self.failure: str | None = None


class DurableQueue(Queue):
    """Every unsettled signal of one client, each of them in *store*. Takes the other arguments of `Queue`."""

    def __init__(self, store: Store, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._store = store
        self._newest = 0  # the last row that was left; larger ones are ours
        self._cold = dict.fromkeys(RiskLevel, 0)  # left, and not loaded yet
        self._all_cold = 0
        self._warm = dict.fromkeys(RiskLevel, 0)  # left, loaded, and unsettled
        self._loaded = dict.fromkeys(RiskLevel, 0)  # the row up to which all that was left is loaded
        self._thawed: set[int] = set()  # rows beyond, which were loaded out of turn
        self._cold_expire_at = math.inf  # on the loop clock
        self._unreadable = False
        self._starved = False
        self._refilling: set[RiskLevel] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._crowd: _Crowd | None = None  # not handed to the store yet
        self._writes: set[asyncio.Task[None]] = set()
        self._wall = datetime.now(UTC) - timedelta(
            seconds=self._loop.time()
        )  # a step of the wall clock expires nothing

    # -- what was left

    async def open(self) -> None:
        """
        Own the store, and admit what it holds.

        Raises:
            StoreError: It cannot be had.
        """
        backlog = await self._store.open(by_address=self._coalesce)
        try:
            await self.recover(backlog)
        except BaseException:
            await self.finish()
            raise

    async def recover(self, backlog: Backlog) -> None:
        """Admit what the store holds; the oldest of each level are loaded before this returns."""
        self._newest = backlog.newest
        self._cold.update(backlog.waiting)
        self._all_cold = sum(self._cold.values())
        self._count(self._all_cold)
        self._set_cold_expiry(backlog.next_expiry)
        for level in RiskLevel:
            if self._cold[level]:
                self._take_in(level, await self._store.load(level, 0, CHUNK))

    def _take_in(self, level: RiskLevel, chunk: Sequence[Stored]) -> None:
        """Put a *chunk*, the next in turn, in the lane of *level*."""
        chunk = [stored for stored in chunk if stored.row <= self._newest]
        entries = self._thaw(chunk)
        if chunk:
            self._loaded[level] = chunk[-1].row
            self._thawed.difference_update(stored.row for stored in chunk)
        elif self._cold[level]:  # what is left are rows that cannot be read as signals
            self._lose(level)
        self._take_back(entries)

    def _take_back(self, entries: list[Entry]) -> None:
        self._settle_superseded(self._prioritizer.put_back(entries, -math.inf))

    def _thaw(self, found: Iterable[Stored]) -> list[Entry]:
        """Make entries of what was in the store only; the caller must line them up or end them at once."""
        now, wall = self._loop.time(), datetime.now(UTC)
        entries = []
        for stored in found:
            signal, row = stored.signal, stored.row
            level = signal.risk_level
            if row > self._newest or row <= self._loaded[level] or row in self._thawed:
                continue
            waited = max(0.0, (wall - stored.enqueued_at).total_seconds())
            deadline = None if signal.expires_at is None else now + (signal.expires_at - wall).total_seconds()
            entry = Entry(signal, row - self._newest, now - waited, deadline, row)
            entry.attempts = stored.attempts
            entry.may_have_arrived = stored.may_have_arrived
            self._thawed.add(row)
            self._cold[level] -= 1
            self._all_cold -= 1
            self._warm[level] += 1
            entries.append(entry)
        return entries

    def _lose(self, level: RiskLevel) -> None:
        lost = log_fields("store_failed", reason="unreadable", count=self._cold[level])
        logger.error("the store has %d %s that cannot be read; they stay", self._cold[level], level.value, extra=lost)
        self._count(-self._cold[level])
        self._uncount(level)

    def _uncount(self, level: RiskLevel) -> None:
        for flush in self._flushes:
            flush.lose(self._cold[level])
        self._all_cold -= self._cold[level]
        self._cold[level] = 0

    @property
    def waiting(self) -> int:
        """As of every queue; those that are in the store only are counted too."""
        return self._prioritizer.size + self._all_cold

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """As of every queue; those that are in the store only are counted too."""
        return {level: count + self._cold[level] for level, count in super().waiting_by_level().items()}

    def _begin(self, chore: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _refill(self, level: RiskLevel) -> None:
        if level not in self._refilling:
            self._refilling.add(level)
            self._begin(self._load_more(level))

    async def _load_more(self, level: RiskLevel) -> None:
        try:
            while self._cold[level]:
                try:
                    chunk = await self._store.load(level, self._loaded[level], CHUNK)
                except StoreError as error:
                    if not self._unreadable:  # it is tried again every second
                        text, found = "the store cannot be read, younger signals go first meanwhile: %s", str(error)
                        logger.error(text, error, extra=log_fields("store_failed", reason=found))
                    self._unreadable = True
                    self.wake()
                    await asyncio.sleep(_RETRY)
                else:
                    self._unreadable = False
                    self._take_in(level, chunk)
                    break
        finally:
            self._refilling.discard(level)
            self.wake()

    def demand(self, now: float) -> Demand:
        """As of every queue; nothing goes for the moment that it takes to load what is older."""
        self._starved = False
        for level, cold in self._cold.items():
            if cold:
                # Ready, and older than all that is in the store only.
                first = islice(self._prioritizer.lanes[level].places(), self._payload)
                old = sum(1 for place in first if place <= 0)
                if old < self._payload:
                    self._refill(level)
                    self._starved = not self._unreadable
                elif self._warm[level] < LOW_WATER:
                    self._refill(level)
        return Demand(None) if self._starved else super().demand(now)

    def ready_at(self) -> float:
        """As of every queue; what is being loaded will be ready in a moment."""
        return min(super().ready_at(), self._loop.time() + 0.005 if self._starved else math.inf)

    # -- expiry in the store

    def _set_cold_expiry(self, time: datetime | None) -> None:
        self._cold_expire_at = math.inf if time is None else (time - self._wall).total_seconds()

    def overdue_at(self, now: float) -> float:
        """As of every queue."""
        cold = self._cold_expire_at + 0.001 if self._all_cold else math.inf
        return min(super().overdue_at(now), cold)

    def expire(self, now: float) -> bool:
        """As of every queue; what expires in the store only is looked up there, and settled a moment later."""
        if self._cold_expire_at <= now and self._all_cold:
            self._cold_expire_at = math.inf
            self._begin(self._expire_cold(now))
        return super().expire(now)

    async def _expire_cold(self, now: float) -> None:
        try:
            due, later = await self._store.due(self._wall + timedelta(seconds=now), SLICE)
        except StoreError as error:
            logger.error("the store cannot be read: %s", error, extra=log_fields("store_failed", reason=str(error)))
            self._cold_expire_at = self._loop.time() + _RETRY
        else:
            self._set_cold_expiry(later)
            if len(due) == SLICE:  # there are more; those that are loaded will have gone by then
                self._cold_expire_at = self._loop.time() + 0.02
            self._end(self._thaw(due), lambda entry: Expired(entry.may_have_arrived))
        self.wake()

    # -- coming in

    def admit_at_once(self, signal: RiskSignal, row: int | None = None) -> Receipt | None:
        """Admit nothing: the store must have it first."""
        return None

    def admit_many_at_once(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit nothing: the store must have them first."""
        return []

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """Refuse: nothing can be durable without waiting."""
        raise StoreError("enqueue_nowait cannot wait for the store; with a store, use `await enqueue`")

    async def admit(self, signal: RiskSignal, timeout: float | None) -> Receipt:
        """Admit *signal* once the store has it."""
        if self._all_cold:
            await self._warm_up([signal])
        if self._closed is not None:
            raise ClientClosed(self._closed)
        if _is_past(signal.expires_at):
            return self._enter(signal, None)
        promised = 0
        if self._when_full != "shed":
            if self.room() > 0:
                self._promise(1)
            else:
                await self._keep_place(signal, timeout)
            promised = 1
        crowd = self._crowd or self._gather()
        index = len(crowd.signals)
        crowd.signals.append(signal)
        if index + 1 == CROWD:
            self._hand_over(crowd)
        try:
            await crowd.written
            if crowd.failure is not None:
                raise StoreError(crowd.failure)
            if self._all_cold:
                await self._load_victims(1)
        except BaseException:
            await self._withdraw(crowd, index, 1, promised)
            raise
        self._promise(-promised)
        return self._enter(signal, crowd.rows[index])

    async def _keep_place(self, signal: RiskSignal, timeout: float | None) -> None:
        if self._has_place_for(signal):
            self._promise(1)
        elif self._when_full == "reject":
            raise QueueFull(f"{self._capacity} signals are unsettled (capacity {self._capacity})")
        else:
            await self._wait_for_room(signal.risk_level, timeout)

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, some hundred in one write."""
        self._check_open()
        kept = 0
        if self._when_full == "reject":
            if len(signals) > self.room():
                raise QueueFull(f"{len(signals)} signals find room for {max(0, self.room())}")
            kept = len(signals)  # places that nobody else can take between two writes
        self._promise(kept)
        receipts: list[Receipt] = []
        try:
            while len(receipts) < len(signals):
                chunk = signals[len(receipts) : len(receipts) + _MANY]
                if self._all_cold:
                    await self._warm_up(chunk)
                self._check_open()
                promised = 0
                if kept:
                    promised = len(chunk)
                    kept -= promised
                elif self._when_full == "wait":
                    promised = await self._keep_places(chunk)
                    chunk = chunk[:promised]
                receipts += await self._write(chunk, promised)
                await asyncio.sleep(0)
        finally:
            self._promise(-kept)
            self._promise_room()
        return receipts

    async def _keep_places(self, signals: Sequence[RiskSignal]) -> int:
        """Keep places for as many of *signals* as there is room for; wait if there is none for the first."""
        await self._keep_place(signals[0], None)
        more = int(max(0, min(self.room(), len(signals) - 1)))
        self._promise(more)
        return 1 + more

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ClientClosed(self._closed)

    async def _warm_up(self, signals: Sequence[RiskSignal]) -> None:
        """Load what *signals* may supersede or shed, so that it is dealt with like all others."""
        if self._coalesce:
            self._take_back(self._thaw(await self._store.find([signal.ip for signal in signals])))
        await self._load_victims(len(signals))

    async def _load_victims(self, count: int) -> None:
        """Load what *count* newcomers may shed; again after their write, as others shed and send meanwhile."""
        if self._when_full == "shed":
            for level in RiskLevel:
                while self._cold[level] and self._prioritizer.lanes[level].size < count:
                    chunk = await self._store.load(level, after := self._loaded[level], CHUNK)
                    if self._loaded[level] == after:
                        self._take_in(level, chunk)

    async def _write(self, signals: Sequence[RiskSignal], promised: int) -> list[Receipt]:
        """Admit *signals*, for which *promised* places are kept, once the store has them."""
        is_past = [_is_past(signal.expires_at) for signal in signals]  # once, since time passes in the write
        durable = [signal for signal, past in zip(signals, is_past, strict=True) if not past]
        crowd = self._crowd or self._gather()
        index = len(crowd.signals)
        crowd.signals += durable
        if len(crowd.signals) >= CROWD:
            self._hand_over(crowd)
        try:
            if durable:
                await crowd.written
            if crowd.failure is not None:
                raise StoreError(crowd.failure)
            if self._all_cold:
                await self._load_victims(len(signals))
        except BaseException:
            await self._withdraw(crowd, index, len(durable), promised)
            raise
        self._promise(-promised)
        rows = iter(crowd.rows[index:])
        pairs = zip(signals, is_past, strict=True)
        return [self._enter(signal, None if past else next(rows)) for signal, past in pairs]

    def _gather(self) -> _Crowd:
        """Begin a crowd, which is handed over in the next turn of the loop, or when it is large enough."""
        self._crowd = crowd = _Crowd(self._loop)
        self._loop.call_soon(self._hand_over, crowd)
        return crowd

    def _hand_over(self, crowd: _Crowd) -> None:
        """Have *crowd* written, unless it is already."""
        if self._crowd is crowd:
            self._crowd = None
            write = self._loop.create_task(self._add(crowd))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _add(self, crowd: _Crowd) -> None:
        try:
            crowd.rows = await self._store.add(crowd.signals) if crowd.signals else ()
        except StoreError as error:
            crowd.failure = str(error)
        except BaseException as error:
            crowd.failure = f"the store failed: {type(error).__name__}"
            raise
        finally:
            crowd.written.wake()

    async def _withdraw(self, crowd: _Crowd, index: int, count: int, promised: int) -> None:
        """Return when *count* signals of *crowd* are surely not in the store, and free the places kept for them."""
        try:
            if crowd.rows and count:
                stop = index + count
                await self._store.withdraw(crowd.signals[index:stop], crowd.rows[index:stop])
        finally:
            self._promise(-promised)
            self._promise_room()

    def _enter(self, signal: RiskSignal, row: int | None) -> Receipt:
        if self._when_full == "shed" and not self._has_place_for(signal) and not _is_past(signal.expires_at):
            return self._admit_by_shedding(signal, row)
        return super().admit_at_once(signal, row) or self._admit(signal, row)

    # -- going out

    def put_back(self, entries: Iterable[Entry], ready_at: float = -math.inf) -> None:
        """As of every queue; the store notes what was tried."""
        entries = list(entries)
        self._store.note(entries)
        super().put_back(entries, ready_at)

    def suspect(self, groups: list[list[Entry]], ready_at: float = -math.inf) -> None:
        """As of every queue; the store notes what was tried."""
        self._store.note([entry for group in groups for entry in group])
        super().suspect(groups, ready_at)

    def _record(self, entries: Sequence[Entry]) -> None:
        gone = []
        for entry in entries:
            if entry.number <= 0:
                self._warm[entry.signal.risk_level] -= 1
            if entry.row is None or isinstance(entry.outcome, Abandoned):
                continue
            heir = self._heir(entry)
            if heir is None:
                gone.append(entry)
            else:  # or after a restart it would stand behind what it stood before
                self._store.succeed(entry, heir)
                heir.row = entry.row
        if gone:
            self._store.settle(gone)

    def _heir(self, entry: Entry) -> Entry | None:
        """Return the waiting entry that has inherited the place of *entry*."""
        if not isinstance(entry.outcome, Superseded):
            return None
        newer = self._prioritizer.waiting_for(entry.signal.ip)
        return newer if newer.place == entry.place and newer.row is not None else None

    # -- the end

    def abandon(self, reason: str) -> bool:
        """Settle what waits as `Abandoned`; the store keeps it for the next client."""
        for chore in self._chores:
            chore.cancel()
        if more := super().abandon(f"{reason}; it is kept in the store"):
            return more
        self.settled[Abandoned] += self._all_cold
        for level in RiskLevel:
            self._uncount(level)
        return False

    async def written(self) -> None:
        """Wait until no admission is being written any more, whoever cancels."""
        while self._crowd is not None or self._writes:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self._writes) if self._writes else await asyncio.sleep(0)
        for _ in range(2):  # those who waited for the write come first
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    def abort(self) -> None:
        """Begin to close the store."""
        self._store.abort()

    async def finish(self) -> None:
        """Close the store once all is written that is owed to it, whoever cancels."""
        closing = asyncio.ensure_future(self._store.close())
        while not closing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({closing, *self._chores})
        try:
            closing.result()
        except StoreError:
            logger.exception("the store was not closed cleanly", extra=log_fields("store_failed"))
