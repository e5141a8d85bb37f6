"""The simulator: the real client on a virtual clock."""

import asyncio
import json
import re

import pytest

from riskbatch import RateLimit, RiskLevel, RiskSignal
from riskbatch.cli import main
from riskbatch.simulation.simulation import (
    Simulation,
    Traffic,
    fifo_by_hand,
    plot,
    priority_by_hand,
    replay,
    report,
    riskbatch,
    run_virtually,
    verdict,
)

HIGH, MEDIUM, LOW = RiskLevel
FLOOD = Traffic({LOW: 40.0, HIGH: 1.0})
MIXED = Traffic({LOW: 4.0, MEDIUM: 1.5, HIGH: 0.5}, ((100, HIGH, 200.0),))


def simulate(traffic, subject=riskbatch, seconds=600.0, seed=0, **options):
    fields = {name: options.pop(name) for name in ("window", "budget") if name in options}
    return Simulation(lambda: traffic.arrivals(seconds, seed), seconds, options=options, **fields).run(subject)


@pytest.mark.parametrize("window", ["sliding", "fixed"])
@pytest.mark.parametrize("traffic", [FLOOD, MIXED, Traffic({HIGH: 5.0}), Traffic({HIGH: 0.05, LOW: 0.2})])
def test_no_traffic_makes_the_client_overdraw_its_budget(traffic, window):
    """Whatever comes, no 60 s see more than 30 requests and the org refuses none."""
    outcome = simulate(traffic, window=window)
    assert 0 < outcome.most_in_window <= 30
    assert outcome.refusals == 0


def test_every_signal_is_accounted_for():
    """What arrived was sent, has expired, was superseded or shed, or waits."""
    traffic = Traffic({LOW: 30.0, HIGH: 1.0}, ((900, LOW, 150.0),), addresses=3000, expires_after=30.0)
    outcome = simulate(traffic, coalesce=True, capacity=1000, when_full="shed")
    assert sum(outcome.arrived.values()) == sum(outcome.ended.values())
    assert all(outcome.ended[kind] for kind in ("accepted", "expired", "superseded", "shed"))
    assert outcome.delivered() == outcome.ended["accepted"]


def test_the_same_seed_gives_the_same_and_another_another():
    """A simulation can be repeated."""
    assert list(MIXED.arrivals(60, 1)) == list(MIXED.arrivals(60, 1))
    assert list(MIXED.arrivals(60, 1)) != list(MIXED.arrivals(60, 2))
    assert simulate(MIXED, seconds=60).requests == simulate(MIXED, seconds=60).requests


def test_arrivals_come_in_order_at_their_rates():
    """Sources are merged by time, and each level comes as often as was asked for."""
    arrivals = list(MIXED.arrivals(3600, 0))
    assert arrivals == sorted(arrivals)
    assert sum(a.level is LOW for a in arrivals) == pytest.approx(4 * 3600, rel=0.05)
    assert sum(a.level is MEDIUM for a in arrivals) == pytest.approx(1.5 * 3600, rel=0.05)


def test_high_waits_about_a_gap_in_a_flood_that_drowns_a_fifo():
    """Under 40 LOW a second a HIGH waits seconds here, and for the whole backlog in a FIFO queue."""
    ours, fifo = simulate(FLOOD), simulate(FLOOD, fifo_by_hand)
    assert ours.mean_wait(HIGH) < 1.5
    assert ours.waited(HIGH, 0.99) < 2.5
    assert fifo.mean_wait(HIGH) > 100


def test_a_sparse_high_does_not_wait_for_the_pace():
    """While the budget is mostly free, a HIGH leaves as it comes."""
    outcome = simulate(Traffic({HIGH: 0.05, LOW: 0.2}), seconds=7200)
    assert outcome.mean_wait(HIGH) < 0.05


def test_the_reserve_costs_low_at_most_a_tenth_of_the_budget():
    """In a flood at least 27 of the 30 requests a minute are used."""
    assert simulate(FLOOD, seconds=3600).requests_a_minute() >= 27


@pytest.mark.parametrize("by_hand", [fifo_by_hand, priority_by_hand])
def test_a_bucket_made_by_hand_is_refused_in_its_first_minute(by_hand):
    """`AsyncLimiter(30, 60)` lets a full burst and the refill through, and the org answers 429."""
    outcome = simulate(FLOOD, by_hand, seconds=120)
    assert outcome.most_in_window > 50
    assert outcome.refusals > 20


def test_a_lower_budget_is_kept_too():
    """`--limit 15/60s` holds as the documented 30 do."""
    outcome = simulate(FLOOD, budget=RateLimit(15, 60.0))
    assert outcome.most_in_window <= 15
    assert outcome.requests_a_minute() > 12


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


def test_the_verdict_answers_whether_the_budget_is_enough():
    """One sentence says yes or no, and what stays behind."""
    assert "NOT enough" in verdict(simulate(FLOOD))
    assert "What stays behind is LOW" in verdict(simulate(FLOOD))
    assert "is enough" in verdict(simulate(MIXED))


def test_the_report_shows_every_level_and_client():
    """The table has a row for each level that came, under each client."""
    text = report([simulate(FLOOD, subject, seconds=120) for subject in (riskbatch, fifo_by_hand)])
    assert len(re.findall(r"^  HIGH ", text, re.M)) == 2
    assert "MEDIUM" not in text
    assert "answered 429" in text
    assert len(re.findall(r"[\d,]+ accepted, 0 expired, 0 shed, [\d,]+ still waiting", text)) == 2


def test_a_picture_is_drawn(tmp_path):
    """`plot` writes a picture of the queue and the waits."""
    plot([simulate(MIXED, seconds=60)], str(tmp_path / "waits.png"))
    assert (tmp_path / "waits.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_simulates_rates_bursts_and_feeds(tmp_path, capsys):
    """`riskbatch simulate` takes traffic in all three ways and prints the verdict."""
    assert (
        main(["simulate", "--high", "1/s", "--low", "90/m", "--burst", "50xHIGH/60s", "--for", "5m", "--compare"]) == 0
    )
    shown = capsys.readouterr().out
    assert "PriorityQueue + AsyncLimiter" in shown
    assert "The budget is enough" in shown
    feed = tmp_path / "feed.jsonl"
    lines = [RiskSignal("10.0.0.1", "HIGH").to_json(), {"ip": "nobody"}, RiskSignal("10.0.0.2", "LOW").to_json()]
    feed.write_text("\n".join(map(json.dumps, lines)))
    assert main(["simulate", "--replay", str(feed)]) == 0
    captured = capsys.readouterr()
    assert "2 accepted" in captured.out
    assert "1 record" in captured.err


@pytest.mark.parametrize(
    "arguments", [[], ["--high", "many"], ["--burst", "300HIGH"], ["--for", "0s"], ["--replay", "/nowhere.jsonl"]]
)
def test_traffic_that_makes_no_sense_is_refused_in_one_line(arguments, capsys):
    """A usage error exits with 2 and says what would be right."""
    assert main(["simulate", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_time_passes_even_without_a_wait():
    """A timer that rounds to now comes true at last, as on a real clock, instead of spinning for ever."""

    async def turns():
        loop = asyncio.get_running_loop()
        start = loop.time()
        for _ in range(100):
            await asyncio.sleep(0)
        return loop.time() - start

    assert 0 < run_virtually(turns()) < 1e-3


def test_a_wait_for_nothing_is_an_error():
    """What would hang for ever on a real clock ends at once."""

    async def hang():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happen"):
        run_virtually(hang())
