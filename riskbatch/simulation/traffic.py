"""The signals that arrive in a simulation: by rate, by bursts, or as a recorded feed has them."""

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from attrs import field, frozen

from ..signals import RiskLevel, RiskSignal


@frozen(order=True)
class Arrival:
    """
    A signal that will be enqueued.

    Attributes:
        at: Seconds after the beginning.
        level: Its risk level.
        ip: Its address.
        expires_after: Seconds after which it is not sent any more; `None` if it does not expire.
    """

    at: float
    level: RiskLevel = field(order=False)
    ip: str = field(order=False)
    expires_after: float | None = field(default=None, order=False)


@frozen
class Traffic:
    """
    Arrivals by rate, as a random process, and by bursts.

    Attributes:
        rates: Signals a second, by level. They come independently of each other (a Poisson process).
        bursts: `(count, level, every)`: *count* signals of that level come within a second. The next burst comes
            *every* seconds later, plus or minus up to a fifth.
        addresses: How many different addresses report; `None` gives each signal an address of its own.
        expires_after: Seconds after which a signal is not sent any more; `None` if signals do not expire.
    """

    rates: Mapping[RiskLevel, float] = field(factory=dict)
    bursts: tuple[tuple[int, RiskLevel, float], ...] = ()
    addresses: int | None = None
    expires_after: float | None = None

    def arrivals(self, seconds: float, seed: int) -> Iterator[Arrival]:
        """Yield what arrives in *seconds*, in order of time; the same *seed* gives the same arrivals."""
        sources = [self._steady(level, rate, seconds, seed) for level, rate in self.rates.items() if rate > 0]
        sources += [self._burst(*burst, seconds, f"{seed}-{number}") for number, burst in enumerate(self.bursts)]
        addresses = random.Random(f"addresses-{seed}")
        for number, (at, level) in enumerate(heapq.merge(*sources, key=lambda arrival: arrival[0])):
            address = number if self.addresses is None else addresses.randrange(self.addresses)
            yield Arrival(at, level, _address(address), self.expires_after)

    def _steady(self, level: RiskLevel, rate: float, end: float, seed: int) -> Iterator[tuple[float, RiskLevel]]:
        rng = random.Random(f"{level.value}-{seed}")
        at = rng.expovariate(rate)
        while at < end:
            yield at, level
            at += rng.expovariate(rate)

    def _burst(
        self, signals: int, level: RiskLevel, every: float, end: float, seed: str
    ) -> Iterator[tuple[float, RiskLevel]]:
        rng = random.Random(f"burst-{seed}")
        at = rng.uniform(0, every)
        while at < end:
            yield from ((time, level) for time in sorted(at + rng.random() for _ in range(signals)) if time < end)
            at += every * rng.uniform(0.8, 1.2)

    def __str__(self) -> str:
        """Describe the traffic in one line, as the command's options do."""
        parts = [f"{level.value} {rate_text(rate)}" for level, rate in self.rates.items() if rate > 0]
        parts += [f"{count} {level.value} every {every:g} s" for count, level, every in self.bursts]
        if self.addresses is not None:
            parts.append(f"{self.addresses:,} addresses")
        if self.expires_after is not None:
            parts.append(f"expires after {self.expires_after:g} s")
        return ", ".join(parts)


def rate_text(per_second: float) -> str:
    """Return a rate with the unit that gives a number of at least 1: `5/s`, `30/m`, `12/h`."""
    for unit, seconds in (("s", 1), ("m", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:g}/{unit}"
    return f"{per_second * 3600:g}/h"


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def replay(signals: Iterable[RiskSignal]) -> Iterator[Arrival]:
    """Yield recorded *signals* at the distances of their timestamps. One that is out of order comes at once."""
    begin: datetime | None = None
    at = 0.0
    for signal in signals:
        begin = begin or signal.timestamp
        at = max(at, (signal.timestamp - begin).total_seconds())
        expires_at = signal.expires_at
        expires_after = None if expires_at is None else (expires_at - signal.timestamp).total_seconds()
        yield Arrival(at, signal.risk_level, signal.ip, expires_after)
