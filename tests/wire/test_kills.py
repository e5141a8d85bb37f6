"""`kill -9` and the power cut: what is acknowledged survives, and is submitted at least once."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from budget import budget
from with_store import PYTHON, client, in_file

import riskbatch as rb
from riskbatch.emulator import OktaEmulator


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


KILLS = int(os.environ.get("RISKBATCH_KILLS", budget("4", "200")))
VICTIM = Path(__file__).with_name("durable_victim.py")


class Victim:
    """A process that enqueues into a file; `acknowledged` is what its `enqueue` has returned for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.acknowledged: list[str] = []
        self.opened = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, okta: OktaEmulator, path: Path, first: int = 0) -> "Victim":
        arguments = [str(VICTIM), okta.url, okta.token, str(path), str(first)]
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=PYTHON
            )
        )

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line == b"open\n":
                self.opened.set()
            elif line.endswith(b"\n"):
                self.acknowledged.append(line.decode().strip())
        self.opened.set()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reader


def frozen_copy(victim: Victim, path: Path, to: Path) -> None:
    """Copy the file and its log as they are at this instant."""
    os.kill(victim.process.pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{victim.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.0005)
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{to}{suffix}")
    finally:
        os.kill(victim.process.pid, signal.SIGCONT)


async def test_kill_9_loses_nothing(path):
    """
    A signal whose `await enqueue` returned survives `kill -9` and is submitted at least once.

    The process is killed again and again at random moments, its start included; in the end every acknowledged signal
    is accepted by the org or in the file, and a last client sends the rest. What was settled is gone.
    """
    rng = random.Random(KILLS)
    acknowledged: set[str] = set()
    async with OktaEmulator(limit=30, period=0.6) as okta:
        for turn in range(KILLS):
            victim = await Victim.start(okta, path, turn * 20_000)
            if rng.random() < 0.8:
                await victim.opened.wait()
                await asyncio.sleep(rng.random() * 0.4)
            else:
                await asyncio.sleep(0.2 + rng.random() * 0.3)
            await victim.kill()
            acknowledged |= set(victim.acknowledged)
            if path.exists():
                there = {s.ip for s in okta.signals} | set(in_file(path))
                assert acknowledged <= there, f"lost in turn {turn}: {sorted(acknowledged - there)[:5]}"
        assert len(acknowledged) > KILLS
        left = in_file(path)
        async with OktaEmulator(limit=1000, period=0.6) as last:
            async with client(last, rb.SqliteStore(path), limit=rb.RateLimit(1000, 0.6), close_timeout=30) as c:
                assert await c.flush(30) == 0
            assert {s.ip for s in last.signals} == set(left)
            assert acknowledged <= {s.ip for s in okta.signals} | {s.ip for s in last.signals}
    assert in_file(path) == []


async def test_a_power_cut_loses_nothing(path, tmp_path):
    """Copies of the file and its log, taken at any instant, open cleanly and hold all that was acknowledged before."""
    rng = random.Random(7)
    async with OktaEmulator(limit=30, period=0.6) as okta:
        victim = await Victim.start(okta, path)
        await victim.opened.wait()
        try:
            for turn in range(max(10, KILLS // 2)):
                await asyncio.sleep(rng.random() * 0.1)
                acknowledged = set(victim.acknowledged)
                accepted_before = {s.ip for s in okta.signals}
                frozen_copy(victim, path, copy := tmp_path / f"copy-{turn}.db")
                store = rb.SqliteStore(copy)
                await store.open()
                await store.close()
                assert acknowledged <= set(in_file(copy)) | {s.ip for s in okta.signals} | accepted_before
        finally:
            await victim.kill()
    assert len(acknowledged) > 50


async def test_the_lock_ends_with_its_process(path):
    """While another process has the file, it cannot be opened, and the error names both; kill -9 frees it at once."""
    async with OktaEmulator() as okta:
        victim = await Victim.start(okta, path)
        await victim.opened.wait()
        with pytest.raises(rb.StoreError, match=rf"signals\.db is in use by process {victim.process.pid}"):
            await rb.SqliteStore(path).open()
        await victim.kill()
        store = rb.SqliteStore(path)
        await store.open()
        await store.close()
