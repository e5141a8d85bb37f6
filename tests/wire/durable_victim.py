"""A process that enqueues for ever, to be killed: prints the address of each signal once `enqueue` has returned."""

import asyncio
import itertools
import os
import sys

import riskbatch as rb


async def main(url: str, token: str, path: str, first: int) -> None:
    numbers = itertools.count(first)
    client = rb.Client(
        url, rb.ApiToken(token), store=rb.SqliteStore(path), limit=rb.RateLimit(30, 0.6), reserve=0, linger=0.0
    )
    async with client:
        os.write(1, b"open\n")

        async def produce(level: str) -> None:
            for number in numbers:
                ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
                await client.enqueue(rb.RiskSignal(ip, level))
                os.write(1, f"{ip}\n".encode())  # unbuffered: what is acknowledged is known
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as producers:
            for level in ("HIGH", "MEDIUM", "LOW", "LOW"):
                producers.create_task(produce(level))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
