"""`riskbatch send --store`: real processes that are stopped and killed, against an org that remembers what it took."""

import asyncio
import json
import os
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from budget import budget
from test_cli_wire import LIMIT, counts, ended, lines, scaled, signal_, spawn, until

from riskbatch.emulator import OktaEmulator

KILLS = max(4, int(os.environ.get("RISKBATCH_KILLS", budget("4", "200"))) // 7)


def taken(okta: OktaEmulator) -> Counter[str]:
    return Counter(one.ip for one in okta.signals)


def ips(count: int, start: int = 0) -> list[str]:
    return [signal_(number)["ip"] for number in range(start, start + count)]


def in_file(path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT ip FROM signals")]


@pytest.fixture
def feed(tmp_path):
    path = tmp_path / "feed.jsonl"
    path.write_text(lines(*(signal_(n, ("LOW", "HIGH")[n % 2]) for n in range(300))))
    return path


@pytest.fixture
def store(tmp_path):
    return tmp_path / "queue.db"


async def test_after_ctrl_c_the_same_command_goes_on(feed, store):
    """Stopped by Ctrl-C again and again, `send --store` accepts each line exactly once; then it has nothing to do."""
    statuses = []
    async with scaled(latency=0.02) as okta:
        while not statuses or statuses[-1] != 0:
            process = await spawn(okta, "send", feed, "--store", store, "--limit", "5/1s")
            stop_at = len(okta.requests) + 4
            await until(lambda at=stop_at, p=process: len(okta.requests) >= at or p.returncode is not None)
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            status, _, err = await ended(process)
            statuses.append(status)
            assert status in (0, 130), err
            if status == 130:
                assert counts(err).get("kept", 0) == len(in_file(store))
                assert ("The same command goes on where this one stopped." in err) == ("kept" in err)
        again = await ended(await spawn(okta, "send", feed, "--store", store, *LIMIT))
    assert statuses.count(130) >= 2
    assert taken(okta) == Counter(ips(300))
    assert again[0] == 0
    assert "300 signals of" in again[2]
    assert counts(again[2]) == {"accepted": 0}


async def test_after_kill_9_the_same_command_goes_on(feed, store):
    """
    Killed at any moment, `send --store` goes on with what is not accepted.

    A line is never twice in the store, and what a kill can send twice is what was in requests at that moment.
    """
    rng = random.Random(KILLS)
    doubtful = 0
    async with scaled(latency=0.05) as okta:
        for _ in range(KILLS):
            process = await spawn(okta, "send", feed, "--store", store, "--limit", "8/1s")
            await until(lambda p=process: store.exists() or p.returncode is not None)
            await asyncio.sleep(rng.random() * 0.5)
            if process.returncode is None:
                process.kill()
            await ended(process)
            waiting = Counter(in_file(store)) if store.exists() else Counter()
            assert max(waiting.values(), default=1) == 1
            doubtful += len(waiting.keys() & taken(okta).keys())
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", store, *LIMIT), 30)
    assert status == 0, err
    assert set(taken(okta)) == set(ips(300))
    assert taken(okta).total() - 300 <= doubtful
    assert in_file(store) == []


async def test_a_changed_feed_is_noticed(feed, store):
    """A feed that was changed where the store has taken it is refused until told otherwise; what is added is sent."""
    text = feed.read_text()
    async with scaled() as okta:
        assert (await ended(await spawn(okta, "send", feed, "--store", store, *LIMIT)))[0] == 0
        for changed in (text.replace("10.0.0.7", "10.9.9.9"), text[: len(text) // 2], ""):
            feed.write_text(changed)
            status, _, err = await ended(await spawn(okta, "send", feed, "--store", store, *LIMIT))
            assert status == 2
            assert f"{feed} has changed in the part of which the store has taken 300 signals; --again" in err
        assert taken(okta) == Counter(ips(300))

        feed.write_text(text + lines(*(signal_(n) for n in range(300, 310))))
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", store, *LIMIT))
        assert (status, counts(err)) == (0, {"accepted": 10})
        assert taken(okta) == Counter(ips(310))

        feed.write_text(lines(*(signal_(n) for n in range(1000, 1005))))
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", store, "--again", *LIMIT))
        assert (status, counts(err)) == (0, {"accepted": 5})
        assert taken(okta) == Counter(ips(310) + ips(5, 1000))


async def test_what_a_pipe_brought_is_sent_later(store):
    """With a store and no FILE, what waits is sent; a pipe's signals that waited at Ctrl-C are among it."""
    async with scaled() as okta:
        pipe = asyncio.subprocess.PIPE
        process = await spawn(okta, "send", "-", "--store", store, "--limit", "1/60s", stdin=pipe)
        process.stdin.write(lines(*(signal_(n) for n in range(100))).encode())
        await process.stdin.drain()
        await until(lambda: len(okta.requests) == 1 and store.exists() and len(in_file(store)) >= 80)
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)
        assert (status, counts(err)) == (130, {"accepted": 20, "kept": 80})
        status, _, err = await ended(await spawn(okta, "send", "--store", store, *LIMIT))
        assert (status, counts(err)) == (0, {"accepted": 80})
        assert "80 signals waited in the store." in err
    assert taken(okta) == Counter(ips(100))


async def test_refused_signals_are_told_in_the_run_that_learns_it(feed, store, tmp_path):
    """What Okta refuses is in --rejected whichever run had read it; what is kept in the store is not."""
    bad = tmp_path / "bad"
    feed.write_text(lines("no JSON", *(signal_(n) for n in range(60))))
    async with scaled(poison=lambda one: one.ip == signal_(50)["ip"]) as okta:
        process = await spawn(okta, "send", feed, "--store", store, "--rejected", bad, "--limit", "1/60s")
        await until(lambda: len(okta.signals) == 20)
        process.send_signal(signal.SIGINT)
        status, _, err = await ended(process)
        assert (status, counts(err)) == (130, {"accepted": 20, "kept": 40, "invalid": 1})
        assert [json.loads(line)["outcome"] for line in bad.read_text().splitlines()] == ["invalid"]
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", store, "--rejected", bad, *LIMIT))
    assert (status, counts(err)) == (1, {"accepted": 39, "rejected": 1})
    refused = json.loads(bad.read_text().splitlines()[1])
    assert (refused["outcome"], refused["original"]["ip"], refused["line"]) == ("rejected", signal_(50)["ip"], None)
    assert taken(okta) == Counter(ips(50) + ips(9, 51))


async def test_what_cannot_be_a_store_is_one_line(feed, tmp_path):
    """A store that is none, or is in use, and an option that makes no sense, are one line and change nothing."""
    async with scaled(latency=0.5) as okta:
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", feed))
        assert (status, err.count("\n")) == (2, 1)
        assert "is not a store of riskbatch" in err
        status, _, err = await ended(await spawn(okta, "send", feed, "--again"))
        assert (status, "--again" in err) == (2, True)
        process = await spawn(okta, "send", feed, "--store", tmp_path / "queue.db", "--limit", "1/60s")
        await until(lambda: len(okta.requests) == 1)
        status, _, err = await ended(await spawn(okta, "send", feed, "--store", tmp_path / "queue.db"))
        assert (status, err.count("\n")) == (2, 1)
        assert f"is in use by process {process.pid}" in err
        process.send_signal(signal.SIGINT)
        await ended(process)
    assert len(okta.requests) == 1


async def test_operators_look_while_a_client_runs(feed, store):
    """Beside a running process, its store can be counted, listed and exported, and is not changed."""
    async with scaled() as okta:
        process = await spawn(okta, "send", feed, "--store", store, "--limit", "1/60s")
        await until(lambda: len(okta.signals) == 20 and store.exists() and len(in_file(store)) == 280)
        for verb, expected in (("stats", f"process {process.pid} has it open"), ("ls", ips(1, 299)[0])):
            status, out, _ = await ended(await spawn(None, "queue", verb, store))
            assert (status, expected in out) == (0, True)
        status, out, _ = await ended(await spawn(None, "queue", "export", store))
        assert (status, len(out.splitlines())) == (0, 280)
        for argv in (("drop", store, "--all"), ("import", store, feed)):
            status, _, err = await ended(await spawn(None, "queue", *argv))
            assert (status, f"is in use by process {process.pid}" in err) == (2, True)
        process.send_signal(signal.SIGINT)
        await ended(process)
    assert len(in_file(store)) == 280
