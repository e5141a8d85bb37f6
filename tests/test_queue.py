"""Admission, backpressure, hooks and flush: who waits for room, who gets it, and that the count is always right."""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from fake_org import FakeOrg, balanced, client, ip, outcomes, signal, signals

import riskbatch as rb
from riskbatch import queue as queue_module
from riskbatch.books import Books
from riskbatch.capacity import Capacity
from riskbatch.emulator import Fault
from riskbatch.prioritizer import Prioritizer
from riskbatch.queue import MANY, Queue


class Gate(FakeOrg):
    """An org whose answers wait until the gate is opened."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.open = asyncio.Event()

    async def __call__(self, request):
        await self.open.wait()
        return await super().__call__(request)


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------ when it is full


async def test_wait_lets_in_as_room_appears_and_high_before_low():
    """Of those who wait for room, a HIGH is let in before a LOW that came earlier; equals in their order."""
    gate = Gate()
    order = []

    async def enqueue(c, number, level):
        await c.enqueue(signal(number, level))
        order.append(number)

    async with client(gate, capacity=20) as c:
        await c.enqueue_many(signals(20))
        await asyncio.sleep(1)
        waiting = [asyncio.create_task(enqueue(c, n, lv)) for n, lv in [(30, "LOW"), (31, "MEDIUM"), (32, "LOW")]]
        await turns()
        waiting += [asyncio.create_task(enqueue(c, n, "HIGH")) for n in (33, 34)]
        await asyncio.sleep(100)
        assert order == []
        assert c.statistics().admitted == 20
        gate.open.set()
        await asyncio.gather(*waiting)
    assert order == [33, 34, 31, 30, 32]
    assert c.statistics().accepted == 25


async def test_many_come_in_as_one_by_one():
    """`enqueue_many` is `enqueue` for each: the same numbers, order, expiries, outcomes and times of the last HIGHs."""
    coming = [
        signal(n, ("LOW", "HIGH", "MEDIUM")[n * n % 7 % 3], expires_at=(None, soon(-1), soon(3600 + n))[n % 11 % 3])
        for n in range(1000)
    ]
    found = []
    for many in (False, True):
        prioritizer = Prioritizer()
        queue = Queue(prioritizer, Capacity(1000), Books(), when_full="reject")
        receipts = await queue.admit_many(coming) if many else [queue.admit_nowait(each) for each in coming]
        waiting = [list(lane) for lane in prioritizer.lanes.values()]
        settled = queue.books.settled
        found.append(([(each.sequence, each.outcome) for each in receipts], waiting, prioritizer.demand(), settled))
        assert [each.signal for each in receipts] == coming
        assert queue.waiting == sum(map(len, waiting)) == 1000 - settled[rb.Expired]
    assert found[0] == found[1]
    assert found[0][3][rb.Expired] > 100


@pytest.mark.parametrize("expires_at", [None, soon(3600)], ids=["bare", "expiring"])
@pytest.mark.parametrize("many", [False, True])
async def test_the_limiter_hears_when_the_last_two_high_came(many, expires_at):
    """However a HIGH comes in, the time of its admission is known, for the limiter tells a lone one from a burst."""
    prioritizer = Prioritizer()
    queue = Queue(prioritizer, Capacity(1000), Books(), when_full="wait")
    times = []
    for level in ("HIGH", "LOW", "HIGH"):
        await asyncio.sleep(1)
        times.append(asyncio.get_running_loop().time())
        coming = signal(1, level, expires_at=expires_at)
        await (queue.admit_many([coming]) if many else queue.admit(coming, None))
    demand = prioritizer.demand()
    assert (demand.high_before, demand.high_last) == (times[0], times[2])


async def test_a_hook_that_enqueues_in_the_middle_of_many_finds_the_true_room():
    """What has expired before it came takes no place, and the hook may fill it, but never more than the capacity."""
    most = []

    def refill(receipt):
        with suppress(rb.QueueFull):
            c.enqueue_nowait(signal(100, "HIGH"))
        most.append(c.statistics().waiting + c.statistics().in_flight)

    async with client(Gate(), capacity=10, when_full="reject", on_settled=refill, close_timeout=0) as c:
        await c.enqueue_many([signal(n, expires_at=soon(-1) if n % 5 < 2 else None) for n in range(10)])
        most.append(c.statistics().waiting + c.statistics().in_flight)
        assert max(most) == most[-1] == 10
        assert c.statistics().expired == 4


async def test_wait_has_a_time_limit_of_the_callers_choice():
    """QueueFull comes after exactly the time that the caller gave, and nothing was admitted."""
    async with client(Gate(), capacity=1, close_timeout=0) as c:
        c.enqueue_nowait(signal())
        before = asyncio.get_running_loop().time()
        with pytest.raises(rb.QueueFull, match=r"within 7\.5 s.*capacity 1"):
            await c.enqueue(signal(1), timeout=7.5)
        assert asyncio.get_running_loop().time() - before == pytest.approx(7.5)
        with pytest.raises(rb.QueueFull):
            await c.enqueue(signal(1), timeout=0)
        with pytest.raises(rb.QueueFull):
            c.enqueue_nowait(signal(1))
        assert c.statistics().admitted == 1


async def test_enqueue_nowait_never_takes_a_place_that_was_promised():
    """Whoever waited for room gets it, though somebody else asks in the very turn in which it appears."""
    gate = Gate()
    stolen = []

    def thief(_):
        try:
            stolen.append(c.enqueue_nowait(signal(666)))
        except rb.QueueFull:
            stolen.append(None)

    c = client(gate, capacity=1, on_settled=thief, close_timeout=0)
    async with c:
        c.enqueue_nowait(signal(0))
        patient = asyncio.create_task(c.enqueue(signal(1)))
        await turns()
        gate.open.set()
        receipt = await patient
        assert stolen == [None]
        assert receipt.signal.ip == ip(1)


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_an_enqueue_cancelled_as_room_appears_has_admitted_nothing(after):
    """Cancelled means not admitted, whatever moment is chosen, and the room goes to the next in line."""
    gate = Gate()
    async with client(gate, capacity=1) as c:
        c.enqueue_nowait(signal(0))
        first, second = (asyncio.create_task(c.enqueue(signal(n))) for n in (1, 2))
        await turns()
        loop = asyncio.get_running_loop()

        def cancel_in(count: int) -> None:
            first.cancel() if count == 0 else loop.call_soon(cancel_in, count - 1)

        let_in = c._life.queue._capacity.let_in

        def let_in_and_cancel() -> None:
            let_in()
            c._life.queue._capacity.let_in = let_in
            cancel_in(after)

        c._life.queue._capacity.let_in = let_in_and_cancel
        gate.open.set()
        receipt = await asyncio.wait_for(second, 60)
        assert receipt.signal.ip == ip(2)
        if first.cancelled():
            assert c.statistics().admitted == 2
        else:  # it had come in before
            assert c.statistics().admitted == 3
        await c.flush()
        assert balanced(c)
    assert (ip(1) in gate.ips) == (not first.cancelled())
    assert first.cancelled() == (after == 0)


async def test_an_enqueue_that_times_out_as_room_appears_hands_the_room_on():
    """A time limit that strikes in the turn in which room appears loses neither the room nor a signal."""
    gate = Gate(delay=lambda: (0.5, 0.5))
    gate.open.set()
    async with client(gate, capacity=1) as c:
        c.enqueue_nowait(signal(0))
        late = [asyncio.create_task(c.enqueue(signal(n), timeout=1.0)) for n in (1, 2)]
        patient = asyncio.create_task(c.enqueue(signal(3)))
        done = await asyncio.gather(*late, patient, return_exceptions=True)
        await c.flush()
        admitted = [one for one in done if isinstance(one, rb.Receipt)]
        assert c.statistics().admitted == 1 + len(admitted)
        assert c.statistics().accepted == c.statistics().admitted
        assert done[2] in admitted


async def test_reject_says_so_at_once():
    """With when_full="reject" nobody ever waits for room."""
    async with client(Gate(), capacity=2, when_full="reject", close_timeout=0) as c:
        await c.enqueue_many(signals(2))
        with pytest.raises(rb.QueueFull, match="capacity 2"):
            await c.enqueue(signal(2))
        assert asyncio.get_running_loop().time() == 0


async def test_shed_takes_the_oldest_of_the_lowest_level():
    """With when_full="shed" the oldest of the lowest level makes room; a newcomer that is the lowest is shed itself."""
    async with client(Gate(), capacity=3, when_full="shed", limit=rb.RateLimit(1, 3600.0), close_timeout=0) as c:
        c.enqueue_nowait(signal(99, "HIGH"))
        await asyncio.sleep(1)  # in flight: cannot be shed
        low, medium = c.enqueue_nowait(signal(0)), c.enqueue_nowait(signal(1, "MEDIUM"))
        low2 = c.enqueue_nowait(signal(2))
        assert low.outcome == rb.Shed()
        medium2 = c.enqueue_nowait(signal(3, "MEDIUM"))
        assert low2.outcome == rb.Shed()
        assert c.enqueue_nowait(signal(4)).outcome == rb.Shed()
        high, high2 = c.enqueue_nowait(signal(5, "HIGH")), c.enqueue_nowait(signal(6, "HIGH"))
        assert (medium.outcome, medium2.outcome) == (rb.Shed(), rb.Shed())
        assert c.enqueue_nowait(signal(7, "MEDIUM")).outcome == rb.Shed()
        high3 = c.enqueue_nowait(signal(8, "HIGH"))
        assert (high.outcome, high2.done(), high3.done()) == (rb.Shed(), False, False)
        assert (await c.enqueue(signal(9))).outcome == rb.Shed()  # never waits
        assert c.statistics().shed == 8
        assert balanced(c)


async def test_a_newcomer_that_has_expired_sheds_nobody():
    """A signal that is worthless on arrival takes nobody's place."""
    async with client(Gate(), capacity=1, when_full="shed", close_timeout=0) as c:
        waiting = c.enqueue_nowait(signal(0))
        late = c.enqueue_nowait(signal(1, "HIGH", expires_at=soon(-1)))
        assert late.outcome == rb.Expired()
        assert not waiting.done()
        assert balanced(c)


@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_a_newcomer_that_supersedes_needs_no_room(when_full):
    """A newer signal for a waiting address takes its place, though the queue is full."""
    async with client(Gate(), capacity=2, when_full=when_full, coalesce=True, close_timeout=0) as c:
        old, other = c.enqueue_nowait(signal(0)), c.enqueue_nowait(signal(1))
        new = await c.enqueue(signal(0, message="newer"))
        newer = c.enqueue_nowait(signal(0, "HIGH"))
        assert old.outcome == rb.Superseded(new.signal)
        assert new.outcome == rb.Superseded(newer.signal)
        assert (other.done(), newer.done()) == (False, False)
        assert c.statistics().waiting == 2
        assert balanced(c)


@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_capacity_bounds_what_is_unsettled(when_full):
    """No more than `capacity` signals are ever unsettled, those in flight included."""
    gate = Gate()
    async with client(gate, capacity=30, when_full=when_full) as c:
        tasks = [asyncio.create_task(c.enqueue(one)) for one in signals(100)]
        await asyncio.sleep(10)
        s = c.statistics()
        assert s.waiting + s.in_flight == 30
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await c.flush()
        if when_full == "wait":
            assert c.statistics().accepted == 100
        else:
            lost = [one for one in done if isinstance(one, rb.QueueFull) or isinstance(one.outcome, rb.Shed)]
            assert len(lost) == 70


async def test_a_close_tells_those_who_wait_for_room():
    """Whoever waits for room when the client is closed gets ClientClosed, and was not admitted."""
    async with client(Gate(), capacity=1, close_timeout=0) as c:
        c.enqueue_nowait(signal(0))
        waiting = [asyncio.create_task(c.enqueue(signal(n))) for n in range(1, 4)]
        await turns()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, rb.ClientClosed) for one in done)
    assert c.statistics().admitted == 1


# ------------------------------------------------------------------------------------------------ enqueue_many


@pytest.mark.parametrize("make", [list, tuple, iter])
@pytest.mark.parametrize("number", [99, MANY, 2 * MANY + 34])
@pytest.mark.parametrize("expiring", [(), (0,), (1, 50), (98,)])
async def test_enqueue_many_returns_receipts_in_order(make, number, expiring):
    """The receipts are those of the signals, in their order, whatever they are given in and whichever may expire."""
    async with client(FakeOrg()) as c:
        batch = signals(number)
        for index in expiring:
            batch[index] = signal(index, expires_at=soon(3600))
        receipts = await c.enqueue_many(make(batch))
        assert [receipt.signal for receipt in receipts] == batch
        assert c.statistics().admitted == number
        await c.flush()
        assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_a_list_may_be_changed_while_its_signals_wait_for_room():
    """What counts is what was in it when `enqueue_many` was called."""
    async with client(FakeOrg(), capacity=10) as c:
        batch = signals(25)
        given = list(batch)
        many = asyncio.create_task(c.enqueue_many(given))
        await asyncio.sleep(0)
        given.clear()
        assert [receipt.signal for receipt in await many] == batch


@pytest.mark.parametrize("number", [5, MANY + 20])
async def test_enqueue_many_admits_none_if_one_is_no_signal(number):
    """A mistake anywhere in the list is found before anything is admitted."""
    async with client(FakeOrg()) as c:
        with pytest.raises(rb.InvalidSignal, match="'oops'"):
            await c.enqueue_many([*signals(number), "oops"])
        assert c.statistics().admitted == 0


async def test_enqueue_many_is_all_or_none_where_there_is_no_room_for_all():
    """With "reject" either all find room or none is admitted, though others enqueue between its turns."""
    async with client(Gate(), capacity=2 * MANY, when_full="reject", close_timeout=0) as c:
        with pytest.raises(rb.QueueFull, match="2001 signals find room for 2000"):
            await c.enqueue_many(signals(2 * MANY + 1))
        assert c.statistics().admitted == 0
        many = asyncio.create_task(c.enqueue_many(signals(2 * MANY - 10)))
        while not c.statistics().admitted:  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        thefts = 0
        while not refuses(c):
            thefts += 1
        assert len(await many) == 2 * MANY - 10
        assert thefts == 10
        assert c._life.queue._capacity._promised == 0


def refuses(c) -> bool:
    try:
        c.enqueue_nowait(signal(9000))
    except rb.QueueFull:
        return True
    return False


@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_a_cancelled_enqueue_many_keeps_what_was_admitted_and_no_places(when_full):
    """Those before the cancellation stay admitted and are sent; no place stays reserved for the others."""
    settled = []
    gate = Gate()
    async with client(gate, capacity=3000, when_full=when_full, on_settled=settled.append, close_timeout=1e4) as c:
        task = asyncio.create_task(c.enqueue_many(signals(2500)))
        while c.statistics().admitted < 1000:  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        admitted = c.statistics().admitted
        assert task.cancelled()
        assert 1000 <= admitted < 2500
        assert c._life.queue._capacity._promised == 0
        gate.open.set()
        await c.flush()
    assert len(settled) == c.statistics().accepted == admitted


async def test_enqueue_many_waits_for_room_and_is_told_of_a_close():
    """With "wait" it is `enqueue` for each; those before a close are settled through the hook."""
    settled = []
    async with client(Gate(), capacity=10, on_settled=settled.append, close_timeout=0) as c:
        task = asyncio.create_task(c.enqueue_many(signals(25)))
        await asyncio.sleep(5)
        assert c.statistics().admitted == 10
    with pytest.raises(rb.ClientClosed):
        await task
    assert [type(receipt.outcome) for receipt in settled] == [rb.Abandoned] * 10


@pytest.mark.parametrize("when_full", ["wait", "reject"])
async def test_an_empty_list_is_no_way_around_the_checks(when_full):
    """Even nothing cannot be enqueued into a client that is not open."""
    c = client(FakeOrg(), when_full=when_full)
    with pytest.raises(rb.ClientClosed):
        await c.enqueue_many([])
    async with c:
        assert await c.enqueue_many([]) == []


# ------------------------------------------------------------------------------------------------ expiry


async def test_expired_signals_cost_no_permit():
    """What expired is settled, not sent, and uses nothing of the budget."""
    org = FakeOrg()
    async with client(org, linger=50.0) as c:
        receipts = [c.enqueue_nowait(signal(n, expires_at=soon(n - 5))) for n in range(19)]
        await asyncio.sleep(20)
        assert await outcomes(receipts) == [rb.Expired()] * 19
        assert (c.statistics().requests, c.statistics().permits) == (0, 30)


async def test_what_expires_behind_others_is_settled_within_seconds_of_its_time():
    """An expiry does not wait for the next request, even if it is the first that the queue has to watch."""
    org = FakeOrg(token_valid=False)
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(7))
        await asyncio.sleep(3600)  # the next try is up to a minute away
        receipt = c.enqueue_nowait(signal(8, expires_at=soon(2.0)))
        before = asyncio.get_running_loop().time()
        assert await receipt == rb.Expired()
        assert 2.0 <= asyncio.get_running_loop().time() - before <= 3.1


async def test_a_signal_that_expires_while_its_request_fails_says_it_may_have_arrived():
    """Expired after a lost answer means: perhaps Okta has it."""
    org = FakeOrg()
    org.faults = [Fault.lost_answer(), Fault.error(), Fault.error()]
    org.script = lambda _: Fault.error()
    async with client(org, close_timeout=0) as c:
        assert await c.enqueue_nowait(signal(expires_at=soon(5))) == rb.Expired(may_have_arrived=True)


class Shifted(datetime):
    """A wall clock that was set by `shift`."""

    shift = timedelta(0)

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.shift


async def test_a_wall_clock_that_is_set_back_keeps_no_signal_longer(monkeypatch):
    """The deadline is reckoned at admission on the loop clock, so that a step back of the wall clock delays nothing."""
    async with client(Gate(), limit=rb.RateLimit(1, 3600.0), close_timeout=0) as c:
        receipt = c.enqueue_nowait(signal(level="HIGH", expires_at=soon(60)))
        await asyncio.sleep(1)  # in flight, with the one permit
        late = c.enqueue_nowait(signal(1, expires_at=soon(60)))
        monkeypatch.setattr(Shifted, "shift", timedelta(days=-1))
        monkeypatch.setattr(queue_module, "datetime", Shifted)
        await asyncio.sleep(62)
        assert not receipt.done()
        assert late.outcome == rb.Expired()


async def test_what_expired_while_the_machine_slept_is_not_sent(monkeypatch):
    """The loop clock stands still in a suspend; the wall clock tells at departure that the time has passed."""
    gate = Gate()
    async with client(gate, close_timeout=0) as c:
        receipts = [c.enqueue_nowait(signal(n, expires_at=soon(60))) for n in range(3)]
        lasting = c.enqueue_nowait(signal(9))
        monkeypatch.setattr(Shifted, "shift", timedelta(hours=1))
        monkeypatch.setattr(queue_module, "datetime", Shifted)
        gate.open.set()
        assert await outcomes(receipts) == [rb.Expired()] * 3
        assert isinstance(await lasting, rb.Accepted)
    assert gate.ips == [ip(9)]


# ------------------------------------------------------------------------------------------------ hooks


async def test_a_hook_that_raises_stops_nothing_and_is_logged_once(caplog):
    """What `on_settled` raises is counted; the log says it once until it succeeds again."""
    fails = True

    def hook(receipt):
        if fails:
            raise ValueError("boo")

    async with client(FakeOrg(), on_settled=hook) as c:
        receipts = await c.enqueue_many(signals(50))
        await c.flush()
        assert c.statistics().hook_errors == 50
        fails = False
        await c.enqueue_many(signals(50))
        await c.flush()
    assert all(isinstance(one.outcome, rb.Accepted) for one in receipts)
    assert [record.message for record in caplog.records if "on_settled" in record.message] == [
        "on_settled raised; this is said once until it succeeds again"
    ]


async def test_a_hook_that_reads_a_cancelled_future_takes_nobody_down():
    """CancelledError is no Exception, and comes out of the result of any cancelled future."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    org = FakeOrg(poison=lambda s: s.ip == ip(3))
    async with client(org, on_settled=lambda _: cancelled.result()) as c:
        receipts = await c.enqueue_many([*signals(40), signal(50, expires_at=soon(-1))])
        await asyncio.wait_for(c.flush(), 60)
        assert c.statistics().hook_errors == 41
        assert balanced(c)
    assert all(receipt.done() for receipt in receipts)


async def test_a_hook_may_enqueue_again():
    """A hook that enqueues the next signal of a chain needs no task for it."""

    def hook(receipt):
        last = int(receipt.signal.ip.rpartition(".")[2])
        if last < 60:
            c.enqueue_nowait(signal(last + 20, "HIGH"))

    async with client(FakeOrg(), on_settled=hook, capacity=20) as c:
        await c.enqueue_many(signals(20))
        for _ in range(4):
            await c.flush()
        assert c.statistics().accepted == 80
        assert balanced(c)


async def test_a_hook_that_enqueues_what_was_shed_does_not_end_the_world():
    """Enqueuing a shed signal again sheds the next, and so on: it ends in the hook's own error, with balanced books."""

    def hook(receipt):
        if isinstance(receipt.outcome, rb.Shed):
            c.enqueue_nowait(receipt.signal)

    gate = Gate()
    async with client(gate, on_settled=hook, capacity=5, when_full="shed") as c:
        await c.enqueue_many(signals(6))
        assert c.statistics().hook_errors >= 1
        assert c.statistics().waiting <= 5
        assert balanced(c)
        gate.open.set()
        await c.flush()
        assert c.statistics().waiting == 0


async def test_a_hook_may_close_the_client():
    """A hook closes the client with a task; it ends, and so does the block."""
    tasks = []

    def hook(receipt):
        if not tasks:
            tasks.append(asyncio.create_task(c.aclose()))

    async with client(FakeOrg(), on_settled=hook) as c:
        receipts = await c.enqueue_many(signals(50))
        await outcomes(receipts)
    await tasks[0]
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_the_hook_sees_each_outcome_and_balanced_books():
    """The hook is called after the receipt and the statistics have the outcome."""
    seen = []

    def hook(receipt):
        assert receipt.done()
        assert balanced(c)
        seen.append(receipt)

    org = FakeOrg(poison=lambda s: s.ip == ip(3))
    async with client(org, on_settled=hook, when_full="shed", capacity=20, coalesce=True, close_timeout=0) as c:
        await c.enqueue_many([*signals(18), *signals(5), *signals(8, "HIGH", start=90)])
        await c.enqueue(signal(77, "HIGH", expires_at=soon(-5)))
        await asyncio.sleep(1)
        await c.enqueue_many(signals(5))
    assert c.statistics().hook_errors == 0
    assert len(seen) == c.statistics().admitted
    kinds = {type(receipt.outcome) for receipt in seen}
    assert kinds >= {rb.Accepted, rb.Shed, rb.Superseded, rb.Expired, rb.Abandoned}


async def test_a_log_handler_that_enqueues_cannot_loop(caplog):
    """An application that reports its own warnings as signals does not feed itself."""

    class Reporter(logging.Handler):
        def emit(self, record):
            c.enqueue_nowait(signal(7, "HIGH"))

    handler = Reporter(logging.WARNING)
    org = FakeOrg()
    org.faults = [Fault.error()] * 3
    logging.getLogger("riskbatch").addHandler(handler)
    try:
        async with client(org) as c:
            await c.enqueue(signal())
            await c.flush()
            assert c.statistics().admitted <= 4
    finally:
        logging.getLogger("riskbatch").removeHandler(handler)


# ------------------------------------------------------------------------------------------------ flush


async def test_flush_waits_for_what_was_admitted_and_new_arrivals_do_not_extend_it():
    """flush() ends when all that was admitted before it is settled, whatever is enqueued meanwhile."""
    async with client(FakeOrg()) as c:
        receipts = await c.enqueue_many(signals(100))

        async def flood():
            while True:
                c.enqueue_nowait(signal(5000))
                await asyncio.sleep(0.11)

        flooding = asyncio.create_task(flood())
        assert await c.flush() == 0
        assert all(receipt.done() for receipt in receipts)
        assert asyncio.get_running_loop().time() < 15
        assert c.statistics().waiting > 0
        flooding.cancel()


async def test_flush_tells_how_many_are_left_when_time_is_up():
    """flush(timeout) returns the number that is not settled, and the signals stay where they are."""
    gate = Gate()
    async with client(gate) as c:
        assert await c.flush() == 0
        await c.enqueue_many(signals(50))
        assert await c.flush(timeout=0) == 50
        assert await c.flush(timeout=30) == 50
        assert asyncio.get_running_loop().time() == pytest.approx(30)
        gate.open.set()
        await turns()
        first, second = await asyncio.gather(c.flush(0.2), c.flush())
        assert (first, second) == (0, 0)
        await c.enqueue_many(signals(50))
        assert await c.flush(0.2) == 30
        assert c._life.queue.books._flushes == []


async def test_flush_counts_whatever_way_a_signal_ends():
    """Superseded, shed, expired and rejected signals end a flush too, and later signals do not count."""
    org = FakeOrg(poison=lambda s: s.ip == ip(3))
    async with client(org, coalesce=True, capacity=20, when_full="shed") as c:
        await c.enqueue_many(signals(10))
        c.enqueue_nowait(signal(15, expires_at=soon(1)))
        flush = asyncio.create_task(c.flush())
        await turns()
        await c.enqueue_many(signals(30, "HIGH"))
        assert await asyncio.wait_for(flush, 60) == 0


async def test_nothing_lingers_while_somebody_flushes():
    """A flush sends part-filled payloads at once."""
    async with client(FakeOrg(), linger=1000.0) as c:
        await c.enqueue_many(signals(5))
        await asyncio.sleep(100)
        assert c.statistics().requests == 0
        await c.flush()
        assert asyncio.get_running_loop().time() < 101


async def test_a_cancelled_flush_leaves_nothing_and_recalls_nothing():
    """Cancelling a flush changes nothing for the signals."""
    gate = Gate()
    async with client(gate) as c:
        await c.enqueue_many(signals(5))
        flush = asyncio.create_task(c.flush())
        await turns()
        flush.cancel()
        await asyncio.wait({flush})
        assert c._life.queue.books._flushes == []
        gate.open.set()
        assert await c.flush() == 0
    assert c.statistics().accepted == 5


async def test_flush_ends_when_the_client_is_closed():
    """A flush that waits when the client ends is told at once that all is settled."""
    async with client(Gate(), close_timeout=3) as c:
        await c.enqueue_many(signals(5))
        flush = asyncio.create_task(c.flush())
        await turns()
    assert await flush == 0
    assert asyncio.get_running_loop().time() == pytest.approx(3)
    assert await c.flush() == 0


@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
async def test_a_closed_client_says_so_whatever_it_does_when_full(when_full):
    """Once it is closed it is closed, not full."""
    async with client(FakeOrg(), when_full=when_full) as c:
        pass
    for call in (c.enqueue(signal()), c.enqueue_many(signals(3))):
        with pytest.raises(rb.ClientClosed):
            await call
    with pytest.raises(rb.ClientClosed):
        c.enqueue_nowait(signal())


@pytest.mark.parametrize("expires_in", [None, 3600])
async def test_on_settled_gets_the_very_receipt_that_enqueue_returned(expires_in):
    """What a caller holds is what the hook and the observers see, with its attempts and its time of admission."""
    settled, observed = [], []
    coming = signals(300, expires_at=expires_in and soon(expires_in))
    async with client(FakeOrg(), on_settled=settled.append) as c:
        c.observe(settled=observed.extend)
        await asyncio.sleep(1)
        receipts = await c.enqueue_many(coming)
        assert {receipt.admitted_at for receipt in receipts} == {1.0}
        await c.flush()
        assert {id(receipt) for receipt in settled} == {id(receipt) for receipt in receipts}
        assert {id(receipt) for receipt in observed} == {id(receipt) for receipt in receipts}
        assert {receipt.attempts for receipt in receipts} == {1}
        assert {receipt.admitted_at for receipt in receipts} == {1.0}


async def test_a_client_that_is_closed_leaves_no_timer():
    """Nothing of it is left on the loop."""
    async with client(Gate(), close_timeout=0) as c:
        await c.enqueue_many(signals(5_000))
    assert [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()] == []


@pytest.mark.parametrize("how", ["shed", "expired"])
async def test_on_settled_hears_of_what_nobody_has_a_receipt_of(how):
    """The receipt that `on_settled` gets knows the outcome also when the one of `enqueue` was dropped long ago."""
    settled = []
    expires_at = soon(5) if how == "expired" else None
    async with client(Gate(), capacity=1000, when_full="shed", on_settled=settled.append, close_timeout=0) as c:
        await asyncio.sleep(1)
        await c.enqueue_many(signals(1000, expires_at=expires_at))
        if how == "shed":
            await c.enqueue_many(signals(900, "HIGH", start=2000))
        await asyncio.sleep(10)
        assert len(settled) > 800
        assert {type(receipt.outcome).__name__.lower() for receipt in settled} == {how}
