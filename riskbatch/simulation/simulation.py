"""The simulation: a traffic, a budget and a time, dealt with by a client on a virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from attrs import field, frozen
from multidict import CIMultiDict

from ..client import Client
from ..emulator import DEFAULT_TOKEN, EmulatedRequest, Org
from ..limiter import RateLimit
from ..okta.auth import ApiToken
from ..okta.http import Request, Response
from ..okta.risk_events import PATH
from ..receipts import Accepted, Receipt
from ..signals import RiskLevel, RiskSignal
from .clock import run_virtually
from .result import ENDS, Result, Sample
from .traffic import Arrival

ORG_URL = "https://simulated.okta.com"
_START = datetime(2026, 1, 1, tzinfo=UTC)  # the org's wall clock when a simulation begins
_SAMPLES = 600  # looks at the queue in a simulation

SimulatedClient: TypeAlias = Callable[["Simulation"], Coroutine[Any, Any, Result]]


def _ignore(name: str, share: float) -> None:
    """The default of `progress`: nobody is told."""


@frozen
class Simulation:
    """
    One traffic, one budget, and for how long.

    Attributes:
        arrivals: Makes the traffic anew, in order of time.
        seconds: How long to run. What waits at the end is counted as waiting.
        budget: What the org allows.
        latency: Seconds from a request to its answer.
        window: How the org counts requests: "sliding", or "fixed" as Okta does.
        options: Further arguments of `Client`.
        progress: Called some hundred times with the name of the client and the share of the time that is over.
    """

    arrivals: Callable[[], Iterable[Arrival]]
    seconds: float = 3600.0
    budget: RateLimit = field(factory=RateLimit)
    latency: float = 0.25
    window: Literal["fixed", "sliding"] = "sliding"
    options: Mapping[str, Any] = field(factory=dict)
    progress: Callable[[str, float], None] = _ignore

    def run(self, client: SimulatedClient) -> Result:
        """Let *client* deal with the traffic and return what became of it."""
        return run_virtually(client(self))

    async def arriving(self) -> AsyncIterator[tuple[Arrival, RiskSignal]]:
        """Yield each arrival at its time, with its signal, and then wait for the end of the simulation."""
        loop = asyncio.get_running_loop()
        for arrival in self.arrivals():
            if arrival.at >= self.seconds:
                break
            if arrival.at > loop.time():
                await asyncio.sleep(arrival.at - loop.time())
            yield arrival, to_signal(arrival)
        await asyncio.sleep(self.seconds - loop.time())


class LocalOrg:
    """Answers like Okta after the latency of *simulation*, without a socket, and counts in *result*."""

    def __init__(self, simulation: Simulation, result: Result) -> None:
        budget = simulation.budget
        self._org = Org(limit=budget.requests, period=budget.period, window=simulation.window)
        self._latency = simulation.latency
        self._result = result

    async def __call__(self, request: Request) -> Response:
        """Judge *request* as it arrives, and return the answer after the latency."""
        now = asyncio.get_running_loop().time()
        wall = _START.timestamp() + now
        emulated = EmulatedRequest(request.method, PATH, CIMultiDict(request.headers), request.body)
        exchange = self._org.arrive(emulated, now)
        answer = self._org.respond(exchange, now, wall)
        self._result.requests.append(now)
        self._result.refusals += answer.status == 429
        await asyncio.sleep(self._latency)
        self._org.depart(exchange)
        return Response(answer.status, CIMultiDict(answer.headers), answer.body)

    def close(self) -> None:
        """Count the most requests in any window, now that all have arrived."""
        self._result.most_in_window = self._org.most_in_any_window(self._result.budget.period)


async def sample(simulation: Simulation, result: Result, waiting: Callable[[], Mapping[RiskLevel, int]]) -> None:
    """Note in *result* how many signals wait, again and again, until this is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        result.samples.append(Sample(loop.time(), dict(waiting())))
        simulation.progress(result.name, loop.time() / simulation.seconds)
        await asyncio.sleep(simulation.seconds / _SAMPLES)


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel *tasks* and wait until they have ended; an error in one of them is raised."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def to_signal(arrival: Arrival) -> RiskSignal:
    """Return the signal of *arrival*, which arrives now."""
    timestamp = _START + timedelta(seconds=arrival.at)
    if arrival.expires_after is None:
        return RiskSignal(arrival.ip, arrival.level, timestamp=timestamp)
    # The wall clock does not jump. The client computes the deadline from the distance between expires_at and now.
    expires_at = datetime.now(UTC) + timedelta(seconds=arrival.expires_after)
    return RiskSignal(arrival.ip, arrival.level, timestamp=timestamp, expires_at=expires_at)


async def riskbatch(simulation: Simulation) -> Result:
    """Deal with the traffic by the real client."""
    loop = asyncio.get_running_loop()
    result = Result("riskbatch", simulation.seconds, simulation.budget)
    org = LocalOrg(simulation, result)

    def on_settled(receipt: Receipt) -> None:
        if isinstance(receipt.outcome, Accepted):
            sent_at = loop.time() - simulation.latency
            result.waits[receipt.signal.risk_level].append((sent_at, sent_at - receipt.admitted_at))

    options = {"limit": simulation.budget, "capacity": 10_000_000, **simulation.options}
    async with Client(ORG_URL, ApiToken(DEFAULT_TOKEN), transport=org, on_settled=on_settled, **options) as client:
        sampling = asyncio.create_task(sample(simulation, result, lambda: client.statistics().waiting_by_level))
        async for arrival, signal in simulation.arriving():
            result.arrived[arrival.level] += 1
            await client.enqueue(signal)
        await cancel(sampling)
        statistics = client.statistics()
        result.ended = {end: getattr(statistics, end) for end in ENDS}
        result.ended["waiting"] = statistics.waiting + statistics.in_flight
        await client.aclose(timeout=0)
    org.close()
    return result
