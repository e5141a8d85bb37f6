"""What a client promises with any store: in memory, in a file, and in a fleet."""

import asyncio
import json
import threading
from collections import Counter
from datetime import timedelta

import pytest
import valkey
from with_store import SLOW, Holding, balanced, client, in_file, ip, queue_of, signals, soon

import riskbatch as rb
from riskbatch.emulator import OktaEmulator


@pytest.fixture
async def okta():
    async with OktaEmulator(limit=30, period=1.0) as okta:
        yield okta


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


@pytest.fixture(params=["memory", "sqlite", "sqlite normal", "sqlite keeping", "fleet of one"])
def store(request, path):
    make = {
        "fleet of one": lambda: rb.ValkeyStore(request.getfixturevalue("engine_url"), name=path.parent.name),
        "memory": lambda: None,
        "sqlite": lambda: rb.SqliteStore(path),
        "sqlite normal": lambda: rb.SqliteStore(path, synchronous="NORMAL"),
        "sqlite keeping": lambda: rb.SqliteStore(path, keep_settled=timedelta(days=1)),
    }
    return make[request.param]()


def kept(store: rb.SqliteStore | rb.ValkeyStore | None) -> list[str]:
    """Return the addresses that *store* has."""
    if isinstance(store, rb.ValkeyStore):
        records = valkey.Valkey.from_url(store._shown).hvals(f"riskbatch:2:{{{store.name}}}:signals")
        return [json.loads(record[record.index(b"{") :])["ip"] for record in records]
    return [] if store is None else in_file(store.path)


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
        if not isinstance(store, rb.ValkeyStore):  # whose room is the engine's
            assert queue_of(c)._capacity._promised == 0
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
