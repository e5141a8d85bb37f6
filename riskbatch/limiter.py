"""
When the next request may leave.

Okta takes `requests` in `period` seconds, and what it counts is arrivals. A permit is therefore out from the moment a
request leaves until `period` seconds after its answer came (or the attempt was given up). So the request that reuses
it leaves later than `period` after its predecessor arrived, and no window of that length, wherever it starts and
whatever the network delays, sees more arrivals than there are permits. A token bucket cannot say that:
`AsyncLimiter(30, 60)` lets 59 requests into its first minute, a full burst and then the refill.

Five rules decide, and `Limiter.next_at` holds them all:

1. window: a request needs a free permit;
2. pace: an aiolimiter bucket spaces requests evenly over what the window holds, so that a HIGH never waits for a whole
   window to come round;
3. reserve: a request without HIGH leaves some permits free; once half of the window is out, it is spaced to do so;
4. express: a payload full of HIGH does not wait for the pace, nor does a HIGH after which no other seems to come, as
   long as half of the window is free;
5. linger: a part-filled payload without HIGH may wait to fill.

The decisions are pure; only `has_room` and `depart` touch the bucket, which reads the loop's clock.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from aiolimiter import AsyncLimiter
from attrs import frozen

from .batcher import Demand
from .errors import ConfigurationError
from .okta.rate_limits import Budget
from .signals import RiskLevel

DEFAULT_LINGER = {RiskLevel.MEDIUM: 1.0, RiskLevel.LOW: 5.0}
_CLOCKS = 0.001  # seconds longer than the period, for the grain of timers and the drift between two hosts' clocks
_MARGIN = 1.0  # seconds after a reset: the headers have whole seconds. Source: okta-sdk-nodejs README, "429"


@frozen
class RateLimit:
    """
    What one client may use of the org's budget.

    Args:
        requests: Requests in any window. Okta's documented 30 belong to the whole org; one token often has half.
        period: Length of the window in seconds.

    Raises:
        ConfigurationError: *requests* is not a whole number from 1, or *period* is not a finite positive number.
    """

    requests: int = 30
    period: float = 60.0

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.requests, int) or isinstance(self.requests, bool) or self.requests < 1:
            raise ConfigurationError(f"requests is {self.requests!r}; it must be a whole number of at least 1")
        if isinstance(self.period, bool) or not isinstance(self.period, int | float) or not 0 < self.period < math.inf:
            raise ConfigurationError(f"period is {self.period!r}; it must be a positive number of seconds")


class Window:
    """
    The permits: how many are free, and when the others come back.

    Attributes:
        limit: How many there are now; at most what was configured, less if the server says so.
        in_flight: How many are out with a request that has no answer yet.
    """

    def __init__(self, rate: RateLimit) -> None:
        self.rate = rate
        self.limit: int = rate.requests
        self.in_flight: int = 0
        self.answered_returns: deque[float] = deque()  # instants at which answered permits come back, ascending
        self.used_by_others: int = 0  # permits that the server has given to somebody else, until others_until
        self.others_until: float = -math.inf

    def depart(self) -> None:
        """Take a permit."""
        self.in_flight += 1

    def answered(self, now: float) -> None:
        """Let the permit of a request that was answered, or given up, come back one period from *now*."""
        self.in_flight -= 1
        self.answered_returns.append(now + self.rate.period + _CLOCKS)

    def free(self, now: float) -> int:
        """Return how many permits are free at *now*; negative while a lowered limit is overdrawn."""
        while self.answered_returns and self.answered_returns[0] <= now:
            self.answered_returns.popleft()
        others = self.used_by_others if now < self.others_until else 0
        return self.limit - self.in_flight - len(self.answered_returns) - others

    def free_at(self, now: float, permits: int) -> float:
        """Return the earliest instant at which *permits* are free; infinity if only an answer can tell."""
        missing = permits - self.free(now)
        if missing <= 0:
            return now
        returns = self.returns(now)
        return returns[missing - 1] if missing <= len(returns) else math.inf

    def returns(self, now: float) -> list[float]:
        """Return the instants at which permits come back, ascending; of those in flight, only an answer can tell."""
        others = [self.others_until] * self.used_by_others if now < self.others_until else []
        return sorted([*self.answered_returns, *others])

    def learn_limit(self, limits: Sequence[int]) -> None:
        """Adopt the lowest of an answer's *limits* where it is lower than ours, until a later answer raises it."""
        self.limit = min(self.rate.requests, max(1, min(limits)))

    def learn_remainder(self, budget: Budget, now: float) -> None:
        """
        Adopt what an answer says is left, where it is less than our own count.

        It means that others share the budget, or that this process has just restarted: the difference is gone until
        the server's window resets.
        """
        resets_after = self.rate.period if budget.resets_after is None else min(budget.resets_after, self.rate.period)
        if now >= self.others_until:
            self.used_by_others = 0
        surplus = self.free(now) - budget.remaining
        if surplus > 0:
            self.used_by_others += surplus
            self.others_until = max(self.others_until, now + resets_after + _MARGIN)


class Limiter:
    """
    The five rules over one window.

    A client makes its own from its arguments. Clients of one org in one process can share one: then the window holds
    for all of them together.

    Args:
        rate: The budget.
        reserve: Permits that a request without HIGH leaves free; at most half of those there are.
        linger: Seconds that a part-filled payload without HIGH may wait to fill: one number for MEDIUM and LOW, or a
            mapping by level; 1 and 5 where it says nothing.

    Raises:
        ConfigurationError: An argument cannot work; the message says which.
    """

    def __init__(
        self,
        rate: RateLimit = RateLimit(),
        *,
        reserve: int = 3,
        linger: float | Mapping[RiskLevel, float] | None = None,
    ) -> None:
        if not isinstance(reserve, int) or isinstance(reserve, bool) or reserve < 0:
            raise ConfigurationError(f"reserve is {reserve!r}; it must be a whole number of at least 0")
        self.window: Window = Window(rate)
        self.held_until: float = -math.inf  # the server's word that nothing can be taken before
        self.paced_at: float = -math.inf  # when the bucket will have room
        self.others_after: float = 0.0  # seconds later, for a request without HIGH
        self._pace = AsyncLimiter(1, rate.period / rate.requests)
        self.reserve = reserve
        self.linger: dict[RiskLevel, float] = _by_level(linger)
        self._watchers: set[Callable[[], None]] = set()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* whenever an answer has changed what `next_at` returns."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* no more."""
        self._watchers.discard(watcher)

    def next_at(self, now: float, demand: Demand, *, flushing: bool = False, draining: bool = False) -> float:
        """
        Return the earliest instant at which a request for *demand* may leave, infinity if only a change can tell.

        Args:
            now: On the loop clock, in seconds.
            demand: What the request would carry.
            flushing: Somebody waits for all to be sent, so that nothing lingers.
            draining: No further signal will come, so that nothing is gained by pace or reserve.
        """
        if demand.level is None:
            return math.inf
        high = demand.level is RiskLevel.HIGH
        kept = 0 if high or draining else self._kept()
        at = max(now, self.held_until, self.window.free_at(now, kept + 1))
        if not draining:
            at = max(at, self._paced_at(now, demand))
        if not (high or demand.full or demand.probe or flushing or draining):
            at = max(at, self._lingers_until(demand))
        return at

    def _kept(self) -> int:
        return min(self.reserve, self.window.limit // 2)

    def _paced_at(self, now: float, demand: Demand) -> float:
        """
        Return when the pace lets a request for *demand* go; it is an express if that is before the bucket's time.

        While half of the window is free, what counts is whether more HIGH are coming. The first HIGH after a third of
        a gap without any is sent at once, which costs a burst one permit; those that follow wait for companions,
        until no other has come for a third of a gap.
        """
        if demand.full_of_high:
            return now
        is_high = demand.level is RiskLevel.HIGH
        if self.window.free(now) * 2 < self.window.limit:
            return self.paced_at if is_high else self.paced_at + self.others_after
        if not is_high:
            return self.paced_at
        pause = self._least_gap() / 3
        is_first = demand.high_last - demand.high_before > pause
        return min(self.paced_at, now if is_first else demand.high_last + pause)

    def _lingers_until(self, demand: Demand) -> float:
        return min(
            demand.medium_since + self.linger[RiskLevel.MEDIUM],
            demand.low_since + self.linger[RiskLevel.LOW],
        )

    def has_room(self, now: float) -> bool:
        """Ask the bucket itself, once `next_at` has come; an express leaves before its time and is not held."""
        return now < self.paced_at or self._pace.has_capacity()

    async def depart(self, now: float) -> None:
        """
        Take a permit, and fill a bucket that drains in the gap which the window affords. Does not suspend.

        After an express the gap is at least a third longer than the least: HIGH that fill a payload before its time
        are more than the budget carries, and then the next payload should not leave with empty seats.
        """
        self.window.depart()
        gap = self._gap(now, kept=0)
        if now < self.paced_at:
            gap = max(gap, self._least_gap() * 4 / 3)
        self.paced_at = now + gap
        self.others_after = max(0.0, self._gap(now, self._kept()) - gap)
        # A thousandth early: next_at predicts the bucket with other roundings, and must not be the earlier one.
        self._pace = AsyncLimiter(1, gap * 0.999)
        await self._pace.acquire()

    def _least_gap(self) -> float:
        return self.window.rate.period / self.window.rate.requests

    def _gap(self, now: float, kept: int) -> float:
        """
        Return the smallest even spacing from *now* on that never has to stop for a permit, with *kept* left free.

        With f permits to spend, the (f+j)-th request from now needs the j-th permit that comes back. The one of
        the request that leaves now is among the last, so the gap is at least the period's share of a permit.
        """
        window = self.window
        free = window.free(now) - kept
        returns = sorted([*window.returns(now), *[now + window.rate.period] * window.in_flight])
        return max((at - now) / (free + j) for j, at in enumerate(returns, 1) if free + j > 0)

    def answered(self, now: float) -> None:
        """Note that a request's answer came, or that it was given up."""
        self.window.answered(now)
        for watcher in self._watchers:
            watcher()

    def learn(self, budgets: Iterable[Budget], now: float, *, refused: bool) -> None:
        """
        Adopt the rate-limit headers of an answer; *refused* says that it was a 429 for the rate.

        A 429, or a remainder of 0 while permits of ours are free, holds everything until the server's window resets;
        a remainder of 0 that agrees with our own count is no news. The wait is capped at the period, whatever the
        server says: an hour parked by a wrong header would be worse than one more 429.
        """
        period = self.window.rate.period
        waits = []
        sets = [budget for budget in budgets if not budget.is_concurrency()]
        if sets:
            self.window.learn_limit([budget.limit for budget in sets])
        for budget in sets:
            is_news = budget.remaining == 0 and self.window.free(now) > 0
            self.window.learn_remainder(budget, now)
            if refused or is_news:
                waits.append(period if budget.resets_after is None else min(budget.resets_after, period))
        if refused and not waits:
            waits.append(period)
        if waits:
            self.held_until = max(self.held_until, now + max(waits) + _MARGIN)


def _by_level(linger: float | Mapping[RiskLevel, float] | None) -> dict[RiskLevel, float]:
    if linger is None:
        return dict(DEFAULT_LINGER)
    given = linger if isinstance(linger, Mapping) else dict.fromkeys(DEFAULT_LINGER, linger)
    for level, seconds in given.items():
        if level not in DEFAULT_LINGER:
            raise ConfigurationError(f"linger has {level!r}; only MEDIUM and LOW may wait for a payload to fill")
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ConfigurationError(f"linger for {level.value} is {seconds!r}; it must be seconds, 0 or more")
    return {**DEFAULT_LINGER, **given}
