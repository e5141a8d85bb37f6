"""The arrivals of a simulation."""

import pytest

from riskbatch import RiskLevel, RiskSignal
from riskbatch.simulation import Traffic, replay
from riskbatch.simulation.traffic import rate_text

HIGH, MEDIUM, LOW = RiskLevel
MIXED = Traffic({LOW: 4.0, MEDIUM: 1.5, HIGH: 0.5}, ((100, HIGH, 200.0),))


def test_arrivals_come_in_order_at_their_rates():
    """Sources are merged by time, and each level comes as often as was asked for."""
    arrivals = list(MIXED.arrivals(3600, 0))
    assert arrivals == sorted(arrivals)
    assert sum(a.level is LOW for a in arrivals) == pytest.approx(4 * 3600, rel=0.05)
    assert sum(a.level is MEDIUM for a in arrivals) == pytest.approx(1.5 * 3600, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals_and_another_seed_gives_others():
    """A simulation can be repeated."""
    assert list(MIXED.arrivals(60, 1)) == list(MIXED.arrivals(60, 1))
    assert list(MIXED.arrivals(60, 1)) != list(MIXED.arrivals(60, 2))


def test_a_feed_is_replayed_by_its_timestamps():
    """Signals come at the distances of their timestamps, and expire as long after as they did."""
    feed = [
        {"ip": "10.0.0.1", "riskLevel": "LOW", "timestamp": "2026-01-01T00:00:00Z"},
        {
            "ip": "10.0.0.2",
            "riskLevel": "HIGH",
            "timestamp": "2026-01-01T00:00:30Z",
            "expiresAt": "2026-01-01T00:01:00Z",
        },
        {"ip": "10.0.0.3", "riskLevel": "LOW", "timestamp": "2026-01-01T00:00:10Z"},
    ]
    arrivals = list(replay(map(RiskSignal.from_json, feed)))
    assert [(a.at, a.ip, a.expires_after) for a in arrivals] == [
        (0, "10.0.0.1", None),
        (30, "10.0.0.2", 30),
        (30, "10.0.0.3", None),
    ]


def test_traffic_describes_itself_in_one_line():
    """The report repeats what was asked for, in the units of the options."""
    traffic = Traffic({LOW: 40.0, MEDIUM: 0.0, HIGH: 0.5}, ((300, HIGH, 300.0),), addresses=2000, expires_after=90.0)
    assert str(traffic) == "LOW 40/s, HIGH 30/m, 300 HIGH every 300 s, 2,000 addresses, expires after 90 s"


@pytest.mark.parametrize(("per_second", "text"), [(5.0, "5/s"), (0.05, "3/m"), (0.0005, "1.8/h")])
def test_a_rate_is_shown_with_the_unit_that_suits_it(per_second, text):
    assert rate_text(per_second) == text
