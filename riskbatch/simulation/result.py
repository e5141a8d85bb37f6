"""What became of the traffic in a simulation: the numbers that report and plot show."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from statistics import fmean

from attrs import define, field, frozen

from ..limiter import RateLimit
from ..okta.risk_events import MAX_EVENTS
from ..signals import RiskLevel

ENDS = ("accepted", "rejected", "expired", "shed", "superseded")


@frozen
class Sample:
    """How many signals of each level waited at an instant, in seconds after the beginning."""

    at: float
    waiting: Mapping[RiskLevel, int]


@define
class Result:
    """
    What became of the traffic with one client.

    Attributes:
        name: The name of the client.
        seconds: How long the simulation ran.
        budget: The most requests that any window of the budget's length may see.
        arrived: Signals that were enqueued, by level.
        waits: `(sent at, seconds from enqueue to the departure of the request that was accepted)`, by level.
        ended: How many signals have which end: `accepted`, `expired`, …, `waiting`.
        requests: When each request reached the org, in seconds after the beginning.
        refusals: Requests that were answered 429.
        most_in_window: The most requests that any window of the budget's length saw.
        samples: How many signals waited over time.
    """

    name: str
    seconds: float
    budget: RateLimit
    arrived: dict[RiskLevel, int] = field(factory=lambda: dict.fromkeys(RiskLevel, 0))
    waits: dict[RiskLevel, list[tuple[float, float]]] = field(factory=lambda: {level: [] for level in RiskLevel})
    ended: dict[str, int] = field(factory=dict)
    requests: list[float] = field(factory=list)
    refusals: int = 0
    most_in_window: int = 0
    samples: list[Sample] = field(factory=list)

    def delivered(self) -> int:
        """Count the signals that the org accepted."""
        return sum(map(len, self.waits.values()))

    def waited(self, level: RiskLevel, quantile: float) -> float:
        """Return the wait in seconds that a share *quantile* of the delivered signals of *level* did not exceed."""
        waits = sorted(wait for _, wait in self.waits[level])
        return waits[min(len(waits) - 1, int(quantile * len(waits)))] if waits else math.nan

    def mean_wait(self, level: RiskLevel) -> float:
        """Return the mean wait in seconds of the delivered signals of *level*."""
        waits = self.waits[level]
        return fmean(wait for _, wait in waits) if waits else math.nan

    def levels(self) -> list[RiskLevel]:
        """Return the levels of which a signal arrived, the highest first."""
        return [level for level in RiskLevel if self.arrived[level]]

    def requests_a_minute(self) -> float:
        """Return the requests sent in a mean minute."""
        return len(self.requests) / self.seconds * 60

    def requests_before(self, at: float) -> int:
        """Count the requests in the window of the budget's length that ends at *at*."""
        return bisect_right(self.requests, at) - bisect_right(self.requests, at - self.budget.period)

    def fill(self) -> float:
        """Return the mean share of the 20 events that an accepted request carried."""
        accepted = len(self.requests) - self.refusals
        return self.delivered() / accepted / MAX_EVENTS if accepted else math.nan

    def budget_used(self) -> float:
        """Return the requests as a share of what the budget allows in the time."""
        return len(self.requests) / (self.seconds * self.budget.requests / self.budget.period)

    def arriving(self) -> float:
        """Return how many signals arrived in a mean second."""
        return sum(self.arrived.values()) / self.seconds

    def capacity(self) -> float:
        """Return how many signals a second the budget carries in full payloads of one signal an event."""
        return MAX_EVENTS * self.budget.requests / self.budget.period

    def is_enough(self) -> bool:
        """Return whether the budget carries what arrives; several signals an event, or coalescing, carry more."""
        done = self.ended.get("accepted", 0) + self.ended.get("superseded", 0)
        return self.arriving() <= self.capacity() or done >= 0.99 * sum(self.arrived.values())
