"""
`python -m benchmarks.policies`: how long HIGH waits, by policy and traffic, beside the best that any policy could do.

Every row but the last two is the real client on a virtual clock, an hour for each seed, against a strict org with a
sliding window of 30 requests in 60 s and an answer after 0.25 s; the other rows change one thing in its limiter.
Waits are in seconds from `enqueue` to the departure of the request that was accepted: mean ± its standard deviation
over the seeds / 99th percentile.

`with foresight` is a bound on the mean for a schedule that knows all arrivals and sends no LOW at all (bound.py). It
uses a permit again 60 s after its answer, as everybody must who cannot see when in between its request arrived.

`without foresight` is, for *burst*, a bound on the mean for a policy that cannot know when a burst comes, and leaves a
flood of LOW 27 of the 30 permits. Those are out when it comes and return evenly, at best: L(x), how many are still out
x seconds later, is 27 (1 - x / 60.25) in the mean over all instants at which a burst may come, and what waits of the
300 HIGH, max(0, 300 - 20 (30 - L(x))), is convex in it (Jensen's inequality). As they come within a second, each waits
half a second less than if all had come at its beginning.
"""

import heapq
import logging
import math
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

from attrs import evolve

from benchmarks.bound import least_mean_wait
from riskbatch import Limiter, RiskLevel
from riskbatch.batcher import Demand
from riskbatch.simulation import (
    Arrival,
    Result,
    Simulation,
    Traffic,
    fifo_by_hand,
    priority_by_hand,
    riskbatch,
)

HIGH, MEDIUM, LOW = RiskLevel
SECONDS = 3600.0
LATENCY = 0.25


class Over:
    """HIGH 12/s for 3 of every 10 minutes, and LOW 2/s: more than the budget carries, for a while."""

    def arrivals(self, seconds: float, seed: int) -> Iterator[Arrival]:
        low = Traffic({LOW: 2.0}).arrivals(seconds, seed)
        phases = (self._phase(begin, seed) for begin in range(0, int(seconds), 600))
        for number, arrival in enumerate(heapq.merge(low, *phases)):
            yield evolve(arrival, ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    def _phase(self, begin: int, seed: int) -> Iterator[Arrival]:
        rng = random.Random(f"{begin}-{seed}")
        at = begin + rng.expovariate(12.0)
        while at < begin + 180:
            yield Arrival(at, HIGH, "10.0.0.1")
            at += rng.expovariate(12.0)


WORKLOADS: dict[str, Traffic | Over] = {
    "flood": Traffic({LOW: 40.0, HIGH: 1.0}),
    "burst": Traffic({LOW: 40.0}, ((300, HIGH, 300.0),)),
    "trickle": Traffic({HIGH: 5.0}),
    "sparse": Traffic({HIGH: 0.05, LOW: 0.2}),
    "mixed": Traffic({LOW: 4.0, MEDIUM: 1.5, HIGH: 0.5}, ((100, HIGH, 200.0),)),
    "over": Over(),
}


class Stretched(Limiter):
    """
    Window, pace, reserve and express for a full payload alone, the gap stretched to what the window still holds.

    The gap is the same for all levels, and after an express.
    """

    async def depart(self, now: float) -> None:
        self.paced_at = -math.inf  # so that nothing counts as an express
        await super().depart(now)
        self.others_after = 0.0

    def _paced_at(self, now: float, demand: Demand) -> float:
        return now if demand.full_of_high else self.paced_at


class Paced(Stretched):
    """The same with a gap that is always the same."""

    def _gap(self, now: float, kept: int) -> float:
        return self.window.rate.period / self.window.limit


class WindowOnly(Limiter):
    """Whenever a permit is free."""

    def __init__(self) -> None:
        super().__init__(reserve=0)

    def _paced_at(self, now: float, demand: Demand) -> float:
        return now


def with_limiter(make: Callable[[], Limiter]) -> Callable[[Simulation], Awaitable[Result]]:
    async def subject(simulation: Simulation) -> Result:
        return await riskbatch(evolve(simulation, options={"limit": make()}))

    return subject


POLICIES: dict[str, Callable[[Simulation], Awaitable[Result]]] = {
    "riskbatch": riskbatch,
    "… fixed and stretched gap only": with_limiter(Stretched),
    "… fixed gap only": with_limiter(Paced),
    "… window only, no reserve": with_limiter(WindowOnly),
    "PriorityQueue + AsyncLimiter": priority_by_hand,
    "FIFO + AsyncLimiter": fifo_by_hand,
}


def simulate(subject: Callable[[Simulation], Awaitable[Result]], workload: str, seed: int) -> Result:
    traffic = WORKLOADS[workload]
    return Simulation(lambda: traffic.arrivals(SECONDS, seed), SECONDS, latency=LATENCY).run(subject)


def blind_bound(signals: int = 300, taken: float = 27.0, free: float = 3.0, period: float = 60.0 + LATENCY) -> float:
    """Return the mean wait of a burst of *signals* if *free* permits are there and *taken* come back evenly."""
    backlog = signals - 20 * free
    return backlog * (backlog / (20 * taken / period)) / 2 / signals - 0.5


def run(policy: str, workload: str, seed: int) -> Result:
    return simulate(POLICIES[policy], workload, seed)


def bound(workload: str, seed: int, mean: float) -> float:
    high = [a.at for a in WORKLOADS[workload].arrivals(SECONDS, seed) if a.level is HIGH]
    return least_mean_wait(high, limit=30, period=60.0 + LATENCY, cell=LATENCY, reached=mean)


def row(runs: dict[str, list[Result]]) -> str:
    cells = []
    for outcomes in runs.values():
        means = [outcome.mean_wait(HIGH) for outcome in outcomes]
        tail = statistics.fmean(outcome.waited(HIGH, 0.99) for outcome in outcomes)
        spread = statistics.stdev(means) if len(means) > 1 else 0.0
        cells.append(f"{statistics.fmean(means):>9.3f} ±{spread:.3f} /{tail:5.1f}")
    pace = statistics.fmean(outcome.requests_a_minute() for outcome in runs["flood"])
    every = [outcome for outcomes in runs.values() for outcome in outcomes]
    most, refusals = max(outcome.most_in_window for outcome in every), sum(outcome.refusals for outcome in every)
    return f"{''.join(cells)}  [{pace:.1f}] {{{most}, {refusals}}}"


def main(seeds: int) -> None:
    print(f"HIGH waits in seconds, mean / p99, over {seeds} seeds; [requests a minute in flood] {{most in 60 s, 429s}}")
    print(f"{'':32}" + "".join(f"{name:>23}" for name in WORKLOADS))
    reached: dict[str, float] = {}
    with ProcessPoolExecutor() as processes:
        for policy in POLICIES:
            asked = [(policy, workload, seed) for workload in WORKLOADS for seed in range(seeds)]
            outcomes = list(processes.map(run, *zip(*asked, strict=True)))
            runs = {workload: outcomes[i * seeds : (i + 1) * seeds] for i, workload in enumerate(WORKLOADS)}
            print(f"{policy:32}{row(runs)}", flush=True)
            if policy == "riskbatch":
                reached = {w: statistics.fmean(each.mean_wait(HIGH) for each in runs[w]) for w in WORKLOADS}
        asked = [(workload, seed, reached[workload]) for workload in WORKLOADS for seed in range(seeds)]
        least = list(processes.map(bound, *zip(*asked, strict=True)))
    bounds = [statistics.fmean(least[i * seeds : (i + 1) * seeds]) for i in range(len(WORKLOADS))]
    print(f"{'bound with foresight (mean)':32}" + "".join(f"{each:>9.3f}{'':14}" for each in bounds))
    ratios = [_ratio(reached[w], each) for w, each in zip(WORKLOADS, bounds, strict=True)]
    print(f"{'riskbatch / that bound':32}" + "".join(f"{ratio:>9}{'':14}" for ratio in ratios))
    print(f"{'bound without foresight':32}{'':23}{blind_bound():>9.3f}")
    print(f"{'riskbatch / that bound':32}{'':23}{reached['burst'] / blind_bound():>9.2f}")


def _ratio(reached: float, least: float) -> str:
    return f"{reached / least:.2f}" if least > 0.005 else "-"


if __name__ == "__main__":
    logging.getLogger("riskbatch").setLevel(logging.ERROR)  # what waits at the end is abandoned; that is no news
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
