"""When the next request may leave: five rules, and what no sequence of answers can break."""

import asyncio
import math
from itertools import pairwise

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

from riskbatch import ConfigurationError
from riskbatch.batcher import Demand
from riskbatch.limiter import DEFAULT_LINGER, Limiter, RateLimit, Window
from riskbatch.okta.rate_limits import Budget
from riskbatch.signals import RiskLevel

HIGH, MEDIUM, LOW = RiskLevel
RATE = RateLimit(30, 60.0)
EXPRESS = Demand(HIGH, full=True, full_of_high=True)
ONE_HIGH = Demand(HIGH)
FIRST_HIGH = Demand(HIGH, high_before=-math.inf, high_last=0.0)
FULL_LOW = Demand(LOW, full=True, low_since=-1000.0)


def limiter(requests=30, period=60.0, **kwargs):
    return Limiter(RateLimit(requests, period), **kwargs)


async def use(limiter, requests, now, *, answered=True):
    """Let so many requests leave at *now*, whatever the pace."""
    for _ in range(requests):
        await limiter.depart(now)
    for _ in range(requests if answered else 0):
        limiter.answered(now)
    limiter.paced_at = -math.inf


def clock():
    return asyncio.get_running_loop().time()


# -- the rate


@pytest.mark.parametrize("requests", [0, -1, 1.5, True, "30", None, math.inf, math.nan])
def test_a_rate_is_a_whole_number_of_requests(requests):
    """A budget that is no count is refused at once, by name."""
    with pytest.raises(ConfigurationError, match=r"requests is .* whole number of at least 1"):
        RateLimit(requests)


@pytest.mark.parametrize("period", [0, -1, math.inf, math.nan, "60", None])
def test_a_period_is_a_positive_number_of_seconds(period):
    """A window without a length is refused at once, by name."""
    with pytest.raises(ConfigurationError, match=r"period is .* positive number of seconds"):
        RateLimit(30, period)


def test_the_default_rate_is_oktas():
    """30 requests in 60 seconds; one request in any time is the least."""
    assert RateLimit() == RateLimit(30, 60.0)
    assert RateLimit(1, 0.5).requests == 1


# -- rule 1: the window


async def test_a_permit_comes_back_one_period_after_its_answer():
    """The 31st request leaves later than 60 s after the 1st was answered, and not much later."""
    rules = limiter()
    now = clock()
    await use(rules, 30, now, answered=False)
    assert rules.next_at(now, EXPRESS) == math.inf, "only an answer can tell"
    rules.answered(now + 7)
    at = rules.next_at(now + 7, EXPRESS)
    assert now + 67 < at <= now + 67.1
    assert rules.next_at(at, EXPRESS) == at


async def test_permits_come_back_one_by_one():
    """Each permit has its own time."""
    rules = limiter(3)
    now = clock()
    await use(rules, 3, now, answered=False)
    for answered in (1, 5, 9):
        rules.answered(now + answered)
    first = rules.next_at(now + 10, EXPRESS)
    assert first == pytest.approx(now + 61, abs=0.1)
    await use(rules, 1, first)
    second = rules.next_at(first, EXPRESS)
    assert second == pytest.approx(now + 65, abs=0.1)


async def test_an_answer_wakes_all_who_share_the_limiter():
    """Whoever waits for a permit that only an answer can bring is told of it, until it stops watching."""
    rules = limiter(1)
    woken = []
    first, second = (lambda: woken.append("first")), (lambda: woken.append("second"))
    rules.watch(first)
    rules.watch(second)
    await rules.depart(clock())
    rules.answered(clock())
    assert sorted(woken) == ["first", "second"]
    rules.unwatch(first)
    await rules.depart(clock())
    rules.answered(clock())
    assert sorted(woken) == ["first", "second", "second"]


# -- rule 2: the pace


async def test_requests_are_spaced():
    """A single HIGH leaves at once; the next one waits for the pace, not for a window to come round."""
    rules = limiter()
    now = clock()
    assert rules.next_at(now, ONE_HIGH) == now
    await rules.depart(now)
    gap = rules.next_at(now, ONE_HIGH) - now
    assert 0 < gap <= 10


async def test_the_pace_is_kept_by_the_bucket_too():
    """The bucket has no room before its time, and has room when `next_at` has come."""
    rules = limiter()
    start = clock()
    await rules.depart(start)
    at = rules.next_at(start, ONE_HIGH)
    await asyncio.sleep((at - start) * 0.99)
    assert not rules.has_room(at)
    await asyncio.sleep(at - clock())
    assert rules.has_room(at)


async def test_an_express_does_not_ask_the_bucket():
    """A payload full of HIGH leaves right behind another request."""
    rules = limiter()
    await rules.depart(clock())
    full = Demand(RiskLevel.HIGH, full=True, full_of_high=True)
    assert rules.next_at(clock(), full) == clock()
    assert rules.has_room(clock())


async def test_a_lone_high_does_not_wait_while_half_of_the_window_is_free():
    """One that no HIGH preceded for a third of a gap leaves at once; its followers wait until no more come."""
    rules = limiter()
    now = clock()
    await rules.depart(now)
    gap = 60 / 30
    lone = Demand(RiskLevel.HIGH, high_before=now - gap, high_last=now)
    follower = Demand(RiskLevel.HIGH, high_before=now - 0.1, high_last=now)
    assert rules.next_at(now, lone) == now
    assert rules.next_at(now, follower) == pytest.approx(now + gap / 3)
    low = Demand(LOW, full=True, high_before=now - gap, high_last=now, low_since=now)
    assert rules.next_at(now, low) == pytest.approx(now + gap, abs=0.01), "others wait for the pace"
    for _ in range(15):
        await rules.depart(now)
    assert rules.next_at(now, lone) >= now + gap


async def test_of_two_sets_of_headers_the_lower_limit_counts():
    """Okta has been seen to send two sets; whichever comes last, the narrower bucket is the one that refuses."""
    rules = limiter()
    for sets in ([Budget(15, 15, 60.0), Budget(30, 30, 60.0)], [Budget(30, 30, 60.0), Budget(15, 15, 60.0)]):
        rules.learn(sets, clock(), refused=False)
        assert rules.window.limit == 15


async def test_a_remainder_of_0_that_agrees_with_our_count_holds_nothing():
    """The org's "0 left" after our own last permit is no news; the window already waits for it."""
    rules = limiter()
    start = clock()
    for _ in range(30):
        await rules.depart(start)
    for _ in range(30):
        rules.answered(start)
    rules.learn([Budget(30, 0, 60.0)], start, refused=False)
    assert rules.next_at(start, ONE_HIGH) < start + 60.5


async def test_departing_does_not_suspend():
    """A batch that was taken cannot be lost to a cancellation between its permit and its request."""
    rules = limiter()
    for _ in range(5):
        coroutine = rules.depart(clock())
        with pytest.raises(StopIteration):
            coroutine.send(None)
    assert rules.window.in_flight == 5


async def test_pacing_never_stalls_for_a_whole_window():
    """In a flood that follows the pace, no two requests are further apart than a few seconds."""
    rules = limiter()
    left = []
    while clock() < 1200:
        at = rules.next_at(clock(), Demand(HIGH, full=True))
        if at > clock():
            await asyncio.sleep(at - clock() + 1e-6)
            continue
        await rules.depart(clock())
        left.append(clock())
        await asyncio.sleep(0.25)
        rules.answered(clock())
    gaps = [after - before for before, after in pairwise(left)]
    assert max(gaps) < 5
    last_minutes = [at for at in left if at > 600]
    assert len(last_minutes) / 10 >= 27, "and most of the budget is used"


# -- rule 3: the reserve


@pytest.mark.parametrize("level", [MEDIUM, LOW])
async def test_a_request_without_high_leaves_the_reserve(level):
    """The last permits of a window are kept for HIGH."""
    rules = limiter(reserve=3)
    demand = Demand(level, full=True)
    now = clock()
    await use(rules, 26, now)
    assert rules.next_at(now, demand) == now
    await use(rules, 1, now)
    assert rules.next_at(now, demand) > now + 59
    assert rules.next_at(now, ONE_HIGH) == now
    await use(rules, 2, now)
    assert rules.next_at(now, ONE_HIGH) == now
    await use(rules, 1, now)
    assert rules.next_at(now, ONE_HIGH) > now + 59


async def test_probes_leave_the_reserve_too():
    """A probe of suspects without HIGH is an ordinary request."""
    rules = limiter(reserve=3)
    now = clock()
    await use(rules, 27, now)
    assert rules.next_at(now, Demand(LOW, probe=True)) > now + 59
    assert rules.next_at(now, Demand(HIGH, probe=True)) == now


async def test_nothing_is_reserved_while_draining():
    """When no further signal will come, the last permits are for whatever is left, at once."""
    rules = limiter(reserve=3)
    now = clock()
    await use(rules, 29, now)
    rules.paced_at = now + 50
    assert rules.next_at(now, Demand(LOW, low_since=now), draining=True) == now
    assert rules.next_at(now, Demand(LOW, low_since=now), flushing=True) > now + 50


@pytest.mark.parametrize(("requests", "for_low"), [(1, 1), (2, 1), (4, 2), (6, 3), (10, 5), (40, 20)])
async def test_the_reserve_is_at_most_half(requests, for_low):
    """However small the budget and however large the reserve, the other levels have half of it."""
    rules = limiter(requests, reserve=1000)
    now = clock()
    for _ in range(for_low):
        assert rules.next_at(now, FULL_LOW) == now
        await use(rules, 1, now)
    assert rules.next_at(now, FULL_LOW) > now


async def test_the_reserve_shrinks_with_a_lowered_limit():
    """If the server halves the limit to 4, two permits are for everybody."""
    rules = limiter(30, reserve=3)
    now = clock()
    rules.learn([Budget(4, 4, 30.0)], now, refused=False)
    for _ in range(2):
        assert rules.next_at(now, FULL_LOW) == now
        await use(rules, 1, now)
    assert rules.next_at(now, FULL_LOW) > now


async def test_without_high_the_gap_spares_the_reserve_once_half_of_the_window_is_out():
    """A flood of LOW is spread over all but the reserve, so that it never stops for permits that HIGH may use."""
    rules = limiter(reserve=3)
    at = start = clock()
    left = []
    for _ in range(28):
        await rules.depart(at)
        rules.answered(at)
        left.append(at)
        at = rules.next_at(at, FULL_LOW)
    gaps = [after - before for before, after in pairwise(left)]
    assert gaps[:15] == [pytest.approx(2.0, abs=0.01)] * 15, "while half is free, as fast as HIGH"
    assert all(2.0 < gap < 3.0 for gap in gaps[15:])
    assert left[27] == pytest.approx(start + 60.0, abs=0.1), "the 28th takes the permit of the 1st, and did not stop"
    assert rules.next_at(left[20], ONE_HIGH) < rules.next_at(left[20], FULL_LOW)


# -- rule 4: express


async def test_a_payload_full_of_high_does_not_wait_for_the_pace():
    """Twenty waiting HIGH need a permit only."""
    rules = limiter()
    now = clock()
    for _ in range(30):
        assert rules.next_at(now, EXPRESS) == now
        await rules.depart(now)
    assert rules.next_at(now, EXPRESS) == math.inf
    fresh = limiter()
    await fresh.depart(now)
    assert fresh.next_at(now, Demand(HIGH, full=True)) > now, "full, but not of HIGH"


async def test_after_an_express_the_next_payload_has_longer_to_fill():
    """A HIGH behind an express waits a third longer than the least gap, unless the gap is longer anyway."""
    rules = limiter()
    now = clock()

    async def gap_after(requests, at):
        for _ in range(requests):
            await rules.depart(at)
            rules.answered(at)
        return rules.next_at(at, ONE_HIGH) - at

    assert await gap_after(1, now) == pytest.approx(2.0, abs=0.01)
    assert await gap_after(1, now + 2.0) == pytest.approx(2.0, abs=0.01), "one that left at its time is no express"
    assert await gap_after(1, now + 3.0) == pytest.approx(2.0 * 4 / 3, abs=0.01)
    assert await gap_after(23, now + 3.0) == pytest.approx(57 / 5, abs=0.01), "four are left until the first is back"


# -- rule 5: linger


def test_a_part_filled_payload_without_high_may_wait_to_fill():
    """LOW lingers 5 s and MEDIUM 1 s, from when the oldest came; the first of both ends it."""
    rules = limiter()
    assert DEFAULT_LINGER == {MEDIUM: 1.0, LOW: 5.0}
    assert rules.next_at(100.0, Demand(LOW, low_since=99.0)) == 104.0
    assert rules.next_at(104.0, Demand(LOW, low_since=99.0)) == 104.0
    assert rules.next_at(100.0, Demand(MEDIUM, medium_since=99.5)) == 100.5
    assert rules.next_at(100.0, Demand(MEDIUM, medium_since=99.5, low_since=95.2)) == pytest.approx(100.2)
    assert rules.next_at(100.0, Demand(MEDIUM, medium_since=99.5, low_since=99.0)) == 100.5
    own = limiter(linger={MEDIUM: 0.0, LOW: 60.0})
    assert own.next_at(100.0, Demand(LOW, low_since=100.0)) == 160.0
    assert own.next_at(100.0, Demand(MEDIUM, medium_since=100.0)) == 100.0


@pytest.mark.parametrize(
    "demand",
    [
        Demand(HIGH, medium_since=100.0, low_since=100.0),
        Demand(HIGH, full=True),
        Demand(LOW, full=True, low_since=100.0),
        Demand(LOW, probe=True),
        Demand(HIGH, probe=True),
    ],
)
def test_nothing_else_lingers(demand):
    """A HIGH, a full payload and a probe leave as soon as the other rules let them."""
    assert limiter().next_at(100.0, demand) == 100.0


@pytest.mark.parametrize("hurry", ["flushing", "draining"])
def test_nothing_lingers_while_somebody_waits_for_the_end(hurry):
    """Flush and close let part-filled payloads go."""
    assert limiter().next_at(100.0, Demand(LOW, low_since=100.0), **{hurry: True}) == 100.0


@pytest.mark.parametrize("hurry", [{}, {"flushing": True}, {"draining": True}])
def test_nothing_ready_needs_no_time(hurry):
    """Without demand, only a change can tell."""
    assert limiter().next_at(100.0, Demand(None), **hurry) == math.inf


# -- what the server says


async def test_a_lower_limit_lowers_ours_and_a_later_one_raises_it_again():
    """A principal often owns half; what it owns may change, but never above what was configured."""
    rules = limiter(30)
    now = clock()
    rules.learn([Budget(15, 15, 60.0)], now, refused=False)
    assert rules.window.limit == 15
    rules.learn([Budget(600, 599, 60.0)], now, refused=False)
    assert rules.window.limit == 30
    rules.learn([Budget(0, 5, 60.0)], now, refused=False)
    assert rules.window.limit == 1, "a limit of 0 would be for ever"


async def test_a_lowered_limit_that_is_overdrawn_waits_until_enough_came_back():
    """After 20 requests, a limit of 5 lets the next one go when 16 permits are back."""
    rules = limiter(30)
    now = clock()
    for second in range(20):
        await use(rules, 1, now + second)
    rules.learn([Budget(5, 100, 60.0)], now + 20, refused=False)
    assert rules.window.free(now + 20) == -15
    assert rules.next_at(now + 20, EXPRESS) == pytest.approx(now + 15 + 60, abs=0.1)


async def test_a_lower_remainder_is_adopted_until_the_reset():
    """Others share the budget: what they used is gone until the server's window resets, and back after it."""
    rules = limiter(30, reserve=0)
    now = clock()
    rules.learn([Budget(30, 2, 20.0)], now, refused=False)
    assert rules.window.free(now) == 2
    await use(rules, 2, now, answered=False)
    at = rules.next_at(now, EXPRESS)
    assert now + 20 < at <= now + 22
    assert rules.window.free(at) == 28
    rules.learn([Budget(30, 25, 60.0)], now, refused=False)
    assert rules.window.free(now) == 0, "a higher remainder than our own count is not believed"


async def test_what_others_used_is_counted_anew_after_the_reset():
    """After the reset only the newest difference counts, be it a single permit."""
    rules = limiter(30)
    now = clock()
    rules.learn([Budget(30, 2, 20.0)], now, refused=False)
    rules.learn([Budget(30, 29, 20.0)], now + 30, refused=False)
    assert rules.window.free(now + 30) == 29


async def test_high_may_take_the_last_permits_that_others_left():
    """With less left than the reserve, HIGH departs and LOW waits for the reset."""
    rules = limiter(30, reserve=3)
    now = clock()
    rules.learn([Budget(30, 2, 20.0)], now, refused=False)
    assert rules.next_at(now, ONE_HIGH) == now
    await rules.depart(now)
    assert rules.next_at(now, ONE_HIGH) == pytest.approx(now + 21 / 2, abs=0.1), "the second, halfway to the reset"
    assert now + 20 < rules.next_at(now, FULL_LOW) <= now + 22


async def test_no_remainder_holds_everything_until_the_reset():
    """With nothing left, HIGH waits as well, to a second after the reset."""
    rules = limiter()
    now = clock()
    await use(rules, 1, now - 55)  # the permit that comes back before the reset is not for now either
    rules.learn([Budget(30, 0, 20.0)], now, refused=False)
    for demand in (EXPRESS, ONE_HIGH, FULL_LOW):
        assert now + 21 <= rules.next_at(now, demand) <= now + 22
        assert rules.next_at(now, demand, draining=True) >= now + 21


@pytest.mark.parametrize(
    ("said", "hold"),
    [([], 61), ([Budget(30, 5, 10.0)], 11), ([Budget(30, 0, None)], 61), ([Budget(30, 0, 1e9)], 61),
     ([Budget(30, 0, 0.0)], 1), ([Budget(30, 0, 5.0), Budget(15, 0, 9.0)], 10), ([Budget(0, 0, 5.0)], 61)],
)  # fmt: skip
async def test_a_429_holds_everything_but_never_for_longer_than_a_period_and_a_second(said, hold):
    """The hold lasts to a second after the reset, or a whole period if nothing credible is said."""
    rules = limiter()
    now = clock()
    rules.learn(said, now, refused=True)
    assert rules.held_until == pytest.approx(now + hold)
    assert rules.next_at(now, EXPRESS) >= now + hold
    assert rules.next_at(now, Demand(LOW, low_since=-1000.0)) <= now + 62
    rules.learn([], now - 30, refused=True)
    assert rules.held_until >= now + hold, "a hold is never shortened"


async def test_the_concurrency_limit_teaches_the_window_nothing():
    """Limit 0 with remainder 0 is not about the rate, and its reset means nothing."""
    rules = limiter()
    rules.learn([Budget(0, 0, 114.0)], clock(), refused=False)
    assert rules.window.limit == 30
    assert rules.window.free(clock()) == 30
    assert rules.next_at(clock(), ONE_HIGH) == clock()


# -- any sequence of anything


budgets = st.builds(
    Budget,
    st.integers(0, 60) | st.sampled_from([0, 1, 999_999_999]),
    st.integers(0, 60) | st.sampled_from([0, 999_999_999]),
    st.none() | st.floats(0, 100) | st.sampled_from([0.0, 1e12]),
)
demands = st.sampled_from(
    [
        EXPRESS,
        FIRST_HIGH,
        ONE_HIGH,
        FULL_LOW,
        Demand(MEDIUM, medium_since=0.0),
        Demand(LOW, low_since=0.0),
        Demand(LOW, probe=True),
    ]
)
requests = st.tuples(
    demands,
    st.floats(0, 40),  # seconds until the answer, or until the attempt is given up
    st.floats(0, 1),  # when in that time it arrives
    st.lists(budgets, max_size=2),
    st.booleans(),  # a 429
    st.sampled_from([0.0, 0.0, 0.0, 0.1, 3.0, 70.0]),  # idle before it
    st.sampled_from([{}, {}, {"flushing": True}, {"draining": True}]),
)


def most_in_any(period, arrivals):
    """Return the most arrivals in any half-open window of that length."""
    arrivals = sorted(arrivals)
    return max((sum(start <= at < start + period for at in arrivals) for start in arrivals), default=0)


async def follow(rules, script):
    """Follow `next_at` to the letter; return when each request arrived, and how often only an answer could tell."""
    now, arrivals, flying = 0.0, [], []

    def land(until):
        nonlocal now
        while flying and flying[0][0] <= until:
            at, said, refused = flying.pop(0)
            now = max(now, at)
            rules.answered(at)
            rules.learn(said, at, refused=refused)

    for demand, delay, share, said, refused, idle, hurry in script:
        land(now + idle)
        now += idle
        waits = 0
        while (at := rules.next_at(now, demand, **hurry)) > now:
            waits += 1
            assert waits < 200, "following next_at makes progress"
            assert at < math.inf or flying, "with nothing in flight, time alone brings a permit back"
            target = min(at, flying[0][0] if flying else math.inf)
            land(target)
            now = max(now, target)
            assert at == math.inf or at <= now + 2 * (rules.window.rate.period + 40) + 2
        await rules.depart(now)
        arrivals.append(now + delay * share)
        flying.append((now + delay, said, refused))
        flying.sort(key=lambda each: each[0])
    land(math.inf)
    return arrivals, now


@given(st.lists(requests, max_size=60), st.sampled_from([1, 2, 5, 30]), st.sampled_from([0, 3, 50]))
@settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
def test_no_window_sees_more_arrivals_than_permits(script, permits, reserve):
    """Wherever a window of 60 s starts and whatever the network delays, at most 30 of our requests arrive in it."""
    rules = limiter(permits, reserve=reserve)
    arrivals, _ = asyncio.run(follow(rules, script))
    assert most_in_any(60.0, arrivals) <= permits


@given(st.lists(requests, min_size=40, max_size=120), st.sampled_from([2, 30]))
@settings(max_examples=budget(15, 30), deadline=None, derandomize=True)
def test_a_rush_is_limited_too(script, permits):
    """The same when every request is express, one after the other without a pause."""
    rush = [(EXPRESS, delay, share, [], False, 0.0, hurry) for _, delay, share, *_, hurry in script]
    arrivals, _ = asyncio.run(follow(limiter(permits), rush))
    assert most_in_any(60.0, arrivals) <= permits


@given(st.lists(requests, max_size=40), st.sampled_from([1, 2, 5, 30]), st.sampled_from([0, 3, 50]))
@settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
def test_whatever_a_server_said_the_whole_budget_is_back_in_the_end(script, permits, reserve):
    """Lies wear off: an honest answer and two periods later everything may leave as on the first day."""
    rules = limiter(permits, reserve=reserve)
    _, now = asyncio.run(follow(rules, script))
    assert rules.window.in_flight == 0
    rules.learn([Budget(1000, 1000, 60.0)], now, refused=False)
    now += 2 * 62
    assert rules.window.free(now) == permits
    for demand in (EXPRESS, ONE_HIGH, FULL_LOW):
        assert rules.next_at(now, demand) == now


@given(st.lists(requests, max_size=40), demands, st.floats(0, 100))
@settings(max_examples=budget(30, 150), deadline=None, derandomize=True)
def test_the_instant_named_is_one_at_which_a_request_may_leave(script, demand, idle):
    """`next_at` at the instant it named says "now", unless an answer came between."""
    rules = limiter(5)
    _, now = asyncio.run(follow(rules, script))
    at = rules.next_at(now + idle, demand)
    assert now + idle <= at < math.inf
    assert rules.next_at(at, demand) == at


@given(st.lists(requests, max_size=40), st.floats(0, 100))
@settings(max_examples=budget(20, 100), deadline=None, derandomize=True)
def test_high_never_waits_longer_than_others(script, idle):
    """Whatever lets another payload go lets one with HIGH go, and one full of HIGH before that."""
    rules = limiter(30)
    _, now = asyncio.run(follow(rules, script))
    now += idle
    first, one = rules.next_at(now, FIRST_HIGH), rules.next_at(now, ONE_HIGH)
    assert rules.next_at(now, EXPRESS) <= first <= one <= rules.next_at(now, FULL_LOW)
    assert rules.next_at(now, FULL_LOW) <= rules.next_at(now, Demand(LOW, low_since=now))


def test_the_window_counts_what_it_gave():
    """Free and taken permits are together the limit."""
    window = Window(RATE)
    for _ in range(10):
        window.depart()
    for second in range(4):
        window.answered(float(second))
    assert window.free(5.0) == 20
    assert window.free(61.5) == 22
    assert window.free(100.0) == 24
    assert window.in_flight == 6
    assert window.free_at(5.0, 20) == 5.0
    assert window.free_at(100.0, 25) == math.inf
    assert window.free_at(100.0, 24) == 100.0


async def test_the_gap_stretches_to_what_the_window_still_holds():
    """After a burst the permits left are spread until the first of the burst's come back, so that none has to stop."""
    rules = limiter()
    start = clock()
    for _ in range(24):
        await rules.depart(start)
        rules.answered(start)
    at, gaps = start, []
    for _ in range(6):
        at = rules.next_at(at, ONE_HIGH)
        await rules.depart(at)
        rules.answered(at)
        gaps.append(at)
    waits = [later - earlier for earlier, later in pairwise([start, *gaps, start + 60])]
    assert all(wait == pytest.approx(60 / 7, rel=0.01) for wait in waits)


async def test_the_gap_is_never_shorter_than_the_budget_allows_for_long():
    """With a free window ordinary requests still leave a period's share apart, not as fast as permits allow."""
    rules = limiter()
    start = clock()
    await rules.depart(start)
    assert rules.next_at(start, ONE_HIGH) == pytest.approx(start + 2.0, rel=0.01)
    rules.window.answered(start - 59.0)  # its permit comes back in a second
    await rules.depart(start)
    assert rules.next_at(start, ONE_HIGH) >= start + 2.0
