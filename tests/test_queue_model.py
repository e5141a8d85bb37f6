"""
Queue and prioritizer together, against one list that is sorted anew at each step.

RISKBATCH_THOROUGH=1 runs many times as many examples.
"""

import asyncio
import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import async_solipsism
import pytest
from attrs import define
from budget import budget
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from riskbatch import books as books_module
from riskbatch import queue as queue_module
from riskbatch.batcher import split
from riskbatch.books import Books
from riskbatch.capacity import Capacity
from riskbatch.errors import ClientClosed, QueueFull
from riskbatch.okta.risk_events import MAX_EVENTS
from riskbatch.prioritizer import Prioritizer
from riskbatch.queue import Queue
from riskbatch.receipts import Abandoned, Accepted, Expired, Shed, Superseded
from riskbatch.signals import RiskLevel, RiskSignal

RANK = {level: rank for rank, level in enumerate(RiskLevel)}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

levels = st.sampled_from(RiskLevel)
addresses = st.integers(1, 12)
lifetimes = st.sampled_from([None, None, None, -1.0, 0.5, 3.0, 60.0])
arrivals = st.tuples(levels, addresses, lifetimes)
delays = st.sampled_from([None, 0.5, 2.0, 30.0])


class WallClock(datetime):
    """The wall clock of the queue goes as the loop's virtual one does."""

    @classmethod
    def now(cls, tz=None):
        return NOON + timedelta(seconds=asyncio.get_running_loop().time())


@define(eq=False)
class Known:
    """What the model knows of one admitted signal; it is in `Model.waiting`, in a flight, or settled."""

    receipt: object
    place: int
    deadline: float
    ready_at: float = -math.inf
    group: int | None = None  # of suspects
    lost: bool = False

    @property
    def signal(self):
        return self.receipt.signal

    @property
    def level(self):
        return self.receipt.signal.risk_level

    @property
    def rank(self):
        return RANK[self.level], self.place


class QueueMachine(RuleBasedStateMachine):
    """Signals come in by every way and leave by every way; a list says who should be where."""

    def __init__(self):
        super().__init__()
        self.loop = async_solipsism.EventLoop()
        self.queue = None

    when_full: str
    coalesce: bool

    @initialize(capacity=st.sampled_from([8, 25, 2]))
    def start(self, capacity):
        self.capacity = capacity
        self.waiting: list[Known] = []
        self.flights: list[tuple[object, list[Known]]] = []
        self.expected: list[tuple[object, object]] = []  # receipts and their outcomes, as they should be told
        self.told: list[tuple[object, object]] = []
        self.watched: list[object] = []
        self.newcomers: list[tuple[asyncio.Task, RiskSignal]] = []  # who wait for room
        self.flushes: list[tuple[asyncio.Task, set[object]]] = []
        self.admitted: list[object] = []
        self.closed = False
        self.groups = 0
        self.queue = self.run(self.make())

    async def make(self):
        hook = lambda receipt: self.told.append((receipt, receipt.outcome))  # noqa: E731
        self.prioritizer = Prioritizer(coalesce=self.coalesce)
        self.room = Capacity(self.capacity)
        self.books = Books(hook, [self.watched.extend])
        return Queue(self.prioritizer, self.room, self.books, when_full=self.when_full)

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    # ------------------------------------------------------------------ the model

    def now(self):
        return self.loop.time()

    def in_flight(self):
        return [known for _, riding in self.flights for known in riding]

    def unsettled(self):
        return len(self.waiting) + len(self.in_flight())

    def rival(self, signal):
        return next((w for w in self.waiting if self.coalesce and w.signal.ip == signal.ip), None)

    def end(self, known, outcome):
        if known in self.waiting:
            self.waiting.remove(known)
        self.expected.append((known.receipt, outcome))

    def has_place_for(self, signal):
        return self.unsettled() < self.capacity or self.rival(signal) is not None

    def entered(self, receipt, signal):
        """The model admits *signal*, for which the queue gave *receipt*."""
        assert receipt.signal is signal
        assert receipt not in self.admitted
        is_full = self.when_full == "shed" and not self.has_place_for(signal)
        self.admitted.append(receipt)
        assert receipt.sequence == len(self.admitted)
        deadline = math.inf if signal.expires_at is None else (signal.expires_at - NOON).total_seconds()
        new = Known(receipt, receipt.sequence, deadline)
        if deadline <= self.now():
            self.end(new, Expired())
            return
        if is_full:
            lowest = max(RANK[w.level] for w in self.waiting) if self.waiting else -1
            if lowest < RANK[signal.risk_level]:
                self.end(new, Shed())
                return
            victim = min((w for w in self.waiting if RANK[w.level] == lowest), key=lambda w: w.place)
            self.end(victim, Shed(victim.lost))
        old = self.rival(signal)
        if old is not None:
            if old.level is new.level:
                new.place = old.place
            self.end(old, Superseded(signal, old.lost))
        self.waiting.append(new)

    def came_back(self, riding, ready_at, group=None):
        for known in riding:
            rival = self.rival(known.signal)
            if rival is not None and rival.receipt.sequence > known.receipt.sequence:
                self.end(known, Superseded(rival.signal, known.lost))
                continue
            if rival is not None:
                if rival.level is known.level:
                    known.place = rival.place
                self.end(rival, Superseded(known.signal, rival.lost))
            known.ready_at, known.group = ready_at, group
            self.waiting.append(known)

    def expected_batch(self):
        """Return the twenty highest of those that are neither held back nor suspects nor expired."""
        ready = [w for w in self.waiting if w.group is None and w.ready_at <= self.now() and w.deadline > self.now()]
        return sorted(ready, key=lambda w: w.rank)[:MAX_EVENTS]

    def signal(self, arrival):
        level, address, lifetime = arrival
        expires_at = None if lifetime is None else NOON + timedelta(seconds=self.now() + lifetime)
        return RiskSignal(f"192.0.2.{address}", level, timestamp=NOON, expires_at=expires_at)

    # ------------------------------------------------------------------ coming in

    @rule(arriving=st.lists(arrivals, min_size=3, max_size=8))
    def admit_nowait(self, arriving):
        for arrival in arriving:
            self.admit_one_nowait(self.signal(arrival))

    def admit_one_nowait(self, signal):
        refusal = ClientClosed if self.closed else QueueFull
        may = self.when_full == "shed" or self.has_place_for(signal)
        if self.closed or not may:
            with pytest.raises(refusal):
                self.run(self.call(self.queue.admit_nowait, signal))
        else:
            self.entered(self.run(self.call(self.queue.admit_nowait, signal)), signal)

    @rule(arriving=st.lists(arrivals, min_size=3, max_size=8))
    def admit(self, arriving):
        for arrival in arriving:
            self.admit_one(self.signal(arrival))

    def admit_one(self, signal):
        if self.closed or (self.when_full == "reject" and not self.has_place_for(signal)):
            with pytest.raises(ClientClosed if self.closed else QueueFull):
                self.run(self.queue.admit(signal))
        elif self.when_full == "wait" and not self.has_place_for(signal):
            task = self.loop.create_task(self.queue.admit(signal))
            self.turn()
            assert not task.done(), "there is no room"
            self.newcomers.append((task, signal))
        else:
            self.entered(self.run(self.queue.admit(signal)), signal)

    @rule(arriving=st.lists(arrivals, min_size=6, max_size=25))
    def admit_many(self, arriving):
        signals = [self.signal(arrival) for arrival in arriving]
        room = self.capacity - self.unsettled()
        if self.closed or (self.when_full == "reject" and len(signals) > room):
            with pytest.raises(ClientClosed if self.closed else QueueFull):
                self.run(self.queue.admit_many(signals))
            return
        if self.when_full == "wait" and len(signals) > room:
            signals = signals[: max(0, room)]  # the rest would wait; `admit` shows how
        for receipt, signal in zip(self.run(self.queue.admit_many(signals)), signals, strict=True):
            self.entered(receipt, signal)

    @precondition(lambda self: self.newcomers)
    @rule(data=st.data())
    def give_up_waiting(self, data):
        task, signal = data.draw(st.sampled_from(self.newcomers))
        self.newcomers.remove((task, signal))
        task.cancel()
        self.turn()
        assert task.cancelled()

    async def call(self, function, *arguments):
        return function(*arguments)

    def turn(self):
        self.run(self.turns())

    async def turns(self):
        for _ in range(3):
            await asyncio.sleep(0)

    def let_in(self):
        """Those who waited come in as long as there is room: the highest level first, equals in their order."""
        self.turn()
        while self.newcomers and self.unsettled() < self.capacity:
            first = min(self.newcomers, key=lambda each: RANK[each[1].risk_level])
            self.newcomers.remove(first)
            self.turn()  # one that supersedes makes room for the next
            self.entered(first[0].result(), first[1])
        assert not any(task.done() for task, _ in self.newcomers)

    # ------------------------------------------------------------------ going out

    @rule()
    def take(self):
        batch = self.run(self.call(self.queue.take, self.now()))
        riding = [next(w for w in self.waiting if w.receipt is receipt) for receipt in batch.receipts]
        if batch.is_probe:
            assert len({known.group for known in riding}) <= 1, "a probe is one group"
            assert all(known.group is not None and known.ready_at <= self.now() for known in riding)
        elif riding or not any(w.group is not None for w in self.waiting):
            assert batch.receipts == [known.receipt for known in self.expected_batch()]
        assert all(known.deadline > self.now() for known in riding)
        for known in riding:
            self.waiting.remove(known)
            known.group = None
        if riding:
            self.flights.append((batch, riding))

    def landed(self, data):
        return self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def settle(self, data):
        batch, riding = self.landed(data)
        for known in riding:
            self.end(known, Accepted("id"))
        self.run(self.call(self.queue.settle, batch.receipts, lambda _: Accepted("id")))
        self.let_in()

    @rule(data=st.data())
    def take_and_settle(self, data):
        self.take()
        if self.flights:
            self.settle(data)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), delay=delays, lost=st.booleans())
    def put_back(self, data, delay, lost):
        batch, riding = self.landed(data)
        ready_at = -math.inf if delay is None else self.now() + delay
        for known in riding:
            known.lost |= lost
            known.receipt.may_have_arrived |= lost
        self.came_back(riding, ready_at)
        self.run(self.call(self.queue.put_back, batch.receipts, ready_at))
        self.let_in()

    @precondition(lambda self: any(len(riding) > 1 for _, riding in self.flights))
    @rule(data=st.data(), delay=delays)
    def suspect(self, data, delay):
        batch, riding = data.draw(st.sampled_from([flight for flight in self.flights if len(flight[1]) > 1]))
        self.flights.remove((batch, riding))
        ready_at = -math.inf if delay is None else self.now() + delay
        groups = split(batch.receipts)
        for group in groups:
            self.groups += 1
            self.came_back([known for known in riding if known.receipt in group], ready_at, self.groups)
        self.run(self.call(self.queue.suspect, groups, ready_at))
        self.let_in()

    @rule()
    def retry_now(self):
        self.run(self.call(self.queue.retry_now))
        for known in self.waiting:
            known.ready_at = -math.inf

    # ------------------------------------------------------------------ time, and the end

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 100.0]))
    def time_passes(self, seconds):
        self.run(asyncio.sleep(seconds))

    @rule()
    def expire(self):
        while self.run(self.call(self.queue.expire, self.now())):
            pass
        for known in [w for w in self.waiting if w.deadline <= self.now()]:
            self.end(known, Expired(known.lost))
        self.let_in()

    @rule()
    def flush(self):
        task = self.loop.create_task(self.queue.flush(None))
        self.turn()
        unsettled = {known.receipt for known in self.waiting + self.in_flight()}
        self.flushes.append((task, unsettled))

    @rule(timeout=st.sampled_from([0.0, 1.0]))
    def flush_in_vain(self, timeout):
        assert self.run(self.queue.flush(timeout)) == self.unsettled()

    @precondition(lambda self: not self.closed)
    @rule(chance=st.integers(0, 9))
    def close(self, chance):
        if chance != 9:  # seldom, or most examples would be short
            return
        self.closed = True
        self.run(self.call(self.queue.close, "the end"))
        self.turn()
        for task, _ in self.newcomers:
            assert isinstance(task.exception(), ClientClosed)
        self.newcomers.clear()

    @precondition(lambda self: self.closed)
    @rule()
    def abandon(self):
        expected = []
        for known in list(self.waiting):
            outcome = Abandoned("over", known.lost)
            expected.append(known.receipt)
            self.end(known, outcome)
        before = len(self.told)
        while self.run(self.call(self.queue.abandon, "over")):
            pass
        assert Counter(receipt for receipt, _ in self.told[before:]) == Counter(expected)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def the_books_balance(self):
        if self.queue is None:
            return
        waiting, in_flight = len(self.waiting), len(self.in_flight())
        settled = sum(self.books.settled.values())
        assert self.queue.waiting == self.prioritizer.size == waiting
        assert self.books.in_flight == in_flight
        assert self.books.admitted == len(self.admitted) == settled + waiting + in_flight
        levels_now = Counter(known.level for known in self.waiting)
        assert self.queue.waiting_by_level() == {level: levels_now[level] for level in RiskLevel}
        assert self.room.used == waiting + in_flight <= self.capacity
        assert self.room.room == self.capacity - waiting - in_flight

    @invariant()
    def each_receipt_is_settled_once_and_the_hook_hears_of_it(self):
        if self.queue is None:
            return
        assert Counter((id(receipt), outcome) for receipt, outcome in self.told) == Counter(
            (id(receipt), outcome) for receipt, outcome in self.expected
        )
        assert self.watched == [receipt for receipt, _ in self.told]
        assert len({id(receipt) for receipt, _ in self.told}) == len(self.told)
        assert all(receipt.outcome is outcome for receipt, outcome in self.told)
        assert not any(known.receipt.done() for known in self.waiting + self.in_flight())
        assert Counter(type(outcome) for _, outcome in self.told) == Counter(self.books.settled)

    @invariant()
    def the_lanes_are_in_order(self):
        if self.queue is None:
            return
        for level, lane in self.prioritizer.lanes.items():
            known = {w.receipt: w.place for w in self.waiting if w.level is level}
            assert [known[receipt] for receipt in lane.values()] == sorted(known[r] for r in lane.values())

    @invariant()
    def a_flush_ends_when_all_before_it_is_settled(self):
        if self.queue is None:
            return
        self.turn()
        for task, unsettled in self.flushes:
            is_over = all(receipt.done() for receipt in unsettled)
            assert task.done() == is_over
            assert not is_over or task.result() == 0

    def teardown(self):
        try:
            if self.queue is not None:
                self.end_all()
        finally:
            self.loop.close()

    def end_all(self):
        if not self.closed:
            self.close(9)
        while self.flights:
            batch, riding = self.flights.pop()
            for known in riding:
                self.end(known, Accepted("id"))
            self.run(self.call(self.queue.settle, batch.receipts, lambda _: Accepted("id")))
        self.abandon()
        self.the_books_balance()
        self.each_receipt_is_settled_once_and_the_hook_hears_of_it()
        self.a_flush_ends_when_all_before_it_is_settled()
        assert len(self.told) == len(self.admitted), "nothing is lost"


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch):
    for module in (books_module, queue_module):
        monkeypatch.setattr(module, "datetime", WallClock)


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("when_full", ["wait", "reject", "shed"])
def test_the_queue_does_what_a_sorted_list_would(when_full, coalesce):
    """Order, outcomes, books, room and hook are right, whatever comes in and goes out in whatever order."""
    machine = type("Machine", (QueueMachine,), {"when_full": when_full, "coalesce": coalesce})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=budget(15, 1000), stateful_step_count=40, deadline=None, derandomize=True),
    )
