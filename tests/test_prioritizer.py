"""The order of waiting, against a plain model: lists, sorted in the obvious way."""

import math
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count, islice

import pytest
from attrs import evolve
from budget import budget
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from riskbatch.batcher import Batch, Demand, split
from riskbatch.okta.risk_events import MAX_EVENTS
from riskbatch.prioritizer import Prioritizer
from riskbatch.receipts import Accepted, Receipt
from riskbatch.signals import RiskLevel, RiskSignal

HIGH, MEDIUM, LOW = RiskLevel
RANK = {HIGH: 0, MEDIUM: 1, LOW: 2}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

numbers = count(1)


def demand_of(prioritizer):
    """What would be carried; when HIGH came is left to the test of that."""
    return evolve(prioritizer.demand(), high_before=math.inf, high_last=math.inf)


def entry(level="LOW", ip="192.0.2.1", *, at=0.0, deadline=None, second=0):
    signal = RiskSignal(ip, level, timestamp=NOON + timedelta(seconds=second))
    return Receipt(signal, next(numbers), at, None, deadline)


def admit(prioritizer, *entries):
    return [prioritizer.admit(each) for each in entries]


def settle(*entries):
    for each in entries:
        each.settle(Accepted())


def is_empty(prioritizer):
    """Whether nothing waits, and nothing that waits no more is due."""
    return (
        prioritizer.size == 0
        and prioritizer.demand().level is None
        and prioritizer.overdue_at() == math.inf
        and not prioritizer.overdue(1e12, 1)
        and not prioritizer._by_ip
        and not any(prioritizer.lanes.values())
    )


# -- order


def test_high_goes_first_and_the_oldest_first_within_a_level():
    """When a request leaves, no waiting signal outranks one that rides in it; within a level the oldest is first."""
    prioritizer = Prioritizer()
    low, high, medium, late_high = entry("LOW"), entry("HIGH"), entry("MEDIUM"), entry("HIGH")
    admit(prioritizer, low, high, medium, late_high)
    assert prioritizer.take(0.0).receipts == [high, late_high, medium, low]
    assert is_empty(prioritizer)


def test_late_high_rides_the_next_batch():
    """A HIGH that arrives behind a thousand LOWs is in the very next batch."""
    prioritizer = Prioritizer()
    admit(prioritizer, *(entry("LOW") for _ in range(1000)))
    high = entry("HIGH")
    prioritizer.admit(high)
    batch = prioritizer.take(0.0)
    assert batch.receipts[0] is high
    assert len(batch.receipts) == MAX_EVENTS
    assert prioritizer.size == 1001 - MAX_EVENTS


def test_what_comes_back_is_at_the_front_again_in_its_old_order():
    """Signals that could not be sent go to the front of their lanes, the oldest first."""
    prioritizer = Prioritizer()
    first = [entry("LOW") for _ in range(40)]
    admit(prioritizer, *first)
    batches = [prioritizer.take(0.0), prioritizer.take(0.0)]
    younger = entry("LOW")
    prioritizer.admit(younger)
    for batch in reversed(batches):
        assert prioritizer.put_back(reversed(batch.receipts), -math.inf) == []
    assert prioritizer.take(0.0).receipts == first[:20]
    assert prioritizer.take(0.0).receipts == first[20:]
    assert prioritizer.take(0.0).receipts == [younger]


def test_a_signal_held_for_a_retry_lets_others_pass_until_it_is_due():
    """Order binds what is ready: a signal held back by a retry delay waits until exactly then."""
    prioritizer = Prioritizer()
    held, other = entry("HIGH"), entry("HIGH")
    prioritizer.admit(held)
    prioritizer.put_back(prioritizer.take(0.0).receipts, 10.0)
    prioritizer.admit(other)
    assert prioritizer.ready_at() == 10.0
    assert prioritizer.size == 2
    assert prioritizer.count()[HIGH] == 2
    prioritizer.release(9.9)
    assert demand_of(prioritizer) == Demand(HIGH)
    prioritizer.release(10.0)
    assert prioritizer.ready_at() == math.inf
    assert prioritizer.take(10.0).receipts == [held, other]


def test_suspects_are_probed_alone_and_take_turns_with_their_equals():
    """A group of suspects has a request of its own; it alternates with its equals and yields to higher ones."""
    prioritizer = Prioritizer()
    suspects = [entry("MEDIUM") for _ in range(4)]
    admit(prioritizer, *suspects)
    prioritizer.suspect(split(prioritizer.take(0.0).receipts))
    others = [entry("MEDIUM"), entry("HIGH"), entry("LOW")]
    admit(prioritizer, *others)
    prioritizer.release(0.0)
    assert demand_of(prioritizer) == Demand(HIGH, medium_since=0.0, low_since=0.0)
    batch = prioritizer.take(0.0)
    assert not batch.is_probe
    assert batch.receipts == [others[1], others[0], others[2]]
    equal, lower = entry("MEDIUM"), entry("LOW")
    admit(prioritizer, equal, lower)
    assert demand_of(prioritizer) == Demand(MEDIUM, probe=True)
    taken = [prioritizer.take(0.0) for _ in range(3)]
    assert [batch.is_probe for batch in taken] == [True, False, True]
    assert [batch.receipts for batch in taken] == [suspects[:2], [equal, lower], suspects[2:]]
    assert is_empty(prioritizer)


def test_a_suspect_that_was_settled_meanwhile_is_not_probed():
    """A entry that was superseded, shed or expired while it was under suspicion rides no more."""
    prioritizer = Prioritizer(coalesce=True)
    old, companion = entry("LOW", "192.0.2.1"), entry("LOW", "192.0.2.2")
    admit(prioritizer, old, companion)
    prioritizer.suspect([prioritizer.take(0.0).receipts])
    prioritizer.release(0.0)
    assert prioritizer.demand().probe
    newer = entry("LOW", "192.0.2.1")
    assert prioritizer.admit(newer) is old
    settle(old)
    assert prioritizer.take(0.0).receipts == [companion]
    assert prioritizer.take(0.0).receipts == [newer]
    assert is_empty(prioritizer)


def test_a_group_of_which_nobody_is_left_is_no_demand():
    """When all suspects of a group were settled otherwise, the group is gone."""
    prioritizer = Prioritizer(coalesce=True)
    old = entry("LOW")
    prioritizer.admit(old)
    prioritizer.suspect([prioritizer.take(0.0).receipts])
    prioritizer.release(0.0)
    assert prioritizer.shed(HIGH) is old
    settle(old)
    assert demand_of(prioritizer) == Demand(None)
    assert prioritizer.take(0.0).receipts == []
    assert is_empty(prioritizer)


# -- demand


def test_suspects_are_not_passed_over_for_ever():
    """While HIGH come without end, every sixteenth batch still probes LOW suspects, and may spend the reserve on it."""
    prioritizer = Prioritizer()
    suspects = [entry("LOW") for _ in range(4)]
    admit(prioritizer, *suspects)
    prioritizer.suspect(split(prioritizer.take(0.0).receipts))
    batches = []
    for _ in range(40):
        admit(prioritizer, entry("HIGH"))
        prioritizer.release(0.0)
        demand = prioritizer.demand()
        assert demand.level is HIGH
        batches.append(prioritizer.take(0.0))
        assert batches[-1].is_probe == demand.probe
    assert [number for number, batch in enumerate(batches) if batch.is_probe] == [15, 31]


def test_demand_tells_when_the_last_two_high_came():
    """The limiter tells a lone HIGH from the first of a burst by when the last two were admitted."""
    prioritizer = Prioritizer()
    admit(prioritizer, entry("HIGH", at=1.0), entry("LOW", at=2.0), entry("HIGH", at=4.0))
    demand = prioritizer.demand()
    assert (demand.high_before, demand.high_last) == (1.0, 4.0)


def test_demand_tells_what_a_batch_would_carry():
    """The limiter's rules see the highest level, whether the payload is full, and since when MEDIUM and LOW wait."""
    prioritizer = Prioritizer()
    assert demand_of(prioritizer) == Demand(None)
    admit(prioritizer, entry("LOW", at=1.0), entry("LOW", at=2.0))
    assert demand_of(prioritizer) == Demand(LOW, low_since=1.0)
    admit(prioritizer, entry("MEDIUM", at=3.0), *(entry("LOW", at=4.0) for _ in range(16)))
    assert demand_of(prioritizer) == Demand(MEDIUM, medium_since=3.0, low_since=1.0)
    admit(prioritizer, entry("HIGH", at=5.0))
    assert demand_of(prioritizer) == Demand(HIGH, full=True, medium_since=3.0, low_since=1.0)
    admit(prioritizer, *(entry("HIGH", at=5.0) for _ in range(18)))
    assert not prioritizer.demand().full_of_high
    admit(prioritizer, entry("HIGH", at=5.0))
    assert prioritizer.demand().full_of_high


def test_a_payload_of_shared_events_is_full_when_its_last_event_is_begun():
    """With events shared by three, 58 signals of one time leave no room for another time, and 60 of them can ride."""
    prioritizer = Prioritizer(subjects_per_event=3)
    admit(prioritizer, *(entry("HIGH") for _ in range(57)))
    assert not prioritizer.demand().full
    assert not prioritizer.demand().full_of_high
    admit(prioritizer, entry("LOW"))
    assert prioritizer.demand().full
    assert not prioritizer.demand().full_of_high
    admit(prioritizer, *(entry("HIGH") for _ in range(3)))
    assert prioritizer.demand().full_of_high
    assert len(prioritizer.take(0.0).receipts) == 60


def test_a_full_payload_takes_no_lower_signal_past_one_that_does_not_fit():
    """A signal that would still fit does not ride if one that outranks it has to stay."""
    prioritizer = Prioritizer(subjects_per_event=3)
    riders = [entry("HIGH", second=second) for second in range(20)]
    stays, would_fit = entry("HIGH", second=99), entry("LOW", second=0)
    admit(prioritizer, *riders, stays, would_fit)
    assert prioritizer.demand().full
    assert prioritizer.take(0.0).receipts == riders
    assert prioritizer.take(0.0).receipts == [stays, would_fit]


# -- expiry


def test_expired_signals_never_ride():
    """A signal whose deadline has passed is in no batch; it is handed out by `overdue`."""
    prioritizer = Prioritizer()
    expired, exactly, fine = entry("HIGH", deadline=1.0), entry("LOW", deadline=2.0), entry("LOW", deadline=2.1)
    admit(prioritizer, expired, exactly, fine)
    assert prioritizer.take(2.0).receipts == [fine]
    assert prioritizer.size == 2
    assert prioritizer.count() == {HIGH: 1, MEDIUM: 0, LOW: 1}
    assert set(prioritizer.overdue(2.0, 500)) == {expired, exactly}
    assert is_empty(prioritizer)


def test_expired_suspects_never_ride():
    """A suspect whose deadline has passed is not probed."""
    prioritizer = Prioritizer()
    expired, fine = entry("LOW", deadline=5.0), entry("LOW", deadline=6.0)
    admit(prioritizer, expired, fine)
    prioritizer.suspect([prioritizer.take(0.0).receipts])
    prioritizer.release(5.0)
    assert prioritizer.take(5.0).receipts == [fine]
    assert prioritizer.overdue(5.0, 500) == [expired]
    assert is_empty(prioritizer)


@pytest.mark.parametrize("place", ["in the lane", "held", "under suspicion"])
def test_whatever_waits_is_found_at_its_deadline(place):
    """Expiry is noticed in time, wherever the signal waits, also behind others."""
    prioritizer = Prioritizer()
    before, doomed, after = entry("LOW"), entry("LOW", deadline=10.25), entry("LOW")
    if place == "in the lane":
        admit(prioritizer, before, doomed, after)
    else:
        prioritizer.admit(doomed)
        taken = prioritizer.take(0.0).receipts
        if place == "held":
            prioritizer.put_back(taken, 60.0)
        else:
            prioritizer.suspect([taken])
        prioritizer.admit(after)
    assert prioritizer.overdue_at() == 10.25
    assert prioritizer.overdue(10.24, 500) == []
    assert prioritizer.overdue(10.25, 500) == [doomed]
    assert prioritizer.overdue_at() == math.inf


def test_overdue_gives_no_more_than_asked_and_all_in_the_end():
    """Expiry comes in slices, so that a mass of it cannot stop the event loop."""
    prioritizer = Prioritizer()
    doomed = [entry("LOW", deadline=1.0 + n / 100) for n in range(300)]
    admit(prioritizer, *doomed)
    slices = []
    while found := prioritizer.overdue(100.0, 70):
        slices.append(found)
    assert [len(found) for found in slices] == [70, 70, 70, 70, 20]
    assert {each for found in slices for each in found} == set(doomed)
    assert is_empty(prioritizer)


def test_deadlines_of_signals_that_wait_no_more_are_forgotten():
    """However many signals with a deadline come and go, no more is kept than a few times what waits."""
    prioritizer = Prioritizer()
    for _ in range(1000):
        admit(prioritizer, *(entry("LOW", deadline=1e6) for _ in range(20)))
        settle(*prioritizer.take(0.0).receipts)
    assert len(prioritizer._deadlines) < 100


def test_what_the_wall_clock_says_has_expired_never_rides():
    """The loop clock stands still while a machine sleeps: `expires_at` is compared with the wall clock too."""
    prioritizer = Prioritizer()
    signal = RiskSignal("192.0.2.1", "HIGH", timestamp=NOON, expires_at=NOON + timedelta(seconds=60))
    doomed, fine = Receipt(signal, 1, 0.0, None, 60.0), entry("HIGH", deadline=None)
    admit(prioritizer, doomed, fine)
    assert prioritizer.take(1.0, NOON + timedelta(seconds=60)).receipts == [fine]
    assert prioritizer.overdue(1.0, 500) == [doomed]
    assert is_empty(prioritizer)


# -- coalescing


def test_a_newer_signal_for_an_address_takes_the_place_of_the_waiting_one():
    """An address that is reported again keeps its place in line within a level."""
    prioritizer = Prioritizer(coalesce=True)
    old, other, newer = entry("LOW", "192.0.2.1"), entry("LOW", "192.0.2.2"), entry("LOW", "192.0.2.1")
    assert admit(prioritizer, old, other, newer) == [None, None, old]
    assert prioritizer.size == 2
    assert prioritizer.waiting_for("192.0.2.1") is newer
    assert prioritizer.take(0.0).receipts == [newer, other]
    assert is_empty(prioritizer)


@pytest.mark.parametrize(("before", "after"), [("LOW", "HIGH"), ("HIGH", "LOW")])
def test_at_another_level_it_starts_at_the_back_of_that_lane(before, after):
    """A signal that supersedes one of another level overtakes nobody of its own level."""
    prioritizer = Prioritizer(coalesce=True)
    old, other, newer = entry(before, "192.0.2.1"), entry(after, "192.0.2.2"), entry(after, "192.0.2.1")
    assert admit(prioritizer, old, other, newer) == [None, None, old]
    assert prioritizer.take(0.0).receipts == [other, newer]


def test_without_coalescing_every_signal_is_kept():
    """Two signals for one address are two signals, unless the caller says otherwise."""
    prioritizer = Prioritizer()
    assert admit(prioritizer, entry(), entry()) == [None, None]
    assert prioritizer.size == 2


def test_an_address_reported_again_and_again_does_not_linger_for_ever():
    """The place in line is inherited with the time waited, which is what lingering counts from."""
    prioritizer = Prioritizer(coalesce=True)
    for second in range(10):
        superseded = prioritizer.admit(entry("LOW", at=float(second)))
        if superseded:
            settle(superseded)
    assert prioritizer.demand().low_since == 0.0


@pytest.mark.parametrize("ready_at", [-math.inf, 10.0])
def test_what_comes_back_yields_to_a_newer_signal_that_waits(ready_at):
    """A signal that failed is superseded if its address was reported again meanwhile."""
    prioritizer = Prioritizer(coalesce=True)
    old, newer = entry("HIGH"), entry("LOW")
    prioritizer.admit(old)
    batch = prioritizer.take(0.0)
    assert prioritizer.admit(newer) is None
    assert prioritizer.put_back(batch.receipts, ready_at) == [old]
    settle(old)
    prioritizer.release(10.0)
    assert prioritizer.take(10.0).receipts == [newer]
    assert is_empty(prioritizer)


@pytest.mark.parametrize("how", ["put back", "held", "suspected"])
def test_the_newer_of_two_that_come_back_wins_in_whatever_order_they_do(how):
    """Of two signals for one address whose requests both failed, the older is superseded, never the newer."""
    prioritizer = Prioritizer(coalesce=True)

    def give_back(entries):
        if how == "suspected":
            return prioritizer.suspect([entries])
        return prioritizer.put_back(entries, -math.inf if how == "put back" else 10.0)

    old, newer, other = entry("LOW", at=1.0), entry("LOW", at=2.0), entry("LOW", "192.0.2.2")
    prioritizer.admit(old)
    first = prioritizer.take(0.0)
    prioritizer.admit(newer)
    second = prioritizer.take(0.0)
    assert give_back(first.receipts) == []
    assert give_back(second.receipts) == [old]
    settle(old)
    assert prioritizer.size == 1
    assert prioritizer.waiting_for("192.0.2.1") is newer
    assert newer.place == old.place
    prioritizer.admit(other)
    prioritizer.release(10.0)
    assert prioritizer.take(10.0).receipts[0] is newer
    assert prioritizer.take(10.0).receipts == ([other] if how == "suspected" else [])
    assert is_empty(prioritizer)


@pytest.mark.parametrize("how", ["held", "suspected", "overdue"])
def test_a_newcomer_supersedes_what_waits_outside_the_lanes(how):
    """Coalescing finds the waiting signal wherever it is, and the newcomer is ready at its place."""
    prioritizer = Prioritizer(coalesce=True)
    old = entry("LOW", deadline=5.0)
    prioritizer.admit(old)
    if how == "held":
        prioritizer.put_back(prioritizer.take(0.0).receipts, 60.0)
    elif how == "suspected":
        prioritizer.suspect([prioritizer.take(0.0).receipts])
    else:
        assert prioritizer.take(5.0).receipts == []
    other, newer = entry("LOW", "192.0.2.2"), entry("LOW")
    assert admit(prioritizer, other, newer) == [None, old]
    settle(old)
    assert prioritizer.size == 2
    assert prioritizer.overdue(100.0, 500) == []
    assert list(prioritizer.everything()) == [newer, other]
    assert is_empty(prioritizer)


# -- making room


def test_the_oldest_of_the_lowest_level_is_shed():
    """A full queue sheds the oldest signal of the lowest level, and never one that outranks the newcomer."""
    prioritizer = Prioritizer()
    lows, medium, high = [entry("LOW"), entry("LOW")], entry("MEDIUM"), entry("HIGH")
    admit(prioritizer, high, medium, *lows)
    assert prioritizer.shed(LOW) is lows[0]
    assert prioritizer.shed(HIGH) is lows[1]
    assert prioritizer.shed(LOW) is None
    assert prioritizer.shed(MEDIUM) is medium
    assert prioritizer.shed(MEDIUM) is None
    assert prioritizer.shed(HIGH) is high
    assert prioritizer.shed(HIGH) is None
    assert is_empty(prioritizer)


def test_what_is_held_or_suspected_is_shed_in_its_turn():
    """The oldest of the lowest level makes room wherever it waits: an older one that failed before a younger ready."""
    prioritizer = Prioritizer()
    suspected, held, medium, young = entry("LOW"), entry("LOW"), entry("MEDIUM"), entry("LOW")
    admit(prioritizer, suspected, held)
    prioritizer.take(0.0)
    prioritizer.put_back([held], 60.0)
    prioritizer.suspect([[suspected]], 60.0)
    prioritizer.admit(medium)
    prioritizer.admit(young)
    for oldest in (suspected, held, young, medium):
        assert prioritizer.shed(HIGH) is oldest
        settle(oldest)
    prioritizer.release(60.0)
    assert demand_of(prioritizer) == Demand(None)
    assert is_empty(prioritizer)


def test_everything_gives_each_waiting_receipt_once():
    """The end of a client finds all that waits, the most important first, and nothing that was settled."""
    prioritizer = Prioritizer()
    expired = [entry("HIGH", deadline=1.0) for _ in range(3)]
    admit(prioritizer, *expired)
    prioritizer.take(1.0)
    assert prioritizer.shed(HIGH) is expired[0]  # of the overdue
    settle(expired[0])
    held, suspected, low, high = entry("LOW"), entry("LOW"), entry("LOW"), entry("HIGH")
    admit(prioritizer, held, suspected)
    prioritizer.take(1.0)
    prioritizer.put_back([held], 60.0)
    prioritizer.suspect([[suspected]], 60.0)
    admit(prioritizer, low, high)
    found = list(islice(prioritizer.everything(), 2))
    found += prioritizer.everything()
    everybody = [high, held, suspected, low, *expired[1:]]
    assert found == sorted(everybody, key=lambda each: (RANK[each.signal.risk_level], each.place))
    assert is_empty(prioritizer)


# -- costs, counted in steps


def steps(call, *args):
    """Return how many lines of the package *call* executes; of a generator, the first twenty times."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "riskbatch" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call(*args)
        if not isinstance(result, (Batch, list, Receipt, type(None))):
            list(islice(result, 20))
    finally:
        sys.settrace(before)
    return count


def crowd(waiting, *, subjects=1, coalesce=False):
    """Return a prioritizer with so many waiting LOWs, one batch of them in flight, and that batch."""
    prioritizer = Prioritizer(subjects_per_event=subjects, coalesce=coalesce)
    for n in range(waiting):
        signal = RiskSignal(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "LOW", timestamp=NOON)
        prioritizer.admit(Receipt(signal, n, 0.0, None, 1e6 + n % 100))
    return prioritizer, prioritizer.take(0.0)


def step_costs(waiting, *, coalesce):
    prioritizer, batch = crowd(waiting, coalesce=coalesce)
    signal = RiskSignal("10.0.0.99", "LOW", timestamp=NOON)
    return {
        "admit": steps(prioritizer.admit, Receipt(signal, waiting, 0.0, None, 1e6)),
        "put_back": steps(prioritizer.put_back, batch.receipts, -math.inf),
        "demand": steps(lambda: [prioritizer.demand()]),
        "overdue": steps(prioritizer.overdue, 1e5, 20),
        "take": steps(prioritizer.take, 0.0),
        "shed": steps(prioritizer.shed, HIGH),
        "everything": steps(prioritizer.everything),
    }


@pytest.mark.parametrize("coalesce", [False, True])
def test_every_step_costs_the_same_with_many_waiting(coalesce):
    """What one step looks at does not grow with the number of waiting signals."""
    assert step_costs(20_000, coalesce=coalesce) == step_costs(2_000, coalesce=coalesce)


def test_putting_back_full_payloads_is_one_short_walk():
    """Two refused payloads of a thousand signals each come back in a few steps a signal, not in a thousand."""
    prioritizer, batch = crowd(3000, subjects=50)
    other = prioritizer.take(0.0)
    assert len(batch.receipts) == len(other.receipts) == 1000
    assert steps(prioritizer.put_back, batch.receipts, -math.inf) < 50_000
    assert steps(prioritizer.put_back, other.receipts, 10.0) < 50_000
    assert steps(prioritizer.release, 10.0) < 50_000
    assert prioritizer.take(10.0).receipts == batch.receipts
    assert prioritizer.take(10.0).receipts == other.receipts


# -- the model


class Waiting:
    """What the model knows of a waiting entry."""

    def __init__(self, place, since):
        self.place = place
        self.since = since
        self.state = "ready"
        self.ready_at = -math.inf


levels = st.sampled_from(list(RiskLevel))
lifetimes = st.sampled_from([None, None, None, 0.25, 0.5, 1.0, 1.5, 5.0, 30.0, 100_000.0])
arrivals = st.tuples(levels, st.integers(0, 11), lifetimes, st.integers(0, 2))
delays = st.sampled_from([-math.inf, 0.0, 0.5, 2.0, 60.0])


class PrioritizerMachine(RuleBasedStateMachine):
    """Every step of the prioritizer against lists that are sorted anew each time."""

    @initialize(coalesce=st.booleans(), subjects=st.sampled_from([1, 3, 50]))
    def start(self, coalesce, subjects):
        self.coalesce, self.subjects = coalesce, subjects
        self.real = Prioritizer(subjects_per_event=subjects, coalesce=coalesce)
        self.now = 1000.0
        self.number = 0
        self.waiting = {}
        self.groups = []  # of suspects, ready or not: [ready_at, entries]
        self.flights = []
        self.probed_last = False
        self.passed_over = 0
        self.settled = set()

    # the model

    def settle(self, entries):
        for each in entries:
            assert each not in self.settled, "nothing is handed out twice"
            self.settled.add(each)
            each.settle(Accepted())  # which refuses a second outcome, too

    def leave(self, entries):
        for each in entries:
            del self.waiting[each]
        self.settle(entries)

    def in_state(self, *states):
        found = [each for each, known in self.waiting.items() if known.state in states]
        return sorted(found, key=lambda each: (RANK[each.signal.risk_level], self.waiting[each].place))

    def living(self, group):
        return [each for each in group if each in self.waiting and self.waiting[each].state == "suspect"]

    def release(self):
        self.real.release(self.now)
        for known in self.waiting.values():
            if known.state == "held" and known.ready_at <= self.now:
                known.state = "ready"
        due = sorted((g for g in self.groups if -math.inf < g[0] <= self.now), key=lambda g: g[0])
        self.groups = [g for g in self.groups if g not in due]
        self.groups += [[-math.inf, entries] for _, entries in due]

    def next_probe(self):
        ready = [g for g in self.groups if g[0] == -math.inf and self.living(g[1])]
        ready.sort(key=lambda g: RANK[g[1][0].signal.risk_level])
        lanes = self.in_state("ready")
        if not ready:
            return None
        if not lanes:
            return ready[0]
        rank, other = RANK[ready[0][1][0].signal.risk_level], RANK[lanes[0].signal.risk_level]
        turn = rank < other or (rank == other and not self.probed_last) or self.passed_over >= 15
        return ready[0] if turn else None

    def expired(self, each):
        return each.deadline is not None and each.deadline <= self.now

    def expected_batch(self):
        """Return what should ride and what is found to have expired on the way."""
        riding, expired, events = [], [], []
        for each in self.in_state("ready"):
            if self.expired(each):
                expired.append(each)
                continue
            time = each.signal.timestamp
            shared = next((event for event in events if event[0] == time and event[1] < self.subjects), None)
            if shared is None:
                if len(events) == MAX_EVENTS:
                    break
                events.append(shared := [time, 0])
            shared[1] += 1
            riding.append(each)
        return riding, expired

    def returning(self, entries, state, ready_at):
        """Tell which entries are superseded when *entries* come back, and note the others as waiting."""
        superseded = []
        for each in entries:
            place, since = each.model_place
            rival = next((w for w in self.waiting if w.signal.ip == each.signal.ip), None) if self.coalesce else None
            if rival is not None and rival.sequence > each.sequence:
                superseded.append(each)
                continue
            if rival is not None:
                known = self.waiting.pop(rival)
                superseded.append(rival)
                if rival.signal.risk_level is each.signal.risk_level:
                    place, since = known.place, known.since
            known = self.waiting[each] = Waiting(place, since)
            known.state, known.ready_at = state, ready_at
            if state == "held" and ready_at == -math.inf:
                known.state = "ready"
        return superseded

    # the steps

    @rule(arriving=st.lists(arrivals, min_size=1, max_size=30))
    def admit(self, arriving):
        for level, address, lifetime, second in arriving:
            self.number += 1
            signal = RiskSignal(f"192.0.2.{address}", level, timestamp=NOON + timedelta(seconds=second))
            deadline = None if lifetime is None else self.now + lifetime
            new = ModelReceipt(signal, self.number, self.now, None, deadline)
            rival = next((w for w in self.waiting if w.signal.ip == signal.ip), None) if self.coalesce else None
            assert self.real.admit(new) is rival
            known = Waiting(self.number, self.now)
            if rival is not None:
                if rival.signal.risk_level is level:
                    known.place, known.since = self.waiting[rival].place, self.waiting[rival].since
                self.leave([rival])
                assert self.real.waiting_for(signal.ip) is new
            self.waiting[new] = known

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 61.0, 200_000.0]))
    def advance(self, seconds):
        self.now += seconds

    @rule()
    def look(self):
        self.release()
        demand = self.real.demand()
        ready = self.in_state("ready")
        held = [known.ready_at for known in self.waiting.values() if known.state == "held"]
        held += [at for at, group in self.groups if at > -math.inf and self.living(group)]
        assert self.real.ready_at() <= min(held, default=math.inf)  # what was settled may still be in the heap
        if probe := self.next_probe():
            level = HIGH if self.passed_over >= 15 else self.living(probe[1])[0].signal.risk_level
            assert demand == Demand(level, probe=True)
            return
        since = {
            level: next((self.waiting[r].since for r in ready if r.signal.risk_level is level), math.inf)
            for level in RiskLevel
        }
        assert demand.level == (ready[0].signal.risk_level if ready else None)
        assert (demand.medium_since, demand.low_since) == (since[MEDIUM], since[LOW])
        if self.subjects == 1:
            assert demand.full == (len(ready) >= MAX_EVENTS)
            assert demand.full_of_high == (sum(r.signal.risk_level is HIGH for r in ready) >= MAX_EVENTS)

    @rule(released=st.booleans())
    def take(self, released):
        if released:
            self.release()
        probe = self.next_probe()
        if probe:
            group = self.living(probe[1])
            riding = [each for each in group if not self.expired(each)]
            expired = [each for each in group if self.expired(each)]
            self.groups.remove(probe)
        else:
            riding, expired = self.expected_batch()
        batch = self.real.take(self.now)
        self.probed_last = batch.is_probe
        waits = any(at == -math.inf and self.living(group) for at, group in self.groups)
        self.passed_over = 0 if batch.is_probe else self.passed_over + waits
        assert batch.is_probe == bool(probe)
        assert batch.receipts == riding
        for each in expired:
            self.waiting[each].state = "overdue"
        for each in riding:
            each.model_place = self.waiting[each].place, self.waiting[each].since
            del self.waiting[each]
        if riding:
            self.flights.append(batch)

    @precondition(lambda self: self.flights)
    @rule(data=st.data())
    def accepted(self, data):
        self.settle(self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1))).receipts)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), delay=delays)
    def failed(self, data, delay):
        batch = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        ready_at = self.now + delay
        if batch.is_probe:
            self.suspected([batch.receipts], ready_at)
        else:
            superseded = self.returning(batch.receipts, "held", ready_at)
            assert Counter(self.real.put_back(batch.receipts, ready_at)) == Counter(superseded)
            self.settle(superseded)

    @precondition(lambda self: any(len(batch.receipts) > 1 for batch in self.flights))
    @rule(data=st.data(), delay=delays)
    def refused(self, data, delay):
        batch = data.draw(st.sampled_from([batch for batch in self.flights if len(batch.receipts) > 1]))
        self.flights.remove(batch)
        self.suspected(split(batch.receipts), self.now + delay)

    def suspected(self, groups, ready_at):
        superseded = []
        for group in groups:
            superseded += self.returning(group, "suspect", ready_at)
            self.groups.append([max(ready_at, -1e300), list(group)])
        assert Counter(self.real.suspect(groups, ready_at)) == Counter(superseded)
        self.settle(superseded)

    @rule(level=levels)
    def shed(self, level):
        lowest = next((at for at in reversed(RiskLevel) if any(w.signal.risk_level is at for w in self.waiting)), None)
        victim = self.real.shed(level)
        if lowest is None or RANK[lowest] < RANK[level]:
            assert victim is None
            return
        of_lowest = [each for each in self.waiting if each.signal.risk_level is lowest]
        assert victim is min(of_lowest, key=lambda each: self.waiting[each].place)
        self.leave([victim])

    @rule(most=st.sampled_from([1, 5, 500]))
    def overdue(self, most):
        while found := self.real.overdue(self.now, most):
            assert len(found) <= most
            assert all(self.expired(each) for each in found)
            self.leave(found)
            if most == 1:
                return
        left = [each for each in self.waiting if each.deadline is not None]
        assert not any(self.expired(each) for each in left)
        assert not any(self.waiting[each].state == "overdue" for each in left)
        assert self.real.overdue_at() == min((each.deadline for each in left), default=math.inf)

    @rule(most=st.sampled_from([3, 500]))
    def end(self, most):
        expected = self.in_state("ready", "held", "suspect", "overdue")
        while found := list(islice(self.real.everything(), most)):
            assert all(each in self.waiting for each in found)
            assert found == expected[: len(found)]
            del expected[: len(found)]
            self.leave(found)
        assert not self.waiting
        self.groups.clear()

    # what always holds

    @invariant()
    def the_books_agree(self):
        if not hasattr(self, "real"):
            return
        assert self.real.size == len(self.waiting)
        levels = Counter(each.signal.risk_level for each in self.waiting)
        assert self.real.count() == {level: levels[level] for level in RiskLevel}
        assert {level: len(lane) for level, lane in self.real.lanes.items()} == {
            level: sum(each.signal.risk_level is level for each in self.in_state("ready")) for level in RiskLevel
        }
        ready = [each for lane in self.real.lanes.values() for each in lane.values()]
        assert ready == self.in_state("ready")

    def teardown(self):
        if not hasattr(self, "real"):
            return
        for batch in self.flights:
            self.settle(batch.receipts)
        self.end(500)
        assert is_empty(self.real)
        assert len(self.settled) == self.number, "nothing is lost"


class ModelReceipt(Receipt):
    """Remembers for the model what it was when it left."""

    __slots__ = ("model_place",)


TestPrioritizer = PrioritizerMachine.TestCase
TestPrioritizer.settings = settings(
    max_examples=budget(30, 150), stateful_step_count=40, deadline=None, derandomize=True
)
