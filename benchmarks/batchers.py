"""
`python -m benchmarks.batchers`: beside libraries that batch anything.

A thousand signals at a time are handed in and their outcomes awaited, in batches of at most 20 that cost nothing to
send, so that what is measured is the library's own work. The budget is so large here that nobody waits for it; the
peers have none. What takes a waiting task for each item, theirs and not ours, is counted where it arises: in handing
in. Times are the processor's, because a shared machine gives the clock's to others; so a peer that waits for a timer
does not pay for it. Each peer's row says what else it lacks for this job; flushq needs Python 3.12 and tells no
outcomes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from multidict import CIMultiDict

import riskbatch as rb
from benchmarks.table import Row, in_turns, missing, show
from riskbatch.okta.http import Request, Response

CROWD = 1000
CROWDS = 20
TAKEN = Response(202, CIMultiDict(), b"")
SIGNALS = [rb.RiskSignal(f"10.0.{n >> 8}.{n & 255}", "HIGH") for n in range(CROWD)]
Times = tuple[float, float]  # seconds for one signal: to hand it in, and to its outcome


async def take(_: Request) -> Response:
    return TAKEN


async def measured(hand_in: Callable[[], Awaitable[Callable[[], Awaitable[object]]]]) -> Times:
    """Hand in crowds by *hand_in*, which returns how to wait for the outcomes."""
    handing_in = until_the_end = 0.0
    for _ in range(CROWDS):
        started = time.process_time()
        wait = await hand_in()
        handing_in += time.process_time() - started
        await wait()
        until_the_end += time.process_time() - started
    return handing_in / CROWD / CROWDS, until_the_end / CROWD / CROWDS


async def of_tasks(submit: Callable[[rb.RiskSignal], Awaitable[object]]) -> Times:
    """Measure a peer whose call returns with the outcome, so that each item needs a task to wait in."""

    async def hand_in() -> Callable[[], Awaitable[object]]:
        waiting = [asyncio.ensure_future(submit(signal)) for signal in SIGNALS]
        await asyncio.sleep(0)  # one turn, in which each is handed in
        return lambda: asyncio.gather(*waiting)

    return await measured(hand_in)


async def ours() -> Times:
    budget = rb.RateLimit(1000, 0.001)  # few permits are out, as with a real one
    options = {"transport": take, "limit": budget, "linger": 0.0}
    async with rb.Client("https://acme.okta.com", rb.ApiToken("benchmark"), **options) as client:

        async def hand_in() -> Callable[[], Awaitable[object]]:
            for signal in SIGNALS:
                await client.enqueue(signal)
            return client.flush

        return await measured(hand_in)


async def process(batch: Sequence[object]) -> Sequence[object]:
    return batch


async def async_batcher() -> Times:
    from async_batcher.batcher import AsyncBatcher

    class Batcher(AsyncBatcher):
        async def process_batch(self, batch: list) -> Sequence[object]:
            return await process(batch)

    batcher = Batcher(max_batch_size=20, concurrency=30)
    try:
        return await of_tasks(batcher.process)
    finally:
        await batcher.stop(force=True)


async def batchlet() -> Times:
    from batchlet import AsyncBatcher, BatchPolicy

    bounds = {"max_pending_items": 2 * CROWD, "max_concurrent_batches": 30}
    batcher = AsyncBatcher(process, policy=BatchPolicy(max_items=20), **bounds)
    try:
        return await of_tasks(batcher.submit)
    finally:
        await batcher.aclose()


async def batched() -> Times:
    from batched import aio

    return await of_tasks(aio.dynamically(process, batch_size=20))


async def flushq() -> Times:
    from flushq import FlushQueue, NaturalPolicy

    flushed = 0
    all_flushed = asyncio.Event()

    async def flush(batch: list) -> None:
        nonlocal flushed
        flushed += len(batch)
        if flushed % CROWD == 0:
            all_flushed.set()

    async with FlushQueue(flush, NaturalPolicy(20)) as queue:

        async def hand_in() -> Callable[[], Awaitable[object]]:
            all_flushed.clear()
            for signal in SIGNALS:
                await queue.enqueue(signal)
            return all_flushed.wait

        return await measured(hand_in)


LACKS = {
    async_batcher: "no rate, order, retry; one cancelled hangs others",
    batchlet: "no rate, order or retry",
    batched: "no rate or retry",
    flushq: "no rate, order, retry or outcome",
}
ASKED = {"hand in a signal, µs": "2.5", "… to its outcome, in batches of 20, µs": "1.3"}


def rows() -> Iterator[Row]:
    for peer, lacks in LACKS.items():
        name = peer.__name__.replace("_", "-")
        try:
            asyncio.run(peer())
        except ImportError as error:
            yield missing(next(iter(ASKED)), name, error)
            continue
        for index, (what, target) in enumerate(ASKED.items()):
            found = in_turns(
                {way.__name__: lambda way=way, index=index: asyncio.run(way())[index] for way in (ours, peer)}
            )
            mine, theirs = found["ours"], found[peer.__name__]
            yield Row(what, f"{mine * 1e6:.2f}", f"{name}: {theirs * 1e6:.2f} ({lacks})", theirs / mine, target)


if __name__ == "__main__":
    show(rows())
