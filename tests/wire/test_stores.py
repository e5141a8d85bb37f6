"""The contract of every store, memory included, and what only a durable one promises."""

import asyncio
import json
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.stores import durable, sqlite

SLOW = rb.RateLimit(1, 3600.0)  # sends one request, then holds everything
FAST = rb.RateLimit(30, 1.0)


def client(okta: OktaEmulator, store: rb.Store | None, **options) -> rb.Client:
    options = {"limit": FAST, "linger": 0.0, "reserve": 0, "close_timeout": 10.0} | options
    return rb.Client(okta.url, rb.ApiToken(okta.token), store=store, **options)


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


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


@pytest.fixture(params=["memory", "sqlite", "sqlite normal", "sqlite keeping"])
def store(request, path):
    make = {
        "memory": lambda: None,
        "sqlite": lambda: rb.SqliteStore(path),
        "sqlite normal": lambda: rb.SqliteStore(path, synchronous="NORMAL"),
        "sqlite keeping": lambda: rb.SqliteStore(path, keep_settled=timedelta(days=1)),
    }
    return make[request.param]()


async def leave(okta: OktaEmulator, path: Path, left: list[rb.RiskSignal], **options) -> None:
    """Let a client end with *left* in its file."""
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0.0, **options) as c:
        await c.enqueue_many(left)


# -- the contract of every store


async def test_signals_are_sent_and_settled(okta, store):
    """With any store, every signal is sent HIGH first and accepted once, and the books are balanced."""
    async with client(okta, store) as c:
        receipts = await c.enqueue_many([*signals(45), *signals(5, "HIGH", 100)])
        assert balanced(c)
        assert await c.flush(10) == 0
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert balanced(c)
    assert Counter(s.ip for s in okta.signals) == Counter(receipt.signal.ip for receipt in receipts)
    if store is not None:
        assert in_file(store.path) == []


@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_capacity_holds(okta, store, when_full):
    """With any store, no more than `capacity` signals are unsettled, and those that wait for room get it in turn."""
    async with client(okta, store, capacity=30, when_full=when_full) as c:
        tasks = [asyncio.create_task(c.enqueue(s)) for s in signals(90)]
        while not all(task.done() for task in tasks):
            assert c.statistics().waiting + c.statistics().in_flight <= 30
            assert balanced(c)
            await asyncio.sleep(0.001)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await c.flush(10)
    s = c.statistics()
    full = sum(isinstance(result, rb.QueueFull) for result in results)
    assert full + s.accepted + s.shed == 90
    assert (full > 0) == (when_full == "reject")
    assert (s.shed > 0) == (when_full == "shed")
    assert balanced(c)


async def test_a_high_sheds_the_oldest_low(okta, store):
    """With any store, a HIGH that finds the queue full takes the place of the oldest LOW."""
    holding = Holding()
    async with client(okta, store, transport=holding, capacity=23, when_full="shed", limit=SLOW, close_timeout=0) as c:
        await c.enqueue_many(signals(20))
        await asyncio.wait_for(holding.departed.wait(), 5)
        waiting = [await c.enqueue(s) for s in signals(3, start=50)]
        high = await c.enqueue(rb.RiskSignal("192.0.2.1", "HIGH"))
        assert waiting[0].outcome == rb.Shed()
        assert not waiting[1].done()
        assert not high.done()
        assert balanced(c)


async def test_a_newer_signal_supersedes(okta, store):
    """With any store, and `coalesce`, the newer signal for an address takes the place of the one that waits."""
    async with client(okta, store, coalesce=True, limit=SLOW, transport=Holding(), close_timeout=0) as c:
        await c.enqueue_many(signals(20, "HIGH", 500))
        await asyncio.sleep(0.05)
        old = await c.enqueue(rb.RiskSignal(ip(1), "LOW", message="old"))
        new = await c.enqueue(rb.RiskSignal(ip(1), "LOW", message="new"))
        assert old.outcome == rb.Superseded(new.signal)
        assert balanced(c)


async def test_expiry(okta, store):
    """With any store, a signal that expires before it is sent is settled as Expired; one that has, at once."""
    async with client(okta, store, limit=SLOW, transport=Holding(), close_timeout=0) as c:
        await c.enqueue_many(signals(20, "HIGH", 500))
        late = await c.enqueue(rb.RiskSignal(ip(1), "LOW", expires_at=soon(-1)))
        assert late.outcome == rb.Expired()
        soon_late = await c.enqueue(rb.RiskSignal(ip(1), "LOW", expires_at=soon(0.2)))
        assert await asyncio.wait_for(soon_late, 5) == rb.Expired()
        assert balanced(c)


async def test_cancelled_means_not_admitted(okta, store):
    """With any store, a cancelled `enqueue` has admitted nothing, at whatever step it was cancelled."""
    async with client(okta, store, transport=Holding(), limit=SLOW, close_timeout=0) as c:
        tasks = []
        for number in range(300):
            tasks.append(task := asyncio.create_task(c.enqueue(signals(1, start=number)[0])))
            asyncio.get_running_loop().call_later((number % 30) * 0.0001, task.cancel)
            if number % 10 == 0:
                await asyncio.sleep(0.001)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        admitted = [receipt.signal.ip for receipt in results if isinstance(receipt, rb.Receipt)]
        assert c.statistics().admitted == len(admitted)
        assert c._queue._promised == 0
        assert balanced(c)
    if store is not None:
        assert sorted(in_file(store.path)) == sorted(admitted)


async def test_closing_settles_every_receipt(okta, store):
    """With any store, leaving the block settles every receipt; a store keeps what was not sent, and says so."""
    threads = threading.active_count()
    async with client(okta, store, transport=Holding(), close_timeout=0.05) as c:
        receipts = await c.enqueue_many(signals(50))
        late = [asyncio.create_task(c.enqueue(s)) for s in signals(20, start=100)]
        await asyncio.sleep(0)
    ends = await asyncio.gather(*late, return_exceptions=True)
    receipts += [end for end in ends if isinstance(end, rb.Receipt)]
    assert all(isinstance(receipt.outcome, rb.Abandoned) for receipt in receipts)
    assert balanced(c)
    assert threading.active_count() == threads
    if store is not None:
        assert all("kept in the store" in receipt.outcome.reason for receipt in receipts)
        assert sorted(in_file(store.path)) == sorted(receipt.signal.ip for receipt in receipts)


async def test_a_refused_signal_is_found_and_gone(store):
    """With any store, one signal that Okta refuses is rejected alone, and its companions are accepted."""
    async with OktaEmulator(period=1.0, poison=lambda s: s.ip == ip(7)) as okta, client(okta, store) as c:
        receipts = await c.enqueue_many(signals(20))
        await c.flush(10)
    assert isinstance(receipts[7].outcome, rb.Rejected)
    assert sum(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts) == 19
    if store is not None:
        assert in_file(store.path) == []


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
    await leave(okta, path, [rb.RiskSignal(ip(1), "LOW", expires_at=soon(0.15)), *signals(1, start=2)])
    await asyncio.sleep(0.2)
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
        level = await c._store._ask(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
        assert level == 2, "FULL syncs the log at each commit"


async def test_concurrent_enqueues_share_transactions(okta, path, monkeypatch):
    """A thousand producers cost a few commits, not a thousand."""
    groups = []
    real = sqlite.insert
    monkeypatch.setattr(sqlite, "insert", lambda db, rows: (groups.append(len(rows)), real(db, rows)))
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        await asyncio.gather(*map(c.enqueue, signals(1000)))
    assert sum(groups) == 1000
    assert len(groups) < 100


async def test_settled_signals_are_kept_for_a_while(okta, path, monkeypatch):
    """With `keep_settled`, outcomes stay in the file for that long, and are forgotten then."""
    monkeypatch.setattr(sqlite, "_TIDY", 0.05)
    async with client(okta, rb.SqliteStore(path, keep_settled=timedelta(seconds=0.3))) as c:
        receipt = await c.enqueue(signals(1)[0])
        outcome = await receipt
        await c._store._ask(lambda db: None)
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


# -- size


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(durable, "CHUNK", 50)
    monkeypatch.setattr(durable, "LOW_WATER", 40)


async def test_a_backlog_stays_in_the_store_and_in_order(okta, path, small_memory):
    """Of a backlog only the oldest are in memory; all are counted, and sent in order, before what comes now."""
    await leave(okta, path, [*signals(300), *signals(200, "HIGH", 1000)])
    async with OktaEmulator(limit=1000, period=1.0) as okta:
        async with client(okta, rb.SqliteStore(path), limit=rb.RateLimit(1000, 1.0)) as c:
            assert c.statistics().waiting == 500
            assert c._queue._prioritizer.size <= 100
            new = await c.enqueue_many(signals(30, "HIGH", 5000))
            assert balanced(c)
            assert await c.flush(20) == 0
            assert balanced(c)
            assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in new)
        expected = [ip(1000 + i) for i in range(200)] + [ip(5000 + i) for i in range(30)] + [ip(i) for i in range(300)]
        sent = [s.ip for s in sorted(okta.signals, key=lambda s: expected.index(s.ip))]
        assert sent == expected
        numbers = [expected.index(s.ip) // 20 for s in okta.signals]
        assert all(abs(number - place // 20) <= 2 for place, number in enumerate(numbers)), (
            "beyond what overtakes on the way"
        )


async def test_rows_in_the_store_are_expired_and_counted(okta, path, small_memory):
    """What expires in the store only is settled in time, with a receipt."""
    await leave(okta, path, [*signals(100), *signals(70, start=200, expires_at=soon(0.6))])
    settled = []
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "on_settled": settled.append}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        assert c.statistics().waiting + c.statistics().in_flight == 170
        for _ in range(300):
            await asyncio.sleep(0.01)
            assert balanced(c)
            if c.statistics().expired == 70:
                break
        assert {receipt.signal.ip for receipt in settled} == {ip(200 + i) for i in range(70)}
    assert sorted(in_file(path)) == sorted(ip(i) for i in range(100))


async def test_a_newcomer_supersedes_what_is_in_the_store(okta, path, small_memory):
    """With `coalesce`, a newer signal for an address supersedes the one that is in the store only."""
    await leave(okta, path, signals(300))
    settled = []
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "on_settled": settled.append}
    async with client(okta, rb.SqliteStore(path), coalesce=True, **options) as c:
        new = await c.enqueue(rb.RiskSignal(ip(290), "LOW", message="new"))
        assert [receipt.outcome for receipt in settled] == [rb.Superseded(new.signal)]
        assert balanced(c)
    assert in_file(path).count(ip(290)) == 1
    assert len(in_file(path)) == 300


async def test_the_backlog_counts_for_capacity_and_is_shed(okta, path, small_memory):
    """What is in the store only takes up capacity, and makes room for a HIGH."""
    await leave(okta, path, signals(200))
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "capacity": 200}
    async with client(okta, rb.SqliteStore(path), when_full="reject", **options) as c:
        with pytest.raises(rb.QueueFull):
            await c.enqueue(rb.RiskSignal("192.0.2.1", "HIGH"))
    async with client(okta, rb.SqliteStore(path), when_full="shed", **options) as c:
        receipts = await c.enqueue_many(signals(120, "HIGH", 1000))
        assert not any(receipt.done() for receipt in receipts)
        assert c.statistics().shed == 120
        assert balanced(c)
    assert len(in_file(path)) == 200


async def test_a_large_backlog_starts_at_once(okta, path):
    """A backlog of 200,000 opens in well under two seconds, and is not held in memory."""
    await leave(okta, path, signals(1))
    with closing(sqlite3.connect(path)) as db, db:
        row = db.execute("SELECT * FROM signals").fetchone()
        db.executemany(
            "INSERT INTO signals VALUES (?,?,?,?,?,?,?,?)", ((row[0] + n, *row[1:]) for n in range(1, 200_000))
        )
    started = time.perf_counter()
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        assert time.perf_counter() - started < 2
        assert c.statistics().admitted == 200_000
        assert c._queue._prioritizer.size <= durable.CHUNK


async def test_the_file_shrinks(okta, path, monkeypatch):
    """What was sent gives its room back to the file system."""
    monkeypatch.setattr(sqlite, "_TIDY", 0.05)
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        await c.enqueue_many(signals(20_000, message="m" * 200))
    large = path.stat().st_size
    store = rb.SqliteStore(path)
    await store.open()
    await store._ask(lambda db: db.execute("DELETE FROM signals"))
    for _ in range(100):
        await asyncio.sleep(0.02)
        if await store._ask(lambda db: db.execute("PRAGMA freelist_count").fetchone()[0]) == 0:
            break
    await store.close()
    assert path.stat().st_size < large / 10
