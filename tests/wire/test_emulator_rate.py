"""The emulated org's rate limit, its concurrency limit, and its clock."""

import asyncio
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import attrs
from emulator_calls import WALL, calling, rate, request
from multidict import CIMultiDict

from riskbatch.emulator import (
    DEFAULT_TOKEN,
    AccessToken,
    Org,
)

# ------------------------------------------------------------------------------------------------ rate


async def test_a_used_up_quota_is_429():
    """The first *limit* calls pass; the next are 429 E0000047 with Remaining 0, and ingest nothing."""
    async with calling(limit=3) as caller:
        answers = [await caller.send() for _ in range(5)]
        assert [answer.status for answer in answers] == [202, 202, 202, 429, 429]
        assert [rate(answer)[1] for answer in answers] == [2, 1, 0, 0, 0]
        assert {rate(answer)[0] for answer in answers} == {3}
        assert len({rate(answer)[2] for answer in answers}) == 1
        assert answers[3].error["errorCode"] == "E0000047"
        assert 55 < rate(answers[0])[2] - time.time() < 61
        assert len(caller.okta.signals) == 3
        assert len(caller.okta.requests) == caller.okta.most_in_any_window() == 5


async def test_a_fixed_window_opens_at_first_use_and_hammering_does_not_move_it():
    """60 s from the first call the quota is whole again, however often a call was refused meanwhile."""
    org = Org(limit=2)
    answers = [org.answer(request(), 1000.0 + at, WALL + at) for at in (0.0, 30.0, 31.0, 45.0, 59.9, 60.0, 61.0)]
    assert [answer.status for answer in answers] == [202, 202, 429, 429, 429, 202, 202]
    assert [rate(answer)[2] - WALL for answer in answers] == [60, 60, 60, 60, 60, 120, 120]
    late = org.answer(request(), 1500.5, WALL + 500.5)
    assert rate(late)[1:] == (1, WALL + 560)


async def test_a_fixed_window_lets_two_quotas_pass_around_its_end():
    """That is Okta's own window, and `most_in_any_window` shows it."""
    org = Org(limit=2, phase=0.0)
    for at in (58.0, 59.0, 60.0, 61.0):
        assert org.answer(request(), at, WALL + at).status == 202
    assert org.most_in_any_window(60.0) == 4


async def test_a_timed_window_keeps_its_phase():
    """With *phase* the windows open on a timer, whenever the first call comes."""
    org = Org(limit=1, phase=7.0)
    resets = [rate(org.answer(request(), now, WALL + now))[2] - WALL for now in (5.0, 7.5, 66.9, 67.0, 1000.0)]
    assert resets == [7, 67, 67, 127, 1027]


async def test_the_reset_stands_still_within_a_window():
    """Jitter between the two clocks does not move Reset."""
    org = Org(limit=9)
    resets = {rate(org.answer(request(), at, WALL + at - jitter))[2] for at, jitter in ((0, 0), (1, 0.01), (2, -0.01))}
    assert len(resets) == 1


async def test_oktas_advice_is_just_enough():
    """Waiting Reset - Date + 1 s after a 429 is always enough, wherever in the second it came."""
    for fraction in (0.0, 0.3, 0.999):
        for window in ("fixed", "sliding"):
            org = Org(limit=1, window=window)
            org.answer(request(), 0.0, WALL + 0.7)
            refused = org.answer(request(), 20.0 + fraction, WALL + 20.7 + fraction)
            date = parsedate_to_datetime(dict(refused.headers)["Date"]).timestamp()
            wait = rate(refused)[2] - date + 1
            assert refused.status == 429
            again = 20.0 + fraction + wait
            assert org.answer(request(), again, WALL + 0.7 + again).status == 202


async def test_a_sliding_window_never_admits_more_in_any_period():
    """`window="sliding"`: at most *limit* are admitted in any 60 s; refused calls do not prolong it."""
    org = Org(limit=2, window="sliding")
    admitted = [at for at in range(0, 300, 7) if org.answer(request(), at, WALL + at).status == 202]
    assert all(later - earlier >= 60 for earlier, later in zip(admitted, admitted[2:], strict=False))
    assert len(admitted) == 10
    assert org.answer(request(), admitted[-2] + 59.9, WALL).status == 429
    refused = org.answer(request(), 301.0, WALL + 301)
    assert (refused.status, rate(refused)) == (429, (2, 0, WALL + admitted[-2] + 60))


async def test_other_tokens_use_the_same_bucket():
    """Calls of others lower Remaining and can use it up."""
    async with calling(limit=5) as caller:
        caller.okta.spend(3)
        assert rate(await caller.send())[:2] == (5, 1)
        caller.okta.spend(9)
        refused = await caller.send()
        assert (refused.status, rate(refused)[:2]) == (429, (5, 0))


async def test_a_principal_has_only_its_share():
    """With half of 4 the third call is 429 though the org has room, which another principal can use."""
    org = Org(limit=4, principal_share=0.5, access_tokens={"app": AccessToken()})
    other = attrs.evolve(
        request(), headers=CIMultiDict({"Authorization": "Bearer app", "Content-Type": "application/json"})
    )
    answers = [org.answer(request(), 0.0, WALL) for _ in range(3)] + [org.answer(other, 1.0, WALL + 1)]
    assert [answer.status for answer in answers] == [202, 202, 429, 202]
    assert [rate(answer)[:2] for answer in answers] == [(2, 1), (2, 0), (2, 0), (2, 1)]


async def test_the_headers_can_show_the_orgs_ceiling():
    """Header_limit="org" shows the org's Limit, and Remaining 0 only when the share is used up."""
    org = Org(limit=4, principal_share=0.5, header_limit="org")
    answers = [org.answer(request(), 0.0, WALL) for _ in range(3)]
    assert [(answer.status, *rate(answer)[:2]) for answer in answers] == [(202, 4, 3), (202, 4, 2), (429, 4, 0)]


async def test_what_counts_against_the_quota():
    """Good credentials count whatever becomes of the call; bad ones and a refused method do not."""
    async with calling(limit=30) as caller:
        for body, auth in (
            (b"{", None),
            (b"{", "SSWS 00other"),
            (b"{", f"SSWS {DEFAULT_TOKEN}"),
            ([], "SSWS " + DEFAULT_TOKEN),
        ):
            await caller.send(body, auth=auth)
        await caller.send(method="GET")
        assert rate(await caller.send())[1] == 27


# -------------------------------------------------------------------------------- concurrency, headers and clock


async def test_too_many_in_flight_is_429_with_zeros_and_frees_at_once():
    """Limit 0, Remaining 0, Reset far ahead; a slot that opens is usable at once, and no quota was used."""
    async with calling(concurrency=2, latency=0.1) as caller:
        answers = await asyncio.gather(*(caller.send() for _ in range(4)))
        crowded = [answer for answer in answers if answer.status == 429]
        assert len(crowded) == 2
        for answer in crowded:
            assert answer.error["errorCode"] == "E0000047"
            limit, remaining, reset = rate(answer)
            assert (limit, remaining) == (0, 0)
            assert 100 < reset - time.time() < 121
        caller.okta.latency = 0.0
        assert rate(await caller.send())[:2] == (30, 27)
        assert caller.okta.org.in_flight == 0


async def test_a_crowded_request_holds_no_slot():
    """What was refused for want of a slot does not delay the next; departing twice frees nothing more."""
    org = Org(concurrency=1)
    first, second = (org.arrive(request(), 0.0) for _ in range(2))
    assert [org.respond(exchange, 0.0, WALL).status for exchange in (first, second)] == [202, 429]
    org.depart(first)
    org.depart(first)
    third = org.arrive(request(), 0.1)
    assert org.respond(third, 0.1, WALL).status == 202
    org.depart(second)
    assert org.in_flight == 1


async def test_sequential_calls_never_crowd_themselves():
    """Whoever has read an answer finds its slot free."""
    async with calling(concurrency=1, limit=200) as caller:
        assert {(await caller.send()).status for _ in range(100)} == {202}


async def test_rate_headers_can_come_twice():
    """Two sets in one answer, of which the second and smaller one counts."""
    async with calling(duplicate_headers=True, limit=1) as caller:
        for status in (202, 429):
            answer = await caller.send()
            assert answer.status == status
            assert answer.headers.getall("X-Rate-Limit-Limit") == ["600", "1"]
            assert answer.headers.getall("X-Rate-Limit-Remaining") == ["599", "0"]
            assert len(answer.headers.getall("X-Rate-Limit-Reset")) == 2


async def test_a_skewed_clock_moves_date_and_reset_alike():
    """Date is off by clock_skew, and Reset - Date is what it would be without."""
    for skew in (0.0, 3600.0, -7200.0):
        async with calling(clock_skew=skew) as caller:
            answer = await caller.send()
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            assert abs(date - time.time() - skew) < 2
            assert 58 <= rate(answer)[2] - date <= 60


async def test_dates_are_of_the_wall_clock_given():
    """Date is RFC 1123, from `wall`, cut to the second."""
    headers = dict(Org().answer(request(), 0.0, WALL + 0.999).headers)
    assert headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert parsedate_to_datetime(headers["Date"]) == datetime.fromtimestamp(WALL, UTC)
