"""
A replica's share of the fleet's requests: look, decide, commit; and what an answer teaches all.

No request outlives its lease: it is given up before the engine gives its signals to another replica and lets its permit
come back. So a replica that is cut off from the engine stops sending by itself.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field

from ...batcher import Batch
from ...dispatcher import TIMER_RESOLUTION, Pause, Terms
from ...okta.http import Response, Unanswered
from ...okta.rate_limits import Budget
from .admission import Admissions
from .claims import Claims
from .decide import NEAR, Decider, Plan
from .looks import Looks
from .session import Session

_CUT_OFF = "the fleet's engine was away for longer than the lease"


@define(eq=False)
class FleetDispatcher:
    """
    Gives out the batches that this replica may send.

    The sender asks, and the one task that talks to the engine answers: see exchange.py.

    Args:
        session: The calls of this replica.
        looks: Show what a decision is made of.
        decider: Decides.
        claims: What is in flight from here.
        admissions: What must be known to the engine before a decision.
    """

    _session: Session
    _looks: Looks
    _decider: Decider
    _claims: Claims
    _admissions: Admissions
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.get_running_loop)
    _asked: tuple[Terms, asyncio.Future[Batch | Pause]] | None = field(init=False, default=None)
    _claimed: int = field(init=False, default=0)
    _failure: Exception | None = field(init=False, default=None)

    # -- for the sender

    @property
    def outage(self) -> str | None:
        """Why no batch can be had at all, `None` if it can."""
        return None if self._session.away is None else f"the fleet's engine is away: {self._session.away}"

    def budget(self, now: float) -> tuple[int, int, float]:
        """Return the limit of a window, the permits that are free, and until when the server holds everything."""
        window = self._decider.limiter.window
        return window.limit, max(0, window.free(now)), self._decider.limiter.held_until

    async def next_batch(self, terms: Terms) -> Batch | Pause:
        """Return the batch whose request must leave now, its permit taken; or how long nothing does."""
        if self._failure is not None:
            raise self._failure
        answer: asyncio.Future[Batch | Pause] = self._loop.create_future()
        self._asked = (terms, answer)
        self._admissions.work.set()
        try:
            return await answer
        except asyncio.CancelledError:
            self._asked = None
            if answer.done() and not answer.cancelled() and isinstance(batch := answer.result(), Batch):
                self._give_back(batch)
            raise

    async def exchange(self, batch: Batch, send: Callable[[], Awaitable[Response]]) -> Response:
        """
        Return what *send* returns, if that comes within the lease.

        Raises:
            Unanswered: The lease may have ended, or had ended before anything was sent.
        """
        claim = self._claims[batch]
        if self._loop.time() >= claim.give_up_at:  # the process stood still since the engine answered
            claim.keep_unsent()
            raise Unanswered(_CUT_OFF, may_have_arrived=False)
        try:
            async with claim.lease():
                return await send()
        except TimeoutError:
            raise Unanswered(_CUT_OFF, may_have_arrived=True) from None

    def learn(self, batch: Batch, budgets: Sequence[Budget], *, refused: bool) -> None:
        """Note what the answer to *batch* says of the budget, for all replicas."""
        claim = self._claims[batch]
        claim.budgets, claim.refused = list(budgets), refused

    def release_permit(self, batch: Batch) -> None:
        """The request of *batch* was answered or given up: its permit comes back a period from now."""
        self._claims[batch].answered_at = self._loop.time()

    def finish(self, batch: Batch) -> None:
        """What became of the signals of *batch* is said, and the engine will be told."""
        self._claims.finish(batch)
        self._admissions.work.set()

    def _give_back(self, batch: Batch) -> None:
        """Return what was claimed and of which no request is made."""
        self._claims[batch].keep_unsent()
        self._claims.put_back(batch.receipts, -math.inf)
        self.release_permit(batch)
        self.finish(batch)

    # -- for the exchange

    async def answer(self) -> None:
        """Answer the sender."""
        if self._asked is None:
            return
        terms, answer = self._asked
        found = await self._next(terms)
        self._asked = None
        if not answer.done():
            answer.set_result(found)
        elif isinstance(found, Batch):  # nobody asks any more
            self._give_back(found)

    def fail(self, failure: Exception) -> None:
        """Tell the sender that nothing will be sent any more."""
        self._failure = failure
        if self._asked is not None and not self._asked[1].done():
            self._asked[1].set_exception(failure)

    async def _next(self, terms: Terms) -> Batch | Pause:
        while True:
            now = self._now()
            view = self._looks.view
            is_near = view is None or self._decider.earliest(view, terms, now) <= now + NEAR
            look = await self._looks.look(self._decider.payload if is_near else 0)
            now = self._now()
            if look is None or self._admissions.are_withdrawn or not self._session.joined:
                return Pause(now, now)  # what a decision is made of, will change first
            if now >= terms.leave_before:
                return Pause(math.inf, look.again_at)
            if is_near:
                flushing = self._admissions.own.books.flushing or terms.draining
                plan = await self._decider.decide(look, terms, now, flushing=flushing)
                if isinstance(plan, float):
                    return Pause(min(plan, look.ready_at), min(plan + look.turn if plan > now else plan, look.again_at))
                if await self._commit(plan):
                    return plan.batch
            elif (at := self._decider.earliest(look.view, terms, now)) > now + NEAR:
                return Pause(at, min(at + look.turn, look.again_at))

    def _now(self) -> float:
        return self._loop.time() + TIMER_RESOLUTION

    async def _commit(self, plan: Plan) -> bool:
        """Write the decision down; return False if something that mattered has changed since the look."""
        self._claimed += 1
        name, sent_at = f"{self._session.name}:{self._claimed}", self._loop.time()
        if "refused" in await self._session.call("commit", {"claim": name, **plan.given}):
            return False
        for receipt in plan.batch.receipts:
            receipt.attempts += 1
        self._claims.open(plan.batch, name, sent_at)
        return True
