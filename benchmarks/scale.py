"""
`python -m benchmarks.scale`: a vendor serves many customers, so it holds a client for each org in one process.

A thousand clients share one aiohttp session and send at full budget, 500 requests a second in all, to a server in
another process that answers as Okta does; each org has a loopback address of its own, and so a connection. Each client
is never without a LOW to send, and gets a HIGH a second, as in *flood*, so that hardly a request keeps to the reserve.
The first minute is left out: whoever has just begun has all permits. Then ten thousand clients that are idle: what they
weigh, and how long it takes to open them.
"""

import asyncio
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import aiohttp
from aiohttp import web

import riskbatch as rb
from benchmarks.table import Row, apart, show

AUTH = rb.ApiToken("benchmark")
WARM, MEASURED = 65.0, 60.0  # seconds


def resident() -> float:
    """Return the memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# -- the orgs


async def answer(request: web.Request) -> web.Response:
    await request.read()
    await asyncio.sleep(0.1)
    return web.Response(status=202, headers={"X-Okta-Request-Id": "benchmark"})


async def serve() -> None:
    app = web.Application()
    app.router.add_post("/api/v1/risk/events/ip", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0, backlog=2048)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


# -- at full budget


async def feed(client: rb.Client, number: int) -> None:
    """Let *client* never run out of LOW, and give it a HIGH a second."""
    rng = random.Random(number)
    lows = [rb.RiskSignal(f"10.0.{n >> 8}.{n & 255}", "LOW") for n in range(400)]
    high = rb.RiskSignal("203.0.113.7", "HIGH")
    await asyncio.sleep(rng.random())
    while True:
        if client.statistics().waiting < 200:
            await client.enqueue_many(lows)
        await client.enqueue(high)
        await asyncio.sleep(1)


async def full(orgs: int, port: int) -> tuple[float, float, float, list[float]]:
    """Return requests a second, the share of a core, bytes for each client, and how long each HIGH took, sorted."""
    loop = asyncio.get_running_loop()
    took: list[float] = []

    def note(receipt: rb.Receipt) -> None:
        if receipt.signal.risk_level is rb.RiskLevel.HIGH:
            took.append(loop.time() - receipt.admitted_at)

    before = resident()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        clients = [
            rb.Client(
                f"http://127.{number >> 8}.{number & 255}.1:{port}", AUTH, session=session, on_settled=note, reserve=3
            )
            for number in range(1, orgs + 1)
        ]
        feeding = []
        for number, client in enumerate(clients):
            await client.__aenter__()
            feeding.append(asyncio.create_task(feed(client, number)))
        await asyncio.sleep(WARM)
        took.clear()
        requests, cpu, start = sum(c.statistics().requests for c in clients), time.process_time(), loop.time()
        await asyncio.sleep(MEASURED)
        seconds, cpu = loop.time() - start, time.process_time() - cpu
        requests = sum(c.statistics().requests for c in clients) - requests
        assert not any(c.statistics().trouble for c in clients), "a request failed"
        memory = (resident() - before) / orgs
        found = sorted(took)
        for task in feeding:
            task.cancel()
        await asyncio.gather(*(client.aclose(0) for client in clients))
    return requests / seconds, cpu / seconds, memory, found


def full_with_server(orgs: int) -> tuple[float, float, float, list[float]]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.scale", "serve"], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            return asyncio.run(full(orgs, int(server.stdout.readline())))
        finally:
            server.kill()


def at_full_budget(orgs: int) -> Iterator[Row]:
    rate, share, memory, highs = apart(full_with_server, orgs)
    what = f"{orgs:,} clients at full budget, requests a second"
    yield Row(what, f"{rate:.0f}", f"the orgs' budgets: {orgs / 2:.0f}")
    yield Row("… share of one core", f"{share:.0%}", f"{share / rate * 1e6:.0f} µs a request, its socket included")
    yield Row("… KiB each, with its connection and what waits", f"{memory / 1024:.0f}")
    median, p99 = highs[len(highs) // 2], highs[len(highs) * 99 // 100]
    yield Row("… HIGH from enqueue to its outcome, s, median", f"{median:.2f}", f"99th percentile {p99:.2f}")


# -- idle


def run_idle(orgs: int) -> tuple[float, float, float]:
    return asyncio.run(idle(orgs))


async def idle(orgs: int) -> tuple[float, float, float]:
    """Return seconds to open all, bytes for each, and the CPU share that they take when nothing happens."""
    async with aiohttp.ClientSession() as session:
        before, start = resident(), time.perf_counter()
        clients = [rb.Client(f"https://org{number}.okta.com", AUTH, session=session) for number in range(orgs)]
        for client in clients:
            await client.__aenter__()
        await asyncio.sleep(0)
        seconds = time.perf_counter() - start
        size = (resident() - before) / orgs
        cpu = time.process_time()
        await asyncio.sleep(5.0)
        share = (time.process_time() - cpu) / 5.0
        await asyncio.gather(*(client.aclose(0) for client in clients))
    return seconds, size, share


def at_rest(orgs: int) -> Iterator[Row]:
    seconds, size, share = apart(run_idle, orgs)
    yield Row(f"{orgs:,} idle clients, s to open all", f"{seconds:.2f}")
    yield Row("… KiB each", f"{size / 1024:.1f}")
    yield Row("… share of one core", f"{share:.1%}")


def rows(busy: int = 1000, at_rest_too: int = 10_000) -> Iterator[Row]:
    yield from at_rest(at_rest_too)
    yield from at_full_budget(busy)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        show(rows(*map(int, sys.argv[1:])))
