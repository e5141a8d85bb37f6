"""
A plain asyncio worker: reads signals from a stream, and on SIGTERM or Ctrl-C stops reading and sends what it has.

    pip install .    # in a checkout of riskbatch
    export OKTA_CLIENT_ORGURL=https://acme.okta.com OKTA_CLIENT_TOKEN=...
    tail -F alerts.jsonl | python worker.py

A line is a signal such as {"ip": "203.0.113.7", "riskLevel": "HIGH"}. `riskbatch send -` does this and more; this is
where your own consumer, of Kafka or whatever you have, would stand.
"""

import asyncio
import json
import logging
import signal
import sys

import riskbatch as rb


async def consume(client: rb.Client) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async for line in reader:
            await handle(client, line)
    finally:
        pipe.close()


async def handle(client: rb.Client, line: bytes) -> None:
    try:
        # At capacity this waits, and so the producer at the other end of the pipe does.
        await client.enqueue_many(rb.parse_signals(json.loads(line)))
    except ValueError as error:
        logging.warning("left out: %s", error)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with rb.Client.from_env() as client:
        work = [asyncio.create_task(consume(client)), asyncio.create_task(stop.wait())]
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            task.cancel()
        results = await asyncio.gather(*work, return_exceptions=True)
    logging.info("%s", client)
    if isinstance(results[0], Exception):
        raise results[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
