"""A client with a file: durability, order, and faults of the disk."""

import asyncio
import json
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from with_store import PYTHON, SLOW, Accepting, Holding, balanced, client, in_file, ip, leave, queue_of, signals, soon

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.stores.sqlite import backlog, rows, writer


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


# -- a good guest


async def test_the_event_loop_gets_its_turns(okta, path, monkeypatch):
    """Between two turns of the loop a store loads, and wakes the callers of, some hundred signals and no more."""
    await leave(okta, path, signals(3000))
    loaded, woken = [], Counter()
    real = backlog.Backlog.load

    async def spied(self, level):
        found = await real(self, level)
        loaded.append(len(found[0]))
        return found

    monkeypatch.setattr(backlog.Backlog, "load", spied)
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def produce(one: rb.RiskSignal) -> None:
        await c.enqueue(one)
        woken[turn] += 1

    async with client(okta, rb.SqliteStore(path), transport=Accepting(), limit=rb.RateLimit(1000, 1.0)) as c:
        counting = asyncio.create_task(count_turns())
        await asyncio.gather(*map(produce, signals(2000, "HIGH", 5000)))
        assert await c.flush(20) == 0
        counting.cancel()
    assert woken.total() == 2000
    assert max(woken.values()) <= 512
    assert sum(loaded) == 3000
    assert max(loaded) <= 500


# -- durability


async def test_what_was_left_is_sent_first_and_as_it_was(okta, path):
    """After a restart, what waited is there again: HIGH first, oldest first, timestamps and expiries as they were."""
    seen = datetime(2026, 5, 17, 1, 2, 3, 456789, tzinfo=UTC)
    until = soon(3600)
    lows = signals(21, timestamp=seen, message="a message")
    high = rb.RiskSignal("2001:db8::1", "HIGH", timestamp=seen, expires_at=until)
    await leave(okta, path, [*lows, high])
    settled = []
    async with client(okta, rb.SqliteStore(path), on_settled=settled.append) as c:
        assert c.statistics().admitted == 22
        assert balanced(c)
        new = await c.enqueue(rb.RiskSignal("192.0.2.1", "LOW"))
        assert await c.flush(10) == 0
    assert [s.ip for s in okta.signals] == [high.ip, *(s.ip for s in lows), new.signal.ip]
    assert {receipt.signal for receipt in settled} == {*lows, high, new.signal}
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in settled)
    assert all(receipt.attempts == 2 for receipt in settled if receipt.signal in [high, *lows[:19]])
    assert in_file(path) == []


async def test_what_expired_meanwhile_is_settled_so(okta, path):
    """A signal that expired while no client ran is settled as Expired, and is not sent."""
    await leave(okta, path, [rb.RiskSignal(ip(1), "LOW", expires_at=soon(3600)), *signals(1, start=2)])
    with closing(sqlite3.connect(path)) as db, db:  # the hour passes
        db.execute("UPDATE signals SET expires_at = expires_at - 3601000000 WHERE expires_at IS NOT NULL")
    settled = []
    async with client(okta, rb.SqliteStore(path), on_settled=settled.append) as c:
        assert await c.flush(5) == 0
    assert {receipt.signal.ip: type(receipt.outcome) for receipt in settled} == {ip(1): rb.Expired, ip(2): rb.Accepted}
    assert [s.ip for s in okta.signals] == [ip(2)]


async def test_enqueue_nowait_is_refused(okta, path):
    """With a store, `enqueue_nowait` raises: nothing is on disk without waiting."""
    async with client(okta, rb.SqliteStore(path)) as c:
        with pytest.raises(rb.StoreError, match="await enqueue"):
            c.enqueue_nowait(signals(1)[0])
        assert c.statistics().admitted == 0


async def test_each_acknowledged_signal_is_on_disk(okta, path):
    """When `await enqueue` returns, another connection sees the signal, committed and synced."""
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        for number in range(20):
            await c.enqueue(signals(1, start=number)[0])
            assert ip(number) in in_file(path)
        level = await c._options["store"]._ask(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
        assert level == 2, "FULL syncs the log at each commit"


async def test_concurrent_enqueues_share_transactions(okta, path, monkeypatch):
    """A thousand producers cost a few commits, not a thousand."""
    groups = []
    real = rows.insert

    def counting(db, added):
        groups.append(len(added))
        real(db, added)

    monkeypatch.setattr(rows, "insert", counting)
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        await asyncio.gather(*map(c.enqueue, signals(1000)))
    assert sum(groups) == 1000
    assert len(groups) < 100


async def test_settled_signals_are_kept_for_a_while(okta, path, monkeypatch):
    """With `keep_settled`, outcomes stay in the file for that long, and are forgotten then."""
    monkeypatch.setattr(writer, "_TIDY", 0.05)
    async with client(okta, rb.SqliteStore(path, keep_settled=timedelta(seconds=0.3))) as c:
        receipt = await c.enqueue(signals(1)[0])
        outcome = await receipt
        await c._options["store"]._ask(lambda db: None)
        with closing(sqlite3.connect(path)) as db:
            kept = db.execute("SELECT outcome, detail, ip FROM settled").fetchall()
        assert kept == [("Accepted", json.dumps({"request_id": outcome.request_id}), ip(0))]
        for _ in range(100):
            await c.enqueue(signals(1)[0])
            await asyncio.sleep(0.01)
            if len(in_file(path, "settled")) < 60:
                break
        else:
            pytest.fail("nothing was forgotten")


# -- faults


async def test_a_full_disk_admits_nothing_and_loses_nothing(okta, path):
    """With a full disk `enqueue` raises StoreError and admits nothing; once there is room, all goes on."""
    async with client(okta, rb.SqliteStore(path)) as c:
        first = await c.enqueue(signals(1)[0])
        await first
        pages = await c._options["store"]._ask(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await c._options["store"]._ask(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall())
        with pytest.raises(rb.StoreError, match=r"signals\.db: database or disk is full"):
            await c.enqueue_many(signals(400, message="m" * 500))
        assert c.statistics().admitted == 1
        assert queue_of(c)._capacity._promised == 0
        assert balanced(c)
        await c._options["store"]._ask(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchall())
        second = await c.enqueue(signals(1)[0])
        assert isinstance(await second, rb.Accepted)
    assert in_file(path) == []


FULL_DISK = """
import asyncio, resource, signal, sys
import riskbatch as rb
from multidict import CIMultiDict
from riskbatch.okta.http import Response

async def take(_):
    await go.wait()
    return Response(202, CIMultiDict(), b"")

async def main(path):
    global go
    go = asyncio.Event()
    options = {"limit": rb.RateLimit(10_000, 1.0), "reserve": 0, "capacity": 10**6, "transport": take}
    async with rb.Client("https://a.okta.com", rb.ApiToken("t" * 20), store=rb.SqliteStore(path), **options) as client:
        admitted = 0
        try:
            while True:
                await client.enqueue_many([rb.RiskSignal("10.0.0.1", "LOW", message="m" * 500)] * 20)
                admitted += 20
        except rb.StoreError as error:
            assert "signals.db: " in str(error), error
        assert client.statistics().admitted == admitted > 100
        go.set()
        assert await client.flush(30) == 0
        assert client.statistics().accepted == admitted
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await client.enqueue(rb.RiskSignal("10.0.0.1", "HIGH"))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
asyncio.run(main(sys.argv[1]))
"""


async def test_a_disk_that_is_really_full(path):
    """Where the system gives no more room, enqueue raises and admits nothing; what was settled is told later."""
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL_DISK, str(path), stderr=asyncio.subprocess.PIPE, env=PYTHON
    )
    _, errors = await asyncio.wait_for(run.communicate(), 60)
    assert run.returncode == 0, errors.decode()
    assert in_file(path) == []


async def test_a_settlement_that_fails_is_written_again(okta, path, monkeypatch, caplog):
    """If the store cannot be told what is settled, that is logged and tried again; nothing is counted twice."""
    monkeypatch.setattr(writer, "_RETRY", 0.05)
    real = rows.forget
    failures = iter(range(3))

    def fail(db, keys):
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")
        real(db, keys)

    monkeypatch.setattr(rows, "forget", fail)
    async with client(okta, rb.SqliteStore(path)) as c:
        receipts = await c.enqueue_many(signals(20))
        assert await c.flush(5) == 0
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not in_file(path):
                break
        assert c.statistics().accepted == 20
        assert balanced(c)
    assert in_file(path) == []
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert "disk I/O error" in caplog.text


def test_who_ends_the_program_leaves_no_other_caller_waiting(path):
    """If one of those whose signals were written together raises `SystemExit`, the others get their receipts still."""

    async def report(c: rb.Client, number: int) -> None:
        await c.enqueue(rb.RiskSignal(ip(number), "LOW"))
        if number == 1:
            raise SystemExit

    async def begin() -> tuple[rb.Client, list[asyncio.Task]]:
        store = rb.SqliteStore(path)
        c = rb.Client("https://acme.okta.com", rb.ApiToken("t"), store=store, transport=Holding(), close_timeout=0.0)
        await c.__aenter__()
        return c, [asyncio.create_task(report(c, number)) for number in range(4)]

    with asyncio.Runner() as runner:
        c, reports = runner.run(begin())
        with pytest.raises(SystemExit):
            runner.run(asyncio.wait(reports))
        _, late = runner.run(asyncio.wait(reports, timeout=5.0))
        runner.run(c.aclose())
    assert not late
    assert [type(report.exception()) for report in reports] == [type(None), SystemExit, type(None), type(None)]


async def test_a_cancelled_enqueue_is_withdrawn_from_under_way(okta, path, monkeypatch):
    """If `enqueue` is cancelled while its transaction is under way, the row is gone when it returns."""
    real = rows.insert
    begun = threading.Event()

    def slow(*args):
        begun.set()
        time.sleep(0.05)
        real(*args)

    monkeypatch.setattr(rows, "insert", slow)
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        task = asyncio.create_task(c.enqueue(signals(1)[0]))
        while not begun.is_set():  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_file(path) == []
        assert c.statistics().admitted == 0


async def test_a_locked_file_is_a_store_error(okta, path, monkeypatch):
    """If another program locks the file for long, `enqueue` raises StoreError and admits nothing."""
    async with client(okta, rb.SqliteStore(path)) as c:
        await c._options["store"]._ask(lambda db: db.execute("PRAGMA busy_timeout=50").fetchall())
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(rb.StoreError, match="database is locked"):
                await c.enqueue(signals(1)[0])
            other.execute("ROLLBACK")
        assert isinstance(await (await c.enqueue(signals(1)[0])), rb.Accepted)
        assert c.statistics().admitted == 1


async def test_one_file_has_one_sender(okta, path):
    """A second client of the same process cannot open the file; the first is not disturbed."""
    async with client(okta, rb.SqliteStore(path)) as c:
        with pytest.raises(rb.StoreError, match=r"signals\.db is in use"):
            async with client(okta, rb.SqliteStore(path)):
                pass
        with pytest.raises(rb.StoreError, match="already open"):
            async with client(okta, c._options["store"]):
                pass
        assert isinstance(await (await c.enqueue(signals(1)[0])), rb.Accepted)


async def test_what_was_left_twice_for_an_address_coalesces(okta, path):
    """What a client that did not coalesce left is coalesced by one that does: of each address the newest is sent."""
    left = [one for number in range(100) for message in "abc" for one in signals(1, start=number, message=message)]
    left.insert(20, rb.RiskSignal(ip(7), "HIGH", message="older"))
    left.append(rb.RiskSignal(ip(8), "HIGH", message="newer"))
    await leave(okta, path, left)
    accepting, settled = Accepting(), []
    async with client(okta, rb.SqliteStore(path), transport=accepting, coalesce=True, on_settled=settled.append) as c:
        assert balanced(c)
        assert await c.flush(20) == 0
        assert (c.statistics().accepted, c.statistics().superseded) == (100, 202)
        assert balanced(c)
    assert accepting.carried == [ip(8), *(ip(number) for number in range(100) if number != 8)]
    accepted = [receipt.signal for receipt in settled if isinstance(receipt.outcome, rb.Accepted)]
    assert [one.message for one in accepted] == ["newer", *["c"] * 99]
    assert in_file(path) == []


async def test_rows_that_cannot_be_read_stay_and_are_not_counted(okta, path, caplog):
    """What is no signal in the file is told and passed over; what comes after it is sent in its order."""
    await leave(okta, path, signals(3000))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE signals SET ip = 'nonsense' WHERE id IN (SELECT id FROM signals ORDER BY id DESC LIMIT 1000)"
        )
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=rb.RateLimit(1000, 1.0)) as c:
        assert c.statistics().admitted == 3000
        early = [await c.enqueue(one) for one in signals(50, start=5000)]
        assert await c.flush(20) == 0
        late = [await c.enqueue(one) for one in signals(50, start=6000)]
        assert await c.flush(20) == 0
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in early + late)
        assert c.statistics().admitted == 2100
        assert queue_of(c)._capacity.room == c._options["capacity"]
        assert balanced(c)
    assert accepting.carried == [*map(ip, range(2000)), *map(ip, range(5000, 5050)), *map(ip, range(6000, 6050))]
    assert "1000 LOW that cannot be read" in caplog.text
    assert len(in_file(path)) == 1000


async def test_the_clock_is_set_back(okta, path):
    """Rows from the future, as a clock that was set back leaves them, are sent all the same, in their order."""
    await leave(okta, path, signals(3))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE signals SET enqueued_at = enqueued_at + 86400000000")
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting) as c:
        assert c.statistics().oldest_waiting >= 0
        await c.enqueue(signals(1, start=9)[0])
        await c.flush(5)
    assert accepting.carried == [ip(0), ip(1), ip(2), ip(9)]


async def test_what_a_killed_owner_left_may_have_arrived(okta, path):
    """What a clean end left surely did not arrive unless it is said; of what a kill left, nobody can know."""
    await leave(okta, path, signals(30))
    settled = []
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0, "on_settled": settled.append}
    async with client(okta, rb.SqliteStore(path), **options):
        pass
    assert sum(receipt.outcome.may_have_arrived for receipt in settled) == 20
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE state SET clean = 0")
    settled.clear()
    async with client(okta, rb.SqliteStore(path), **options):
        pass
    assert all(receipt.outcome.may_have_arrived for receipt in settled)
    assert len(settled) == 30
