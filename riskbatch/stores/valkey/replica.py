"""
The sender of a replica: the engine decides when a request may leave and with what; here it is made, under a lease.

No request outlives its lease: it is given up before the engine gives its signals to another replica and lets its permit
come back. So a replica that is cut off from the engine stops sending by itself.
"""

import asyncio
import math
import os

from ...batcher import Batch
from ...okta.wire import Budget, Unavailable, Verdict
from ...sender import Challenged, Sender, Trouble
from .claims import Claim, Found, Terms
from .fleet import FleetQueue


class Replica(Sender):
    """Drives one replica's share of the fleet's requests. Takes the arguments of `Sender`."""

    _queue: FleetQueue

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as submissions:
            while os.getpid() == self._process:
                now = self._loop.time()
                self._renewal.tend(submissions, now)
                look = await self._queue.look(self._terms(now))
                if look.claim is not None:
                    self._launch(look.claim, submissions, self._loop.time())
                elif self._has_drained(look):
                    self._renewal.cancel()
                    return
                else:
                    renew_at = math.inf if self._renewal.under_way else self._renewal.next_at()
                    await self._queue.changed(min(self._loop.time() + look.again_after, renew_at))

    def _terms(self, now: float) -> Terms:
        if not self._credentials.usable(now):
            return Terms(False, self._draining)
        if self.trouble is None:
            return Terms(draining=self._draining)
        until = self.trouble.until
        if self.trouble.denied:
            return Terms(self.counts.requests_in_flight == 0, self._draining, until, until, False)
        return Terms(True, self._draining, until if self._draining else -math.inf, until, False)

    def _has_drained(self, look: Found) -> bool:
        """Whether nothing of this replica's own is left that could be sent in time, by whomever."""
        if self._drain_by is None or self.counts.requests_in_flight:
            return False
        now = self._loop.time()
        return self._queue.waiting == 0 or now >= self._drain_by or now + look.next_after >= self._drain_by

    async def _ask(self, batch: Batch) -> Verdict | Challenged:
        assert isinstance(batch, Claim)  # noqa: S101 - the queue's
        if self._loop.time() >= batch.give_up_at:  # the process stood still since the engine answered
            batch.keep_unsent()
            return Challenged()
        try:
            async with batch.lease():
                return await super()._ask(batch)
        except TimeoutError:
            return Unavailable("the fleet's engine was away for longer than the lease", may_have_arrived=True)

    def _learn_budget(self, batch: Batch, said: list[Budget], *, refused: bool) -> None:
        assert isinstance(batch, Claim)  # noqa: S101 - the queue's
        batch.budgets, batch.refused = said, refused

    def _return_permit(self) -> None:
        self.counts.requests_in_flight -= 1  # the permit is the engine's

    def budget(self, now: float) -> tuple[int, int, float]:
        """As of every sender, for the whole fleet."""
        fleet = self._queue.fleet
        return fleet.limit or self._limiter.window.limit, fleet.permits, now + fleet.held_after

    def current_trouble(self) -> Trouble | None:
        """As of every sender; an engine that is away stops everything."""
        away = self._queue.fleet.away
        if away is None:
            return super().current_trouble()
        now = self._loop.time()
        return Trouble(f"the fleet's engine is away: {away}", False, 1, now, now, now)
