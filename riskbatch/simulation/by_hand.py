"""The two clients that people make by hand: a FIFO queue and a priority queue over `AsyncLimiter(30, 60)`."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from aiolimiter import AsyncLimiter

from ..emulator import DEFAULT_TOKEN
from ..okta.auth import ApiToken
from ..okta.http import HEADERS, Request
from ..okta.rate_limits import budgets
from ..okta.renewal import now_on
from ..okta.risk_events import MAX_EVENTS, PATH, encode
from ..signals import RiskLevel, RiskSignal
from .result import Result
from .simulation import ORG_URL, LocalOrg, Simulation, cancel, sample

_Item: TypeAlias = tuple[int, int, float, RiskSignal]  # rank, number, enqueued at, signal


async def fifo_by_hand(simulation: Simulation) -> Result:
    """Deal with the traffic by an `asyncio.Queue` over `AsyncLimiter(30, 60)`."""
    return await _ByHand(simulation, "FIFO + AsyncLimiter", asyncio.Queue()).run(lambda level: 0)


async def priority_by_hand(simulation: Simulation) -> Result:
    """Deal with the traffic by an `asyncio.PriorityQueue` over `AsyncLimiter(30, 60)`."""
    ranks = {level: rank for rank, level in enumerate(RiskLevel)}
    return await _ByHand(simulation, "PriorityQueue + AsyncLimiter", asyncio.PriorityQueue()).run(ranks.__getitem__)


class _ByHand:
    """A client that takes 20 signals for each turn of the limiter. After a 429 it waits for the reset and retries."""

    def __init__(self, simulation: Simulation, name: str, queue: "asyncio.Queue[_Item]") -> None:
        self._simulation = simulation
        self._queue = queue
        self._result = Result(name, simulation.seconds, simulation.budget)
        self._waiting = dict.fromkeys(RiskLevel, 0)
        self._org = LocalOrg(simulation, self._result)
        self._limiter = AsyncLimiter(simulation.budget.requests, simulation.budget.period)

    async def run(self, rank: Callable[[RiskLevel], int]) -> Result:
        loop = asyncio.get_running_loop()
        working = asyncio.create_task(self._work())
        sampling = asyncio.create_task(sample(self._simulation, self._result, lambda: self._waiting))
        number = 0
        async for arrival, signal in self._simulation.arriving():
            self._result.arrived[arrival.level] += 1
            self._waiting[arrival.level] += 1
            self._queue.put_nowait((rank(arrival.level), number, loop.time(), signal))
            number += 1
        await cancel(working, sampling)
        delivered = self._result.delivered()
        self._result.ended = {"accepted": delivered, "waiting": number - delivered}
        self._org.close()
        return self._result

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(tasks))

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._limiter.acquire()
            batch = [await self._queue.get()]
            while len(batch) < MAX_EVENTS and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for *_, signal in batch:
                self._waiting[signal.risk_level] -= 1
            tasks.create_task(self._post(batch))

    async def _post(self, batch: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        body = encode([signal] for *_, signal in batch)
        auth = ApiToken(DEFAULT_TOKEN)
        while True:
            sent_at = loop.time()
            response = await self._org(auth.sign(Request("POST", ORG_URL + PATH, HEADERS, body), now_on(loop)))
            if response.status == 202:
                break
            resets_after = min((b.resets_after or 0.0 for b in budgets(response.headers)), default=0.0)
            await asyncio.sleep(resets_after + 1.0)
            await self._limiter.acquire()
        for _, _, enqueued_at, signal in batch:
            self._result.waits[signal.risk_level].append((sent_at, sent_at - enqueued_at))
