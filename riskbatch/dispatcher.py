"""
Permit first, batch second: when the next request may leave, and with what.

The batch is taken at the instant at which its request leaves, so that a HIGH that arrives while everything waits rides
in the very next request.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from attrs import frozen

from .batcher import Batch, Demand
from .limiter import Limiter
from .okta.http import Response
from .okta.rate_limits import Budget
from .queue import Queue
from .signals import RiskLevel

EXPIRY_RESOLUTION = 0.01  # seconds that an expiry may be noticed late, so that many deadlines share a turn
TIMER_RESOLUTION = 1e-6  # seconds: a timer may fire this early, and waiting again for so little would spin


@frozen
class Terms:
    """
    What the sender allows beside the limiter's rules. Instants are on the loop clock, in seconds.

    Attributes:
        hold_until: Nothing leaves before: there are no credentials, or the server will take nothing.
        others_until: No request without a HIGH leaves before: the server fails.
        express: A HIGH may leave before the pace lets it.
        draining: No further signal will come.
        leave_before: Nothing leaves from then on: the time to drain is over.
    """

    hold_until: float = -math.inf
    others_until: float = -math.inf
    express: bool = True
    draining: bool = False
    leave_before: float = math.inf


@frozen
class Pause:
    """
    Nothing leaves now.

    Attributes:
        leaves_at: When something may leave, as far as is known; infinity if only a change can tell.
        until: When to ask again, at the latest.
    """

    leaves_at: float
    until: float


class Dispatcher(Protocol):
    """What gives the sender its batches, each with a permit, and hears what became of their requests."""

    @property
    def outage(self) -> str | None:
        """Why no batch can be had at all, `None` if it can."""

    def budget(self, now: float) -> tuple[int, int, float]:
        """Return the limit of a window, the permits that are free, and until when the server holds everything."""

    async def next_batch(self, terms: Terms) -> Batch | Pause:
        """Return the batch whose request must leave now, its permit taken; or how long nothing does."""

    async def exchange(self, batch: Batch, send: Callable[[], Awaitable[Response]]) -> Response:
        """Return what *send* returns for *batch*, or raise `Unanswered` if it is given up before."""

    def learn(self, batch: Batch, budgets: Sequence[Budget], *, refused: bool) -> None:
        """Adopt what the answer to *batch* says of the budget; *refused*: it was a 429 for the rate."""

    def release_permit(self, batch: Batch) -> None:
        """The request of *batch* was answered or given up: its permit comes back a period from now."""

    def finish(self, batch: Batch) -> None:
        """What became of the signals of *batch* is said."""


def departs_at(limiter: Limiter, demand: Demand, terms: Terms, now: float, *, flushing: bool) -> float:
    """Return the earliest instant at which a request for *demand* may leave; infinity if only a change can tell."""
    at = limiter.next_at(now, demand, flushing=flushing, draining=terms.draining)
    at = max(at, terms.hold_until)
    if demand.level is RiskLevel.HIGH and not terms.draining:
        return at if terms.express else max(at, limiter.paced_at)
    return max(at, terms.others_until)


class LocalDispatcher:
    """
    The batches of one queue, by the permits of one limiter.

    Args:
        queue: Where the signals wait.
        limiter: When a request may leave.
        prepare: Called before each choice: brings into memory what a store has; returns when to call it again.
    """

    outage = None

    def __init__(
        self, queue: Queue, limiter: Limiter, prepare: Callable[[float], Awaitable[float]] | None = None
    ) -> None:
        self._queue = queue
        self._limiter = limiter
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()

    def budget(self, now: float) -> tuple[int, int, float]:
        """Return the limit of a window, the permits that are free, and until when the server holds everything."""
        window = self._limiter.window
        return window.limit, max(0, window.free(now)), self._limiter.held_until

    async def next_batch(self, terms: Terms) -> Batch | Pause:
        """Return the batch whose request must leave now, its permit taken; or how long nothing does."""
        prepare_at = math.inf if self._prepare is None else await self._prepare(self._loop.time())
        prioritizer = self._queue.prioritizer
        now = self._loop.time() + TIMER_RESOLUTION
        if self._queue.expire(now):  # a slice; there may be more
            await asyncio.sleep(0)
            return Pause(now, now)
        prioritizer.release(now)
        demand = prioritizer.demand()
        at = departs_at(self._limiter, demand, terms, now, flushing=self._queue.books.flushing)
        if now >= terms.leave_before:
            return Pause(math.inf, math.inf)
        if at > now:
            at = min(at, prioritizer.ready_at())
            return Pause(at, min(at, min(prepare_at, prioritizer.overdue_at()) + EXPIRY_RESOLUTION))
        if not self._limiter.has_room(now):  # the bucket rounds otherwise than next_at
            return Pause(now, now + 0.001)
        batch = self._queue.take(now)
        if not batch.receipts:  # all that was ready has expired
            return Pause(now, now)
        await self._limiter.depart(now)  # never suspends, so a cancellation cannot lose the batch here
        return batch

    async def exchange(self, batch: Batch, send: Callable[[], Awaitable[Response]]) -> Response:
        """Return what *send* returns."""
        return await send()

    def learn(self, batch: Batch, budgets: Sequence[Budget], *, refused: bool) -> None:
        """Adopt what an answer says of the budget; *refused*: it was a 429 for the rate."""
        self._limiter.learn(budgets, self._loop.time(), refused=refused)

    def release_permit(self, batch: Batch) -> None:
        """The request of *batch* was answered or given up: its permit comes back a period from now."""
        self._limiter.answered(self._loop.time())

    def finish(self, batch: Batch) -> None:
        """Nobody else asks what became of *batch*."""
