"""The contract of every store, memory included, and what only a durable one promises."""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import valkey
from dict_store import DictStore, Place
from multidict import CIMultiDict

import riskbatch as rb
from riskbatch import cli
from riskbatch.emulator import OktaEmulator
from riskbatch.okta.wire import Response
from riskbatch.stores import contract
from riskbatch.stores.sqlite import admin, durable
from riskbatch.stores.sqlite import file as sqlite_file
from riskbatch.stores.sqlite import store as sqlite

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


class Accepting(Holding):
    """A transport that accepts everything at once."""

    async def __call__(self, request):
        self.carried += [s["ip"] for event in json.loads(request.body) for s in event["subjects"]]
        return Response(202, CIMultiDict(), b"")


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


@pytest.fixture(params=["memory", "sqlite", "sqlite normal", "sqlite keeping", "of a third party", "fleet of one"])
def store(request, path):
    make = {
        "fleet of one": lambda: rb.ValkeyStore(request.getfixturevalue("engine_url"), name=path.parent.name),
        "memory": lambda: None,
        "sqlite": lambda: rb.SqliteStore(path),
        "sqlite normal": lambda: rb.SqliteStore(path, synchronous="NORMAL"),
        "sqlite keeping": lambda: rb.SqliteStore(path, keep_settled=timedelta(days=1)),
        "of a third party": lambda: DictStore(Place()),
    }
    return make[request.param]()


async def leave(okta: OktaEmulator, path: Path, left: list[rb.RiskSignal], **options) -> None:
    """Let a client end with *left* in its file."""
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0.0, **options) as c:
        await c.enqueue_many(left)


def kept(store: rb.Store | None) -> list[str]:
    """Return the addresses that *store* has."""
    if isinstance(store, DictStore):
        return [row.signal.ip for row in store.place.rows.values()]
    if isinstance(store, rb.ValkeyStore):
        records = valkey.Valkey.from_url(store._shown).hvals(f"riskbatch:1:{{{store.name}}}:signals")
        return [json.loads(record.split(b" ", 4)[4])["ip"] for record in records]
    return [] if store is None else in_file(store.path)


# -- the contract of every store


@pytest.mark.parametrize("options", [{}, {"synchronous": "NORMAL"}, {"keep_settled": timedelta(days=1)}])
async def test_sqlite_keeps_the_contract(tmp_path, options):
    """A SqliteStore does what every sentence of `Store` says."""
    await contract.check(lambda place: rb.SqliteStore(tmp_path / place, **options))


async def test_a_third_party_can_write_a_store():
    """A store written from the docstrings of `Store` passes the contract, which finds each method that does nothing."""
    places: dict[str, Place] = defaultdict(Place)
    assert isinstance(DictStore(places[""]), rb.Store)
    await contract.check(lambda place: DictStore(places[place]))

    async def nothing(*_):
        return []

    for name in ("settle", "note", "succeed", "withdraw", "find", "due", "load", "abort"):
        does = nothing if name in ("find", "withdraw", "due", "load") else lambda *_: None
        wrong = type("Wrong", (DictStore,), {name: does})
        places = defaultdict(Place)
        with pytest.raises(AssertionError):
            await contract.check(lambda place, wrong=wrong, places=places: wrong(places[place]))


async def test_signals_are_sent_and_settled(okta, store):
    """With any store, every signal is sent HIGH first and accepted once, and the books are balanced."""
    async with client(okta, store) as c:
        receipts = await c.enqueue_many([*signals(45), *signals(5, "HIGH", 100)])
        assert balanced(c)
        assert await c.flush(10) == 0
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert balanced(c)
    assert Counter(s.ip for s in okta.signals) == Counter(receipt.signal.ip for receipt in receipts)
    assert kept(store) == []


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
        assert c._life.queue._promised == 0
        assert balanced(c)
    if store is not None:
        assert sorted(kept(store)) == sorted(admitted)


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
        assert sorted(kept(store)) == sorted(receipt.signal.ip for receipt in receipts)


async def test_a_refused_signal_is_found_and_gone(store):
    """With any store, one signal that Okta refuses is rejected alone, and its companions are accepted."""
    async with OktaEmulator(period=1.0, poison=lambda s: s.ip == ip(7)) as okta, client(okta, store) as c:
        receipts = await c.enqueue_many(signals(20))
        await c.flush(10)
    assert isinstance(receipts[7].outcome, rb.Rejected)
    assert sum(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts) == 19
    assert kept(store) == []


# -- a good guest


async def test_the_event_loop_gets_its_turns(okta, path, monkeypatch):
    """Between two turns of the loop a store loads, and wakes the callers of, some hundred signals and no more."""
    await leave(okta, path, signals(3000))
    loaded, woken = [], Counter()
    real = durable.DurableQueue._take_in

    def spied(queue, level, chunk):
        loaded.append(len(chunk))
        real(queue, level, chunk)

    monkeypatch.setattr(durable.DurableQueue, "_take_in", spied)
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
        level = await c._store._ask(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
        assert level == 2, "FULL syncs the log at each commit"


async def test_concurrent_enqueues_share_transactions(okta, path, monkeypatch):
    """A thousand producers cost a few commits, not a thousand."""
    groups = []
    real = sqlite_file.insert

    def counting(db, runs, now):
        groups.append(sum(len(each) for each, _ in runs))
        real(db, runs, now)

    monkeypatch.setattr(sqlite_file, "insert", counting)
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
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=rb.RateLimit(1000, 1.0)) as c:
        assert c.statistics().waiting == 500
        assert c._life.queue._prioritizer.size <= 100
        new = await c.enqueue_many(signals(30, "HIGH", 5000))
        assert balanced(c)
        assert await c.flush(20) == 0
        assert balanced(c)
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in new)
    highs = [*range(1000, 1200), *range(5000, 5030)]
    assert accepting.carried == [ip(number) for number in [*highs, *range(300)]]


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


async def test_a_superseder_keeps_its_place_over_a_restart(okta, path):
    """With `coalesce`, the newer signal has the place of the older in the file too."""
    holding = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "coalesce": True}
    async with client(okta, rb.SqliteStore(path), **holding) as c:
        await c.enqueue_many(signals(20, "HIGH", 500))
        await asyncio.wait_for(holding["transport"].departed.wait(), 5)
        await c.enqueue_many(signals(5))
        for text in ("newer", "newest"):  # a chain, in one transaction with all the rest
            await c.enqueue_many(signals(2, start=1, message=text))
        await c.enqueue(signals(1, start=3, level="MEDIUM")[0])  # at another level it begins anew
    assert in_file(path)[20:] == [ip(3), ip(0), ip(1), ip(2), ip(4)]
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, coalesce=True) as c:
        newer = await c.enqueue_many(signals(1, start=1, message="last of all"))
        assert await c.flush(5) == 0
        assert newer[0].signal.message == "last of all"
    assert accepting.carried[20:] == [ip(3), ip(0), ip(1), ip(2), ip(4)]
    assert in_file(path) == []


def test_changes_to_the_same_rows_come_to_what_they_would_one_by_one():
    """Whatever is settled, superseded and noted within a transaction, the file has what it would have one by one."""
    rng = random.Random(5)
    rows = signals(12, "HIGH")
    for _ in range(100):
        together, single = (sqlite3.connect(":memory:", isolation_level=None) for _ in range(2))
        for db in (together, single):
            db.executescript(sqlite_file.SCHEMA)
            sqlite_file.insert(db, [(rows, 1)], 0)
        keys, changes = list(range(1, 13)), []
        while len(keys) > 1 and rng.random() < 0.95:
            old, new = rng.sample(keys, 2)
            if rng.random() < 0.4:
                changes.append(sqlite._Note([(old, rng.randrange(9), rng.random() < 0.5)]))
            else:
                changes.append(sqlite._Settle([(old, "", "")]))
                keys.remove(old)
                if rng.random() < 0.6:
                    changes.append(sqlite._Move(old, new))
                    keys.remove(new)
                    keys.append(old)
        store = rb.SqliteStore("unused")
        store._change_rows(together, sqlite._fold(changes))
        for change in changes:
            store._change_rows(single, sqlite._fold([change]))
        in_both = [db.execute("SELECT * FROM signals ORDER BY id").fetchall() for db in (together, single)]
        assert in_both[0] == in_both[1]
        together.close()
        single.close()


async def test_what_was_never_loaded_is_abandoned_without_a_receipt(okta, path, small_memory):
    """At the end, signals that are in the store only are counted as abandoned, and no `on_settled` is called."""
    await leave(okta, path, signals(200))
    settled = []
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "on_settled": settled.append}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        pass
    assert c.statistics().abandoned == 200
    assert len(settled) <= 60
    assert balanced(c)
    assert len(in_file(path)) == 200


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


@pytest.mark.parametrize("how", ["one by one", "many at once"])
async def test_a_high_is_never_shed_while_a_low_waits_in_the_store_only(okta, path, small_memory, how):
    """However many HIGH come at the same time, each sheds a LOW, though most of the LOW are not in memory."""
    await leave(okta, path, signals(300))
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "capacity": 300, "when_full": "shed"}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        await asyncio.sleep(0.05)  # the first request takes twenty of the loaded
        highs = signals(200, "HIGH", 1000)
        if how == "one by one":
            receipts = await asyncio.gather(*map(c.enqueue, highs))
        else:
            halves = await asyncio.gather(c.enqueue_many(highs[:100]), c.enqueue_many(highs[100:]))
            receipts = halves[0] + halves[1]
        assert not any(receipt.done() for receipt in receipts)
        assert c.statistics().shed == 200
        assert balanced(c)


async def test_a_large_backlog_starts_at_once(okta, path):
    """A backlog of 200,000 is open at once, and is not held in memory."""
    await leave(okta, path, signals(1))
    with closing(sqlite3.connect(path)) as db, db:
        row = db.execute("SELECT * FROM signals").fetchone()
        db.executemany(
            "INSERT INTO signals VALUES (?,?,?,?,?,?,?,?)", ((row[0] + n, *row[1:]) for n in range(1, 200_000))
        )
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        assert c.statistics().admitted == 200_000
        assert c._life.queue._prioritizer.size <= durable.CHUNK


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


# -- kill -9 and the power cut

PYTHON = os.environ | {"PYTHONPATH": str(Path(rb.__file__).parents[1])}
KILLS = int(os.environ.get("RISKBATCH_KILLS", "30"))
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


# -- faults


async def test_a_full_disk_admits_nothing_and_loses_nothing(okta, path):
    """With a full disk `enqueue` raises StoreError and admits nothing; once there is room, all goes on."""
    async with client(okta, rb.SqliteStore(path)) as c:
        first = await c.enqueue(signals(1)[0])
        await first
        pages = await c._store._ask(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await c._store._ask(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall())
        with pytest.raises(rb.StoreError, match=r"signals\.db: database or disk is full"):
            await c.enqueue_many(signals(400, message="m" * 500))
        assert c.statistics().admitted == 1
        assert c._life.queue._promised == 0
        assert balanced(c)
        await c._store._ask(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchall())
        second = await c.enqueue(signals(1)[0])
        assert isinstance(await second, rb.Accepted)
    assert in_file(path) == []


FULL_DISK = """
import asyncio, resource, signal, sys
import riskbatch as rb
from multidict import CIMultiDict
from riskbatch.okta.wire import Response

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
    monkeypatch.setattr(sqlite, "_RETRY", 0.05)
    real = sqlite.SqliteStore._end
    failures = iter(range(3))

    def fail(self, db, ends):
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")
        real(self, db, ends)

    monkeypatch.setattr(sqlite.SqliteStore, "_end", fail)
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
    real = sqlite_file.insert
    begun = threading.Event()

    def slow(*args):
        begun.set()
        time.sleep(0.05)
        real(*args)

    monkeypatch.setattr(sqlite_file, "insert", slow)
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
        await c._store._ask(lambda db: db.execute("PRAGMA busy_timeout=50").fetchall())
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
            async with client(okta, c._store):
                pass
        assert isinstance(await (await c.enqueue(signals(1)[0])), rb.Accepted)


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (a)")


def later_version(path: Path) -> None:
    sqlite_file.create(str(path))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")


def torn(path: Path) -> None:
    sqlite_file.create(str(path))
    with closing(sqlite3.connect(path)) as db, db:
        sqlite_file.insert(db, [(signals(200, message="m" * 500), 1)], 0)
    content = bytearray(path.read_bytes())
    content[8192:20000] = b"\xa5" * (20000 - 8192)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("some notes\n" * 100), "not a store of riskbatch"),
        (other_database, "another SQLite database"),
        (later_version, "has version 99"),
        (torn, "is damaged"),
    ],
)
async def test_a_file_that_is_no_store_is_refused_and_untouched(path, make, why):
    """A foreign, damaged or later file is refused with its name, and not one byte of it changes."""
    make(path)
    before = path.read_bytes()
    store = rb.SqliteStore(path)
    with pytest.raises(rb.StoreError, match=rf"signals\.db .*{why}"):
        await store.open()
    assert path.read_bytes() == before
    assert threading.active_count() == 1


async def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    """A folder that is not there, or that is no place for files, raises StoreError with its name."""
    for place in (tmp_path / "nowhere" / "signals.db", Path("/proc/signals.db")):
        with pytest.raises(rb.StoreError, match=str(place)):
            await rb.SqliteStore(place).open()


async def test_a_file_with_two_names_is_refused(okta, path, tmp_path):
    """A file with a hard link is refused: by the other name, it could have two senders."""
    await leave(okta, path, signals(3))
    os.link(path, tmp_path / "other.db")
    for name in (path, tmp_path / "other.db"):
        with pytest.raises(rb.StoreError, match=rf"{name.name} has another name"):
            await rb.SqliteStore(name).open()
    for name in ("/dev/null", tmp_path):
        with pytest.raises(rb.StoreError, match="not a regular file"):
            await rb.SqliteStore(name).open()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_operators_read_where_they_may_not_write(okta, path, monkeypatch):
    """A file in a folder that may only be read can be looked at all the same, without writing beside it."""
    await leave(okta, path, signals(3))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert [waiting.signal.ip for waiting in admin.ls(path)] == [ip(0), ip(1), ip(2)]
    assert admin.stats(path).waiting[rb.RiskLevel.LOW] == 3
    assert sorted(file.name for file in path.parent.iterdir()) == ["signals.db", "signals.db-lock"]


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
        assert c._life.queue.room() == c._capacity
        assert balanced(c)
    assert accepting.carried == [*map(ip, range(2000)), *map(ip, range(5000, 5050)), *map(ip, range(6000, 6050))]
    assert "1000 LOW that cannot be read" in caplog.text
    assert len(in_file(path)) == 1000


async def test_a_read_only_file_is_a_store_error(path, monkeypatch):
    """A file that may only be read is refused when the client is opened, not when the first signal comes."""
    sqlite_file.create(str(path))
    real = sqlite3.connect

    def read_only(name, **options):
        return real(name if "uri" in options else f"file:{name}?mode=ro", **(options | {"uri": True}))

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(rb.StoreError, match="readonly"):
        await rb.SqliteStore(path).open()


DATA = Path(__file__).parents[1] / "data"


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall())


@pytest.mark.parametrize("version", range(1, sqlite_file.VERSION + 1))
async def test_a_file_of_each_version_is_brought_up(path, tmp_path, version):
    """A file of each version, as it was written then, opens with its signals, and is then like a new one."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((DATA / f"store-v{version}.sql").read_text())
    assert [waiting.signal.ip for waiting in admin.ls(path)] == ["2001:db8::1", "10.0.0.1"]  # before it is brought up
    store = rb.SqliteStore(path)
    for _ in range(2):
        assert (await store.open()).waiting == {rb.RiskLevel.HIGH: 1, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: 1}
        (high,) = await store.load(rb.RiskLevel.HIGH, 0, 10)
        seen = datetime(2026, 5, 17, 1, 2, 3, 456789, tzinfo=UTC)
        assert high.signal == rb.RiskSignal("2001:db8::1", "HIGH", message="a message", timestamp=seen)
        await store.close()
    sqlite_file.create(str(tmp_path / "new.db"))
    assert schema(path) == schema(tmp_path / "new.db")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == sqlite_file.VERSION


async def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    """If a file cannot be brought up, it is refused, and stays as it was for the version that wrote it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((DATA / "store-v1.sql").read_text())
    before = schema(path)
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", {1: "DROP TABLE settled; SELECT * FROM nowhere"})
    with pytest.raises(rb.StoreError, match="nowhere"):
        await rb.SqliteStore(path).open()
    assert schema(path) == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1


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


async def test_nobody_else_can_read_the_files(okta, path):
    """The file, its log and its index have mode 0600, and no credentials are in any of them."""
    old = os.umask(0)
    try:
        async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
            await c.enqueue_many(signals(10))
            files = list(path.parent.glob("signals.db*"))
            assert {file.name.removeprefix("signals.db") for file in files} == {"", "-wal", "-shm", "-lock"}
            for file in files:
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert okta.token.encode() not in file.read_bytes()
    finally:
        os.umask(old)


def test_arguments_that_cannot_work_are_refused(monkeypatch):
    """A store's arguments, what is no store, and an SQLite that is too old, are refused at once."""
    with pytest.raises(rb.ConfigurationError, match="synchronous"):
        rb.SqliteStore("x", synchronous="OFF")
    with pytest.raises(rb.ConfigurationError, match="keep_settled"):
        rb.SqliteStore("x", keep_settled=timedelta(0))
    with pytest.raises(rb.ConfigurationError, match="store"):
        rb.Client("https://acme.okta.com", rb.ApiToken("t" * 20), store="signals.db")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(rb.ConfigurationError, match=r"needs SQLite 3\.33\.0; this Python has"):
        rb.SqliteStore("x")


# -- operators


async def test_operators_read_while_a_client_runs(okta, path):
    """A running client's file can be listed, counted and exported; changing it is refused."""
    until = soon(3600)
    sent = [*signals(3), *signals(2, "HIGH", 100, expires_at=until, message="m")]
    async with client(okta, rb.SqliteStore(path), transport=Holding(), close_timeout=0) as c:
        await c.enqueue_many(sent)
        listed = list(admin.ls(path))
        assert [waiting.signal for waiting in listed] == [*sent[3:], *sent[:3]]
        assert [w.signal for w in admin.ls(path, rb.RiskLevel.HIGH)] == sent[3:]
        numbers = admin.stats(path)
        assert numbers.waiting == {rb.RiskLevel.HIGH: 2, rb.RiskLevel.MEDIUM: 0, rb.RiskLevel.LOW: 3}
        assert set(numbers.oldest) == {rb.RiskLevel.HIGH, rb.RiskLevel.LOW}
        assert (numbers.expired, numbers.settled, numbers.owner) == (0, {}, os.getpid())
        assert numbers.size > 0
        assert list(admin.export_signals(path)) == [waiting.signal.to_json() for waiting in listed]
        for change in (lambda: admin.drop(path), lambda: admin.import_signals(path, sent)):
            with pytest.raises(rb.StoreError, match="in use"):
                change()
    assert admin.stats(path).owner is None
    assert len(in_file(path)) == 5


async def test_operators_import_and_drop(okta, path):
    """What is imported is sent by the next client, behind what waited; what is dropped is not."""
    await leave(okta, path, signals(5))
    assert admin.import_signals(path, signals(2500, start=10)) == 2500
    rows = [waiting.row for waiting in admin.ls(path)]
    assert len(rows) == 2505
    assert admin.drop(path, row=rows[0]) == 1
    assert admin.drop(path, level=rb.RiskLevel.HIGH) == 0
    assert admin.drop(path, level=rb.RiskLevel.LOW, before=soon(-3600)) == 0
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=rb.RateLimit(1000, 1.0)) as c:
        assert await c.flush(20) == 0
    assert accepting.carried == [ip(i) for i in [1, 2, 3, 4, *range(10, 2510)]]
    assert admin.import_signals(path, signals(3)) == 3
    assert admin.drop(path) == 3
    with pytest.raises(rb.InvalidSignal):
        admin.import_signals(path, ["no signal"])
    empty = path.stat().st_size
    admin.import_signals(path, signals(5000, message="m" * 200))
    admin.drop(path)
    assert path.stat().st_size <= empty, "what is dropped gives its room back"


async def test_operators_see_outcomes(okta, path, capsys):
    """With `keep_settled`, operators see how signals ended, so that "was it sent?" has an answer."""
    async with client(okta, rb.SqliteStore(path, keep_settled=timedelta(days=1))) as c:
        receipt = await c.enqueue(signals(1, "MEDIUM")[0])
        outcome = await receipt
    (ended,) = admin.settled(path)
    assert (ended.signal, ended.outcome, ended.detail) == (
        receipt.signal,
        "Accepted",
        {"request_id": outcome.request_id},
    )
    assert admin.stats(path).settled == {"Accepted": 1}
    assert await asyncio.to_thread(cli.main, ["queue", "ls", str(path), "--settled"]) == 0
    assert f"Accepted   MEDIUM {ip(0)}" in capsys.readouterr().out


def test_operators_are_told_what_is_no_store(tmp_path):
    """A file that is not there, or is no store, is a StoreError that names it, and none is made."""
    (tmp_path / "notes.txt").write_text("notes")
    for name in ("nothing.db", "notes.txt"):
        with pytest.raises(rb.StoreError, match=name):
            list(admin.ls(tmp_path / name))
    assert not (tmp_path / "nothing.db").exists()
