"""A fleet as one client sees it: the queue that it admits into, and the parts of a replica, put together."""

import math
from collections.abc import Callable, Sequence

from attrs import evolve

from ...alarm import Alarm
from ...books import Books
from ...errors import StoreError
from ...limiter import Limiter
from ...log import EventLog
from ...queue import WhenFull
from ...receipts import Outcome, Receipt
from ...signals import RiskLevel, RiskSignal
from .admission import AT_ONCE, WHOLE, Admissions
from .claims import Claims
from .decide import Decider
from .dispatch import FleetDispatcher
from .engine import ValkeyStore, microseconds
from .exchange import Exchange
from .looks import Looks
from .notices import OwnReceipts
from .session import TOLERANCE, Session
from .statistics import FleetStatistics
from .window import private


class FleetQueue:
    """
    The signals that this replica admitted; they wait in the engine, among those of all replicas.

    Args:
        store: Where the engine is.
        limiter: The budget and the rules.
        org: The org's URL.
        books: The counts.
        capacity, when_full, subjects_per_event, coalesce: As for the client.

    Attributes:
        alarm: Rings when the sender should look again.
        dispatcher: Gives out what this replica may send.
    """

    def __init__(
        self,
        store: ValkeyStore,
        limiter: Limiter,
        org: str,
        books: Books,
        *,
        capacity: int,
        when_full: WhenFull,
        subjects_per_event: int,
        coalesce: bool,
    ) -> None:
        self.alarm: Alarm = Alarm()
        self.books = books
        self._when_full = when_full
        period = limiter.window.rate.period + TOLERANCE
        told = {"period": microseconds(period), "lease": microseconds(store.lease), "coalesce": coalesce}
        session = Session(store.connect(org), told, EventLog(org))
        decider = Decider(private(limiter), subjects_per_event)
        self.admissions: Admissions = Admissions(
            session,
            OwnReceipts(books, self.alarm),
            buffer=store.buffer,
            capacity=capacity,
            when_full=when_full,
            payload=decider.payload,
        )
        self.own: OwnReceipts = self.admissions.own
        self._claims = claims = Claims(self.own, period, store.lease)
        self._session = session
        self._looks = Looks(session, decider.limiter, claims, self.admissions)
        self.dispatcher: FleetDispatcher = FleetDispatcher(session, self._looks, decider, claims, self.admissions)
        self._exchange = Exchange(
            session, self.own, claims, self.admissions, self.dispatcher, decider.limiter, self.alarm, self.close
        )

    # -- life

    async def open(self) -> None:
        """
        Become a replica; an engine that is away has a lease's time to come back.

        Raises:
            StoreError: The engine cannot be reached or refuses.
        """
        await self._exchange.open(self._claims.lease)

    async def written(self) -> None:
        """Wait until the engine knows all that was begun, unless it is away."""
        await self._exchange.written()

    def abort(self) -> None:
        """Leave the fleet as soon as may be, without waiting for it."""
        self._exchange.abort()

    async def finish(self) -> None:
        """Leave the fleet, whoever cancels."""
        await self._exchange.finish()

    # -- coming in

    def admit_nowait(self, signal: RiskSignal) -> Receipt:
        """Refuse: nothing can be shared without waiting."""
        raise StoreError("enqueue_nowait cannot wait for the store; with a store, use `await enqueue`")

    async def admit(self, signal: RiskSignal, timeout: float | None = None) -> Receipt:
        """Admit *signal* once the engine has it."""
        return (await self.admissions.admit([signal], timeout, alone=True))[0]

    async def admit_many(self, signals: Sequence[RiskSignal]) -> list[Receipt]:
        """Admit *signals* in their order, some hundred in one call."""
        size = WHOLE if self._when_full == "reject" else AT_ONCE
        receipts: list[Receipt] = []
        for start in range(0, len(signals), size):
            receipts += await self.admissions.admit(list(signals[start : start + size]), None, alone=False)
        return receipts

    # -- the books

    @property
    def statistics(self) -> FleetStatistics:
        """What the fleet does, as of this replica's last look."""
        return evolve(self._looks.statistics, away=self._session.away)

    @property
    def waiting(self) -> int:
        """Signals that this replica admitted, that are not settled, and that are in none of its own requests."""
        return self.own.waiting

    def waiting_by_level(self) -> dict[RiskLevel, int]:
        """Count them by level."""
        return self.own.waiting_by_level()

    def oldest_at(self, now: float) -> float:
        """Return when the oldest of them was admitted; *now* if there is none."""
        return self.own.oldest_at(now)

    async def flush(self, timeout: float | None) -> int:
        """Wait until all that is admitted now is settled, and let nothing linger meanwhile; return how much is not."""
        self.alarm.ring()
        return await self.books.flush(timeout)

    # -- for the sender

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Settle *receipts*, which are in flight: each where it was enqueued, once the engine tells of it."""
        self._claims.settle(receipts, outcome)

    def put_back(self, receipts: Sequence[Receipt], ready_at: float = -math.inf) -> None:
        """Return *receipts* from flight to the front of their lanes, held back until *ready_at*."""
        self._claims.put_back(receipts, ready_at)

    def suspect(self, groups: Sequence[list[Receipt]], ready_at: float = -math.inf) -> None:
        """Return *groups* from flight, each to be probed in a request of its own."""
        for group in groups:
            self._claims.suspect(group, ready_at)

    def retry_now(self) -> None:
        """What is held back stays so: it may be another replica's."""
        self.alarm.ring()

    # -- the end

    def close(self, reason: str) -> None:
        """Admit no more; what is not on its way to the engine yet is refused."""
        self.admissions.close(reason)
        self.alarm.ring()

    def abandon(self, reason: str) -> bool:
        """Settle what waits as `Abandoned`; the fleet keeps it, for the other replicas."""
        return self.own.abandon(reason)
