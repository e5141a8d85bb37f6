"""
`python -m benchmarks.stops`: how long the event loop stands still at the most, with a full queue.

The promise is 5 ms for the default capacity of 10,000, the garbage collector's extra walk included; what 100,000 cost
is told and not promised. Milliseconds are those of this thread's processor time: on a shared machine the clock counts
the turns of others too, so it stands beside. What existed before the client is frozen, so that the collector walks
through nothing but what the client keeps. Each way runs five times; the median of their longest stops counts, and the
longest of all stands beside.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from statistics import median

from attrs import define

import riskbatch as rb
from benchmarks.admission import ACCEPTED, LATER, client, signals
from benchmarks.table import ROUNDS, Row, show
from riskbatch.okta.http import Request, Response

DEFAULT, MORE = 10_000, 100_000


@define
class Stops:
    """
    The longest stops of the event loop, in seconds.

    Attributes:
        working: By the processor time of this thread, the garbage collector's part included.
        clock: By the clock.
        collecting: The longest run of the garbage collector.
    """

    working: float = 0.0
    clock: float = 0.0
    collecting: float = 0.0
    _collector_began: float = 0.0

    async def watch(self) -> None:
        """Measure each turn of the event loop."""
        while True:
            start, worked = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            self.clock = max(self.clock, time.perf_counter() - start)
            self.working = max(self.working, time.thread_time() - worked)

    def watch_collector(self, phase: str, _: dict) -> None:
        """Measure a run of the garbage collector, which calls this before and after."""
        if phase == "start":
            self._collector_began = time.thread_time()
        else:
            self.collecting = max(self.collecting, time.thread_time() - self._collector_began)


@asynccontextmanager
async def measured(stops: Stops) -> AsyncIterator[None]:
    watching = asyncio.create_task(stops.watch())
    gc.callbacks.append(stops.watch_collector)
    try:
        yield
    finally:
        gc.callbacks.remove(stops.watch_collector)
        watching.cancel()


async def hand_in(to: rb.Client, start: int, number: int, expires_at: datetime | None = None) -> None:
    """Enqueue LOWs as a service does, which keeps neither them nor their receipts."""
    for first in range(start, start + number, 1000):
        coming: list[rb.RiskSignal] = []
        for part in range(first, min(first + 1000, start + number), 100):
            coming += signals(part, 100, expires_at)
            await asyncio.sleep(0)  # to make them is not the client's work
        await to.enqueue_many(coming)


async def answer(_: Request) -> Response:
    return ACCEPTED


async def filling(stops: Stops, number: int) -> None:
    async with client(capacity=number) as opened, measured(stops):
        await hand_in(opened, 0, number)


async def sending(stops: Stops, number: int) -> None:
    limit = rb.RateLimit(30, 0.1)
    async with client(transport=answer, limit=limit, linger=0.0, capacity=number) as opened:
        await hand_in(opened, 0, number, LATER)
        async with measured(stops):
            while opened.statistics().waiting > number // 2:
                await asyncio.sleep(0.01)


async def shedding(stops: Stops, number: int) -> None:
    async with client(capacity=number, when_full="shed") as opened:
        await hand_in(opened, 0, number)
        async with measured(stops):
            await hand_in(opened, number, number // 2)
        assert opened.statistics().shed == number // 2


async def coalescing(stops: Stops, number: int) -> None:
    async with client(capacity=number, coalesce=True) as opened:
        await hand_in(opened, 0, number)
        async with measured(stops):
            await hand_in(opened, number // 2, number // 2)
        assert opened.statistics().superseded == number // 2


async def expiring(stops: Stops, number: int) -> None:
    async with client(capacity=number) as opened:
        end = datetime.now(UTC) + timedelta(seconds=number / 2000)  # when all are surely in
        await hand_in(opened, 0, number, end)
        async with measured(stops):
            while opened.statistics().waiting:
                await asyncio.sleep(0.01)
        assert opened.statistics().expired > number // 2, "most have waited for their end"


async def leaving(stops: Stops, number: int) -> None:
    """Leave the block when no permit is left: what waits is abandoned at once, and meanwhile the time ends."""
    options = {"transport": answer, "limit": rb.RateLimit(1, 600.0), "reserve": 0, "linger": 0.0}
    async with client(capacity=number, close_timeout=0.005, **options) as opened:
        await hand_in(opened, 0, number)
        async with measured(stops):
            await opened.aclose()
        assert opened.statistics().abandoned > number - 100


async def cut_off(stops: Stops, number: int) -> None:
    """Leave the block when thirty requests are in flight, whose answers do not come in time."""
    async with client(capacity=number, close_timeout=0.1) as opened:
        await hand_in(opened, 0, number)
        async with measured(stops):
            await opened.aclose()
        assert opened.statistics().abandoned == number


WAYS: dict[str, Callable[[Stops, int], Awaitable[None]]] = {
    "come in": filling,
    "are sent, with deadlines": sending,
    "wait, half are shed": shedding,
    "wait, half coalesce": coalescing,
    "expire at once": expiring,
    "are abandoned, time ends meanwhile": leaving,
    "are abandoned, 30 requests in flight": cut_off,
}


def rows(*numbers: int) -> Iterator[Row]:
    for number in numbers or (DEFAULT, MORE):
        for name, way in WAYS.items():
            found = [longest(way, number) for _ in range(ROUNDS)]
            working = median(stops.working for stops in found)
            most, collecting, clock = (
                max(getattr(stops, each) for stops in found) * 1e3 for each in ("working", "collecting", "clock")
            )
            beside = f"of all {most:.1f}, collector {collecting:.1f}, by the clock {clock:.1f}"
            target = "5 at the most" if number <= DEFAULT else ""
            yield Row(f"longest stop, ms: {number:,} {name}", f"{working * 1e3:.1f}", beside, None, target)


def longest(way: Callable[[Stops, int], Awaitable[None]], number: int) -> Stops:
    stops = Stops()
    gc.collect()
    gc.freeze()
    asyncio.run(way(stops, number))
    gc.unfreeze()
    return stops


if __name__ == "__main__":
    show(rows(*map(int, sys.argv[1:])))
