"""The rate-limit headers of an answer."""

import time
from datetime import timedelta
from email.utils import format_datetime

import pytest
from answers import NOON, NOW, RESET, rate
from multidict import CIMultiDict

from riskbatch.okta.rate_limits import Budget, budgets


def test_a_budget_counts_from_the_answers_own_date():
    """Both times are the server's, so that a wrong clock on either side does not matter."""
    assert budgets(CIMultiDict([*rate("30", "29"), ("Date", NOW)])) == [Budget(30, 29, 42.0)]
    lower = [(name.lower(), value) for name, value in rate("30", "29")]
    assert budgets(CIMultiDict([*lower, ("date", NOW)])) == [Budget(30, 29, 42.0)]
    skewed = format_datetime(NOON + timedelta(hours=3), usegmt=True)
    reset = str(int(RESET) + 3 * 3600)
    assert budgets(CIMultiDict([*rate("30", "29", reset), ("Date", skewed)])) == [Budget(30, 29, 42.0)]


def test_a_reset_that_has_passed_is_now():
    """Seconds until the reset are never negative."""
    past = str(int(NOON.timestamp()) - 5)
    assert budgets(CIMultiDict([*rate("30", "29", past), ("Date", NOW)])) == [Budget(30, 29, 0.0)]
    assert budgets(CIMultiDict([*rate("30", "29", "0"), ("Date", NOW)])) == [Budget(30, 29, 0.0)]


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Jan 2026 12:00:00 GMT", "\ud800", " ", ","])
def test_without_a_readable_date_the_reset_is_unknown(date):
    """Our own clock is not asked instead: it may be wrong by hours."""
    headers = CIMultiDict(rate("30", "29"))
    if date is not None:
        headers["Date"] = date
    assert budgets(headers) == [Budget(30, 29, None)]


@pytest.mark.parametrize("reset", ["", "soon", "-1", "1.5", "٣", "1" * 13])
def test_an_unreadable_reset_is_unknown(reset):
    """Limit and remainder still count."""
    assert budgets(CIMultiDict([*rate("30", "29", reset), ("Date", NOW)])) == [Budget(30, 29, None)]
    assert budgets(CIMultiDict([*rate("30", "29")[:2], ("Date", NOW)])) == [Budget(30, 29, None)]


def test_a_date_without_a_zone_is_gmt(monkeypatch):
    """HTTP knows no other zone; the host's own is not assumed."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for date in (NOW.replace("GMT", "-0000"), NOW.replace(" GMT", "")):
            assert budgets(CIMultiDict([*rate("30", "29"), ("Date", date)])) == [Budget(30, 29, 42.0)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_sets_in_one_answer_are_both_read():
    """Okta has been seen to send the headers twice; proxies join such headers with commas."""
    twice = CIMultiDict([*rate("30", "29"), *rate("15", "3"), ("Date", NOW)])
    joined = CIMultiDict([*rate("30, 15", "29,3", f"{RESET} , {RESET}"), ("Date", NOW)])
    assert budgets(twice) == budgets(joined) == [Budget(30, 29, 42.0), Budget(15, 3, 42.0)]


@pytest.mark.parametrize("bad", ["", "x", "-1", "1.0", "1e3", " ", "٣", "1" * 10, "unlimited"])
def test_a_set_that_is_no_count_is_passed_over(bad):
    """What cannot be read changes nothing, and does not hide a set that can."""
    assert budgets(CIMultiDict([*rate(bad, "1"), *rate("5", bad), *rate("30", "29"), ("Date", NOW)])) == [
        Budget(30, 29, 42.0)
    ]
    assert budgets(CIMultiDict()) == []


def test_limit_and_remainder_0_is_the_concurrency_limit():
    """And nothing else is."""
    assert Budget(0, 0, 100.0).is_concurrency()
    assert not Budget(0, 1, None).is_concurrency()
    assert not Budget(30, 0, None).is_concurrency()


def test_of_an_answer_a_bounded_number_of_sets_is_read():
    """Thousands of joined values, or of headers, and a Date as long as a page, hold up nobody."""
    joined = rate(*(",".join([value] * 4000) for value in ("30", "29", RESET)))
    many = [header for _ in range(4000) for header in rate("30", "29")]
    for headers in (joined, many):
        long = CIMultiDict([*headers, ("Date", NOW + " x" * 30_000)])
        began = time.thread_time()
        found = budgets(long)
        assert time.thread_time() - began < 0.05
        assert found == [Budget(30, 29, None)] * 8
        assert budgets(CIMultiDict([*headers, ("Date", NOW)])) == [Budget(30, 29, 42.0)] * 8
