"""
`python -m benchmarks.stores`: what `await enqueue` costs when it means *on disk*.

A thousand producers enqueue as fast as they are acknowledged, into a `SqliteStore` under a real client and into a
sketch of the same idea: group commit in one thread, five columns, and nothing else (no order, levels, receipts, limit,
statistics, expiry or cancellation). Both in turns, because a machine has moods; the medians are compared.

Before, a million signals wait in a file: how long it takes to open, how much memory, and how long the event loop
stands still at the most while the client sends, takes in new signals and loads what was left.
"""

import asyncio
import os
import queue
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from multidict import CIMultiDict

import riskbatch as rb
from benchmarks.table import ROUNDS, Row, in_turns, show
from riskbatch.okta.http import Request, Response
from riskbatch.stores.sqlite import admin
from riskbatch.stores.sqlite import rows as sqlite_rows

PRODUCERS = 1000
TAKEN = Response(202, CIMultiDict(), b"")
AUTH = rb.ApiToken("benchmark")


class Sketch:
    """What one would write in an hour."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, args=(path, synchronous))
        self._thread.start()

    async def put(self, row: tuple) -> None:
        done = self._loop.create_future()
        self._queue.put((row, done))
        await done

    def _write(self, path: Path, synchronous: str) -> None:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, ip, level, message, timestamp)")
        while (first := self._queue.get()) is not None:
            group = [first]
            while not self._queue.empty() and (more := self._queue.get()) is not None:
                group.append(more)
            db.execute("BEGIN")
            insert = "INSERT INTO signals (ip, level, message, timestamp) VALUES (?, ?, ?, ?)"
            db.executemany(insert, [row for row, _ in group])
            db.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._acknowledge, group)
        db.close()

    def _acknowledge(self, group: list) -> None:
        for _, done in group:
            done.set_result(None)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()


async def rate(put: Callable[[object], Awaitable[object]], items: list, each: int) -> float:
    """Return how many *items* a second are acknowledged, if every producer puts its own *each* times."""

    async def produce(item: object) -> None:
        for _ in range(each):
            await put(item)

    started = time.perf_counter()
    await asyncio.gather(*map(produce, items))
    return len(items) * each / (time.perf_counter() - started)


async def of_sketch(path: Path, synchronous: str, each: int) -> float:
    sketch = Sketch(path, synchronous)
    rows = [(f"10.0.{n >> 8}.{n & 255}", "LOW", "Password spray", time.time_ns() // 1000) for n in range(PRODUCERS)]
    try:
        return await rate(sketch.put, rows, each)
    finally:
        sketch.close()


def client(store: rb.SqliteStore, answer: Callable[[Request], Awaitable[Response]], **options) -> rb.Client:
    options = {"transport": answer, "capacity": 10_000_000, "close_timeout": 0.0} | options
    return rb.Client("https://acme.okta.com", AUTH, store=store, **options)


async def take_long(_: Request) -> Response:
    await asyncio.sleep(3600)
    return TAKEN


async def of_client(path: Path, synchronous: str, each: int) -> float:
    signals = [rb.RiskSignal(f"10.0.{n >> 8}.{n & 255}", "LOW", message="Password spray") for n in range(PRODUCERS)]
    async with client(rb.SqliteStore(path, synchronous=synchronous), take_long) as riskbatch:
        return await rate(riskbatch.enqueue, signals, each)


def rows(rounds: int = ROUNDS, each: int = 100) -> Iterator[Row]:
    for synchronous in ("FULL", "NORMAL"):

        def in_a_folder(measure: Callable[..., Awaitable[float]], synchronous: str = synchronous) -> float:
            with tempfile.TemporaryDirectory() as folder:
                return asyncio.run(measure(Path(folder) / "signals.db", synchronous, each))

        ways = {"ours": partial(in_a_folder, of_client), "sketch": partial(in_a_folder, of_sketch)}
        ours, sketch = in_turns(ways, rounds).values()
        what = f"enqueues/s on disk, {PRODUCERS:,} producers, {synchronous}"
        yield Row(what, f"{ours:,.0f}", f"a sketch over sqlite3: {sketch:,.0f}", ours / sketch)


# -- a million


async def take(_: Request) -> Response:
    await asyncio.sleep(0.01)
    return TAKEN


def queued() -> float:
    """Return for how many seconds this thread was ready and other processes had the processor; 0 if nobody tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


async def gaps(found: list[float]) -> None:
    """Note by how much each turn of a millisecond came too late, other processes apart."""
    while True:
        before, waited = time.perf_counter(), queued()
        await asyncio.sleep(0.001)
        found.append(time.perf_counter() - before - 0.001 - (queued() - waited))


async def with_backlog(path: Path, size: int) -> None:
    late: list[float] = []
    beating = asyncio.create_task(gaps(late))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    riskbatch = client(rb.SqliteStore(path), take, limit=rb.RateLimit(100_000, 60.0), reserve=0)
    async with riskbatch:
        opened = time.perf_counter() - started
        new = [rb.RiskSignal("10.1.1.1", "HIGH") for _ in range(100)]
        for _ in range(100):
            await asyncio.gather(*map(riskbatch.enqueue, new))
            await asyncio.sleep(0.02)
        books = riskbatch.statistics()
        seconds = time.perf_counter() - started
    beating.cancel()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    late.sort()
    print(
        f"a million waiting in {size / 1e6:.0f} MB: opened in {opened:.1f} s, {memory:.0f} MiB more in "
        f"memory; in {seconds:.1f} s {books.accepted:,} sent and 10,000 taken in, while the event loop was late by "
        f"{late[len(late) * 99 // 100] * 1e3:.1f} ms (99th percentile), {late[-1] * 1e3:.1f} ms at the most"
    )


def million(path: Path, count: int) -> None:
    signals = [rb.RiskSignal(f"10.0.{n >> 8}.{n & 255}", "LOW", message="Password spray") for n in range(1000)]
    admin.import_signals(path, (signals[n % 1000] for n in range(count)))
    asyncio.run(with_backlog(path, path.stat().st_size))
    with closing(sqlite3.connect(path)) as db:
        assert sqlite_rows.value_of(db.execute("SELECT count(*) FROM signals"))


def main(rounds: int, each: int, waiting: int) -> None:
    with tempfile.TemporaryDirectory() as folder:  # first, while the process has never been larger
        million(Path(os.path.realpath(folder)) / "signals.db", waiting)
    show(rows(rounds, each))


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:]) if len(sys.argv) > 1 else (7, 100, 1_000_000)))
