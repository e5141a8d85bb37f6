"""What the tests of stores share: a client of the emulator, signals, and transports that answer or do not."""

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.okta.http import Response

PYTHON = os.environ | {"PYTHONPATH": str(Path(rb.__file__).parents[1])}  # for another process
SLOW = rb.RateLimit(1, 3600.0)  # sends one request, then holds everything
FAST = rb.RateLimit(30, 1.0)


def client(okta: OktaEmulator, store: rb.SqliteStore | rb.ValkeyStore | None, **options) -> rb.Client:
    defaults = {"limit": FAST, "linger": 0.0, "reserve": 0, "close_timeout": 10.0, "capacity": 100_000}
    return rb.Client(okta.url, rb.ApiToken(okta.token), store=store, **(defaults | options))


def ip(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def signals(count: int, level: str = "LOW", start: int = 0, **fields) -> list[rb.RiskSignal]:
    return [rb.RiskSignal(ip(start + i), level, **fields) for i in range(count)]


def balanced(c: rb.Client) -> bool:
    s = c.statistics()
    levels = sum(s.waiting_by_level.values())
    return (
        s.admitted == s.settled + s.waiting + s.in_flight and s.waiting == levels and min(s.waiting, s.in_flight) >= 0
    )


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def in_file(path: Path, table: str = "signals") -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute(f"SELECT ip FROM {table} ORDER BY id")]


class Holding:
    """A transport that answers nothing until it is let go: what it is given is in flight."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.departed = asyncio.Event()

    async def __call__(self, request):
        self.departed.set()
        self.carried += [s["ip"] for event in json.loads(request.body) for s in event["subjects"]]
        await asyncio.get_running_loop().create_future()


class Accepting(Holding):
    """A transport that accepts everything at once."""

    async def __call__(self, request):
        self.carried += [s["ip"] for event in json.loads(request.body) for s in event["subjects"]]
        return Response(202, CIMultiDict(), b"")


async def leave(okta: OktaEmulator, path: Path, left: list[rb.RiskSignal], **options) -> None:
    """Let a client end with *left* in its file."""
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0.0, **options) as c:
        await c.enqueue_many(left)


def queue_of(c: rb.Client):
    """Return the queue of an open client, to look at what is in memory."""
    return c._life.queue
