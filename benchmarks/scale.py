"""
`python -m benchmarks.scale`: what a client costs when it is idle, and what one core carries.

A vendor serves many customers, so it holds a client for each org in one process. Idle clients are opened and left
alone; then clients with a flood of signals run for ten virtual minutes, without sockets, and the CPU time of everything
but the org's answers is what the share of a core is reckoned from.
"""

import asyncio
import logging
import sys
import time
import tracemalloc

from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.simulate import run_virtually
from riskbatch.wire import Request, Response

TAKEN = Response(202, CIMultiDict(), b"")
AUTH = rb.ApiToken("benchmark")
logging.getLogger("riskbatch").setLevel(logging.ERROR)  # that closing at once leaves signals behind is known here


async def send(_: Request) -> Response:
    await asyncio.sleep(0.25)
    return TAKEN


async def idle(orgs: int) -> tuple[float, float, float]:
    """Return bytes and tasks for each idle client, and seconds to open all."""
    before = len(asyncio.all_tasks())
    tracemalloc.start()
    clients = [rb.Client(f"https://org{number}.okta.com", AUTH, transport=send) for number in range(orgs)]
    start = time.perf_counter()
    for client in clients:
        await client.__aenter__()
    await asyncio.sleep(0)
    seconds = time.perf_counter() - start
    size = tracemalloc.get_traced_memory()[0] / orgs
    tracemalloc.stop()
    tasks = (len(asyncio.all_tasks()) - before) / orgs
    await asyncio.gather(*(client.aclose(0) for client in clients))
    return size, tasks, seconds


async def busy(orgs: int, seconds: float) -> tuple[float, float, int]:
    """Return CPU seconds and requests of *orgs* clients that are never without work, for *seconds* of virtual time."""
    clients = [rb.Client(f"https://org{number}.okta.com", AUTH, transport=send) for number in range(orgs)]
    for client in clients:
        await client.__aenter__()
    signal = rb.RiskSignal("203.0.113.7", "LOW")

    async def feed(client: rb.Client) -> None:
        for _ in range(int(seconds)):
            for _ in range(10):
                client.enqueue_nowait(signal)
            await asyncio.sleep(1.0)

    start = time.process_time()
    await asyncio.gather(*(feed(client) for client in clients))
    cpu = time.process_time() - start
    requests = sum(client.statistics().requests for client in clients)
    signals = sum(client.statistics().accepted for client in clients)
    await asyncio.gather(*(client.aclose(0) for client in clients))
    return cpu, requests, signals


def main(orgs: int) -> None:
    size, tasks, seconds = run_virtually(idle(orgs))
    print(f"{orgs:,} idle clients: {size / 1024:.1f} KiB and {tasks:.0f} task each, opened in {seconds:.2f} s")
    some, minutes = min(orgs, 200), 10
    cpu, requests, signals = run_virtually(busy(some, minutes * 60.0))
    share = cpu / (minutes * 60) / some
    print(
        f"{some:,} clients at full budget for {minutes} virtual minutes: {requests:,} requests, {signals:,} signals, "
        f"{cpu / requests * 1e6:.0f} µs of CPU a request; one core carries the client side of {1 / share:,.0f} orgs"
    )


if __name__ == "__main__":
    logging.getLogger("riskbatch").setLevel(logging.ERROR)  # what waits at the end is abandoned; that is no news
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
