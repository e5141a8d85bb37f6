"""The power is cut at any instant, and what was not synced is lost, torn or zeroed: acknowledged signals survive."""

import asyncio
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import power
import pytest
from budget import budget
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch.okta.http import Request, Response

pytestmark = pytest.mark.skipif(not power.reachable(), reason="this Python hides its SQLite")

CUTS = int(os.environ.get("RISKBATCH_KILLS", budget("4", "200"))) * 3


async def take(_: Request) -> Response:
    await asyncio.sleep(0.005)
    return Response(202, CIMultiDict(), b"")


async def record(path: Path, synchronous: str, disk: power.Disk) -> None:
    """Let a client take in and send some hundred signals, with a checkpoint now and then."""
    store = rb.SqliteStore(path, synchronous=synchronous)
    client = rb.Client(
        "https://acme.okta.com",
        rb.ApiToken("t" * 20),
        store=store,
        transport=take,
        limit=rb.RateLimit(600, 60.0),
        coalesce=True,
        on_settled=lambda receipt: disk.note("settled", receipt.signal.message),
        close_timeout=0.2,
    )
    numbers = iter(range(10**6))

    async def produce(level: str) -> None:
        for _ in range(30):
            number = next(numbers)
            message = f"{number:04} {'m' * 200}"
            await client.enqueue(rb.RiskSignal(f"10.0.0.{number % 150}", level, message=message))
            disk.note("acknowledged", message)
            await asyncio.sleep(0.001 * (number % 3))

    async with client:
        await store._ask(lambda db: db.execute("PRAGMA wal_autocheckpoint=25").fetchall())
        disk.begin(path)
        async with asyncio.TaskGroup() as producers:
            for level in ("HIGH", "MEDIUM", "LOW", "LOW", "LOW", "LOW"):
                producers.create_task(produce(level))


def messages(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT message FROM signals")}


async def lost(disk: power.Disk, path: Path, copy: Path, until: int, rng: random.Random) -> set[str]:
    """Return what was acknowledged before the event *until* and is gone if the power is cut then."""
    disk.cut(path, copy, until, rng)
    store = rb.SqliteStore(copy)
    await store.open()  # refuses a file that is damaged
    await store.close()
    return disk.noted("acknowledged", until) - disk.noted("settled", until) - messages(copy)


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_a_power_cut_loses_no_acknowledged_signal(tmp_path, synchronous):
    """
    With FULL, whenever the power is cut and whatever the disk had not synced, the file opens with all that was
    acknowledged. With NORMAL it opens too, but the last moments may be gone: so this simulation can tell.
    """
    path = tmp_path / "signals.db"
    with power.recorded() as disk:
        await record(path, synchronous, disk)
    rng = random.Random(CUTS)
    checkpoints = sum(kind == "sync" and what == str(path) for kind, what, _, _ in disk.log)
    assert checkpoints > 3
    losses = set()
    for turn in range(CUTS):
        until = rng.randrange(len(disk.log) + 1)
        losses |= await lost(disk, path, tmp_path / f"{turn}.db", until, rng)
    assert bool(losses) == (synchronous == "NORMAL")
