"""The promises of a fleet, over a real engine on a virtual clock; wire/test_fleet_processes.py kills real processes."""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from budget import budget
from fake_org import FakeOrg, balanced, client, ip, outcomes, signal, signals
from test_promises import poisoned, soon, wild_faults
from virtual_engine import BASE, VirtualEngine

import riskbatch as rb
from riskbatch.batcher import Batch
from riskbatch.emulator import Fault
from riskbatch.stores.valkey import scripts as module
from riskbatch.stores.valkey.claims import Claim
from riskbatch.stores.valkey.clock import EngineClock

LEASE = 10.0
KEYS = [f"riskbatch:2:{{acme}}:{key}" for key in module.KEYS]


@pytest.fixture
def world(engine, monkeypatch):
    world = VirtualEngine(engine)
    monkeypatch.setattr(rb.ValkeyStore, "connect", lambda store, org: world.connect(store, org))  # noqa: PLW0108 - a method
    return world


def replica(org: FakeOrg, **options) -> rb.Client:
    store = rb.ValkeyStore("valkey://localhost", name="acme", **{"lease": LEASE} | options.pop("store", {}))
    return client(org, **{"store": store} | options)


async def produce(clients, rates, until, rng):
    loop = asyncio.get_running_loop()
    receipts = []
    numbers = iter(range(10**9))

    async def one(level, rate):
        while loop.time() < until:
            await asyncio.sleep(rng.expovariate(rate))
            receipts.append(await rng.choice(clients).enqueue(signal(next(numbers), level)))

    await asyncio.gather(*(one(level, rate) for level, rate in rates.items()))
    return receipts


# ------------------------------------------------------------------------------------------------ one budget


@pytest.mark.parametrize("weather", ["calm", "stormy"])
async def test_no_window_sees_more_than_30_requests_of_the_whole_fleet(world, weather):
    """Never more than 30 requests of the whole fleet in any 60 s, whatever fails on the way."""
    rng = random.Random(weather)
    most_delay = 0.25 if weather == "calm" else 8.0
    org = FakeOrg(
        window="sliding",
        delay=lambda: (rng.uniform(0, most_delay), rng.uniform(0, most_delay)),
        script=wild_faults(rng, 0.15) if weather == "stormy" else None,
    )
    async with replica(org) as a, replica(org) as b, replica(org) as c:
        await asyncio.gather(*(one.enqueue_many(signals(2_000, start=i * 2_000)) for i, one in enumerate((a, b, c))))
        await produce([a, b, c], {"MEDIUM": 0.5, "HIGH": 0.5}, budget(240.0, 600.0), rng)
        assert all(balanced(one) for one in (a, b, c))
        requests = [one.statistics().requests for one in (a, b, c)]
        assert a.statistics().fleet.alive == 3
    assert org.org.most_in_any_window(60.0) <= 30
    assert sum(requests) > (budget(100, 250) if weather == "calm" else budget(32, 80))
    assert all(requests)
    if weather == "calm":
        assert set(org.statuses) == {202}


async def test_a_replica_that_is_cut_off_stops_sending_within_its_lease(world):
    """A replica that cannot reach the engine does not send, and gives up what is under way before its lease ends."""
    org = FakeOrg(delay=lambda: (0.01, 30.0))
    async with replica(org, linger=0.0) as a:
        receipts = await a.enqueue_many(signals(20))
        await asyncio.sleep(1.0)
        assert len(org.departures) == 1
        async with replica(org) as b:
            world.away[0] = "cut"
            cut_at = asyncio.get_running_loop().time()
            with pytest.raises(rb.StoreError):
                await a.enqueue(signal(100, "HIGH"), timeout=5.0)
            await asyncio.sleep(LEASE)
            assert org.cancelled == 1  # the request of the one that is cut off
            assert "away" in a.statistics().trouble
            await b.enqueue(signal(200, "HIGH"))
            org.delay = lambda: (0.01, 0.1)
            await asyncio.sleep(30.0)
            late = [at for at, aboard in org.departures[1:] if ip(0) in aboard]
            assert late[0] <= cut_at + 1.5 * LEASE  # within the lease, and another look
            assert b.statistics().requests == len(org.departures) - 1
            world.away.clear()
            assert [type(outcome) for outcome in await outcomes(receipts)] == [rb.Accepted] * 20
            assert ip(100) not in org.ips
    assert org.org.most_in_any_window(60.0) <= 30


@pytest.mark.parametrize("step", [-7200.0, -30.0, 30.0, 3600.0])
async def test_a_step_of_the_engines_clock_neither_opens_the_window_nor_stalls(world, step):
    """When the engine's wall clock is stepped, no permit comes back early, and nothing stops for longer than a look."""
    org = FakeOrg(window="sliding")
    async with replica(org, reserve=0) as a, replica(org, reserve=0) as b:
        await asyncio.gather(a.enqueue_many(signals(15)), b.enqueue_many(signals(1_000, start=2_000)))
        await asyncio.sleep(45.0)
        world.step = step
        await asyncio.gather(a.flush(), b.flush())
    assert org.org.most_in_any_window(60.0) <= 30
    assert len(org.ips) == 1_015
    gaps = [after - before for (before, _), (after, _) in pairwise(org.departures)]
    assert max(gaps) < 2.1 + LEASE / 3


async def test_replicas_with_wrong_wall_clocks_agree(world, monkeypatch):
    """No replica's own wall clock decides anything: not the window, not the order, not an expiry."""
    org = FakeOrg(window="sliding")
    async with replica(org, close_timeout=60) as a:
        await a.enqueue_many(signals(300))
        kept = await a.enqueue(signal(500, expires_at=datetime.now(UTC) + timedelta(minutes=10)))

        class Skewed(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(hours=5)

        monkeypatch.setattr("riskbatch.stores.valkey.engine.datetime", Skewed)
        async with replica(org) as b:
            # On that host's clock this one is worth something for another ten minutes.
            also_kept = await b.enqueue(signal(501, expires_at=datetime.now(UTC) + timedelta(hours=5, minutes=10)))
            await asyncio.sleep(40.0)
            assert isinstance(await kept, rb.Accepted)
            assert isinstance(await also_kept, rb.Accepted)
    assert org.ips == [*(ip(i) for i in range(300)), ip(500), ip(501)]


@pytest.mark.parametrize("forgets", ["everything", "the last seconds"])
async def test_an_engine_that_forgets_opens_no_window_and_loses_nothing_of_the_living(world, engine, forgets):
    """An engine that lost its memory is given back what the replicas remember; no window sees more than 30."""
    org = FakeOrg(window="sliding", delay=lambda: (0.1, 0.1))
    async with replica(org) as a, replica(org) as b, replica(org) as c:
        clients = [a, b, c]
        receipts = [await clients[i % 3].enqueue(one) for i, one in enumerate(signals(900))]
        dumps = {}
        for turn in range(3):
            dumps = {key: engine.dump(key) for key in engine.keys("*")}
            await asyncio.sleep(random.Random(turn).uniform(3, 15))
            receipts += [
                await clients[i % 3].enqueue(one) for i, one in enumerate(signals(60, "HIGH", 2000 + 60 * turn))
            ]
            engine.flushdb()
            if forgets == "the last seconds":
                for key, dump in dumps.items():
                    engine.restore(key, 0, dump)
        assert [await asyncio.gather(*(one.flush() for one in clients))] == [[0, 0, 0]]
        assert {type(outcome) for outcome in await outcomes(receipts)} == {rb.Accepted}
    assert set(org.ips) == {receipt.signal.ip for receipt in receipts}
    assert org.org.most_in_any_window(60.0) <= 30


async def test_an_engine_that_lost_everything_is_not_trusted_before_a_window_has_passed(world, engine):
    """What a replica that has died had sent is known to nobody any more; still no window sees more than 30."""
    org = FakeOrg(window="sliding")
    dead = replica(org)
    await dead.__aenter__()
    async with replica(org) as b:
        await dead.enqueue_many(signals(560, "HIGH"))
        await asyncio.sleep(1.0)
        assert len(org.departures) == 28
        world.away[0] = "cut"
        engine.flushdb()
        receipts = await b.enqueue_many(signals(200, "HIGH", 1_000))
        assert {type(outcome) for outcome in await outcomes(receipts)} == {rb.Accepted}
    await dead.aclose(0)
    assert org.org.most_in_any_window(60.0) <= 30


async def test_an_engine_that_is_behind_is_told_of_the_window_before_anything_is_sent(world, engine):
    """An engine without its last second gets back the permits that are out, before another request leaves."""
    org = FakeOrg(window="sliding")
    async with replica(org, close_timeout=0) as a:
        await a.enqueue_many(signals(100))
        await asyncio.sleep(0.5)
        dumps = {key: engine.dump(key) for key in engine.keys("*")}
        await a.enqueue_many(signals(580, "HIGH", 1_000))
        await asyncio.sleep(1.0)
        assert len(org.departures) == 30
        engine.flushdb()
        for key, dump in dumps.items():
            engine.restore(key, 0, dump)
        await asyncio.sleep(70.0)
        assert len(org.departures) > 30
    assert org.org.most_in_any_window(60.0) <= 30


async def test_a_flood_of_low_leaves_the_reserve_of_the_fleet_to_high(world):
    """However many LOW the fleet has sent, three requests are left for HIGH at any moment."""
    org = FakeOrg()
    async with replica(org, close_timeout=0) as a, replica(org, close_timeout=0) as b:
        await asyncio.gather(a.enqueue_many(signals(1_000)), b.enqueue_many(signals(1_000, start=1_000)))
        await asyncio.sleep(59.0)
        before = len(org.departures)
        await b.enqueue_many(signals(60, "HIGH", 5_000))
        await asyncio.sleep(0.2)
        assert len(org.departures) == before + 3
    assert org.org.most_in_any_window(60.0) <= 30


async def test_what_is_answered_while_the_replica_talks_of_something_else_is_not_sent_again(world):
    """An answer that comes during another call to a slow engine neither frees its permit early nor is sent twice."""
    org = FakeOrg(window="sliding", delay=lambda: (0.01, 0.05))
    world.delay = lambda: 0.15
    async with replica(org, close_timeout=60) as a:
        await a.enqueue_many(signals(300, "HIGH"))
        for number in range(100):
            await a.enqueue(signal(1_000 + number, "HIGH"))
    assert sorted(org.ips) == sorted(set(org.ips))
    assert org.org.most_in_any_window(60.0) <= 30


async def test_what_the_server_says_to_one_replica_reaches_all(world):
    """A 429, a lower limit and a budget that others use are heeded by the whole fleet."""
    org = FakeOrg(limit=15, window="sliding")
    async with replica(org) as a, replica(org) as b:
        await asyncio.gather(a.enqueue_many(signals(400)), b.enqueue_many(signals(400, start=400)))
        await asyncio.sleep(130.0)
        assert {one.statistics().limit for one in (a, b)} == {15}
        before = len(org.departures)
        org.faults.append(Fault.rate_limited(reset_in=30.0))
        await asyncio.sleep(10.0)
        assert len(org.departures) <= before + 3
        assert 0 < b.statistics().resumes_after <= 31
        await asyncio.sleep(30.0)
        assert len(org.departures) > before + 3
    assert org.org.most_in_any_window(60.0) <= 30


async def test_a_429_for_concurrency_teaches_the_fleet_nothing_of_the_rate(world):
    """Limit 0 with remaining 0 is a short backoff of the one that got it: neither a limit nor a hold for the fleet."""
    org = FakeOrg()
    org.faults.append(Fault.crowded())
    async with replica(org) as a, replica(org) as b:
        receipt = await a.enqueue(signal(1, "HIGH"))
        assert isinstance(await receipt, rb.Accepted)
        await b.enqueue(signal(2))
        await b.flush()
        assert org.departures[1][0] - org.departures[0][0] < 10.0
        assert {one.statistics().limit for one in (a, b)} == {30}


# ------------------------------------------------------------------------------------------------ one order


async def test_a_high_of_one_replica_rides_the_next_request_whoever_sends_it(world):
    """The next request, whichever replica sends it, carries the highest-ranked waiting signals of the whole fleet."""
    org = FakeOrg()
    async with replica(org) as a, replica(org) as b, replica(org, close_timeout=0) as c:
        await asyncio.gather(a.enqueue_many(signals(1_000)), b.enqueue_many(signals(1_000, start=1_000)))
        for number in range(6):
            await asyncio.sleep(random.uniform(2, 9))
            high = await (a, b, c)[number % 3].enqueue(signal(50_000 + number, "HIGH"))
            following = len(org.departures)  # or the one before it, which left while the engine answered
            assert isinstance(await high, rb.Accepted)
            assert org.carried(high.signal.ip) in ([following], [following - 1])
        await asyncio.gather(a.aclose(0), b.aclose(0))


@pytest.mark.parametrize("seed", range(2))
async def test_when_a_request_leaves_nobody_in_the_fleet_outranks_one_aboard(world, engine, seed):
    """When a request leaves, no signal that waits anywhere in the fleet outranks one in it, those held back apart."""
    rng = random.Random(seed)
    org = FakeOrg(script=wild_faults(rng, 0.1), delay=lambda: (rng.uniform(0, 2), rng.uniform(0, 2)))
    rank: dict[str, tuple[int, int]] = {}
    left_behind = []

    def look(aboard):
        lowest = max(rank[one] for one in aboard if one in rank)
        taken_at = (BASE + asyncio.get_running_loop().time() - 0.01) * 1e6  # later ones may be too late for it
        for level, key in enumerate(KEYS[3:6]):
            for number in map(int, engine.zrange(key, 0, -1)):
                left_behind.extend([number] if number < taken_at and (level, number) < lowest else [])

    async with replica(org) as a, replica(org) as b:
        for number in range(900):
            level = rng.choices(["HIGH", "MEDIUM", "LOW"], [1, 2, 9])[0]
            replica_of_it = rng.choice((a, b))
            receipt = await replica_of_it.enqueue(signal(number, level))
            own = replica_of_it._life.queue.own.unsettled
            row = next(row for row in reversed(own) if own[row] is receipt)
            rank[receipt.signal.ip] = (list(rb.RiskLevel).index(receipt.signal.risk_level), row)
            org.on_departure = look
            if rng.random() < 0.3:
                await asyncio.sleep(rng.expovariate(3.0))
        await asyncio.gather(a.flush(600), b.flush(600))
    assert len(org.departures) > 30
    assert not left_behind


async def test_within_a_level_the_oldest_of_the_fleet_goes_first(world):
    """Within a level the order is that of admission, whoever admitted, put-backs included."""
    org = FakeOrg()
    org.faults = [None, Fault.unavailable(), None, Fault.drop()]
    async with replica(org) as a, replica(org) as b:
        for number in range(120):
            await (a, b)[number % 2].enqueue(signal(number))
        await asyncio.gather(a.flush(), b.flush())
    first_try = list(dict.fromkeys(one for _, aboard in org.departures for one in aboard))
    assert first_try == [ip(i) for i in range(120)]


@pytest.mark.parametrize("traffic", ["flood", "sparse", "burst", "trickle"])
async def test_a_fleet_keeps_the_rules_of_one_process(world, traffic):
    """Window, pace, reserve, express and linger let the same requests leave at the same times as in one process."""
    rng = random.Random(traffic)
    seconds = budget(150.0, 240.0)
    rates = {
        "flood": {"LOW": 15.0, "HIGH": 1.0},
        "sparse": {"HIGH": 0.05, "LOW": 0.2, "MEDIUM": 0.1},
        "burst": {"LOW": 10.0},
        "trickle": {"HIGH": 5.0},
    }[traffic]
    arrivals = [(at, level) for level, rate in rates.items() for at in poisson(rng, rate, seconds)]
    if traffic == "burst":
        arrivals += [(100 + rng.random(), "HIGH") for _ in range(150)]
    arrivals.sort()
    alone, shared = FakeOrg(delay=lambda: (0.1, 0.15)), FakeOrg(delay=lambda: (0.1, 0.15))
    world.delay = lambda: 0.0
    for org, make in ((alone, client), (shared, replica)):
        async with make(org, linger=None, close_timeout=0) as c:
            loop = asyncio.get_running_loop()
            begin = loop.time()
            for number, (at, level) in enumerate(arrivals):
                await asyncio.sleep(begin + at - loop.time())
                await c.enqueue(signal(number, level))
            await asyncio.sleep(begin + seconds - loop.time())
        org.departures = [(at - begin, aboard) for at, aboard in org.departures if at - begin < seconds]
    assert abs(len(alone.departures) - len(shared.departures)) <= 1
    waits = [mean_wait(org, arrivals, "HIGH") for org in (alone, shared)]
    assert waits[1] == pytest.approx(waits[0], rel=0.1, abs=0.05)
    carried = [
        Counter(arrivals[number_of(one)][1] for _, aboard in org.departures for one in aboard)
        for org in (alone, shared)
    ]
    assert abs(carried[0]["HIGH"] - carried[1]["HIGH"]) <= 20
    assert abs(carried[0]["LOW"] - carried[1]["LOW"]) <= 20


def poisson(rng, rate, until):
    at = rng.expovariate(rate)
    while at < until:
        yield at
        at += rng.expovariate(rate)


def number_of(address: str) -> int:
    _, high, middle, low = map(int, address.split("."))
    return (high << 16) + (middle << 8) + low


def mean_wait(org, arrivals, level):
    waits = [at - arrivals[number_of(one)][0] for at, aboard in org.departures for one in aboard]
    levels = [arrivals[number_of(one)][1] for _, aboard in org.departures for one in aboard]
    of_level = [wait for wait, each in zip(waits, levels, strict=True) if each == level]
    return sum(of_level) / len(of_level)


# ------------------------------------------------------------------------------------------------ nothing lost


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_every_signal_of_the_fleet_is_settled_once_where_it_was_enqueued(world, when_full, coalesce):
    """Each admitted signal is settled exactly once, on the replica that enqueued it, whichever sent it."""
    rng = random.Random(f"{when_full} {coalesce}")
    org = FakeOrg(script=wild_faults(rng, 0.2), poison=lambda s: s.ip.endswith(".13"), name_causes=False)
    settled: Counter[rb.Receipt] = Counter()
    receipts: list[rb.Receipt] = []

    async def producer(c: rb.Client) -> None:
        for _ in range(60):
            level = rng.choice(["HIGH", "MEDIUM", "LOW", "LOW"])
            expires_at = soon(rng.uniform(-1, 60)) if rng.random() < 0.4 else None
            one = rb.RiskSignal(ip(rng.randrange(400)), level, expires_at=expires_at)
            with suppress(rb.QueueFull):
                receipts.append(await c.enqueue(one, timeout=rng.choice([None, 0.0, 5.0])))
            assert balanced(c)
            if rng.random() < 0.2:
                await asyncio.sleep(rng.expovariate(1.0))

    options = {"capacity": 100, "when_full": when_full, "coalesce": coalesce, "close_timeout": 400}
    options["on_settled"] = lambda receipt: settled.update([receipt])
    async with replica(org, **options) as a, replica(org, **options) as b:
        await asyncio.gather(*(producer(c) for c in (a, b) for _ in range(5)))
    books = [c.statistics() for c in (a, b)]
    assert sum(s.admitted for s in books) == sum(s.settled for s in books) == settled.total() == len(settled)
    assert set(receipts) <= set(settled)
    assert all(receipt.done() for receipt in receipts)
    kinds = {type(receipt.outcome) for receipt in settled}
    assert {rb.Accepted, rb.Expired} <= kinds
    assert (rb.Superseded in kinds) == coalesce
    assert (rb.Shed in kinds) == (when_full == "shed")


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("position", [0, 7, 19])
async def test_one_bad_signal_never_takes_its_19_companions_down(world, position, named):
    """19 are accepted, one is rejected, and its owner is told in Okta's own words, whoever found it."""
    org = FakeOrg(poison=poisoned(position), name_causes=named)
    async with replica(org) as a, replica(org) as b:
        receipts = []
        for number in range(20):
            receipts.append(await (a, b)[number % 2].enqueue(signal(number)))
        await asyncio.gather(a.flush(), b.flush())
        requests = a.statistics().requests + b.statistics().requests
    bad = receipts.pop(position)
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert isinstance(bad.outcome, rb.Rejected)
    assert (bad.outcome.code, bad.outcome.status) == ("E0000001", 400)
    assert requests <= 24
    assert sorted(org.ips) == sorted(set(org.ips))


async def test_a_replica_that_dies_leaves_its_signals_to_the_others_and_nothing_else(world, engine):
    """A dead replica's signals are sent by another within the lease; afterwards the engine remembers nothing of it."""
    org = FakeOrg(delay=lambda: (0.05, 60.0))
    a = replica(org)
    await a.__aenter__()
    await a.enqueue_many(signals(30, "MEDIUM"))
    await asyncio.sleep(2.0)
    assert len(org.departures) == 1
    world.away[0] = "cut"  # for good
    org.delay = lambda: (0.05, 0.05)
    died_at = asyncio.get_running_loop().time()
    async with replica(org) as b:
        await asyncio.sleep(1.5 * LEASE)
        assert set(org.ips) == {ip(i) for i in range(30)}
        again = next(at for at, aboard in org.departures[1:] if ip(0) in aboard)
        assert again - died_at <= 1.4 * LEASE
        await asyncio.sleep(2 * LEASE)
        assert b.statistics().fleet.alive == 1
        assert b.statistics().fleet.in_flight == 0
    await a.aclose(0)
    await asyncio.sleep(1)
    sizes = {key.decode().rpartition(":")[2]: engine.type(key) for key in engine.keys("riskbatch:*")}
    assert set(sizes) <= {"state", "permits", "notices", "replicas", "admitted", "calls"}


async def test_a_payload_of_many_subjects_is_shared_too(world):
    """With 50 subjects an event a payload has up to 1000 signals of the fleet, and only the bad one is rejected."""
    org = FakeOrg(poison=poisoned(377), name_causes=False)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    async with replica(org, subjects_per_event=50) as a, replica(org, subjects_per_event=50) as b:
        many = signals(1000, timestamp=when)
        receipts = await a.enqueue_many(many[:500]) + await b.enqueue_many(many[500:])
        await asyncio.gather(a.flush(), b.flush())
    assert [i for i, r in enumerate(receipts) if isinstance(r.outcome, rb.Rejected)] == [377]
    assert max(len(aboard) for _, aboard in org.departures) > 400


async def test_the_capacity_is_the_fleets(world):
    """A full fleet rejects all of many or none, lets HIGH in first, and a timeout of nothing is for room only."""
    org = FakeOrg(delay=lambda: (0.05, 1000.0))
    options = {"capacity": 100, "close_timeout": 0}
    async with replica(org, when_full="reject", **options) as a, replica(org, **options) as b:
        await a.enqueue_many(signals(90))
        with pytest.raises(rb.QueueFull):
            await a.enqueue_many(signals(11, start=100))
        assert a.statistics().admitted == 90
        for number in range(10):
            await b.enqueue(signal(200 + number), timeout=0.0)
        with pytest.raises(rb.QueueFull):
            await b.enqueue(signal(300), timeout=0.0)
        with pytest.raises(rb.QueueFull):
            await a.enqueue(signal(301, "HIGH"))
        low = asyncio.create_task(b.enqueue(signal(400)))
        await asyncio.sleep(1.0)
        high = asyncio.create_task(b.enqueue(signal(401, "HIGH")))
        await asyncio.sleep(1.0)
        assert not low.done()
        assert not high.done()
        world.run(
            KEYS, ["drop", json.dumps({"ids": [str(next(iter(b._life.queue.own.unsettled)))]})]
        )  # an operator makes room for one
        assert (await high).signal.ip == ip(401)
        assert not low.done()
        low.cancel()
    assert balanced(b)


# ------------------------------------------------------------------------------------------------ the engine is away


@pytest.mark.parametrize("how", ["cut", "refused", "lost"])
async def test_enqueue_waits_while_the_engine_is_away_and_nothing_is_admitted_twice(world, how):
    """While the engine is away `enqueue` waits in a bounded buffer, which is flushed once when it comes back."""
    org = FakeOrg()
    async with replica(org, store={"buffer": 50}) as c:
        world.away[0] = how
        calls = [asyncio.create_task(c.enqueue(one)) for one in signals(80)]
        await asyncio.sleep(20.0)
        assert not any(call.done() for call in calls)
        assert c._life.queue.admissions._buffer.room == 0
        world.away.clear()
        receipts = await asyncio.gather(*calls)
        await c.flush()
        assert c.statistics().fleet.away is None
    assert sorted(org.ips) == sorted(one.ip for one in signals(80))
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_a_signal_that_is_sent_before_its_admission_is_answered_is_settled_as_it_ended(world):
    """When the answer to an admission is lost and another replica sends the signal meanwhile, its receipt says so."""
    org = FakeOrg()
    async with replica(org) as a, replica(org):
        others = await a.enqueue_many(signals(200, start=1_000))  # news of which is read as well
        await asyncio.sleep(0.5)
        call = asyncio.create_task(a.enqueue(signal(1, "HIGH")))
        await asyncio.sleep(0.0002)  # the call is on its way
        world.away[0] = "lost"
        while ip(1) not in org.ips:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        await asyncio.sleep(5.0)
        world.away.clear()
        assert {type(outcome) for outcome in await asyncio.wait_for(outcomes([await call, *others]), 600)} == {
            rb.Accepted
        }
        assert balanced(a)
    assert org.ips.count(ip(1)) == 1


@pytest.mark.parametrize("kept", [True, False], ids=["notices kept", "notices gone"])
async def test_a_receipt_ends_though_its_replica_was_away_when_its_signal_was_sent(world, engine, kept):
    """Who comes back learns how its signals ended; or that they did, if that is all the engine still knows."""
    org = FakeOrg()
    async with replica(org, linger=0.0) as a, replica(org) as b:
        await b.enqueue_many(signals(400, start=1_000))
        receipts = await a.enqueue_many(signals(20))
        world.away[0] = "cut"
        await asyncio.sleep(100.0)
        assert {ip(number) for number in range(20)} <= set(org.ips)
        assert not any(receipt.done() for receipt in receipts)
        if not kept:
            engine.delete(KEYS[-1])  # as it is a quarter of an hour after the last notice
        world.away.clear()
        unknown = rb.Abandoned("settled while this replica was away", may_have_arrived=True)
        found = set(await asyncio.wait_for(outcomes(receipts), 60.0))
        assert {type(outcome) for outcome in found} == {rb.Accepted} if kept else found == {unknown}
        assert balanced(a)


async def test_a_full_buffer_rejects_or_sheds_as_when_full_says(world):
    """While the engine is away and the buffer is full, `when_full` decides: QueueFull, or the lowest is shed."""
    org = FakeOrg()
    async with replica(org, when_full="reject", store={"buffer": 5}) as c:
        world.away[0] = "cut"
        calls = [asyncio.create_task(c.enqueue(one)) for one in signals(5)]
        await asyncio.sleep(1)
        with pytest.raises(rb.QueueFull):
            await c.enqueue(signal(9, "HIGH"))
        world.away.clear()
        await asyncio.gather(*calls)
    async with replica(org, when_full="shed", store={"buffer": 5}) as c:
        world.away[1] = "cut"
        first = asyncio.create_task(c.enqueue(signal(20)))  # on its way: it cannot be shed any more
        await asyncio.sleep(1)
        calls = [asyncio.create_task(c.enqueue(one)) for one in signals(4, "MEDIUM", 21)]
        await asyncio.sleep(1)
        high = asyncio.create_task(c.enqueue(signal(30, "HIGH")))
        low = await c.enqueue(signal(31, "LOW"))
        assert low.outcome == rb.Shed()
        assert (await calls[0]).outcome == rb.Shed()
        world.away.clear()
        receipts = await asyncio.gather(first, high, *calls[1:])
        assert {type(outcome) for outcome in await outcomes(receipts)} == {rb.Accepted}
        assert balanced(c)


@pytest.mark.parametrize("away", [None, "lost"])
@pytest.mark.parametrize("ticks", range(0, 30, 3))
async def test_a_cancelled_enqueue_has_admitted_nothing(world, ticks, away):
    """Cancelling `enqueue` at any await leaves nothing behind: the signal is not sent, now or later."""
    org = FakeOrg(delay=lambda: (0.05, 20.0))
    async with replica(org, close_timeout=60) as a:
        await a.enqueue_many(signals(20, "HIGH", 100))  # so that the next does not leave at once
        await asyncio.sleep(0.2)
        if away:
            world.away[0] = away
        call = asyncio.create_task(a.enqueue(signal(1)))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if call.done():
            return
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.away.clear()
        assert await a.flush() == 0
        assert balanced(a)
        assert a.statistics().admitted == 20
    assert ip(1) not in org.ips


@pytest.mark.parametrize("companions", [0, 3])
async def test_a_signal_that_is_cancelled_as_it_is_admitted_is_not_sent_by_its_own_replica(world, companions):
    """Who is cancelled in the moment of admission is withdrawn, though the replica asks for a batch in that moment."""
    org = FakeOrg()
    async with replica(org) as a:
        enter = a._life.queue.admissions._enter

        def enter_and_cancel(add, numbers):
            enter(add, numbers)
            if [receipt.signal.ip for receipt in add.receipts] == [ip(1)]:
                call.cancel()

        a._life.queue.admissions._enter = enter_and_cancel
        a._life.queue.alarm.ring()  # so that a look follows the admission in one go
        others = [asyncio.create_task(a.enqueue(one)) for one in signals(companions, "HIGH", 10)]
        call = asyncio.create_task(a.enqueue(signal(1, "HIGH")))
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.gather(*others)
        receipt = await a.enqueue(signal(2, "HIGH"))
        assert isinstance(await receipt, rb.Accepted)
        assert await a.flush() == 0
        assert balanced(a)
    assert sorted(org.ips) == sorted([ip(2), *(ip(10 + number) for number in range(companions))])
    assert all(aboard for _, aboard in org.departures)


async def test_a_client_that_closes_while_the_engine_is_away_ends_in_time(world):
    """Leaving the block returns by its timeout though the engine is away, and every receipt is settled."""
    org = FakeOrg()
    async with replica(org, close_timeout=5.0) as c:
        receipts = await c.enqueue_many(signals(100))
        world.away[0] = "cut"
        call = asyncio.create_task(c.enqueue(signal(500)))
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        begin = loop.time()
    assert loop.time() - begin < 5.0 + LEASE
    assert all(receipt.done() for receipt in receipts)
    with pytest.raises((rb.ClientClosed, rb.StoreError)):
        await call
    assert balanced(c)
    world.away.clear()
    async with replica(org) as b:  # what waited is not lost
        await b.enqueue(signal(600))
        await asyncio.sleep(60)
    assert set(org.ips) >= {one.ip for one in signals(100)}


@pytest.mark.parametrize("by", ["enqueue_many", "enqueue_threadsafe"])
async def test_what_is_sent_last_is_settled_before_the_block_is_left(world, by):
    """The answer to the very last request is told to the engine, and to its receipts, before the rest is abandoned."""
    org = FakeOrg(delay=lambda: (0.0, 0.0))
    async with replica(org) as c:
        if by == "enqueue_many":
            receipts = await c.enqueue_many(signals(50))
        else:
            futures = [c.enqueue_threadsafe(one) for one in signals(50)]
    if by == "enqueue_threadsafe":
        receipts = [future.result() for future in futures]
    assert {type(receipt.outcome) for receipt in receipts} == {rb.Accepted}
    assert len(org.ips) == 50
    assert balanced(c)


async def test_nothing_of_a_fleet_outlives_the_block(world):
    """No task is left when `async with` is over, whatever the server and the engine did."""
    tasks = asyncio.all_tasks()
    for number, (fault, away) in enumerate(
        [(None, None), (Fault.hang(), None), (Fault.error(), "cut"), (None, "lost")]
    ):
        org = FakeOrg(script=lambda _, fault=fault: fault)
        async with replica(org, close_timeout=3) as c:
            await c.enqueue_many(signals(50))
            await asyncio.sleep(0.5)
            if away:
                world.away[number] = away
        assert asyncio.all_tasks() == tasks


async def test_a_lease_is_renewed_while_it_lasts_and_harmless_afterwards():
    """A renewed lease ends later, and then ends what it covers; a renewal that comes too late does nothing."""
    loop = asyncio.get_running_loop()
    claim = Claim(Batch(), "claim", loop.time() + 1.0)
    begin = loop.time()
    loop.call_later(0.5, claim.renew, begin + 5.0)
    with pytest.raises(TimeoutError):
        await sleep_under(claim)
    assert loop.time() - begin == pytest.approx(5.0)
    claim.renew(loop.time() + 1.0)
    task = asyncio.create_task(sleep_under(claim))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    claim.renew(loop.time() + 1.0)


async def sleep_under(claim):
    async with claim.lease():
        await asyncio.sleep(60.0)


# ------------------------------------------------------------------------------------------------ the engine's clock


def test_a_clock_is_stepped_only_if_no_delay_explains_it():
    """A late answer is no step; a reading that no delay explains is one, by how much it is beyond."""
    clock = EngineClock()
    clock.read(1000.0, 0, 0.0, 0.1)
    clock.read(1010.0, 0, 5.0, 12.0)
    assert clock.step == 0.0
    clock.read(1050.0, 0, 20.0, 20.01)
    assert clock.step == pytest.approx(29.9, abs=0.2)
    clock.read(1050.0, 30_000, 20.1, 20.2)  # the fleet has corrected it
    assert clock.step == 0.0
    clock.read(1000.0, 30_000, 30.0, 30.1)
    assert clock.step == pytest.approx(-59.9, abs=0.2)


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("engine_", "options", "says"),
    [
        ("http://x", {}, "valkey://host:6379/0"),
        (5, {}, "URL or a client"),
        ("valkey://h", {"name": "a{b}"}, "name"),
        ("valkey://h", {"name": ""}, "name"),
        ("valkey://h", {"lease": 0}, "lease"),
        ("valkey://h", {"buffer": 0}, "buffer"),
    ],
)
def test_a_store_that_cannot_work_is_refused(engine_, options, says):
    """A bad argument is refused at construction, with what would work."""
    with pytest.raises(rb.ConfigurationError, match=says):
        rb.ValkeyStore(engine_, **options)


def test_no_password_is_shown():
    """Neither repr nor an error shows the password of a URL."""
    store = rb.ValkeyStore("valkeys://user:sesame@host:1/0", name="acme")
    assert "sesame" not in repr(store)
    assert "host:1" in repr(store)
    with pytest.raises(rb.ConfigurationError) as caught:
        rb.ValkeyStore("valkey://user:sesame@host:port/0")
    assert "sesame" not in repr(caught.value)
    assert caught.value.__context__ is None


async def test_a_receipt_of_a_fleet_counts_requests_while_they_are_made(world):
    """`attempts` is true before the signal is settled, too."""
    async with replica(FakeOrg(script=lambda _: Fault.hang()), close_timeout=0) as a:
        receipt = await a.enqueue(signal(1, "HIGH"))
        assert receipt.attempts == 0
        await asyncio.sleep(2)
        assert receipt.attempts == 1
        assert not receipt.done()


async def test_a_flush_does_not_wait_for_what_was_withdrawn_meanwhile(world):
    """Who is cancelled in the moment of admission is not waited for, also by a flush that began in that moment."""
    async with replica(FakeOrg()) as a:
        enter, flushes = a._life.queue.admissions._enter, []

        def enter_and_cancel(add, numbers):
            enter(add, numbers)
            flushes.append(asyncio.create_task(a.flush(3600)))
            call.cancel()

        a._life.queue.admissions._enter = enter_and_cancel
        call = asyncio.create_task(a.enqueue(signal(1)))
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await flushes[0] == 0
        assert balanced(a)
