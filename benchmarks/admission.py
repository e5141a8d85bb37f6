"""
`python -m benchmarks.admission`: what a signal costs from `enqueue` to its outcome, and what it weighs while it waits.

The cost must not depend on how many wait, so it is measured with 1,000 and with 100,000 of them. A small budget of 30
requests, all in flight, keeps the number that waits: each time a chunk is enqueued, as many requests are answered as
carry a chunk. Seconds are the processor's, because a shared machine gives its time to others; the garbage collector is
on, as users have it. To make the signals is not counted, nor is what existed before the client, for the collector.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from attrs import define, field
from multidict import CIMultiDict

import riskbatch as rb
from benchmarks.table import Row, in_turns, show
from riskbatch.okta.http import Request, Response

FEW, MANY = 1_000, 100_000
CHUNK = 200
CHUNKS = 100
ACCEPTED = Response(202, CIMultiDict(), b"")
AUTH = rb.ApiToken("benchmark")
BUDGET = rb.RateLimit(30, 0.001)
LATER = datetime.now(UTC) + timedelta(days=1)


@asynccontextmanager
async def client(**options) -> AsyncIterator[rb.Client]:
    options = {"capacity": 1_000_000, "close_timeout": 0.0, "transport": never} | options
    async with rb.Client("https://acme.okta.com", AUTH, **options) as opened:
        await asyncio.sleep(0.01)
        yield opened


async def never(_: Request) -> Response:
    await asyncio.sleep(1e6)
    raise AssertionError("a client is closed long before")


def signals(start: int, number: int, expires_at: datetime | None = None) -> list[rb.RiskSignal]:
    return [
        rb.RiskSignal(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", "LOW", expires_at=expires_at)
        for n in range(start, start + number)
    ]


# -- cost


@define
class Gate:
    """An org that answers only as many requests as were let through."""

    through: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(0))

    async def __call__(self, _: Request) -> Response:
        await self.through.acquire()
        return ACCEPTED

    def let(self, requests: int) -> None:
        for _ in range(requests):
            self.through.release()


async def cost(waiting: int, *, expires_at: datetime | None = None, coalesce: bool = False) -> float:
    """
    Return the seconds that a signal takes from `enqueue` to its outcome, with *waiting* others.

    With *coalesce*, each signal is followed by a newer one for its address, which supersedes it.
    """
    gate = Gate()
    async with client(transport=gate, limit=BUDGET, reserve=0, linger=0.0, coalesce=coalesce) as opened:
        await opened.enqueue_many(signals(0, waiting + 30 * 20, expires_at))
        while opened.statistics().requests_in_flight < 30:
            await asyncio.sleep(0.001)
        made, spent, outcomes = waiting + 30 * 20, 0.0, 0
        for _ in range(CHUNKS):
            coming = signals(made, CHUNK, expires_at)
            made += CHUNK
            expected = opened.statistics().accepted + CHUNK
            start = time.process_time()
            for signal in coming:
                await opened.enqueue(signal)
                if coalesce:
                    await opened.enqueue(signal)
            gate.let(CHUNK // 20)
            while opened.statistics().accepted < expected:
                await asyncio.sleep(0.001)
            spent += time.process_time() - start
            outcomes += CHUNK * (1 + coalesce)
        return spent / outcomes


def costs() -> Iterator[Row]:
    for name, options in (
        ("from enqueue to the outcome", {}),
        ("… if signals expire", {"expires_at": LATER}),
        ("… if they coalesce, each second one superseded", {"coalesce": True}),
    ):
        found = in_turns(
            {str(n): lambda n=n, options=options: asyncio.run(cost(n, **options)) for n in (FEW, MANY)},
        )
        few, many = found[str(FEW)], found[str(MANY)]
        what, beside = f"{name}, {MANY:,} waiting, µs", f"{FEW:,} waiting: {few * 1e6:.1f}"
        yield Row(what, f"{many * 1e6:.1f}", beside, few / many, "0.8 to 1.25")


# -- memory


def weights() -> Iterator[Row]:
    for waiting in (10_000, MANY):
        for name, options, expires_at in (
            ("a waiting signal, bytes beyond its strings", {}, None),
            ("… if it may expire", {}, LATER),
            ("… if signals coalesce", {"coalesce": True}, None),
        ):
            found = asyncio.run(weight(waiting, expires_at, **options))
            yield Row(f"{name}, {waiting:,} waiting", f"{found:.0f}", target="450 at the most")


async def weight(number: int, expires_at: datetime | None, **options) -> float:
    """Return the bytes that a signal, its receipt and its place in line take, and nothing else keeps."""
    ips = [signal.ip for signal in signals(0, number)]
    async with client(**options) as opened:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for ip in ips:
            await opened.enqueue(rb.RiskSignal(ip, "LOW", expires_at=expires_at))
        size = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return size / number


def rows() -> Iterator[Row]:
    gc.collect()
    gc.freeze()
    yield from costs()
    yield from weights()


if __name__ == "__main__":
    show(rows())
