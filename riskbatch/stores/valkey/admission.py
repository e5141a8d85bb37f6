"""
How signals come into the shared queue: a bounded buffer of what is on its way, and one numbered call for many of them.

The engine decides about room, as it must in one step with the admission itself. Until then `when_full` is about the
buffer. A call whose answer was lost is repeated with its number, so that nothing is admitted twice.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from attrs import define, field

from ...capacity import Capacity
from ...errors import ClientClosed, QueueFull, StoreError
from ...okta.risk_events import MAX_EVENTS
from ...queue import WhenFull
from ...receipts import Receipt, Shed
from ...signals import RiskLevel, RiskSignal
from .engine import encoded
from .notices import OwnReceipts
from .session import Session

AT_ONCE = 250  # signals a call: 1 or 2 ms of the engine's time, and of this loop's
WHOLE = 5_000  # signals of one `enqueue_many` that are admitted together or not at all
_SOON = 0.01  # seconds until another look at what is soon to change


@define(eq=False)
class _Add:
    """Signals on their way to the engine, for one caller."""

    signals: list[RiskSignal]
    alone: bool  # `enqueue`, of which a cancellation leaves nothing behind
    done: asyncio.Future[None]
    gone: asyncio.Future[None]  # the caller was cancelled, and they are out again
    receipts: list[Receipt] = field(factory=list)
    tried: bool = False  # the engine had no room for all of them
    withdrawn: bool = False

    @property
    def level(self) -> RiskLevel:
        return self.signals[0].risk_level


class Admissions:
    """
    What is on its way to the engine.

    Args:
        session: The calls of this replica.
        own: Where receipts are made.
        buffer: How many signals may be on their way.
        capacity: The most unsettled signals of the whole fleet.
        when_full: What a newcomer gets then.
        payload: Signals that surely fill one.

    Attributes:
        work: Set when the engine is to be told of something.
        capacity: The most unsettled signals of the whole fleet.
        own: Where receipts are made.
        fleet_is_full: The engine had no room, and nothing has ended since.
    """

    def __init__(
        self,
        session: Session,
        own: OwnReceipts,
        *,
        buffer: int,
        capacity: int,
        when_full: WhenFull,
        payload: int,
    ) -> None:
        self.work: asyncio.Event = asyncio.Event()
        self.fleet_is_full: bool = False
        self.own = own
        own.on_room = self.note_room
        self._session = session
        self.capacity = capacity
        self._when_full = when_full
        self._payload = payload
        self._buffer = Capacity(buffer)
        self._loop = asyncio.get_running_loop()
        self._pending: dict[RiskLevel, deque[_Add]] = {level: deque() for level in RiskLevel}
        self._adding: list[_Add] = []  # in the call that is under way, or must be repeated
        self._number = 0  # of that call: the engine recognizes a repeated one
        self._withdrawals: deque[tuple[list[str], asyncio.Future[None]]] = deque()
        self._has_ended = False

    @property
    def are_pending(self) -> bool:
        """Whether a call could admit something."""
        return bool(self._adding) or (not self.fleet_is_full and any(self._pending.values()))

    @property
    def are_owed(self) -> bool:
        """Whether a call was begun whose end is not known yet."""
        return bool(self._adding or self._withdrawals)

    @property
    def are_repeated(self) -> bool:
        """Whether the answer to the last call was lost."""
        return bool(self._adding)

    @property
    def are_withdrawn(self) -> bool:
        """Whether the engine must take something back."""
        return bool(self._withdrawals)

    def note_room(self) -> None:
        """Note that the fleet has room again."""
        self.fleet_is_full = False
        self.work.set()

    # -- callers

    async def admit(self, signals: list[RiskSignal], timeout: float | None, *, alone: bool) -> list[Receipt]:
        """Return the receipts of *signals*, of one caller, once the engine has them."""
        deadline = None if timeout is None else self._loop.time() + timeout
        add = _Add(signals, alone, self._loop.create_future(), self._loop.create_future())
        await self._find_place(add, timeout)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await asyncio.shield(add.done)
            # *timeout* is for room, not for the way there.
            while not (add.done.done() or add.tried or self._session.hindrance or self._has_ended):  # noqa: ASYNC110 - rare
                await asyncio.sleep(_SOON)
        except BaseException:
            await self._take_back(add)
            raise
        if not add.done.done():
            await self._take_back(add)
            raise self._late(timeout)
        add.done.result()
        return add.receipts

    def _late(self, timeout: float | None) -> Exception:
        if reason := self._session.hindrance:
            return StoreError(f"the engine did not take it within {timeout} s: {reason}")
        return QueueFull(f"no room came within {timeout} s (capacity {self.capacity})")

    async def _find_place(self, add: _Add, timeout: float | None) -> None:
        """Put *add* in the buffer; wait for room there, make it, or raise, as `when_full` says."""
        self._buffer.check_open()
        if self._buffer.room <= 0:
            if self._when_full == "reject":
                size = self._buffer.places
                raise QueueFull(f"{size} signals are on their way to the engine (buffer {size})")
            if self._when_full == "shed":
                loser = self._lowest(add)
                loser.receipts = [self.own.books.admit(signal) for signal in loser.signals]
                self.own.settle(loser.receipts, lambda _: Shed())
                _resolve(loser.done)
                if loser is add:
                    return
            else:
                await self._buffer.wait(add.level, timeout)
                self._buffer.release(1)
                self._buffer.check_open()
        self._buffer.used += len(add.signals)
        self._pending[add.level].append(add)
        self.work.set()

    def _lowest(self, newcomer: _Add) -> _Add:
        """Remove and return what makes room for *newcomer*: the oldest of the lowest level, or itself."""
        for level in reversed(RiskLevel):
            if self._pending[level]:
                victim = self._pending[level].popleft()
                self._buffer.free(len(victim.signals))
                return victim
            if level is newcomer.level:
                break
        return newcomer

    async def _take_back(self, add: _Add) -> None:
        """
        Return when the signals of *add* that its caller has no receipt of are surely not in the queue.

        While the engine is away or full, that is left for later. What a replica has claimed in that moment is sent.
        """
        if add.done.done():  # at the same moment
            if not add.alone or add.done.exception() is not None:
                return
            numbers = [receipt.sequence for receipt in add.receipts]
            for number in numbers:
                self.own.withdraw(number)
            self._withdrawals.append(([str(number) for number in numbers], add.gone))
        elif add in self._adding:
            add.withdrawn = True
        else:
            self._pending[add.level].remove(add)
            self._free(len(add.signals))
            return
        self.work.set()
        while not (add.gone.done() or self._session.hindrance or self._has_ended):
            with suppress(asyncio.CancelledError):
                await asyncio.wait({add.gone})

    def _free(self, places: int) -> None:
        self._buffer.free(places)
        self._buffer.let_in()

    # -- the engine

    async def send(self) -> bool:
        """Admit what waits in the buffer, some hundred signals; return whether the sender's plan may change."""
        if not self._adding:
            self._adding = self._choose()
            self._number += 1
        adding = self._adding
        given = {
            "number": self._number,
            "units": [len(add.signals) for add in adding],
            "when_full": self._when_full,
            "capacity": self.capacity,
            "after": self.own.read_until,
        }
        told = await self._session.call("admit", given, [encoded(signal) for add in adding for signal in add.signals])
        self._adding = []
        number = int(told.get("first") or 0)
        for add, count in zip(adding, told["counts"], strict=True):
            self._enter(add, range(number, number + count))
            number += count
        await self.own.read(told["notices"])  # whom the newcomers shed or superseded, before they go on
        self._buffer.let_in()
        return _changes_plan(told["before"], told["after"], self._payload)

    def _choose(self) -> list[_Add]:
        """Take from the buffer what the next call admits, the highest level first."""
        chosen: list[_Add] = []
        size = 0
        for adds in self._pending.values():
            while adds and (not chosen or size + len(adds[0].signals) <= AT_ONCE):
                chosen.append(adds.popleft())
                size += len(chosen[-1].signals)
        return chosen

    def _enter(self, add: _Add, numbers: Sequence[int]) -> None:
        """Give *add* the receipts of its first signals, which the engine has as *numbers*; the others wait on."""
        if add.withdrawn:
            self._buffer.free(len(add.signals))
            self._withdrawals.append(([str(number) for number in numbers], add.gone))
            return
        add.receipts += [self.own.admit(signal, number) for signal, number in zip(add.signals, numbers, strict=False)]
        del add.signals[: len(numbers)]
        self._buffer.free(len(numbers))
        left = len(add.signals)
        if not left:
            _resolve(add.done)
        elif self._when_full == "reject":
            self._buffer.free(left)
            _refuse([add], QueueFull(f"the fleet has no room for {left} more (capacity {self.capacity})"))
        else:
            try:
                self._buffer.check_open()
            except ClientClosed as closed:
                self._buffer.free(left)
                _refuse([add], closed)
            else:
                self.fleet_is_full = add.tried = True
                self._pending[add.level].appendleft(add)

    async def withdraw(self) -> None:
        """Let the engine take back what was cancelled."""
        while self._withdrawals:
            ids, gone = self._withdrawals[0]
            await self._session.call("withdraw", {"ids": ids})
            self._withdrawals.popleft()
            _resolve(gone)

    # -- the end

    def stop_waiting(self) -> None:
        """Let nobody wait for what is taken back: the engine is away, and it will be done."""
        for gone in [add.gone for add in self._adding] + [gone for _, gone in self._withdrawals]:
            _resolve(gone)

    def close(self, reason: str) -> None:
        """Admit no more; what is not on its way to the engine yet is refused."""
        self._buffer.close(reason)
        for adds in self._pending.values():
            _refuse(adds, ClientClosed(reason))
            adds.clear()

    def end(self, failure: Exception) -> None:
        """Refuse what was on its way: nobody will ask the engine any more."""
        self._has_ended = True
        self.stop_waiting()
        _refuse(self._adding, failure)


def _changes_plan(before: list[int], after: list[int], payload: int) -> bool:
    """Tell whether the next request may change: with the first of a level, and with each that may fill a payload."""
    return any(
        old < new and old < payload and (old == 0 or old // MAX_EVENTS < new // MAX_EVENTS)
        for old, new in [*zip(before, after, strict=True), (sum(before), sum(after))]
    )


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _refuse(adds: Iterable[_Add], error: Exception) -> None:
    for add in adds:
        if not add.done.done():
            add.done.set_exception(error)
            add.done.exception()  # whoever was cancelled does not look
