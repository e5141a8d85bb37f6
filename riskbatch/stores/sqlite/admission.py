"""How signals come in if a store must have them first, and what the store has comes into memory."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from ...capacity import Capacity
from ...errors import StoreError
from ...log import log_fields
from ...queue import Queue, WhenFull
from ...receipts import Expired, Receipt
from ...signals import RiskLevel, RiskSignal
from .backlog import Backlog
from .store import SqliteStore

logger = logging.getLogger("riskbatch")

_MANY = 500  # signals that enqueue_many writes at once, and that come in between two turns of the event loop
_RETRY = 1.0  # seconds after a store could not be read
_POLL = 0.001  # seconds between two looks whether the last writes have ended: a few milliseconds on most disks
_LOWEST_FIRST = tuple(reversed(RiskLevel))


class StoredAdmission:
    """
    The way into a *queue* whose signals are in a *store*: a place is kept, the store has the signal, it comes in.

    Args:
        store: Where signals are before they are admitted.
        queue: What has the head of the line.
        backlog: What of the store is not in memory.
        capacity: The room.
        when_full: See `Client`.
    """

    def __init__(
        self, store: SqliteStore, queue: Queue, backlog: Backlog, capacity: Capacity, *, when_full: WhenFull
    ) -> None:
        self._store = store
        self._queue = queue
        self._backlog = backlog
        self._capacity = capacity
        self._when_full = when_full
        self._loop = asyncio.get_running_loop()
        self._coalesces = queue.prioritizer.coalesces
        self._sheds = when_full == "shed"
        self._looks = self._coalesces or self._sheds  # newcomers are no matter of memory alone
        self._writing = 0  # calls that have a place, and are not in yet
        self._is_overdrawn = False  # what a former client left is more than the capacity
        self._retry_at = -math.inf  # when a store that could not be read is asked again

    # -- from the store

    async def open(self) -> None:
        """
        Own the store, and admit what it holds; the oldest of each level are in memory when this returns.

        Raises:
            StoreError: It cannot be had.
        """
        left = await self._backlog.open(by_address=self._coalesces)
        self._queue.books.admitted += left
        self._queue.books.last = self._backlog.newest
        self._capacity.used += left
        self._is_overdrawn = self._when_full == "wait" and left > self._capacity.places
        try:
            for level in RiskLevel:
                await self._load(level)
        except BaseException:
            await self.finish()
            raise

    async def prepare(self, now: float) -> float:
        """
        Settle what has expired on disk, and load what the next batch may need, before it is chosen.

        Returns when to call it again, at the latest; infinity if only a change can tell.
        """
        if now < self._retry_at:
            return self._retry_at
        try:
            async with self._backlog.lock:
                if self._backlog.expires_at <= now and (expired := await self._backlog.due()):
                    self._queue.end(expired, lambda receipt: Expired(receipt.may_have_arrived))
                await self._fill_payload()
        except StoreError as error:
            if self._retry_at == -math.inf:  # it is tried again every second
                text, found = "the store cannot be read, younger signals go first meanwhile: %s", str(error)
                logger.error(text, error, extra=log_fields("store_failed", reason=found))
            self._retry_at = now + _RETRY
            return self._retry_at
        self._retry_at = -math.inf
        return self._backlog.expires_at

    async def _fill_payload(self) -> None:
        """Load until no signal on disk outranks one that would ride in the next batch."""
        needed = self._queue.payload
        for level, lane in self._queue.prioritizer.lanes.items():
            await self._fill(level, needed)
            needed -= len(lane)
            if needed <= 0:
                break

    async def _fill(self, level: RiskLevel, least: int) -> bool:
        """Load until *least* of *level* are ready, or no more can be loaded; tell whether any were. Holds the lock."""
        was_loaded = False
        while len(self._queue.prioritizer.lanes[level]) < least and await self._load(level):
            was_loaded = True
            await asyncio.sleep(0)
        return was_loaded

    async def _load(self, level: RiskLevel) -> bool:
        receipts, damaged = await self._backlog.load(level)
        if damaged:
            lost = log_fields("store_failed", reason="unreadable", count=damaged)
            logger.error("the store has %d %s that cannot be read; they stay", damaged, level.value, extra=lost)
            self._queue.books.lose(damaged)
            self._capacity.free(damaged)
        if receipts:
            self._queue.end_superseded(self._queue.prioritizer.put_back(receipts))
        return bool(receipts)

    # -- coming in

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """Refuse: nothing can be durable without waiting."""
        raise StoreError("enqueue_nowait cannot wait for the store; with a store, use `await enqueue`")

    async def admit(self, signal: RiskSignal, timeout: float | None = None) -> Receipt:
        """Admit *signal* once the store has it."""
        self._capacity.check_open()
        kept = await self._keep_place(signal, timeout)
        (receipt,) = await self._bring_in([signal], kept)
        return receipt

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, some hundred in one write."""
        self._capacity.check_open()
        reserved = 0  # places that nobody else can take between two writes
        if self._when_full == "reject":
            reserved = len(signals)
            self._capacity.promise_all(reserved)
        receipts: list[Receipt] = []
        try:
            while len(receipts) < len(signals):
                self._capacity.check_open()
                chunk = signals[len(receipts) : len(receipts) + _MANY]
                kept = 0
                if reserved:
                    kept, reserved = len(chunk), reserved - len(chunk)
                elif self._when_full == "wait":
                    kept = await self._keep_places(chunk)
                    chunk = chunk[:kept]
                receipts += await self._bring_in(chunk, kept)
                await asyncio.sleep(0)
        finally:
            self._capacity.release(reserved)
            self._capacity.let_in()
        return receipts

    async def _keep_places(self, signals: Sequence[RiskSignal]) -> int:
        """Keep places for as many of *signals* as there is room for; wait if there is none for the first."""
        await self._keep_place(signals[0], None)
        more = max(0, min(self._capacity.room, len(signals) - 1))
        self._capacity.promise(more)
        return 1 + more

    async def _keep_place(self, signal: RiskSignal, timeout: float | None) -> int:
        """Keep a place for *signal* while it is written, as *when_full* says; return how many were kept."""
        if self._sheds:
            return 0
        if self._has_place_for(signal) or await self._supersedes_on_disk(signal):
            self._capacity.promise(1)
        elif self._when_full == "reject":
            raise self._capacity.refusal()
        else:
            await self._capacity.wait(signal.risk_level, timeout)
        return 1

    def _has_place_for(self, signal: RiskSignal) -> bool:
        if self._capacity.room > 0:
            self._is_overdrawn = False
            return True
        level = signal.risk_level
        if self._is_overdrawn and level is RiskLevel.HIGH:  # or it would wait for hours behind what was left
            return self._queue.waiting_by_level()[level] < self._capacity.places
        return self._queue.prioritizer.waiting_for(signal.ip) is not None

    async def _supersedes_on_disk(self, signal: RiskSignal) -> bool:
        if not self._coalesces or not self._backlog.size:
            return False
        async with self._backlog.lock:
            await self._backlog.find([signal])
            found = self._backlog.supersedes(signal)
            self._backlog.forget_found()
            return found

    async def _bring_in(self, signals: Sequence[RiskSignal], kept: int) -> list[Receipt]:
        """Admit *signals*, for which *kept* places are promised, once the store has them."""
        rows: Sequence[int] = ()
        is_entering = False
        self._writing += 1
        try:
            rows = await self._backlog.add(signals)
            async with self._looking_up(signals):
                is_entering = True
                return self._enter(signals, rows, kept)
        except BaseException:
            if not is_entering:
                await self._backlog.withdraw(rows)
                self._capacity.release(kept)
                self._capacity.let_in()
            raise
        finally:
            self._writing -= 1

    @asynccontextmanager
    async def _looking_up(self, signals: Sequence[RiskSignal]) -> AsyncIterator[None]:
        """In the block, know or have in memory what *signals* may supersede or shed, though it was on disk."""
        if not self._looks or not (self._backlog.size or self._backlog.lock.locked()):
            yield
            return
        async with self._backlog.lock:
            try:
                must_look = True
                while must_look:  # while a level is loaded, another may be sent, and what was found may be loaded
                    if self._coalesces:
                        await self._backlog.find(signals)
                    must_look = self._sheds and any([await self._fill(level, len(signals)) for level in _LOWEST_FIRST])
                yield
            finally:
                self._backlog.forget_found()

    def _enter(self, signals: Sequence[RiskSignal], rows: Sequence[int], kept: int) -> list[Receipt]:
        self._capacity.release(kept)
        self._backlog.come_in(rows)
        receipts = [self._queue.enter(signal, row) for signal, row in zip(signals, rows, strict=True)]
        if self._backlog.size:
            self._queue.alarm.ring()  # rows that could not be loaded while these were coming may be now
        return receipts

    # -- the end

    async def written(self) -> None:
        """Wait until no admission is being written any more, whoever cancels."""
        while self._writing:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(_POLL)

    def abort(self) -> None:
        """Begin to close the store."""
        self._store.abort()

    async def finish(self) -> None:
        """Close the store once all is written that is owed to it, whoever cancels."""
        closing = asyncio.ensure_future(self._store.close())
        while not closing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({closing})
        try:
            closing.result()
        except StoreError:
            logger.exception("the store was not closed cleanly", extra=log_fields("store_failed"))
