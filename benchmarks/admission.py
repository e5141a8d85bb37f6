"""
`python -m benchmarks.admission`: what it costs to hand a signal in, from an empty queue to a million waiting.

The peer is `asyncio.PriorityQueue.put` of a (level, counter, signal) tuple: no receipt, limit on memory, or expiry. The
garbage collector is on, as users have it; it walks through all that is kept now and then, and its part is told apart.
The signals are made before and kept until the end, so that this part is the same for both.

Then what a waiting signal weighs, and how long the event loop stands still at the most with a million waiting.
"""

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median

from attrs import define, field

import riskbatch as rb
from benchmarks.table import ROUNDS, Row, show
from riskbatch.okta.http import Request, Response

MILLION = 1_000_000
WINDOW = 20_000
CHUNK = 1_000  # signals of one `enqueue_many`
RANK = {level: rank for rank, level in enumerate(rb.RiskLevel)}
LEVELS = [rb.RiskLevel(name) for name in ["LOW"] * 16 + ["MEDIUM"] * 3 + ["HIGH"]]


async def never(_: Request) -> Response:
    await asyncio.sleep(1e6)
    raise AssertionError("a client is closed long before")


@asynccontextmanager
async def client(**options) -> AsyncIterator[rb.Client]:
    options = {"capacity": 10 * MILLION, "transport": never, "close_timeout": 0.0} | options
    async with rb.Client("https://acme.okta.com", rb.ApiToken("benchmark"), **options) as opened:
        await asyncio.sleep(0.01)
        yield opened


def signals(
    number: int, level: str | None = None, expires_at: datetime | None = None, *, start: int = 0
) -> list[rb.RiskSignal]:
    return [
        rb.RiskSignal(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", level or LEVELS[n % 20], expires_at=expires_at)
        for n in range(start, start + number)
    ]


async def hand_in(to: rb.Client, number: int, level: str, expires_at: datetime | None = None) -> None:
    """Enqueue signals as a service does, which keeps neither them nor their receipts."""
    for start in range(0, number, CHUNK):
        coming: list[rb.RiskSignal] = []
        while len(coming) < min(CHUNK, number - start):
            coming += signals(CHUNK // 10, level, expires_at, start=start + len(coming))
            await asyncio.sleep(0)  # to make them is not the client's work
        await to.enqueue_many(coming)


@define
class Collector:
    """How long the garbage collector has run, in seconds."""

    seconds: float = 0.0
    longest: float = 0.0
    _start: float = 0.0

    def __call__(self, phase: str, _: dict) -> None:
        if phase == "start":
            self._start = time.perf_counter()
        else:
            took = time.perf_counter() - self._start
            self.seconds += took
            self.longest = max(self.longest, took)


@contextmanager
def collector() -> Iterator[Collector]:
    watch = Collector()
    gc.callbacks.append(watch)
    try:
        yield watch
    finally:
        gc.callbacks.remove(watch)


# -- a call


@define
class Fill:
    """Seconds that each window of signals took, and the collector's part of them."""

    windows: list[tuple[float, float]] = field(factory=list)

    def each(self) -> float:
        """Return the seconds for one signal, the collector's among them."""
        return sum(took for took, _ in self.windows) / len(self.windows) / WINDOW

    def collecting(self) -> float:
        """Return the collector's seconds for one signal."""
        return sum(collected for _, collected in self.windows) / len(self.windows) / WINDOW

    def last_to_first(self) -> float:
        """Return the median cost in the last fifth as a multiple of that in the first, without the collector's."""
        own = [took - collected for took, collected in self.windows]
        fifth = len(own) // 5
        return median(own[-fifth:]) / median(own[:fifth])


Put = Callable[[list[rb.RiskSignal]], Awaitable[object]]


async def fill(put: Put, coming: list[rb.RiskSignal]) -> Fill:
    """Hand all that is *coming* to *put*, a window at a time."""
    found = Fill()
    with collector() as watch:
        for start in range(0, len(coming), WINDOW):
            window = coming[start : start + WINDOW]
            collected, began = watch.seconds, time.perf_counter()
            await put(window)
            found.windows.append((time.perf_counter() - began, watch.seconds - collected))
            await asyncio.sleep(0)  # whatever else the loop has to do is not the call's cost
    return found


async def by_priority_queue(coming: list[rb.RiskSignal]) -> Fill:
    queue: asyncio.PriorityQueue = asyncio.PriorityQueue()
    counter = count()

    async def put(window: list[rb.RiskSignal]) -> None:
        for signal in window:
            await queue.put((RANK[signal.risk_level], next(counter), signal))

    return await fill(put, coming)


async def by_enqueue(coming: list[rb.RiskSignal]) -> Fill:
    async with client() as opened:

        async def put(window: list[rb.RiskSignal]) -> None:
            for signal in window:
                await opened.enqueue(signal)

        return await fill(put, coming)


async def by_enqueue_many(coming: list[rb.RiskSignal]) -> Fill:
    async with client() as opened:

        async def put(window: list[rb.RiskSignal]) -> None:
            for start in range(0, len(window), CHUNK):
                await opened.enqueue_many(window[start : start + CHUNK])

        return await fill(put, coming)


async def by_keeping(coming: list[rb.RiskSignal]) -> Fill:
    receipts: list[rb.Receipt] = []
    async with client() as opened:

        async def put(window: list[rb.RiskSignal]) -> None:
            receipts.extend(await opened.enqueue_many(window))

        return await fill(put, coming)


def calls(number: int) -> Iterator[Row]:
    coming = signals(number)
    ways = (by_priority_queue, by_enqueue, by_enqueue_many, by_keeping)
    found: dict[object, list[Fill]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            gc.collect()
            found[way].append(asyncio.run(way(coming)))
    each = {way: median(fill.each() for fill in fills) for way, fills in found.items()}
    own = {way: median(fill.each() - fill.collecting() for fill in fills) for way, fills in found.items()}
    peer, peer_own = each[by_priority_queue], own[by_priority_queue]
    for way, name, target in (
        (by_enqueue, "enqueue", "1.3 x"),
        (by_enqueue_many, f"enqueue_many, {CHUNK:,} a call", "3 x"),
        (by_keeping, "enqueue_many, and all receipts kept", "3 x"),
    ):
        what = f"{name}, µs each until {number:,} wait" if way is by_enqueue else f"{name}, µs each"
        yield Row(what, f"{each[way] * 1e6:.2f}", f"PriorityQueue.put: {peer * 1e6:.2f}", peer / each[way], target)
        what = "… without the garbage collector's part"
        peer_says = f"PriorityQueue.put: {peer_own * 1e6:.2f}"
        yield Row(what, f"{own[way] * 1e6:.2f}", peer_says, peer_own / own[way], "")
        flat = median(fill.last_to_first() for fill in found[way])
        peer_flat = median(fill.last_to_first() for fill in found[by_priority_queue])
        what = "… the last fifth to the first"
        yield Row(what, f"{flat:.2f}", f"PriorityQueue.put: {peer_flat:.2f}", None, "0.85 to 1.15")


# -- memory


def weights(number: int) -> Iterator[Row]:
    later = datetime.now(UTC) + timedelta(days=1)
    for name, options, expires_at in (
        ("a waiting signal and its receipt, bytes beyond its strings", {}, None),
        ("… if it may expire", {}, later),
        ("… if signals coalesce", {"coalesce": True}, None),
    ):
        yield Row(name, f"{asyncio.run(weight(number, expires_at, **options)):.0f}", target="400 at the most")


async def weight(number: int, expires_at: datetime | None, **options) -> float:
    ips = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(number)]
    async with client(**options) as opened:
        gc.collect()
        tracemalloc.start()
        for ip in ips:
            await opened.enqueue(rb.RiskSignal(ip, "LOW", expires_at=expires_at))
        await asyncio.sleep(3.0)  # until the line is packed
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return size / number


# -- a million waiting, and the event loop's longest stop


@define
class Pulse:
    """
    How long the event loop stood still at the most, in seconds.

    Attributes:
        longest: By the clock; on a shared machine the others' turns count too.
        working: By the processor time of this thread, without the garbage collector's: what the library takes.
        collecting: The longest run of the collector. What was there before is frozen, so that what is left is its walk
            through what waits.
    """

    longest: float = 0.0
    working: float = 0.0
    collecting: float = 0.0


@asynccontextmanager
async def pulse() -> AsyncIterator[Pulse]:
    found = Pulse()

    async def beat() -> None:
        while True:
            start, worked, collected = time.perf_counter(), time.thread_time(), watch.seconds
            await asyncio.sleep(0)
            collected = watch.seconds - collected
            found.longest = max(found.longest, time.perf_counter() - start)
            found.working = max(found.working, time.thread_time() - worked - collected)
            found.collecting = watch.longest

    with collector() as watch:
        beating = asyncio.create_task(beat())
        try:
            yield found
        finally:
            beating.cancel()


async def filling(number: int) -> Pulse:
    async with client() as opened, pulse() as found:
        await hand_in(opened, number, "LOW")
    return found


async def shedding(number: int) -> Pulse:
    async with client(capacity=number, when_full="shed") as opened:
        await hand_in(opened, number, "LOW")
        async with pulse() as found:
            await hand_in(opened, number // 5, "HIGH")
        assert opened.statistics().shed == number // 5
    return found


async def expiring(number: int) -> Pulse:
    async with client() as opened:
        begin = asyncio.get_running_loop().time()
        end = datetime.now(UTC) + timedelta(seconds=60)
        await hand_in(opened, number, "LOW", end)
        async with pulse() as found:
            await asyncio.sleep(begin + 61 - asyncio.get_running_loop().time())
            while opened.statistics().waiting:
                await asyncio.sleep(0.01)
        assert opened.statistics().expired >= number - 1000  # some ride in requests
    return found


async def coalescing(number: int) -> Pulse:
    async with client(coalesce=True) as opened:
        await hand_in(opened, number, "LOW")
        async with pulse() as found:
            await hand_in(opened, number // 5, "LOW")
        assert opened.statistics().superseded >= number // 5 - 1000
    return found


def stops(number: int) -> Iterator[Row]:
    for way in (filling, shedding, expiring, coalescing):
        gc.collect()
        gc.freeze()
        found = asyncio.run(way(number))
        gc.unfreeze()
        what = f"longest stop of the loop while {way.__name__} {number:,}, ms"
        beside = f"clock {found.longest * 1e3:.1f}, longest collection {found.collecting * 1e3:.1f}"
        yield Row(what, f"{found.working * 1e3:.1f}", beside, None, "5 at the most")


def rows(number: int = MILLION) -> Iterator[Row]:
    yield from calls(number)
    yield from weights(200_000)
    yield from stops(number)


if __name__ == "__main__":
    show(rows(*map(int, sys.argv[1:])))
