"""A replica that enqueues for ever, to be killed or frozen: prints each address once `enqueue` has returned."""

import asyncio
import itertools
import os
import signal
import sys
import time
from datetime import datetime, timedelta

import riskbatch as rb


def skew_clock(seconds: float) -> None:
    """Let this process have a wall clock that is wrong by *seconds*."""
    true_time = time.time

    class Skewed(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: true_time() + seconds
    for module in [module for name, module in sys.modules.items() if name.startswith("riskbatch")]:
        if getattr(module, "datetime", None) is datetime:
            module.datetime = Skewed


def block_every_other_second(loop: asyncio.AbstractEventLoop) -> None:
    """Let the event loop stand still for a second of every two, as a service does that computes in it."""
    time.sleep(1.0)
    loop.call_later(1.0, block_every_other_second, loop)


async def main(url: str, token: str, engine: str, first: int, period: float, lease: float, pause: float) -> None:
    numbers = itertools.count(first)
    client = rb.Client(
        url,
        rb.ApiToken(token),
        store=rb.ValkeyStore(engine, name="fleet", lease=lease),
        limit=rb.RateLimit(30, period),
        linger=0.0,
    )
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGUSR1, lambda *_: block_every_other_second(loop))
    async with client:
        os.write(1, b"open\n")

        async def watch(receipt: rb.Receipt) -> None:
            outcome = await receipt
            os.write(1, f"settled {receipt.signal.ip} {type(outcome).__name__}\n".encode())

        async def produce(level: str, tasks: asyncio.TaskGroup) -> None:
            for number in numbers:
                ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
                receipt = await client.enqueue(rb.RiskSignal(ip, level))
                os.write(1, f"{ip}\n".encode())  # unbuffered: what is acknowledged is known
                tasks.create_task(watch(receipt))
                await asyncio.sleep(pause)

        async with asyncio.TaskGroup() as tasks:
            for level in ("HIGH", "MEDIUM", "LOW", "LOW"):
                tasks.create_task(produce(level, tasks))


if __name__ == "__main__":
    skew_clock(float(sys.argv[8]))
    asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), *map(float, sys.argv[5:8])))
