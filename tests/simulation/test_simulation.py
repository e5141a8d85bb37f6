"""The simulator: the real client on a virtual clock."""

import asyncio

import pytest
from budget import budget

from riskbatch import RateLimit, RiskLevel
from riskbatch.simulation import Simulation, Traffic, fifo_by_hand, priority_by_hand, riskbatch, run_virtually, verdict

HIGH, MEDIUM, LOW = RiskLevel
FLOOD = Traffic({LOW: 40.0, HIGH: 1.0})
MIXED = Traffic({LOW: 4.0, MEDIUM: 1.5, HIGH: 0.5}, ((100, HIGH, 200.0),))


def simulate(traffic, client=riskbatch, seconds=600.0, seed=0, **options):
    fields = {name: options.pop(name) for name in ("window", "budget") if name in options}
    return Simulation(lambda: traffic.arrivals(seconds, seed), seconds, options=options, **fields).run(client)


@pytest.mark.parametrize("window", ["sliding", "fixed"])
@pytest.mark.parametrize("traffic", [FLOOD, MIXED, Traffic({HIGH: 5.0}), Traffic({HIGH: 0.05, LOW: 0.2})])
def test_no_traffic_makes_the_client_overdraw_its_budget(traffic, window):
    """Whatever comes, no 60 s see more than 30 requests and the org refuses none."""
    result = simulate(traffic, seconds=budget(300.0, 600.0), window=window)
    assert 0 < result.most_in_window <= 30
    assert result.refusals == 0


def test_every_signal_is_accounted_for():
    """What arrived was sent, has expired, was superseded or shed, or waits."""
    traffic = Traffic({LOW: 30.0, HIGH: 1.0}, ((900, LOW, 150.0),), addresses=3000, expires_after=30.0)
    result = simulate(traffic, coalesce=True, capacity=1000, when_full="shed")
    assert sum(result.arrived.values()) == sum(result.ended.values())
    assert all(result.ended[kind] for kind in ("accepted", "expired", "superseded", "shed"))
    assert result.delivered() == result.ended["accepted"]


def test_the_same_seed_gives_the_same_requests():
    """A simulation can be repeated."""
    assert simulate(MIXED, seconds=60).requests == simulate(MIXED, seconds=60).requests


def test_high_waits_about_a_gap_in_a_flood_that_drowns_a_fifo():
    """Under 40 LOW a second a HIGH waits seconds here, and for the whole backlog in a FIFO queue."""
    ours, fifo = simulate(FLOOD), simulate(FLOOD, fifo_by_hand)
    assert ours.mean_wait(HIGH) < 1.5
    assert ours.waited(HIGH, 0.99) < 2.5
    assert fifo.mean_wait(HIGH) > 100


def test_a_sparse_high_does_not_wait_for_the_pace():
    """While the budget is mostly free, a HIGH leaves as it comes."""
    result = simulate(Traffic({HIGH: 0.05, LOW: 0.2}), seconds=7200)
    assert result.mean_wait(HIGH) < 0.05


def test_the_reserve_costs_low_at_most_a_tenth_of_the_budget():
    """In a flood at least 27 of the 30 requests a minute are used."""
    assert simulate(FLOOD, seconds=budget(600, 1200)).requests_a_minute() >= 27


@pytest.mark.parametrize("by_hand", [fifo_by_hand, priority_by_hand])
def test_a_bucket_made_by_hand_is_refused_in_its_first_minute(by_hand):
    """`AsyncLimiter(30, 60)` lets a full burst and the refill through, and the org answers 429."""
    result = simulate(FLOOD, by_hand, seconds=120)
    assert result.most_in_window > 50
    assert result.refusals > 20


def test_a_lower_budget_is_kept_too():
    """`--limit 15/60s` holds as the documented 30 do."""
    result = simulate(FLOOD, budget=RateLimit(15, 60.0))
    assert result.most_in_window <= 15
    assert result.requests_a_minute() > 12


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


def test_the_verdict_fits_what_the_simulation_shows():
    """A flood is too much for the budget and LOW waits; a mix that fits is enough."""
    assert "What stays behind is LOW" in verdict(simulate(FLOOD, seconds=120))
    assert "is enough" in verdict(simulate(MIXED, seconds=300))


def test_progress_is_told_from_the_beginning_to_the_end():
    """The progress names the client and only rises."""
    told = []
    simulation = Simulation(lambda: FLOOD.arrivals(60, 0), 60.0, progress=lambda *given: told.append(given))
    simulation.run(fifo_by_hand)
    assert {name for name, _ in told} == {"FIFO + AsyncLimiter"}
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] > 0.99
