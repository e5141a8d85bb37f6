"""A backlog that is longer than memory: order, expiry, coalescing, shedding and counts across both."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from budget import budget
from with_store import SLOW, Accepting, Holding, balanced, client, in_file, ip, leave, queue_of, signals, soon

import riskbatch as rb
from riskbatch.emulator import OktaEmulator
from riskbatch.stores.sqlite import backlog, writer


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


# -- size


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(backlog, "CHUNK", 50)
    monkeypatch.setattr(backlog, "HEAD", 80)


async def test_a_backlog_stays_in_the_store_and_in_order(okta, path, small_memory):
    """Of a backlog only the oldest are in memory; all are counted, and sent in order, before what comes now."""
    await leave(okta, path, [*signals(300), *signals(200, "HIGH", 1000)])
    accepting = Accepting()
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=rb.RateLimit(1000, 1.0)) as c:
        assert c.statistics().waiting == 500
        assert queue_of(c).prioritizer.size <= 100
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


async def test_what_is_superseded_in_the_store_makes_room(okta, path, small_memory):
    """With `coalesce`, a newer signal for an address finds its place in a full queue, though the older is on disk."""
    await leave(okta, path, signals(300))
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "capacity": 300, "when_full": "reject"}
    async with client(okta, rb.SqliteStore(path), coalesce=True, **options) as c:
        new = await c.enqueue(rb.RiskSignal(ip(290), "LOW", message="new"))
        assert not new.done()
        with pytest.raises(rb.QueueFull):
            await c.enqueue(rb.RiskSignal("192.0.2.1", "LOW"))
        assert balanced(c)


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


async def test_a_flood_of_newcomers_stays_in_the_store(okta, path, small_memory):
    """What is enqueued live is bounded in memory too; it is sent in order, and the very receipts are settled."""
    accepting = Accepting()
    limit = rb.RateLimit(30, 0.2)
    async with client(okta, rb.SqliteStore(path), transport=accepting, limit=limit) as c:
        kept = await c.enqueue_many(signals(400))
        for number in range(400, 600):
            await c.enqueue(signals(1, start=number)[0])
            assert balanced(c)
            assert queue_of(c).prioritizer.size <= 200
        highs = [await c.enqueue(one) for one in signals(150, "HIGH", 1000)]
        assert await c.flush(20) == 0
        assert balanced(c)
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in kept + highs)
    low = [one for one in accepting.carried if one in {ip(number) for number in range(600)}]
    assert low == [ip(number) for number in range(600)]
    assert [one for one in accepting.carried if one not in low] == [ip(number) for number in range(1000, 1150)]
    assert in_file(path) == []


async def test_receipts_of_what_is_on_disk_are_settled_at_the_end(okta, path, small_memory):
    """Leaving the block settles the receipts that somebody holds, though their signals are in the store only."""
    settled = []
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "on_settled": settled.append}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        receipts = await c.enqueue_many(signals(300))
    assert all(isinstance(receipt.outcome, rb.Abandoned) for receipt in receipts)
    assert {id(receipt) for receipt in settled} == {id(receipt) for receipt in receipts}
    assert c.statistics().abandoned == 300
    assert balanced(c)
    assert in_file(path) == [ip(number) for number in range(300)]


async def test_newcomers_on_disk_expire_in_time(okta, path, small_memory):
    """A signal that is enqueued behind a long line expires in time, and the receipt that the caller holds says so."""
    async with client(okta, rb.SqliteStore(path), transport=Holding(), limit=SLOW, close_timeout=0.0) as c:
        await c.enqueue_many(signals(300))
        receipt = await c.enqueue(signals(1, start=900, expires_at=soon(0.3))[0])
        assert await asyncio.wait_for(receipt, 5) == rb.Expired()
        assert balanced(c)
    assert ip(900) not in in_file(path)


async def test_newcomers_on_disk_are_superseded(okta, path, small_memory):
    """With `coalesce`, of an address that is reported again and again behind a long line, the newest is sent."""
    accepting = Accepting()
    options = {"transport": accepting, "limit": rb.RateLimit(30, 0.2), "coalesce": True}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        await c.enqueue_many(signals(300))
        first = await c.enqueue(signals(1, start=900, message="first")[0])
        await c.enqueue_many(signals(50, start=1000))
        many = await c.enqueue_many([*signals(1, start=900, message="a"), *signals(1, start=900, message="b")])
        last = await c.enqueue(signals(1, start=900, message="last")[0])
        high = await c.enqueue(signals(1, "HIGH", 1010)[0])
        assert balanced(c)
        assert await c.flush(20) == 0
        assert first.outcome == rb.Superseded(many[0].signal)
        assert [receipt.outcome for receipt in many] == [rb.Superseded(many[1].signal), rb.Superseded(last.signal)]
        assert isinstance(last.outcome, rb.Accepted)
        assert isinstance(high.outcome, rb.Accepted)
    assert accepting.carried.count(ip(900)) == 1
    assert accepting.carried.count(ip(1010)) == 1
    assert accepting.carried.index(ip(900)) < accepting.carried.index(ip(1000)), "it has the place of the first"
    assert in_file(path) == []


async def test_whatever_comes_each_signal_ends_once(okta, path, small_memory):
    """Through restarts, floods, expiry, coalescing and cancellation, each signal ends once and none stays behind."""
    rng = random.Random(16)
    ended: Counter[str] = Counter()
    admitted = 0
    accepting = Accepting()

    def note(receipt: rb.Receipt) -> None:
        if not isinstance(receipt.outcome, rb.Abandoned):
            ended[receipt.signal.message] += 1

    for turn in range(budget(4, 6)):
        options = {"transport": accepting, "limit": rb.RateLimit(10, 1.0), "coalesce": turn % 2 == 1}
        options |= {"close_timeout": 0.0, "on_settled": note}
        async with client(okta, rb.SqliteStore(path), **options) as c:
            numbers = iter(range(turn * 1000, (turn + 1) * 1000))

            async def produce(c: rb.Client = c, numbers: Iterator[int] = numbers) -> None:
                for number in islice(numbers, 80):
                    expires_at = soon(rng.random()) if rng.random() < 0.2 else None
                    level = rng.choice(["HIGH", "MEDIUM", "LOW", "LOW", "LOW"])
                    fields = {"message": f"n{number}", "expires_at": expires_at}
                    enqueue = asyncio.ensure_future(c.enqueue(rb.RiskSignal(ip(rng.randrange(300)), level, **fields)))
                    if rng.random() < 0.1:
                        asyncio.get_running_loop().call_later(rng.random() * 0.001, enqueue.cancel)
                    await asyncio.wait({enqueue})
                    assert balanced(c)

            await asyncio.gather(*(produce() for _ in range(8)))
        assert balanced(c)
        assert len(in_file(path)) == c.statistics().abandoned
        admitted += c.statistics().settled - c.statistics().abandoned
    options = {"transport": accepting, "limit": rb.RateLimit(1000, 1.0), "on_settled": note}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        assert await c.flush(20) == 0
    assert in_file(path) == []
    assert max(ended.values()) == 1
    assert ended.total() == admitted + c.statistics().settled


async def test_a_backlog_beyond_capacity_does_not_keep_a_high_out(okta, path, small_memory):
    """If a store holds more than `capacity`, newcomers wait until it is sent down to that, but a HIGH comes in."""
    await leave(okta, path, signals(200))
    holding = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "capacity": 50}
    async with client(okta, rb.SqliteStore(path), **holding) as c:
        high = await asyncio.wait_for(c.enqueue(rb.RiskSignal("192.0.2.1", "HIGH")), 5)
        assert not high.done()
        with pytest.raises(rb.QueueFull):
            await c.enqueue(rb.RiskSignal("192.0.2.2", "LOW"), timeout=0.05)
        await c.enqueue_many(signals(49, "HIGH", 1000))
        with pytest.raises(rb.QueueFull):  # capacity bounds these too
            await c.enqueue(rb.RiskSignal("192.0.2.3", "HIGH"), timeout=0.05)
        assert balanced(c)
    accepting = Accepting()
    options = {"transport": accepting, "limit": rb.RateLimit(30, 0.1), "capacity": 50}
    async with client(okta, rb.SqliteStore(path), **options) as c:
        low = await asyncio.wait_for(c.enqueue(rb.RiskSignal("192.0.2.2", "LOW")), 10)
        assert c.statistics().waiting + c.statistics().in_flight <= 50
        assert isinstance(await low, rb.Accepted)


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


async def test_what_a_newcomer_supersedes_may_be_loaded_to_be_shed(okta, path, small_memory):
    """With `coalesce` and "shed", a signal on disk that is loaded while a newer one comes ends once all the same."""
    await leave(okta, path, signals(300))
    options = {"transport": Holding(), "limit": SLOW, "close_timeout": 0.0, "capacity": 300, "when_full": "shed"}
    async with client(okta, rb.SqliteStore(path), coalesce=True, **options) as c:
        await asyncio.sleep(0.05)  # the first request takes twenty of the loaded
        receipts = await c.enqueue_many([*signals(100, "HIGH", 1000), *signals(100, "HIGH", 200)])
        assert not any(receipt.done() for receipt in receipts)
        assert (c.statistics().shed, c.statistics().superseded) == (100, 100)
        assert balanced(c)
    assert len(in_file(path)) == c.statistics().abandoned == 300


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
        assert queue_of(c).prioritizer.size <= backlog.HEAD


async def test_the_file_shrinks(okta, path, monkeypatch):
    """What was sent gives its room back to the file system."""
    monkeypatch.setattr(writer, "_TIDY", 0.05)
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
