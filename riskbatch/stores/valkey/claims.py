"""What this replica has in flight: its claims, each under a lease, and what the engine is owed of those that ended."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from attrs import asdict, define, field

from ...batcher import Batch
from ...okta.rate_limits import Budget
from ...receipts import Outcome, Receipt
from .engine import microseconds
from .notices import OwnReceipts


@define(eq=False)
class Claim:
    """
    One request of this replica.

    Attributes:
        batch: What it carries.
        name: Of the claim, and of its permit.
        give_up_at: When the lease may end, on the loop clock: the request must be given up before.
        unsent: No request was made, so that the permit is free again.
        is_told: The engine knows how it ended.
        budgets: What the answer said of the budget.
        refused: The answer was a 429 for the rate.
        answered_at: When it ended, on the loop clock.
        settled, back, suspects: What became of its signals, as the scripts want it.
    """

    batch: Batch
    name: str
    give_up_at: float
    unsent: bool = False
    is_told: bool = False
    budgets: list[Budget] = field(factory=list)
    refused: bool = False
    answered_at: float = 0.0
    settled: list[dict[str, object]] = field(factory=list)
    back: list[dict[str, object]] = field(factory=list)
    suspects: list[dict[str, object]] = field(factory=list)
    _timeout: asyncio.Timeout | None = field(init=False, default=None)

    def keep_unsent(self) -> None:
        """Note that no request is made of it."""
        self.unsent = True
        for receipt in self.batch.receipts:
            receipt.attempts -= 1

    def renew(self, give_up_at: float) -> None:
        """Keep it until *give_up_at*."""
        self.give_up_at = give_up_at
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(give_up_at)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """
        Give up what happens in the block when the lease may end.

        Raises:
            TimeoutError: It may have ended.
        """
        try:
            async with asyncio.timeout_at(self.give_up_at) as self._timeout:
                yield
        finally:
            self._timeout = None

    def answer(self) -> dict[str, object]:
        """Return what the engine is told of the end."""
        tried = {str(r.sequence): -r.attempts if r.may_have_arrived else r.attempts for r in self.batch.receipts}
        return {
            "claim": self.name,
            "unsent": self.unsent,
            "settled": self.settled,
            "back": self.back,
            "suspects": self.suspects,
            "tried": tried,
        }


class Claims:
    """
    All claims of one replica.

    Args:
        own: The receipts that were given out here.
        period: Seconds after which the permit of an answered request comes back.
        lease: Seconds that a claim lasts.

    Attributes:
        lease: Seconds that a claim lasts.
        owed: Claims that have ended, in order, and of which the engine does not know all yet.
    """

    def __init__(self, own: OwnReceipts, period: float, lease: float) -> None:
        self.lease: float = lease
        self.owed: deque[Claim] = deque()
        self._own = own
        self._period = period
        self._loop = asyncio.get_running_loop()
        self._open: dict[Batch, Claim] = {}
        self._of: dict[Receipt, Claim] = {}
        self._spent: deque[tuple[str, float]] = deque()  # permits of answered requests, and when that was

    def open(self, batch: Batch, name: str, sent_at: float) -> None:
        """Begin the claim *name* of *batch*, of which the engine was told from *sent_at* on."""
        claim = self._open[batch] = Claim(batch, name, sent_at + self.lease)
        self._of |= dict.fromkeys(batch.receipts, claim)
        self._own.depart(receipt.sequence for receipt in batch.receipts)

    def __getitem__(self, batch: Batch) -> Claim:
        return self._open[batch]

    @property
    def known(self) -> list[str]:
        """The names of claims that the engine must keep."""
        return [claim.name for claim in (*self._open.values(), *self.owed)]

    @property
    def spent(self) -> list[str]:
        """The names of permits that come back later, since their requests were answered."""
        return [name for name, _ in self._spent]

    def permits_out(self, now: float) -> list[tuple[str, float]]:
        """Return the permits that are out, and the seconds until they come back at the latest."""
        flying = [(claim.name, self._period + self.lease) for claim in self._open.values()]
        ended = [(claim.name, claim.answered_at) for claim in self.owed if not claim.unsent]
        back = [(name, at + self._period - now) for name, at in (*self._spent, *ended)]
        return flying + [(name, after) for name, after in back if after > 0]

    def renew(self, names: Iterable[str], known: Iterable[str], sent_at: float) -> None:
        """Keep the claims with *names* a lease from *sent_at*; the others of those *known* have been taken away."""
        kept, asked = set(names), set(known)
        for claim in self._open.values():
            if claim.name in asked:
                claim.renew(sent_at + self.lease if claim.name in kept else self._loop.time())

    # -- what became of the signals

    def settle(self, receipts: Sequence[Receipt], outcome: Callable[[Receipt], Outcome]) -> None:
        """Note the outcomes of *receipts*, which one request carried."""
        told: dict[Outcome, list[str]] = {}
        for receipt in receipts:
            told.setdefault(outcome(receipt), []).append(str(receipt.sequence))
        for ended, ids in told.items():
            detail = json.dumps(asdict(ended))
            self._of[receipts[0]].settled.append({"outcome": type(ended).__name__, "detail": detail, "ids": ids})

    def put_back(self, receipts: Sequence[Receipt], ready_at: float) -> None:
        """Note that *receipts*, which one request carried, wait again."""
        if receipts:
            self._of[receipts[0]].back.append(self._returning(receipts, ready_at))

    def suspect(self, group: Sequence[Receipt], ready_at: float) -> None:
        """Note that a *group* of what one request carried is to be probed."""
        self._of[group[0]].suspects.append(self._returning(group, ready_at))

    def _returning(self, receipts: Sequence[Receipt], ready_at: float) -> dict[str, object]:
        self._own.leave_flight(receipt.sequence for receipt in receipts)
        after = microseconds(max(0.0, ready_at - self._loop.time()))
        return {"ids": [str(receipt.sequence) for receipt in receipts], "after": after}

    def finish(self, batch: Batch) -> None:
        """Owe the engine what became of *batch*."""
        claim = self._open.pop(batch)
        for receipt in batch.receipts:
            del self._of[receipt]
        self.owed.append(claim)

    def note_told(self, claim: Claim) -> None:
        """Remember the permit of a *claim* that the engine knows to be answered; its signals are in flight no more."""
        self._own.leave_flight(receipt.sequence for receipt in claim.batch.receipts)
        if not claim.unsent and not claim.is_told:
            self._spent.append((claim.name, claim.answered_at))
        claim.is_told = True
        while self._spent and self._spent[0][1] + self._period < self._loop.time():
            self._spent.popleft()
