"""What each answer, and each lack of one, means for the signals, the pace and the log."""

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from fake_org import FakeOrg, balanced, client, ip, outcomes, signal, signals

import riskbatch as rb
from riskbatch.backoff import backoff
from riskbatch.emulator import Fault
from riskbatch.okta.http import Unanswered

PAGE = b"<html><h1>Bad Request</h1></html>"
HTML = (("Content-Type", "text/html"),)

PASSING = {
    "500": (Fault.error(), "Internal Server Error"),
    "500 html": (Fault.answer(500, HTML, PAGE), "HTTP 500 (text/html, 33 bytes)"),
    "502 proxy": (Fault.proxy_error(502), "HTTP 502"),
    "504 proxy": (Fault.proxy_error(504), "HTTP 504"),
    "503": (Fault.unavailable(), "Service temporarily unavailable."),
    "503 read only": (Fault.unavailable("E0000010"), "Service is in read only mode"),
    "408": (Fault.answer(408), "HTTP 408"),
    "400 html": (Fault.answer(400, HTML, PAGE), "HTTP 400 (text/html"),
    "200 garbage": (Fault.answer(200, HTML, b"<html>Please log in</html>"), "HTTP 200"),
    "204": (Fault.answer(204), "HTTP 204"),
    "time-out": (Fault.hang(), "no answer within 30 s"),
    "dropped": (Fault.drop(), "ServerDisconnectedError"),
    "answer lost": (Fault.lost_answer(), "ServerDisconnectedError"),
    "truncated": (Fault.truncated(), "ServerDisconnectedError"),
    "refused": (Unanswered("ClientConnectorError: Cannot connect", may_have_arrived=False), "Cannot connect"),
    "concurrency": (Fault.crowded(), "in flight"),
    "unexpected": (KeyError("boo"), "unexpected KeyError"),
    "cancelled": (asyncio.CancelledError(), None),
}
DENIALS = {
    "401": (Fault.error(401, "E0000011"), "Invalid token provided"),
    "401 feature": (Fault.error(401, "E0000015"), "access the feature"),
    "403": (Fault.error(403, "E0000006"), "permission"),
    "403 empty": (Fault.answer(403), "HTTP 403"),
    "404": (Fault.error(404, "E0000008"), "path was not found"),
    "405": (Fault.error(405, "E0000022"), "HTTP method"),
    "410": (Fault.error(410, "E0000215"), "deprecated"),
    "302": (Fault.redirect("https://evil.example/"), "HTTP 302"),
    "400 media type": (Fault.error(400, "E0000021"), "Content-Type"),
    "400 challenge": (
        Fault.answer(400, [("WWW-Authenticate", 'Bearer error="invalid_request", error_description="DPoP wanted"')]),
        "invalid_request DPoP wanted",
    ),
}


def lines(caplog) -> list[str]:
    """What was said between the opening and the closing."""
    frame = ("opened", "draining", "closed")
    found = [record for record in caplog.records if record.name == "riskbatch"]
    return [record.getMessage() for record in found if getattr(record, "riskbatch_event", None) not in frame]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# ------------------------------------------------------------------------------------------------ failures that pass


@pytest.mark.parametrize(("fault", "reason"), PASSING.values(), ids=PASSING)
async def test_a_failure_puts_the_signals_back_to_the_front(fault, reason):
    """After a failure the same signals go again, before younger ones, and all are accepted in the end."""
    org = FakeOrg()
    org.faults = [fault] * 4
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(10))
        await asyncio.sleep(0.1)
        receipts += await c.enqueue_many(signals(90, start=10))
        for _ in range(80):
            await asyncio.sleep(0.5)
            if reason is None or c.statistics().trouble is not None:
                break
        s = c.statistics()
        assert reason is None or reason in s.trouble
        assert not s.paused
        assert balanced(c)
        await c.flush()
        assert c.statistics().trouble is None
        assert c.statistics().put_back > 0
    assert all(isinstance(one, rb.Accepted) for one in await outcomes(receipts))
    tries = [receipt.attempts for receipt in receipts[:10]]
    assert min(tries) > 1
    assert receipts[-1].attempts <= 5


@pytest.mark.parametrize("fault", [PASSING["503"][0], PASSING["dropped"][0], PASSING["refused"][0]], ids=str)
async def test_the_delay_grows_and_is_bounded_and_the_log_says_it_twice(fault, caplog):
    """Hours of failure cost about a request a minute and two lines in the log: one at the start, one at the end."""
    caplog.set_level(logging.DEBUG)
    failing = True
    org = FakeOrg(script=lambda _: fault if failing else None)
    if isinstance(fault, Unanswered):
        org.faults = [fault] * 400
    async with client(org) as c:
        await c.enqueue_many(signals(500))
        await asyncio.sleep(4 * 3600)
        gaps = [b - a for (a, _), (b, _) in pairwise(org.departures)]
        assert sum(gaps[:5]) < 60
        assert 20 < sum(gaps[-100:]) / 100 < 70
        assert max(gaps) < 70
        assert len(set(gaps[-20:])) > 15  # jitter
        assert 240 < c.statistics().requests < 1000
        assert 0 <= c.statistics().resumes_after <= 60  # 0 while a try is under way
        failing, org.faults = False, []
        await c.flush()
    assert c.statistics().accepted == 500
    said = lines(caplog)
    assert len(said) == 2, said
    assert "is slowed down" in said[0]
    assert "again, after" in said[1]


async def test_a_transport_that_breaks_in_unexpected_ways_is_logged_once(caplog):
    """A defect of a custom transport is shown with its traceback once, not once a request."""
    org = FakeOrg()
    org.faults = [RuntimeError("session is broken")] * 100
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(50))
        await asyncio.sleep(3600)
        assert len(org.faults) < 90
        org.faults.clear()
        await c.flush()
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    said = lines(caplog)
    assert len(said) == 3
    assert "Traceback" in said[0]
    assert "session is broken" in said[0]


@pytest.mark.parametrize("nonsense", [None, 202, "202 Accepted"])
async def test_a_transport_that_returns_nonsense_harms_nobody(nonsense):
    """Something that is no Response is an unexpected error like any other."""
    org = FakeOrg()

    async def odd(request):
        return nonsense if asyncio.get_running_loop().time() < 20 else await org(request)

    async with client(org, transport=odd) as c:
        receipts = await c.enqueue_many(signals(50))
        await c.flush()
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_requests_that_may_leave_at_once_leave_in_turns_of_their_own():
    """A burst of HIGH, for which thirty permits are free, does not hold up other tasks for more than a request."""
    org, seen = FakeOrg(), []
    async with client(org) as c:
        await asyncio.sleep(1)
        for each in signals(600, "HIGH"):
            c.enqueue_nowait(each)
        for _ in range(100):
            seen.append(len(org.departures))
            await asyncio.sleep(0)
        await c.flush()
    assert seen[-1] == 30
    assert max(after - before for before, after in pairwise(seen)) == 1


async def test_a_high_that_arrives_while_the_server_fails_still_goes_first():
    """Trouble holds back what has failed, not a HIGH that comes fresh."""
    org = FakeOrg(script=lambda exchange: Fault.unavailable() if b'"LOW"' in exchange.request.body else None)
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(3))
        await asyncio.sleep(600)
        assert c.statistics().trouble is not None
        before = asyncio.get_running_loop().time()
        high = c.enqueue_nowait(signal(51, "HIGH"))
        await asyncio.sleep(3)
        departed_at, aboard = org.departures[org.carried(high.signal.ip)[0]]
        assert departed_at - before < 2.1  # at once, or a gap after a retry that has just left
        assert aboard[0] == high.signal.ip


async def test_failures_of_requests_that_left_together_count_as_one():
    """Thirty requests that fail at once are one failure, not thirty doublings of the delay."""
    org = FakeOrg(delay=lambda: (5.0, 0.0))
    org.faults = [Fault.error()] * 20
    async with client(org) as c:
        await c.enqueue_many(signals(400, "HIGH"))
        await asyncio.sleep(4.0)
        assert c.statistics().requests_in_flight == 20
        await asyncio.sleep(2.0)
        assert c.statistics().resumes_after <= 2.0
        await c.flush()


def test_backoff_grows_to_its_limit_whatever_the_number_of_failures():
    """The span doubles from the first to the most, and jitter takes any part of it."""
    assert [backoff(n, 1.0, 60.0, 1.0) for n in (1, 2, 3, 7, 10_000)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert backoff(3, 1.0, 60.0, 0.0) == 0.0
    assert backoff(3, 1.0, 60.0, 0.5) == 2.0


# ------------------------------------------------------------------------------------------------ denials


@pytest.mark.parametrize(("fault", "reason"), DENIALS.values(), ids=DENIALS)
async def test_a_denial_pauses_loses_nothing_and_ends_by_itself(fault, reason, caplog):
    """While the server denies, one probe at a time is sent, everything says why, and it resumes by itself."""
    denied = True
    org = FakeOrg(script=lambda _: fault if denied else None)
    async with client(org) as c:
        receipts = await c.enqueue_many([*signals(300), *signals(300, "HIGH", start=300)])
        await asyncio.sleep(3600)
        s = c.statistics()
        assert s.paused
        assert reason in s.trouble
        assert reason in repr(c)
        assert "paused" in repr(c)
        assert s.settled == 0
        assert s.requests < 180
        assert s.requests_in_flight <= 1
        assert 0 <= s.resumes_after <= 60
        denied = False
        assert await c.flush(600) == 0
        assert not c.statistics().paused
        assert c.statistics().trouble is None
    assert all(isinstance(one, rb.Accepted) for one in await outcomes(receipts))
    said = lines(caplog)
    assert len(said) == 2, said
    assert reason in said[0]
    assert "paused until the server accepts again" in said[0]


async def test_a_paused_client_with_nothing_in_flight_always_probes_again():
    """A pause never lasts: every minute at the latest there is a probe, even when new signals come, or expire."""
    org = FakeOrg(token_valid=False)
    async with client(org, close_timeout=0) as c:
        for number in range(200):
            c.enqueue_nowait(signal(number, "HIGH" if number % 3 else "LOW", expires_at=soon(400)))
            await asyncio.sleep(60)
            assert org.departures[-1][0] > asyncio.get_running_loop().time() - 65
        await asyncio.sleep(600)
        assert c.statistics().waiting == 0
        org.org.token_valid = True
        receipt = c.enqueue_nowait(signal(999))
        assert isinstance(await asyncio.wait_for(receipt, 65), rb.Accepted)
        assert not c.statistics().paused


async def test_a_denial_of_one_request_does_not_stop_the_answers_of_others():
    """Requests that were under way when a denial came are settled by their own answers."""
    org = FakeOrg(delay=lambda: (3.0, 0.0))
    org.faults = [None, Fault.error(401, "E0000011"), None]
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(60, "HIGH"))
        await asyncio.sleep(3.5)
        assert c.statistics().accepted == 40
        await c.flush()
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)


async def test_every_change_of_the_denials_reason_is_said(caplog):
    """401, then 403: the log tells the person who mends it that the first is mended."""
    org = FakeOrg()
    org.faults = [Fault.error(401, "E0000011")] * 3 + [Fault.error(403, "E0000006")] * 3
    async with client(org) as c:
        await c.enqueue(signal())
        await c.flush()
    assert [re.sub(r".*: |.*after ", "", line)[:13] for line in lines(caplog)] == [
        "Invalid token",
        "You do not ha",
        "You do not ha",
    ]


# ------------------------------------------------------------------------------------------------ refusals


async def test_a_refused_signal_has_oktas_words():
    """Rejected carries Okta's code, summary with causes, status and request id."""
    org = FakeOrg(poison=lambda _: True)
    async with client(org) as c:
        outcome = await c.enqueue_nowait(signal())
    assert outcome == rb.Rejected(
        reason="Api validation failed: riskEvents: [0].subjects[0]: was refused",
        code="E0000001",
        status=400,
        request_id=org.org.requests[0].request_id,
    )


async def test_413_splits_until_it_fits():
    """A payload that something finds too large is split; only a signal that is too large alone is rejected."""
    org = FakeOrg(script=lambda exchange: Fault.answer(413) if len(exchange.request.body) > 800 else None)
    big = "x" * 500
    async with client(org) as c:
        receipts = await c.enqueue_many([*signals(19), signal(19, message=big)])
        await c.flush()
        assert c.statistics().requests < 20
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    org.script = lambda exchange: Fault.answer(413) if len(exchange.request.body) > 400 else None
    async with client(org) as c:
        receipts = await c.enqueue_many([*signals(19), signal(19, message=big)])
        await c.flush()
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts[:-1])
    assert receipts[-1].outcome.status == 413


async def test_a_400_that_is_not_oktas_rejects_nobody():
    """A proxy's HTML 400 says nothing about the signals: they wait until it has passed."""
    org = FakeOrg()
    org.faults = [Fault.answer(400, HTML, PAGE)] * 5
    async with client(org) as c:
        assert isinstance(await c.enqueue_nowait(signal()), rb.Accepted)


async def test_a_probe_that_fails_is_probed_again():
    """Trouble in the middle of the search for a bad signal neither ends the search nor loses a suspect."""
    org = FakeOrg(poison=lambda s: s.ip == ip(7), name_causes=False)
    org.faults = [None, Fault.error(), Fault.crowded(), None, Fault.drop(), Fault.error(401, "E0000011"), None]
    async with client(org) as c:
        receipts = await c.enqueue_many(signals(20))
        await c.flush()
    assert [isinstance(receipt.outcome, rb.Rejected) for receipt in receipts].index(True) == 7
    assert c.statistics().accepted == 19


# ------------------------------------------------------------------------------------------------ rate limits


@pytest.mark.parametrize("skew", [0.0, 7200.0, -7200.0, 0.6])
@pytest.mark.parametrize("window", ["fixed", "sliding"])
async def test_a_429_holds_everything_until_reset_minus_date_plus_one(skew, window, caplog):
    """However wrong the server's clock is: one 429, then nothing until its window has reset."""
    org = FakeOrg(clock_skew=skew, window=window)
    async with client(org) as c:
        await asyncio.sleep(10.0)
        org.org.spend(30, 10.0, 1_700_000_010.0)
        receipts = await c.enqueue_many([*signals(30, "HIGH"), *signals(40, start=50)])
        await asyncio.sleep(5.0)
        assert c.statistics().rate_limited == 1
        assert 50 < c.statistics().resumes_after < 57.5
        assert c.statistics().settled == 0
        await c.flush()
        assert 70.0 <= org.departures[1][0] <= 72.5
        assert c.statistics().rate_limited == 1
        assert c.statistics().put_back == 20
    assert all(isinstance(receipt.outcome, rb.Accepted) for receipt in receipts)
    assert org.departures[0][1] == org.departures[1][1]
    assert len(lines(caplog)) == 1


async def test_a_429_for_concurrency_is_a_short_backoff_never_the_reset():
    """Limit 0 with Remaining 0 means too many at once: some seconds, not the two minutes of its Reset."""
    org = FakeOrg()
    org.faults = [Fault.crowded(reset_in=114.0)] * 6
    async with client(org) as c:
        assert isinstance(await c.enqueue_nowait(signal(0, "HIGH")), rb.Accepted)
        assert asyncio.get_running_loop().time() < 6 * (4.0 + 2.0) + 1
        assert c.statistics().limit == 30
        assert c.statistics().rate_limited == 0


async def test_duplicate_rate_limit_headers_do_not_confuse():
    """Of two sets of headers the stricter counts."""
    org = FakeOrg(duplicate_headers=True, limit=15)
    async with client(org) as c:
        await c.enqueue_many(signals(400))
        await c.flush()
        assert c.statistics().limit <= 15 or c.statistics().rate_limited <= 2
    assert org.statuses.count(429) <= 2


async def test_hours_of_429_are_one_line_a_row(caplog):
    """A budget that somebody else eats for hours is said once until something gets through."""
    org = FakeOrg(script=lambda _: Fault.rate_limited(reset_in=30.0))
    async with client(org, close_timeout=0) as c:
        await c.enqueue_many(signals(100))
        await asyncio.sleep(3 * 3600)
        assert 150 < c.statistics().rate_limited < 400
    assert len(lines(caplog)) == 1


async def test_a_429_without_headers_holds_a_period_and_one_with_nonsense_does_not_park_for_hours():
    """Whatever Reset says, at most a period and a second are waited for."""
    for fault in (Fault.error(429, "E0000047"), Fault.rate_limited(reset_in=86_400.0)):
        org = FakeOrg()
        org.faults = [fault]
        async with client(org) as c:
            before = asyncio.get_running_loop().time()
            assert isinstance(await c.enqueue_nowait(signal()), rb.Accepted)
            assert 60 <= asyncio.get_running_loop().time() - before <= 63


# ------------------------------------------------------------------------------------------------ when a request leaves


async def test_a_high_leaves_at_once_and_a_low_lingers():
    """A HIGH leaves at once; a lone MEDIUM waits 1 s and a lone LOW 5 s for company, twenty wait for nobody."""
    for level, count, waits in [("HIGH", 1, 0.0), ("MEDIUM", 1, 1.0), ("LOW", 1, 5.0), ("LOW", 20, 0.0)]:
        org = FakeOrg()
        async with client(org, linger=None) as c:
            await c.enqueue_many(signals(count, level))
            before = asyncio.get_running_loop().time()
            await asyncio.sleep(10)
        assert org.departures[0][0] - before == pytest.approx(waits, abs=0.01)


async def test_the_sender_wakes_when_a_permit_comes_back():
    """With one permit the next request leaves when the first has come back, without anything else happening."""
    org = FakeOrg()
    async with client(org, limit=rb.RateLimit(1, 10.0)) as c:
        await c.enqueue_many(signals(60))
        await c.flush()
    times = [at for at, _ in org.departures]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([10.1, 10.1], abs=0.02)


async def test_a_part_filled_payload_that_fills_while_it_lingers_leaves_at_once():
    """The twentieth signal ends the wait of the other nineteen, whatever their levels are."""
    org = FakeOrg()
    async with client(org, linger=1000.0) as c:
        for number in range(20):
            assert not org.departures
            c.enqueue_nowait(signal(number, "MEDIUM" if number % 2 else "LOW"))
            await asyncio.sleep(1)
        assert len(org.departures) == 1
        assert len(org.departures[0][1]) == 20


async def test_no_payload_has_more_than_20_events_and_none_goes_out_needlessly_empty():
    """Payloads are full while enough waits."""
    org = FakeOrg()
    async with client(org) as c:
        await c.enqueue_many(signals(405))
        await c.flush()
    assert [len(aboard) for _, aboard in org.departures] == [20] * 20 + [5]


async def test_a_sender_that_has_nothing_to_do_sleeps(monkeypatch):
    """An idle client does not wake up for nothing, whatever state it is in."""
    org = FakeOrg(token_valid=False)
    turns = 0
    loop = asyncio.get_running_loop()
    async with client(org, close_timeout=0) as c:
        await asyncio.sleep(3600)
        run_once = loop._run_once

        def counted():
            nonlocal turns
            turns += 1
            run_once()

        monkeypatch.setattr(loop, "_run_once", counted)
        await asyncio.sleep(3600)
        assert turns < 5
        c.enqueue_nowait(signal())
        await asyncio.sleep(3600)
        assert turns < 3600


async def test_the_request_after_the_end_of_a_hold_does_not_wait_for_another_window():
    """The first request after a 429 leaves at the end of the hold, and the next follows at the usual pace."""
    org = FakeOrg()
    org.faults = [Fault.rate_limited(reset_in=60.0)]
    async with client(org) as c:
        await c.enqueue_many(signals(200))
        await c.flush()
    times = [at for at, _ in org.departures]
    assert times[1] == pytest.approx(61.1, abs=0.1)
    assert times[-1] - times[1] == pytest.approx(9 * 2.0, abs=0.5)
