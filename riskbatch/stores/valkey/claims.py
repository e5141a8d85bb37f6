"""What a replica agrees upon with the engine before it sends, what it then sends, and what it tells of the end."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen

from ...batcher import Batch
from ...okta.wire import Budget
from .engine import microseconds


@frozen
class Terms:
    """
    On what terms a replica would send now.

    Attributes:
        sending: Whether at all.
        draining: The replica ends. If it is the last, nothing is gained by pace or reserve.
        hold_until: Nothing leaves before.
        others_until: Nothing without HIGH leaves before.
        express: Whether a payload full of HIGH may leave before the pace.
    """

    sending: bool = True
    draining: bool = False
    hold_until: float = -math.inf
    others_until: float = -math.inf
    express: bool = True


class Claim(Batch):
    """
    What one request of this replica carries, under a lease.

    Attributes:
        name: Of the claim, and of its permit.
        give_up_at: When the lease may end, on the loop clock: the request must be given up before.
        unsent: No request was made, so that the permit is free again.
        budgets: What the answer said of the budget.
        refused: The answer was a 429 for the rate.
        answered_at: When it ended, on the loop clock.
        landed, back, suspects: What became of its signals, as the script wants it.
    """

    def __init__(self, subjects_per_event: int, name: str, give_up_at: float) -> None:
        super().__init__(subjects_per_event)
        self.name = name
        self.give_up_at = give_up_at
        self._timeout: asyncio.Timeout | None = None
        self.unsent = False
        self.budgets: list[Budget] = []
        self.refused = False
        self.answered_at = 0.0
        self.landed: list[dict[str, object]] = []
        self.back: list[dict[str, object]] = []
        self.suspects: list[dict[str, object]] = []

    def keep_unsent(self) -> None:
        """Note that no request is made of it."""
        self.unsent = True
        for entry in self.entries:
            entry.attempts -= 1

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
        """Return what the script is told of the end."""
        return {
            "claim": self.name,
            "unsent": self.unsent,
            "budgets": [_budget(budget) for budget in self.budgets if not budget.is_concurrency()],
            "refused": self.refused,
            "settled": self.landed,
            "back": self.back,
            "suspects": self.suspects,
            "tried": {str(r.row): -r.attempts if r.may_have_arrived else r.attempts for r in self.entries},
        }


@frozen
class Found:
    """
    What a look at the shared queue found.

    Attributes:
        claim: What to send now, if anything.
        again_after: Seconds until something may change by itself.
        next_after: Seconds until this replica could send, as it stands; infinity if there is nothing.
    """

    claim: Claim | None
    again_after: float
    next_after: float


def _budget(budget: Budget) -> dict[str, object]:
    told: dict[str, object] = {"limit": budget.limit, "remaining": budget.remaining}
    if budget.resets_after is not None:
        told["resets_after"] = microseconds(budget.resets_after)
    return told
